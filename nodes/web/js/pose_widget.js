// The element in the node: the people of one frame, dragged and edited, and an undo history.
//
// Its value is a text: empty as long as nothing was edited, else the edited pose (of a sequence a list of frames). What
// lies under an empty value (the pose that came in) and the size of the canvas come from outside, by `setScene`.

import { draw } from "./pose_drawing.js";
import * as edits from "./pose_edits.js";
import { outside } from "./pose_figure.js";
import { boxOf, fitted, withPlaces } from "./pose_geometry.js";
import { Gestures } from "./pose_gestures.js";
import { History } from "./pose_history.js";
import { Controls } from "./pose_controls.js";
import { isSeen, pointOf, readFrame, readFrames, readPoses, writePoses } from "./pose_parts.js";
import { nameOf, pointsOf } from "./pose_select.js";
import { FITTED, handlesOf, viewOf, zoomedAt, zoomedTo } from "./pose_view.js";

const SETTINGS = { keep: false, dim: 0.2 };

export class PoseWidget {
  /**
   * @param skeleton the tables of the node's definition
   * @param help how the editor is used, in a few words
   * @param host what the editor asks of its node: `onChange(value)` and `onSettings(settings)` after a change;
   *   `forward(event)` for events that are the graph's; `detect(frame)`, `read(text)`: runs { result, cancel }, of which
   *   detect may be null; `showInputs()`
   */
  constructor({ skeleton, help, host }) {
    Object.assign(this, { skeleton, help, host, settings: { ...SETTINGS }, work: null, frame: 0, opened: false,
      zoom: FITTED });
    this.history = new History();
    this.scene = { frames: null, width: 768, height: 1024, picture: null, origin: "", hint: "" };
    Object.assign(this, { person: 0, points: [], whole: false, hovered: null, box: null });
    this.controls = new Controls(this);
    this.canvas = this.controls.canvas;
    this.element = this.controls.element;
    this.gestures = new Gestures(this);
    this.observer = new ResizeObserver(() => this.paint());
    this.observer.observe(this.canvas);
    this.refresh();
  }

  // --- value and history

  get value() {
    return this.history.text;
  }

  /** From outside (a workflow was loaded): the history starts anew. */
  set value(text) {
    if (typeof text !== "string" || text === this.value) return;
    this.history.start(text);
    this.opened = false;
    this.refresh();
  }

  /** A new value. Edits with the same tag, one after the other, are one step of the history. */
  commit(text, tag = null) {
    if (text === this.value) return;
    this.history.add(text, tag);
    this.changed();
  }

  step(by) {
    if (this.history.step(by)) this.changed();
  }

  changed() {
    this.tell("");
    this.refresh();
    this.host.onChange(this.value);
  }

  /** The edited frames; null where nothing was edited, or cannot be read. */
  get edited() {
    if (this.parsed?.text !== this.value) {
      this.parsed = { text: this.value, frames: this.value.trim() ? readPoses(this.value) : null };
    }
    return this.parsed.frames;
  }

  // --- frames

  get frameCount() {
    return this.source.length;
  }

  /** One frame on the canvas, every joint with a place. */
  placed(index) {
    this.ready[index] ??= (() => {
      const { width, height, picture } = this.scene;
      const pose = fitted(this.source[index], width, height);
      if (picture) pose.guessed = undefined;  // now the canvas is known
      return withPlaces(pose, this.skeleton);
    })();
    return this.ready[index];
  }

  allFrames() {
    return this.source.map((_, index) => (index === this.frame ? this.pose : this.placed(index)));
  }

  showFrame(index) {
    this.frame = index;
    this.refresh();
  }

  /** A new pose in place of the shown one; false where there is none, or nobody would be left. */
  edit(pose, tag) {
    if (!pose) return false;
    const frames = this.allFrames();
    frames[this.frame] = pose;
    return this.editFrames(frames, tag);
  }

  editFrames(frames, tag) {
    if (!frames.some(({ people }) => people.length)) {
      this.tell("The last person stays: a pose needs somebody.");
      this.refresh();
      return false;
    }
    this.commit(writePoses(frames), tag);
    return true;
  }

  // --- what is shown

  /**
   * What is known of the node's inputs: { frames, width, height, picture, origin, hint }: the poses that come in and the
   * picture, or null; the size of the canvas; what an unedited pose is called; what is to be done, or "".
   */
  setScene(scene) {
    this.scene = scene;
    if (!this.gestures.drag) this.refresh();
  }

  set(settings) {
    this.settings = { ...this.settings, ...settings };
    this.host.onSettings(this.settings);
    this.refresh();
  }

  /** Settings that a workflow was saved with. */
  restore(settings) {
    const keep = Boolean(settings?.keep), dim = Number(settings?.dim ?? SETTINGS.dim);
    this.settings = { keep, dim: Number.isFinite(dim) ? Math.min(Math.max(dim, 0), 1) : SETTINGS.dim };
    this.refresh();
  }

  select({ person, points, whole }) {
    Object.assign(this, { person, points, whole });
    this.refresh();
  }

  /** What is selected, as the history's tags tell edits of different points apart. */
  get selectionName() {
    return this.points.map(({ person, part, index }) => `${person} ${part} ${index}`).join() || `all ${this.person}`;
  }

