// The element in the node: people dragged with mouse, finger or keys, buttons, and an undo history.
//
// Its value is a text: empty as long as nothing was edited, else the edited pose. What lies under an empty value (the
// pose that came in) and the size of the canvas are told from outside, by `setScene`.

import { draw, viewOf } from "./pose_drawing.js";
import * as geometry from "./pose_geometry.js";
import { Gestures } from "./pose_gestures.js";

const STYLE = `
.reposedm-editor { display: flex; flex-direction: column; gap: 4px; min-height: 240px; overflow: hidden; }
.reposedm-editor canvas { flex: 1; min-height: 0; width: 100%; display: block; border-radius: 6px; outline: none;
  background: var(--comfy-input-bg, #222); touch-action: none; }
.reposedm-editor canvas:focus-visible { box-shadow: inset 0 0 0 1px var(--p-primary-color, #6ae); }
.reposedm-editor div { display: flex; gap: 4px; }
.reposedm-editor button { flex: 1; padding: 3px 0; font: 12px sans-serif; cursor: pointer; border-radius: 6px;
  border: 1px solid var(--border-color, #444); color: var(--input-text, #ddd);
  background: var(--comfy-input-bg, #222); }
.reposedm-editor button:hover:enabled { filter: brightness(1.25); }
.reposedm-editor button:disabled { opacity: 0.4; cursor: default; }
.reposedm-editor output { font: 11px sans-serif; color: var(--descrip-text, #999); text-align: center;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.reposedm-editor output.help { white-space: normal; }
`;
const HISTORY = 200;

export class PoseWidget {
  /**
   * @param skeleton the tables of the node's definition
   * @param help how the editor is used, in a few words
   * @param onChange called after every edit, with the new value
   * @param forward called with events that are for the graph: the wheel, the middle button
   */
  constructor({ skeleton, help, onChange, forward }) {
    Object.assign(this, { skeleton, help, onChange, helping: false });
    this.history = [""];
    this.at = 0;
    this.scene = { start: null, width: 768, height: 1024, picture: null, origin: "", hint: "" };
    this.selected = { person: 0, joint: null };
    this.hovered = this.lastTag = null;
    this.build();
    this.gestures = new Gestures(this, forward);
    this.refresh();
  }

