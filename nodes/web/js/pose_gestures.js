// What mouse, finger and keys mean on the canvas of the Pose Editor.

import { actionOf } from "./pose_actions.js";
import { pull } from "./pose_chains.js";
import * as edits from "./pose_edits.js";
import { branch, changePoints, movePerson, placeJoint, placePoint, turning, withFollowers } from "./pose_geometry.js";
import { BODY, pointOf, samePoint } from "./pose_parts.js";
import { isHand, limbAt, pointAt, pointsIn } from "./pose_select.js";
import { handleAt } from "./pose_view.js";

const EVENTS = ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel", "keydown",
  "contextmenu", "dblclick"];
const TURN = Math.PI / 12;  // of a turn with Shift

export class Gestures {
  /** @param widget the PoseWidget whose canvas is listened to */
  constructor(widget) {
    Object.assign(this, { widget, drag: null, fingers: new Map() });
    // Each method below that has the name of an event is its listener.
    for (const kind of EVENTS) widget.canvas.addEventListener(kind, (event) => this[kind](event), { passive: false });
  }

  /** Where an event is, in pixels of the pose and (across, up) of the layout; what is near enough to hit; their size. */
  locate(event) {
    const { canvas, view } = this.widget;
    const box = canvas.getBoundingClientRect();
    const zoom = box.width / canvas.clientWidth;  // of the graph
    const [across, up] = [(event.clientX - box.left) / zoom, (event.clientY - box.top) / zoom];
    const pixel = view.scale * zoom;
    const reach = event.pointerType === "touch" ? 20 : Math.max(9, 9 * zoom);
    return { across, up, x: (across - view.left) / view.scale, y: (up - view.top) / view.scale, reach: reach / pixel,
      near: reach / zoom, pixel };
  }

