// The edits made since the workflow was opened, to step through.

const STEPS = 200;
const LETTERS = 2e7;  // of all steps together: long sequences have fewer

export class History {
  constructor(text = "") {
    this.start(text);
  }

  start(text) {
    this.texts = [text];
    this.at = 0;
    this.tag = null;
  }

  get text() {
    return this.texts[this.at];
  }

  get first() {
    return this.at === 0;
  }

  get last() {
    return this.at === this.texts.length - 1;
  }

  /** A new text. Edits with the same tag, one after the other, are one step. */
  add(text, tag) {
    const place = tag !== null && tag === this.tag ? this.at : this.at + 1;
    this.texts.splice(Math.max(place, 1), Infinity, text);
    let [first, letters] = [this.texts.length, 0];
    while (first > 0 && letters < LETTERS && this.texts.length - first < STEPS) letters += this.texts[--first].length;
    this.texts.splice(0, Math.min(first, this.texts.length - 2));
    this.at = this.texts.length - 1;
    this.tag = tag;
  }

  /** False where there is no such step. */
  step(by) {
    if (this.texts[this.at + by] === undefined) return false;
    this.at += by;
    this.tag = null;
    return true;
  }
}