  build() {
    if (!document.getElementById("reposedm-editor-style")) {
      const style = { id: "reposedm-editor-style", textContent: STYLE };
      document.head.append(Object.assign(document.createElement("style"), style));
    }
    this.element = document.createElement("div");
    this.element.className = "reposedm-editor";
    this.element.dataset.testid = "pose-editor";
    this.element.dataset.captureWheel = "true";  // Nodes 2.0 keeps the wheel from others, also when they have the focus
    // Its empty title keeps the page's tooltip off the picture; the Help button has it.
    this.canvas = Object.assign(document.createElement("canvas"), { tabIndex: 0, title: "" });
    this.canvas.dataset.testid = "pose-editor-canvas";
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `Pose editor. ${this.help}`);
    // The page takes Ctrl+Z from everything but text fields: with this it leaves it to the focused editor.
    this.canvas.type = "textarea";
    const bar = document.createElement("div");
    this.buttons = {};
    for (const [name, title, action] of [
      ["Undo", "Undo the last edit (Ctrl+Z)", () => this.step(-1)],
      ["Redo", "Do it again (Ctrl+Y)", () => this.step(1)],
      ["Mirror", "Mirror the person on the spot", () => this.mirror()],
      ["Hide", "Hide the selected joint, or bring it back (Delete)", () => this.toggle()],
      ["Reset", "Drop all edits: back to the pose that comes in", () => this.commit("")],
      ["Help", this.help, () => { this.helping = !this.helping; this.refresh(); }],
    ]) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name, title });
      button.dataset.testid = `pose-editor-${name.toLowerCase()}`;
      button.addEventListener("click", action);
      bar.append(button);
      this.buttons[name] = button;
    }
    this.status = document.createElement("output");
    this.status.dataset.testid = "pose-editor-status";
    this.element.append(this.canvas, bar, this.status);
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.canvas);
  }

  // --- value and history

  get value() {
    return this.history[this.at];
  }

  /** From outside (a workflow was loaded): the history starts anew. */
  set value(text) {
    if (typeof text !== "string" || text === this.value) return;
    this.history = [text];
    this.at = 0;
    this.refresh();
  }

  /** A new value. Edits with the same tag, one after the other, are one step of the history. */
  commit(text, tag = null) {
    if (text === this.value) return;
    const first = tag !== null && tag === this.lastTag ? this.at : this.at + 1;
    this.history.splice(first, Infinity, text);
    this.history.splice(0, this.history.length - HISTORY);
    this.at = this.history.length - 1;
    this.changed(tag);
  }

  step(by) {
    if (this.history[this.at + by] === undefined) return;
    this.at += by;
    this.changed(null);
  }

  changed(tag) {
    this.lastTag = tag;
    this.refresh();
    this.onChange(this.value);
  }

  /** The canvas of the edited pose, { width, height }; null where nothing was edited. */
  get editedSize() {
    return this.value.trim() ? geometry.readPose(this.value) : null;
  }

  /**
   * What is known of the node's inputs: { start, width, height, picture, origin, hint }: the pose that comes in and the
   * picture, or null; the size of the canvas; what an unedited pose is called; what is to be done, or "".
   */
  setScene(scene) {
    this.scene = scene;
    if (!this.gestures.drag) this.refresh();
  }

  refresh() {
    const { start, width, height, origin, hint } = this.scene;
    const edited = this.value.trim() ? geometry.readPose(this.value) : null;
    const pose = edited ?? start ?? geometry.readFrame(this.skeleton.standing);
    const placed = geometry.fitted(pose, width, height);
    if (this.scene.picture) placed.guessed = undefined;  // now the canvas is known
    this.pose = geometry.withPlaces(placed, this.skeleton);
    if (this.selected.person >= this.pose.people.length) this.selected = { person: 0, joint: null };
    this.hovered = null;
    this.buttons.Undo.disabled = this.at === 0;
    this.buttons.Redo.disabled = this.at === this.history.length - 1;
    this.buttons.Reset.disabled = this.value === "";
    const state = edited ? "edited" : this.value.trim() ? "the saved pose cannot be shown; Reset drops it" : origin;
    this.status.textContent = [`${width} × ${height}`, state, hint].filter(Boolean).join(" · ");
    if (this.helping) this.status.textContent = this.help;
    this.status.classList.toggle("help", this.helping);
    this.paint();
  }

  paint() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.buttons.Hide.disabled = this.selected.joint === null;
    if (!width || !height) return;
    // Finer than the layout, because the graph zooms in without the element being told.
    const density = Math.min(2 * (window.devicePixelRatio || 1), 4096 / Math.max(width, height));
    const resolution = { width: Math.round(width * density), height: Math.round(height * density) };
    // Setting them empties the canvas, even to what they are.
    if (Object.keys(resolution).some((side) => this.canvas[side] !== resolution[side])) {
      Object.assign(this.canvas, resolution);
    }
    this.view = viewOf(this.pose, width, height);
    const context = this.canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    draw(context, { ...this, picture: this.scene.picture });
  }

  // --- edits

  /** A new pose, unless it is null. */
  edit(pose, tag) {
    if (pose) this.commit(geometry.writePose(pose), tag);
  }

  mirror() {
    this.edit(geometry.mirrorPerson(this.pose, this.selected.person, this.skeleton));
  }

  scale(steps) {
    const { person } = this.selected;
    this.edit(geometry.scalePerson(this.pose, person, 1.04 ** steps), `scale ${person}`);
  }

  /** Hide the selected joint, or bring it back. */
  toggle() {
    const { person, joint } = this.selected;
    if (joint !== null) this.edit(geometry.toggleJoint(this.pose, person, joint));
  }

  /** Move the selected joint, or the person, by pixels of the pose. */
  nudge(right, down) {
    const { person, joint } = this.selected;
    const [x, y] = this.pose.people[person][geometry.BODY][joint ?? 0];
    this.edit(joint === null ? geometry.movePerson(this.pose, person, right, down)
      : geometry.placeJoint(this.pose, person, joint, x + right, y + down, this.skeleton), `nudge ${person} ${joint}`);
  }

  remove() {
    this.observer.disconnect();
  }
}
