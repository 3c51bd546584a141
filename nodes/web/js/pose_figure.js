// New people, and new parts of people: hands, faces and feet from the standing figure, presets put on somebody.

import { BODY, FACE, FEET, FOLLOWERS, LEFT_HAND, RIGHT_HAND, emptyPerson, hasPlace, isSeen, partsOf,
  readFrame } from "./pose_parts.js";
import { boxOf, centre, changePerson, fitted, relativeSize, replacePerson, turning } from "./pose_geometry.js";

// By the joint that a part hangs on: the two that tell how it is turned.
const LINES = { nose: ["right_eye", "left_eye"], left_wrist: ["left_elbow", "left_wrist"],
  right_wrist: ["right_elbow", "right_wrist"], left_ankle: ["left_knee", "left_ankle"],
  right_ankle: ["right_knee", "right_ankle"] };
export const EXTRAS = { hands: [LEFT_HAND, RIGHT_HAND], face: [FACE], feet: [FEET] };

const figureOf = (skeleton) => readFrame(skeleton.figure);
const spreadOf = ([left, top, right, bottom]) => Math.hypot(right - left, bottom - top);

/** From a limb of one body to the same limb of another: turned, scaled about its end, moved along. */
function carrying(from, to, joint, skeleton, scale = 1) {
  const [start, stop, end] = [...LINES[joint], joint].map((name) => skeleton.names.indexOf(name));
  const angle = (body) => Math.atan2(body[stop][1] - body[start][1], body[stop][0] - body[start][0]);
  const turn = turning(from[end], angle(to) - angle(from), [scale, scale]);
  const [right, down] = [to[end][0] - from[end][0], to[end][1] - from[end][1]];
  return (point) => {
    const [x, y] = turn(point);
    return [x + right, y + down];
  };
}

/** What hangs on a body brought along to a new one. */
function carried(person, body, skeleton) {
  const result = { ...person, [BODY]: body };
  for (const [joint, [part, first, last]] of Object.entries(FOLLOWERS)) {
    const move = carrying(person[BODY], body, joint, skeleton);
    result[part] = result[part].map((point, i) =>
      (first <= i && i < last && hasPlace(point) ? [...move(point), point[2]] : point));
  }
  return result;
}

export const hasExtra = (person, extra) => EXTRAS[extra].some((part) => person?.[part].some(isSeen));

/** Hands, face or feet added where a person has none, in their usual shape; taken away where there are some. */
export function toggleExtra(pose, index, extra, skeleton) {
  const person = { ...pose.people[index] };
  if (hasExtra(person, extra)) {
    for (const part of EXTRAS[extra]) person[part] = emptyPerson()[part];
    return replacePerson(pose, index, person);
  }
  const [figure] = figureOf(skeleton).people;
  const size = limbRatio(person[BODY], figure[BODY], skeleton);
  for (const [joint, [part, first, last]] of Object.entries(FOLLOWERS)) {
    if (!EXTRAS[extra].includes(part)) continue;
    const move = carrying(figure[BODY], person[BODY], joint, skeleton, size);
    // A hand of a hidden wrist would hang in the air.
    const score = isSeen(person[BODY][skeleton.names.indexOf(joint)]) ? 1 : 0;
    person[part] = person[part].map((point, i) =>
      (first <= i && i < last ? [...move(figure[part][i]), score] : point));
  }
  return replacePerson(pose, index, person);
}

/** How many times as long the limbs of one body are as those of another; by those seen in both. */
function limbRatio(body, other, skeleton) {
  let [own, like] = [0, 0];
  for (const [a, b] of skeleton.limbs) {
    if (![body[a], body[b], other[a], other[b]].every(isSeen)) continue;
    own += Math.hypot(body[a][0] - body[b][0], body[a][1] - body[b][1]);
    like += Math.hypot(other[a][0] - other[b][0], other[a][1] - other[b][1]);
  }
  return own > 0 && like > 0 ? own / like : relativeSize(body, other) ?? 1;
}

/** The middle between the hips, where the weight is; the centre of what is seen where there are none. */
function hips(body, skeleton) {
  const [a, b] = ["left_hip", "right_hip"].map((name) => body[skeleton.names.indexOf(name)]);
  return isSeen(a) && isSeen(b) ? [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] : centre({ [BODY]: body });
}

