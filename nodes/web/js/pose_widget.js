// The element in the node: people dragged with mouse, finger or keys, buttons, and an undo history.
//
// Its value is a text: empty as long as nothing was edited, else the edited pose. What lies under an empty value (the
// pose that came in) and the size of the canvas are told from outside, by `setScene`.

import { draw, viewOf } from "./pose_drawing.js";
import * as geometry from "./pose_geometry.js";

const STYLE = `
.reposedm-editor { display: flex; flex-direction: column; gap: 4px; min-height: 240px; overflow: hidden; }
.reposedm-editor canvas { flex: 1; min-height: 0; width: 100%; display: block; border-radius: 6px; outline: none;
  background: var(--comfy-input-bg, #222); touch-action: none; }
.reposedm-editor canvas:focus-visible { box-shadow: inset 0 0 0 1px var(--p-primary-color, #6ae); }
.reposedm-editor div { display: flex; gap: 4px; }
.reposedm-editor button { flex: 1; padding: 3px 0; font: 12px sans-serif; cursor: pointer; border-radius: 6px;
  border: 1px solid var(--border-color, #444); color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); }
.reposedm-editor button:hover:enabled { filter: brightness(1.25); }
.reposedm-editor button:disabled { opacity: 0.4; cursor: default; }
.reposedm-editor output { font: 11px sans-serif; color: var(--descrip-text, #999); text-align: center;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
`;
const HELP = "Drag a joint. Drag a limb, or anything with Shift, to move the whole person; Shift and the wheel scale. " +
  "Right-click or Delete hides a joint or brings it back. Arrow keys nudge.";
const HISTORY = 200;

export class PoseWidget {
  /**
   * @param skeleton the tables of the node's definition
   * @param onChange called after every edit, with the new value
   * @param forward called with events that are for the graph: the wheel, the middle button
   */
  constructor(skeleton, onChange, forward) {
    Object.assign(this, { skeleton, onChange, forward });
    this.history = [""];
    this.at = 0;
    this.scene = { start: null, width: 768, height: 1024, picture: null, origin: "", hint: "" };
    this.selected = { person: 0, joint: null };
    this.hovered = this.drag = this.lastTag = null;
    this.build();
    this.refresh();
  }

  build() {
    if (!document.getElementById("reposedm-editor-style")) {
      document.head.append(Object.assign(document.createElement("style"), { id: "reposedm-editor-style", textContent: STYLE }));
    }
    this.element = document.createElement("div");
    this.element.className = "reposedm-editor";
    this.element.dataset.testid = "pose-editor";
    this.canvas = Object.assign(document.createElement("canvas"), { tabIndex: 0, title: HELP });
    this.canvas.dataset.testid = "pose-editor-canvas";
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", `Pose editor. ${HELP}`);
    // The page takes Ctrl+Z from everything but text fields: with this it leaves it to the focused editor.
    this.canvas.type = "textarea";
    const bar = document.createElement("div");
    this.buttons = {};
    for (const [name, title, action] of [
      ["Undo", "Undo the last edit (Ctrl+Z)", () => this.step(-1)],
      ["Redo", "Do it again (Ctrl+Y)", () => this.step(1)],
      ["Mirror", "Mirror the person on the spot", () => this.mirror()],
      ["Hide", "Hide the selected joint, or bring it back (Delete)", () => this.toggle(this.selected)],
      ["Reset", "Drop all edits: back to the pose that comes in", () => this.commit("")],
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
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel", "keydown",
      "contextmenu", "dblclick"]) {
      this.canvas.addEventListener(kind, (event) => this[kind]?.(event), { passive: false });
    }
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
    if (!this.drag) this.refresh();
  }

  refresh() {
    const { start, width, height, origin, hint } = this.scene;
    const edited = this.value.trim() ? geometry.readPose(this.value) : null;
    const pose = edited ?? start ?? geometry.readFrame(this.skeleton.standing);
    this.pose = geometry.withPlaces(geometry.fitted(pose, width, height), this.skeleton);
    if (this.selected.person >= this.pose.people.length) this.selected = { person: 0, joint: null };
    this.hovered = null;
    this.buttons.Undo.disabled = this.at === 0;
    this.buttons.Redo.disabled = this.at === this.history.length - 1;
    this.buttons.Reset.disabled = this.value === "";
    const state = edited ? "edited" : this.value.trim() ? "the saved pose cannot be shown; Reset drops it" : origin;
    this.status.textContent = [`${width} × ${height}`, state, hint].filter(Boolean).join(" · ");
    this.paint();
  }

  paint() {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.buttons.Hide.disabled = this.selected.joint === null;
    if (!width || !height) return;
    // Finer than the layout, because the graph zooms in without the element being told.
    const density = Math.min(2 * (window.devicePixelRatio || 1), 4096 / Math.max(width, height));
    const [columns, rows] = [Math.round(width * density), Math.round(height * density)];
    if (this.canvas.width !== columns || this.canvas.height !== rows) Object.assign(this.canvas, { width: columns, height: rows });
    this.view = viewOf(this.pose, width, height);
    const context = this.canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    draw(context, { ...this, picture: this.scene.picture });
  }

  // --- edits

  edit(pose, tag) {
    if (pose) this.commit(geometry.writePose(pose), tag);
  }

