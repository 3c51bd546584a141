// What mouse, finger and keys mean on the canvas of the Pose Editor.

import * as geometry from "./pose_geometry.js";

const EVENTS = ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel", "keydown",
  "contextmenu", "dblclick"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Gestures {
  /**
   * @param widget the PoseWidget whose canvas is listened to
   * @param forward called with events that are for the graph
   */
  constructor(widget, forward) {
    Object.assign(this, { widget, forward, drag: null });
    // Each method below that has the name of an event is its listener.
    for (const kind of EVENTS) widget.canvas.addEventListener(kind, (event) => this[kind](event), { passive: false });
  }

  /** Where an event is, in pixels of the pose; how many of them are near enough to hit; their size on the screen. */
  locate(event) {
    const { canvas, view } = this.widget;
    const box = canvas.getBoundingClientRect();
    const zoom = box.width / canvas.clientWidth;  // of the graph
    const pixel = view.scale * zoom;
    return {
      x: ((event.clientX - box.left) / zoom - view.left) / view.scale,
      y: ((event.clientY - box.top) / zoom - view.top) / view.scale,
      reach: (event.pointerType === "touch" ? 20 : Math.max(9, 9 * zoom)) / pixel,
      pixel,
    };
  }

  /** What a gesture at a place takes hold of: { person, joint }, joint null for the whole person; null if nothing. */
  target(event, { x, y, reach }) {
    const { pose, selected, skeleton } = this.widget;
    const joint = geometry.jointAt(pose, x, y, reach, selected.person);
    if (joint && !event.shiftKey) return joint;
    const person = joint?.person ?? geometry.limbAt(pose, x, y, reach / 2, skeleton);
    if (person !== null) return { person, joint: null };
    return event.shiftKey ? { person: selected.person, joint: null } : null;
  }

  pointerdown(event) {
    if (event.button === 1) return this.forward(event);
    if (event.button !== 0 || this.drag) return;
    const { widget } = this;
    const place = this.locate(event);
    const target = this.target(event, place);
    widget.selected = target ?? { ...widget.selected, joint: null };
    if (target) {
      this.drag = { ...target, id: event.pointerId, from: place, before: widget.pose, moved: false };
      widget.canvas.setPointerCapture(event.pointerId);
    }
    event.stopPropagation();
    widget.paint();
  }

  pointermove(event) {
    if (event.buttons & 4) return this.forward(event);
    const { drag, widget } = this;
    const place = this.locate(event);
    if (!drag) return this.hover(event, place);
    event.stopPropagation();
    if (drag.id !== event.pointerId) return;
    const [right, down] = [place.x - drag.from.x, place.y - drag.from.y];
    drag.moved ||= Math.hypot(right, down) * place.pixel > (event.pointerType === "touch" ? 6 : 2);
    if (!drag.moved) return;
    if (drag.joint === null) {
      widget.pose = geometry.movePerson(drag.before, drag.person, right, down);
    } else {
      const [x, y] = drag.before.people[drag.person][geometry.BODY][drag.joint];
      const within = (value, side) => Math.min(Math.max(value, 0), side);
      widget.pose = geometry.placeJoint(drag.before, drag.person, drag.joint, within(x + right, drag.before.width),
        within(y + down, drag.before.height), widget.skeleton, event.ctrlKey || event.metaKey);
    }
    widget.paint();
  }

  pointerup(event) {
    if (event.button === 1) return this.forward(event);
    const { drag, widget } = this;
    if (drag?.id !== event.pointerId) return;
    this.drag = null;
    if (drag.moved) widget.edit(widget.pose);
    widget.refresh();  // what came in meanwhile had to wait
  }

  pointercancel() {
    this.drag = null;
    this.widget.refresh();
  }

  pointerleave() {
    this.widget.hovered = null;
    this.widget.paint();
  }

  hover(event, place) {
    const { widget } = this;
    const target = this.target(event, place);
    const hovered = target?.joint == null ? null : target;
    widget.canvas.style.cursor = !target ? "default" : target.joint === null ? "move" : "grab";
    if (hovered?.joint === widget.hovered?.joint && hovered?.person === widget.hovered?.person) return;
    widget.hovered = hovered;
    widget.paint();
  }

  contextmenu(event) {
    const { widget } = this;
    const { x, y, reach } = this.locate(event);
    const joint = geometry.jointAt(widget.pose, x, y, reach, widget.selected.person);
    if (!joint) return;
    event.preventDefault();
    event.stopPropagation();
    widget.selected = joint;
    widget.toggle();
  }

  dblclick(event) {
    event.stopPropagation();  // the graph opens its search box on it
  }

  wheel(event) {
    // Not Shift: with it the wheel counts as scrolling sideways, which the page takes for itself.
    if (!event.altKey || event.ctrlKey) return this.forward(event);
    event.preventDefault();
    event.stopPropagation();
    this.widget.scale(-Math.sign(event.deltaY));
  }

  keydown(event) {
    const { widget } = this;
    const control = event.ctrlKey || event.metaKey;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (control && (key === "z" || key === "y")) {
      widget.step(key === "y" || event.shiftKey ? 1 : -1);
    } else if (control || event.altKey) {
      return;
    } else if (ARROWS[key]) {
      widget.nudge(...ARROWS[key].map((side) => side * (event.shiftKey ? 10 : 1)));
    } else if (["+", "=", "-"].includes(key)) {
      widget.scale(key === "-" ? -1 : 1);
    } else if (key === "Delete" || key === "Backspace") {
      widget.toggle();  // never deletes the node, not even where no joint is selected
    } else if (key === "Escape" && widget.selected.joint !== null) {
      widget.selected = { ...widget.selected, joint: null };
      widget.paint();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
}