  pointerdown(event) {
    const { widget } = this;
    if (event.button === 1 && !widget.large) return widget.host.forward(event);
    const place = this.locate(event);
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, place);
      if (this.fingers.size === 2) return this.pinch(event);
    }
    if (event.button > 1 || this.drag) return;
    event.stopPropagation();
    widget.controls.open(null);
    this.drag = { ...this.begin(event, place), id: event.pointerId, from: place, before: widget.pose, moved: false };
    widget.canvas.setPointerCapture(event.pointerId);
    widget.controls.refresh(widget.stateText());
    widget.paint();
  }

  /** What a drag that begins here is going to do; selects what it takes hold of. */
  begin(event, place) {
    const { widget } = this;
    const { pose, skeleton, handles } = widget;
    if (event.altKey || event.button === 1) return { kind: "pan", zoom: widget.zoom };
    const handle = handleAt(handles, place.across, place.up, place.near);
    if (handle !== null) return { kind: handle === "turn" ? "turn" : "scale", corner: handle, handles };
    const ref = pointAt(pose, place.x, place.y, place.reach, widget.person);
    const more = event.shiftKey || event.ctrlKey || event.metaKey;
    const taken = ref && widget.points.some((other) => samePoint(other, ref));
    if (ref && event.shiftKey) return { kind: "person", person: ref.person, ref };
    if (taken && widget.points.length > 1 && !more) return { kind: "points", ref };
    if (ref) {
      // With Ctrl it may become a click that selects one more.
      if (!more) Object.assign(widget, { person: ref.person, points: [ref], whole: false });
      return { kind: "point", ref };
    }
    const person = limbAt(pose, place.x, place.y, place.reach / 2, skeleton);
    if (person === null) return { kind: "box", kept: event.shiftKey ? widget.points : [] };
    const ours = widget.points.length > 1 && widget.points.some((other) => other.person === person) && !event.shiftKey;
    if (ours) return { kind: "points", person };
    Object.assign(widget, { person, points: [], whole: true });
    return { kind: "person", person };
  }

  pointermove(event) {
    const { drag, widget } = this;
    if (event.buttons & 4 && drag?.kind !== "pan") return widget.host.forward(event);
    const place = this.locate(event);
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, place);
    if (!drag) return this.hover(event, place);
    event.stopPropagation();
    if (drag.kind === "pinch") return this.pinched();
    if (drag.id !== event.pointerId) return;
    const [right, down] = [place.x - drag.from.x, place.y - drag.from.y];
    // Panning moves the pose under the mouse: there only the layout tells.
    const far = Math.hypot(place.across - drag.from.across, place.up - drag.from.up);
    drag.moved ||= far * place.pixel / widget.view.scale > (event.pointerType === "touch" ? 6 : 2);
    if (!drag.moved) return;
    const moved = this[`move_${drag.kind}`](event, place, right, down);
    if (moved) widget.pose = moved;
    widget.paint();
  }

  move_point(event, _, right, down) {
    const { drag: { ref, before }, widget: { skeleton, settings } } = this;
    const within = (value, side) => Math.min(Math.max(value, 0), side);
    const [x, y] = pointOf(before, ref);
    const goal = [within(x + right, before.width), within(y + down, before.height)];
    const along = event.ctrlKey || event.metaKey;
    if (settings.keep) return pull(before, ref, ...goal, skeleton, !along);
    if (ref.part === BODY) return placeJoint(before, ref.person, ref.index, ...goal, skeleton, along);
    return placePoint(before, ref, ...goal, skeleton, along);
  }

  move_points(_event, _place, right, down) {
    const { drag: { before }, widget } = this;
    return changePoints(before, withFollowers(widget.points, widget.skeleton), ([x, y]) => [x + right, y + down]);
  }

  move_person(_event, _place, right, down) {
    return movePerson(this.drag.before, this.drag.person, right, down);
  }

  move_turn(event, { x, y }) {
    const { drag: { before, from, handles: { middle } }, widget } = this;
    const angle = Math.atan2(y - middle[1], x - middle[0]) - Math.atan2(from.y - middle[1], from.x - middle[0]);
    const snapped = event.shiftKey ? Math.round(angle / TURN) * TURN : angle;
    return changePoints(before, edits.pointsAtWork(widget), turning(middle, snapped));
  }

  move_scale(event, _place, right, down) {
    const { drag: { before, corner, handles: { ends } }, widget } = this;
    const [end, fixed] = [ends[corner], ends[(corner + 2) % 4]];
    const [wide, high] = [end[0] - fixed[0], end[1] - fixed[1]];
    const clamped = (factor) => Math.min(Math.max(factor, 0.05), 20);
    const ratio = (side, more) => (Math.abs(side) > 1e-6 ? clamped((side + more) / side) : 1);
    const same = clamped(((wide + right) * wide + (high + down) * high) / (wide ** 2 + high ** 2));
    const factors = event.shiftKey ? [ratio(wide, right), ratio(high, down)] : [same, same];
    return changePoints(before, edits.pointsAtWork(widget), turning(fixed, 0, factors));
  }

  move_box(_event, place) {
    const { drag, widget } = this;
    const sorted = (a, b) => [Math.min(a, b), Math.max(a, b)];
    const [[left, right], [top, bottom]] = [sorted(drag.from.across, place.across), sorted(drag.from.up, place.up)];
    widget.box = [left, top, right, bottom];
    const { view } = widget;
    const found = pointsIn(widget.pose, [(left - view.left) / view.scale, (top - view.top) / view.scale,
      (right - view.left) / view.scale, (bottom - view.top) / view.scale]);
    const more = found.filter((ref) => !drag.kept.some((other) => samePoint(other, ref)));
    Object.assign(widget, { points: [...drag.kept, ...more], whole: false });
    if (widget.points.length) widget.person = widget.points.at(-1).person;
  }

  move_pan(_event, place) {
    const { drag, widget } = this;
    widget.zoom = drag.zoom;
    widget.zoomAround(1, drag.from.across, drag.from.up, place.across, place.up);
  }

  pointerup(event) {
    this.fingers.delete(event.pointerId);
    const { drag, widget } = this;
    if (drag?.kind === "pinch") {
      if (!this.fingers.size) this.drag = null;
      return;
    }
    if (event.button === 1 && drag?.kind !== "pan") return widget.host.forward(event);
    if (drag?.id !== event.pointerId) return;
    this.drag = widget.box = null;
    if (!drag.moved) this.click(event, drag);
    else if (widget.pose !== drag.before) widget.edit(widget.pose);
    widget.refresh();  // what came in meanwhile had to wait
  }

  /** A press and release on the spot. */
  click(event, { kind, ref, kept }) {
    const { widget } = this;
    if (kind === "box") {
      Object.assign(widget, { points: kept, whole: false });
    } else if (ref && (event.shiftKey || event.ctrlKey || event.metaKey)) {
      const others = widget.points.filter((other) => !samePoint(other, ref));
      const points = others.length < widget.points.length ? others : [...others, ref];
      Object.assign(widget, { person: ref.person, points, whole: false });
    } else if (ref) {
      Object.assign(widget, { person: ref.person, points: [ref], whole: false });
    }
  }

  pointercancel(event) {
    this.fingers.delete(event.pointerId);
    this.drag = this.widget.box = null;
    this.widget.refresh();
  }

  pointerleave() {
    this.widget.hovered = null;
    this.widget.paint();
  }

  // --- two fingers

  /** The second finger: what the first one dragged is put back. */
  pinch(event) {
    event.stopPropagation();
    const { widget } = this;
    if (this.drag) widget.pose = this.drag.before;
    widget.box = null;
    this.drag = { kind: "pinch", zoom: widget.zoom, at: this.between() };
    widget.canvas.setPointerCapture(event.pointerId);
    widget.paint();
  }

  /** The middle of two fingers and how far they are apart, in the layout. */
  between() {
    const [one, other] = [...this.fingers.values()];
    return { x: (one.across + other.across) / 2, y: (one.up + other.up) / 2,
      apart: Math.max(Math.hypot(one.across - other.across, one.up - other.up), 1) };
  }

  pinched() {
    if (this.fingers.size < 2) return;
    const { drag: { zoom, at }, widget } = this;
    const now = this.between();
    widget.zoom = zoom;
    widget.zoomAround(now.apart / at.apart, at.x, at.y, now.x, now.y);
  }

  // --- the rest

  hover(event, place) {
    const { widget } = this;
    const handle = handleAt(widget.handles, place.across, place.up, place.near);
    const ref = handle === null ? pointAt(widget.pose, place.x, place.y, place.reach, widget.person) : null;
    const limb = !ref && handle === null
      && limbAt(widget.pose, place.x, place.y, place.reach / 2, widget.skeleton) !== null;
    widget.canvas.style.cursor = event.altKey ? "move" : handle === "turn" ? "grab"
      : handle !== null ? (handle % 2 ? "nesw-resize" : "nwse-resize") : ref ? "grab" : limb ? "move" : "crosshair";
    if (ref === widget.hovered || ref && samePoint(ref, widget.hovered)) return;
    widget.hovered = ref;
    widget.controls.say(widget.stateText());
    widget.paint();
  }

  contextmenu(event) {
    const { widget } = this;
    const { x, y, reach } = this.locate(event);
    const ref = pointAt(widget.pose, x, y, reach, widget.person);
    if (!ref && !widget.large) return;
    event.preventDefault();
    event.stopPropagation();
    this.drag = null;  // of a finger that rested there
    if (!ref) return;
    widget.select({ person: ref.person, points: [ref], whole: false });
    edits.hide(widget);
  }

  /** The limb that hangs on a joint; the graph would open its search box. */
  dblclick(event) {
    event.stopPropagation();
    const { widget } = this;
    const { x, y, reach } = this.locate(event);
    const ref = pointAt(widget.pose, x, y, reach, widget.person);
    if (!ref) return limbAt(widget.pose, x, y, reach / 2, widget.skeleton) === null && widget.zoomFit();
    const { skeleton } = widget;
    const limbs = ref.part === BODY ? skeleton.limbs : isHand(ref.part) ? skeleton.handLimbs : [];
    widget.select({ person: ref.person, whole: false,
      points: branch(ref.index, limbs).map((index) => ({ ...ref, index })) });
  }

  wheel(event) {
    const { widget } = this;
    const zooms = event.ctrlKey || event.metaKey || widget.large && !event.altKey;
    // Not Shift: with it the wheel counts as scrolling sideways, which the page takes for itself.
    if (!zooms && !event.altKey) return widget.host.forward(event);
    event.preventDefault();
    event.stopPropagation();
    if (!zooms) return edits.scale(widget, -Math.sign(event.deltaY));
    const { across, up } = this.locate(event);
    widget.zoomAround(Math.exp(-Math.min(Math.max(event.deltaY, -100), 100) / 400), across, up);
  }

  keydown(event) {
    const { widget } = this;
    const action = actionOf(event);
    if (!action) return widget.large && event.stopPropagation();
    if (action.id === "escape" && !widget.controls.panel && !widget.points.length && !widget.whole && !widget.large) return;
    event.stopPropagation();
    if (action.native) return;  // the browser makes a clipboard event of it, see pose_controls.js
    event.preventDefault();
    widget.controls.perform(action);
  }
}