  mirror() {
    this.edit(geometry.mirrorPerson(this.pose, this.selected.person, this.skeleton));
  }

  toggle({ person, joint }) {
    if (joint !== null) this.edit(geometry.toggleJoint(this.pose, person, joint));
  }

  // --- events of the canvas, by their names

  /** Where an event is: in pixels of the pose, and how many of them are near enough to hit something. */
  locate(event) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = box.width / this.canvas.clientWidth;  // of the graph
    const pixel = this.view.scale * zoom;
    return {
      x: ((event.clientX - box.left) / zoom - this.view.left) / this.view.scale,
      y: ((event.clientY - box.top) / zoom - this.view.top) / this.view.scale,
      reach: (event.pointerType === "touch" ? 20 : Math.max(9, 9 * zoom)) / pixel,
      pixel,
    };
  }

  /** The whole person that a gesture at a place is for, if it is for one. */
  personAt(event, { x, y, reach }, joint) {
    const limb = geometry.limbAt(this.pose, x, y, reach / 2, this.skeleton);
    return event.shiftKey ? joint?.person ?? limb ?? this.selected.person : joint ? null : limb;
  }

  pointerdown(event) {
    if (event.button === 1) return this.forward(event);
    if (event.button !== 0 || this.drag) return;
    const place = this.locate(event);
    const joint = geometry.jointAt(this.pose, place.x, place.y, place.reach, this.selected.person);
    const whole = this.personAt(event, place, joint);
    this.selected = joint ?? { person: whole ?? this.selected.person, joint: null };
    if (joint || whole !== null) {
      this.drag = { id: event.pointerId, from: place, before: this.pose, person: whole ?? joint.person,
        joint: whole === null ? joint.joint : null, moved: false };
      this.canvas.setPointerCapture(event.pointerId);
    }
    event.stopPropagation();
    this.paint();
  }

  pointermove(event) {
    if (event.buttons & 4) return this.forward(event);
    const place = this.locate(event);
    const { drag } = this;
    if (!drag) return this.hover(event, place);
    event.stopPropagation();
    if (drag.id !== event.pointerId) return;
    const [right, down] = [place.x - drag.from.x, place.y - drag.from.y];
    drag.moved ||= Math.hypot(right, down) * place.pixel > (event.pointerType === "touch" ? 6 : 2);
    if (!drag.moved) return;
    if (drag.joint === null) {
      this.pose = geometry.movePerson(drag.before, drag.person, right, down);
    } else {
      const [x, y] = drag.before.people[drag.person][geometry.BODY][drag.joint];
      const within = (value, side) => Math.min(Math.max(value, 0), side);
      this.pose = geometry.placeJoint(drag.before, drag.person, drag.joint, within(x + right, this.pose.width),
        within(y + down, this.pose.height), this.skeleton);
    }
    this.paint();
  }

  pointerup(event) {
    if (event.button === 1) return this.forward(event);
    const { drag } = this;
    if (drag?.id !== event.pointerId) return;
    this.drag = null;
    if (drag.moved) this.edit(this.pose);
  }

  pointercancel() {
    if (this.drag) this.pose = this.drag.before;
    this.drag = null;
    this.paint();
  }

  pointerleave() {
    this.hovered = null;
    this.paint();
  }

  hover(event, place) {
    this.hovered = geometry.jointAt(this.pose, place.x, place.y, place.reach, this.selected.person);
    const whole = this.personAt(event, place, this.hovered);
    this.canvas.style.cursor = whole !== null ? "move" : this.hovered ? "grab" : "default";
    this.paint();
  }

  contextmenu(event) {
    const { x, y, reach } = this.locate(event);
    const joint = geometry.jointAt(this.pose, x, y, reach, this.selected.person);
    if (!joint) return;
    event.preventDefault();
    event.stopPropagation();
    this.selected = joint;
    this.toggle(joint);
    this.paint();
  }

  dblclick(event) {
    event.stopPropagation();  // the graph opens its search box on it
  }

  wheel(event) {
    if (!event.shiftKey) return this.forward(event);
    event.preventDefault();
    event.stopPropagation();
    const turned = event.deltaY || event.deltaX;  // with Shift held, browsers scroll sideways
    const { person } = this.selected;
    this.edit(geometry.scalePerson(this.pose, person, Math.exp(-Math.sign(turned) * 0.04)), `scale ${person}`);
  }

  keydown(event) {
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    const { person, joint } = this.selected;
    if (control && (key === "z" || key === "y")) {
      this.step(key === "y" || event.shiftKey ? 1 : -1);
    } else if (!control && arrow) {
      const [right, down] = arrow.map((side) => side * (event.shiftKey ? 10 : 1));
      const [x, y] = joint === null ? [] : this.pose.people[person][geometry.BODY][joint];
      this.edit(joint === null ? geometry.movePerson(this.pose, person, right, down)
        : geometry.placeJoint(this.pose, person, joint, x + right, y + down, this.skeleton), `nudge ${person} ${joint}`);
    } else if (!control && (key === "Delete" || key === "Backspace")) {
      this.toggle(this.selected);  // never deletes the node, not even where no joint is selected
    } else if (key === "Escape" && joint !== null) {
      this.selected = { person, joint: null };
      this.paint();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  remove() {
    this.observer.disconnect();
  }
}