/**
 * A preset put on somebody: as large as they are, where they are, with their hands, face and feet.
 *
 * @param joints 18 points [x, y, score] in any unit
 */
export function applyPreset(pose, index, joints, skeleton) {
  const person = pose.people[index];
  const size = limbRatio(person[BODY], joints, skeleton);
  const [from, to] = [hips(joints, skeleton), hips(person[BODY], skeleton)];
  const body = joints.map(([x, y, score]) => [to[0] + size * (x - from[0]), to[1] + size * (y - from[1]), score]);
  return replacePerson(pose, index, carried(person, body, skeleton));
}

/** Somebody more, last of all: standing, with hands, as large as the others, where there is room. */
export function addPerson(pose, skeleton) {
  const standing = fitted(readFrame(skeleton.standing), pose.width, pose.height);
  const others = pose.people.map((person) => boxOf(person[BODY].filter(isSeen)) ?? [0, 0, 0, 0]);
  const [own] = standing.people;
  let size = 1;
  if (others.length) {
    const spreads = others.map(spreadOf).sort((a, b) => a - b);
    size = spreads[spreads.length >> 1] / spreadOf(boxOf(own[BODY])) || 1;
  }
  const middle = centre(own);
  const taken = others.map(([left, , right]) => (left + right) / 2);
  const room = (x) => Math.min(...taken.map((other) => Math.abs(x - other)));
  const [left, , right] = boxOf(partsOf(own).flatMap(([, points]) => points.filter(isSeen)));
  const half = Math.min(size * Math.max(middle[0] - left, right - middle[0]), pose.width / 2);
  const places = [0.5, 0.25, 0.75, 0, 1, 0.38, 0.62]
    .map((share) => Math.min(Math.max(share * pose.width, half), pose.width - half));
  const x = taken.length ? places.reduce((best, place) => (room(place) > room(best) + 1e-6 ? place : best)) : middle[0];
  const added = { ...pose, people: [...pose.people, own] };
  const index = pose.people.length;
  const scaled = changePerson(added, index, turning(middle, 0, [size, size]));
  return changePerson(scaled, index, ([px, py]) => [px + x - middle[0], py]);
}

/** Copies of people, last of all, a little aside of where they are, so that both can be seen. */
export function addCopies(pose, people) {
  const step = 0.08 * Math.max(pose.width, pose.height);
  const places = pose.people.map(centre);
  const covers = ([x, y]) => places.some((other) => Math.hypot(other[0] - x, other[1] - y) < 0.5 * step);
  const middles = people.map(centre);
  // To the side where there is more of the canvas.
  const side = middles.reduce((sum, [x]) => sum + x, 0) / people.length > 0.6 * pose.width ? -1 : 1;
  let shift = 0;
  while (Math.abs(shift) < 50 && middles.some(([x, y]) => covers([x + shift * step, y]))) shift += side;
  let result = pose;
  for (const person of people) {
    result = { ...result, people: [...result.people, { ...person, person_id: undefined }] };
    result = changePerson(result, result.people.length - 1, ([x, y]) => [x + shift * step, y]);
  }
  return result;
}

/** How many points that are seen lie outside of the canvas. */
export const outside = (pose) => pose.people.flatMap((person) => partsOf(person).flatMap(([, points]) => points))
  .filter((point) => isSeen(point) && (point[0] < 0 || point[1] < 0 || point[0] > pose.width || point[1] > pose.height))
  .length;

/** Everybody moved, and made smaller where that does not do, until all lie inside of the canvas. */
export function bringIn(pose) {
  const box = boxOf(pose.people.flatMap((person) => partsOf(person).flatMap(([, points]) => points.filter(isSeen))));
  if (!box) return pose;
  const sides = [pose.width, pose.height];
  const extent = [box[2] - box[0], box[3] - box[1]];
  const size = Math.min(1, ...sides.map((side, axis) => (extent[axis] > 0 ? 0.96 * side / extent[axis] : 1)));
  const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  const scale = turning(middle, 0, [size, size]);
  const shift = sides.map((side, axis) => {
    const half = size * extent[axis] / 2;
    return Math.min(Math.max(middle[axis], half), side - half) - middle[axis];
  });
  const move = (point) => scale(point).map((value, axis) => value + shift[axis]);
  return pose.people.reduce((result, _, index) => changePerson(result, index, move), pose);
}
