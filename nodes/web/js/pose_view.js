// Where the canvas of a pose lies on the screen, zoomed and panned; and the handles around what is selected there.
//
// A zoom is { factor, x, y }: how many times as large as fitted, and what is in the middle, as shares of the canvas.

import { boxOf } from "./pose_geometry.js";
import { isSeen, pointOf } from "./pose_parts.js";

const MARGIN = 12;
const NEAREST = 24, FARTHEST = 0.25;
export const FITTED = { factor: 1, x: 0.5, y: 0.5 };

/** { scale, left, top } in layout pixels of the widget. */
export function viewOf(pose, width, height, zoom = FITTED) {
  const fits = Math.min((width - 2 * MARGIN) / pose.width, (height - 2 * MARGIN) / pose.height);
  const scale = Math.max(fits, 1e-6) * zoom.factor;
  return { scale, left: width / 2 - zoom.x * pose.width * scale, top: height / 2 - zoom.y * pose.height * scale };
}

const clamped = (zoom) => ({ factor: zoom.factor, x: Math.min(Math.max(zoom.x, -0.5), 1.5),
  y: Math.min(Math.max(zoom.y, -0.5), 1.5) });

/** Nearer by `times`, with what is at (x, y) in layout pixels staying there, or coming to (toX, toY). */
export function zoomedAt(zoom, pose, width, height, times, x, y, toX = x, toY = y) {
  const factor = Math.min(Math.max(zoom.factor * times, FARTHEST), NEAREST);
  const before = viewOf(pose, width, height, zoom);
  const scale = before.scale * factor / zoom.factor;
  const [left, top] = [toX - (x - before.left) / before.scale * scale, toY - (y - before.top) / before.scale * scale];
  return clamped({ factor, x: (width / 2 - left) / (pose.width * scale), y: (height / 2 - top) / (pose.height * scale) });
}

/** So that a box of the pose fills most of the view. */
export function zoomedTo(pose, width, height, [left, top, right, bottom]) {
  const fits = viewOf(pose, width, height).scale;
  const [across, up] = [Math.max(right - left, 1), Math.max(bottom - top, 1)];
  const wanted = 0.7 * Math.min(width / across, height / up) / fits;
  return clamped({ factor: Math.min(Math.max(wanted, 1), NEAREST), x: (left + right) / 2 / pose.width,
    y: (top + bottom) / 2 / pose.height });
}

const PAD = 14, KNOB = 20;

/**
 * The handles of selected points: { box, corners, knob, middle }, all in layout pixels but `middle` and `ends`, which
 * are in pixels of the pose; null for a single point.
 */
export function handlesOf(pose, refs, view, width, height) {
  const points = refs.map((ref) => pointOf(pose, ref)).filter((point) => point && isSeen(point));
  const own = boxOf(points);
  if (points.length < 2 || own[0] === own[2] && own[1] === own[3]) return null;
  const box = own.map((value, i) => (i % 2 ? view.top : view.left) + value * view.scale + (i < 2 ? -PAD : PAD));
  // What lies outside of the view could not be taken hold of.
  const within = ([x, y]) => [Math.min(Math.max(x, 6), width - 6), Math.min(Math.max(y, 6), height - 6)];
  const [left, top, right, bottom] = box;
  const corners = [[left, top], [right, top], [right, bottom], [left, bottom]].map(within);
  const ends = [[own[0], own[1]], [own[2], own[1]], [own[2], own[3]], [own[0], own[3]]];
  return { box, corners, ends, knob: within([(left + right) / 2, top - KNOB]),
    middle: [(own[0] + own[2]) / 2, (own[1] + own[3]) / 2] };
}

/** Which handle is at (x, y) in layout pixels: "turn", or the number of a corner; null. */
export function handleAt(handles, x, y, reach) {
  if (!handles) return null;
  const near = ([hx, hy]) => Math.hypot(hx - x, hy - y) <= reach;
  if (near(handles.knob)) return "turn";
  const corner = handles.corners.findIndex(near);
  return corner < 0 ? null : corner;
}