  refresh() {
    this.source = this.edited ?? this.scene.frames ?? [readFrame(this.skeleton.standing)];
    this.ready = [];
    if (!this.opened && (this.edited || this.scene.frames)) {
      this.opened = true;  // with the first frame that shows somebody
      this.frame = this.source.findIndex(({ people }) => people.length);
    }
    this.frame = Math.min(Math.max(this.frame, 0), this.source.length - 1);
    this.pose = this.placed(this.frame);
    this.points = this.points.filter((ref) => pointOf(this.pose, ref));
    if (this.person >= this.pose.people.length) Object.assign(this, { person: 0, whole: false });
    if (!this.pose.people.length) this.whole = false;
    this.hovered = null;
    this.controls.refresh(this.stateText());
    this.paint();
  }

  stateText() {
    const { width, height, origin, hint } = this.scene;
    const state = this.edited ? "edited" : this.value.trim() ? "the saved pose cannot be shown; Reset drops it" : origin;
    const frame = this.frameCount > 1 ? `frame ${this.frame + 1} of ${this.frameCount}` : "";
    const people = this.pose.people.length;
    const who = people > 1 && (this.whole || this.points.length) ? `person ${this.person + 1} of ${people}` : "";
    const one = this.hovered ?? (this.points.length === 1 ? this.points[0] : null);
    const what = one ? nameOf(one, this.skeleton) : this.points.length ? `${this.points.length} points` : "";
    const gone = outside(this.pose);
    const lost = gone ? `${gone} ${gone > 1 ? "points" : "point"} outside the canvas (B brings them in)` : "";
    return [`${width} × ${height}`, state, hint, frame, who, what, lost].filter(Boolean).join(" · ");
  }

  /** Something the user should know, until the next edit; "" takes it away. */
  tell(text, kind = "bad") {
    this.controls.tell(text, kind);
  }

  paint() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!width || !height) return;
    // Finer than the layout, because the graph zooms in without the element hearing of it.
    const density = Math.min(2 * (window.devicePixelRatio || 1), 4096 / Math.max(width, height));
    const resolution = { width: Math.round(width * density), height: Math.round(height * density) };
    // Setting them empties the canvas, even to what they are.
    if (Object.keys(resolution).some((side) => this.canvas[side] !== resolution[side])) {
      Object.assign(this.canvas, resolution);
    }
    this.view = viewOf(this.pose, width, height, this.zoom);
    const handled = this.points.length > 1 ? this.points : this.whole ? pointsOf(this.pose, this.person) : [];
    this.handles = handlesOf(this.pose, handled, this.view, width, height);
    const context = this.canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const { pose, view, skeleton, person, points, hovered, handles, box } = this;
    draw(context, { pose, view, skeleton, person, points, hovered, handles, frame: box, width,
      picture: this.scene.picture, dim: this.settings.dim });
  }

  // --- zoom

  zoomAround(times, ...place) {
    this.zoom = zoomedAt(this.zoom, this.pose, this.canvas.clientWidth, this.canvas.clientHeight, times, ...place);
    this.paint();
  }

  zoomBy(times) {
    this.zoomAround(times, this.canvas.clientWidth / 2, this.canvas.clientHeight / 2);
  }

  zoomFit() {
    this.zoom = FITTED;
    this.paint();
  }

  zoomSelected() {
    const points = edits.pointsAtWork(this).map((ref) => pointOf(this.pose, ref));
    const box = boxOf(this.points.length === 1 ? [pointOf(this.pose, this.points[0])] : points.filter(isSeen));
    if (!box) return this.zoomFit();
    const pad = this.points.length === 1 ? 0.05 * Math.max(this.pose.width, this.pose.height) : 0;
    const [left, top, right, bottom] = box;
    this.zoom = zoomedTo(this.pose, this.canvas.clientWidth, this.canvas.clientHeight,
      [left - pad, top - pad, right + pad, bottom + pad]);
    this.paint();
  }

  // --- what takes a while

  /** The frames that a run of nodes finds, null where it fails, which a note says; meanwhile the user may cancel it. */
  async await(work, text) {
    if (this.work) return null;
    this.work = work;
    this.tell(text, "good");
    this.refresh();
    try {
      return await work.result;
    } catch (error) {
      this.tell(error.message);
      return null;
    } finally {
      this.work = null;
      this.refresh();
    }
  }

  /** The people of the connected picture in place of those that are there; pressed once more, it is cancelled. */
  async detect() {
    if (this.work) return this.work.cancel();
    const shown = await this.await(this.host.detect(this.frame), "Looking for people…");
    if (!shown) return;
    const found = !shown.pose_editor_nobody?.[0] && readFrames(shown.pose_editor_start ?? null)?.[0];
    if (!found) return this.tell("Nobody was found in the picture; the pose stays as it is.");
    const { width, height } = this.scene;
    if (this.edit(fitted(found, width, height))) {
      this.select({ person: 0, points: [], whole: false });
      const count = found.people.length;
      this.tell(`${count} ${count === 1 ? "person" : "people"} found.`, "good");
    }
  }

  async readElsewhere(text, name) {
    const shown = await this.await(this.host.read(text), `Reading ${name}…`);
    return shown && readFrames(shown.pose_editor_start);
  }

  showInputs() {
    if (!this.scene.linked) return this.tell("Connect a picture or a pose first.");
    this.host.showInputs();
  }

  // --- windows

  get large() {
    return this.controls.large;
  }

  toggleLarge() {
    this.controls.toggleLarge();
  }

  escape() {
    if (this.controls.panel) this.controls.open(null);
    else if (this.points.length || this.whole) this.select({ person: this.person, points: [], whole: false });
    else if (this.large) this.toggleLarge();
  }

  remove() {
    this.observer.disconnect();
    this.controls.remove();
  }
}
