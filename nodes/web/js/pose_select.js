// Which point or person is meant: by a place, by a box, and what a point is called.

import { BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, hasPlace, isSeen, partsOf } from "./pose_parts.js";

const FINGERS = ["thumb", "index finger", "middle finger", "ring finger", "little finger"];
const KNUCKLES = ["base", "knuckle", "joint", "tip"];
const TOES = ["left big toe", "left small toe", "left heel", "right big toe", "right small toe", "right heel"];
// Of the 70 points of a face: the last one of each part, and what it is called.
const FACE_PARTS = [[16, "jaw"], [21, "right eyebrow"], [26, "left eyebrow"], [35, "nose"], [41, "right eye"],
  [47, "left eye"], [59, "outer lips"], [67, "inner lips"], [68, "right pupil"], [69, "left pupil"]];

/** What a point is called, for people. */
export function nameOf({ part, index }, skeleton) {
  if (part === BODY) return skeleton.names[index].replaceAll("_", " ");
  if (part === FEET) return TOES[index];
  if (part === FACE) return `face: ${FACE_PARTS.find(([last]) => index <= last)[1]}`;
  const hand = part === LEFT_HAND ? "left hand" : "right hand";
  if (index === 0) return `${hand}: wrist`;
  return `${hand}: ${FINGERS[(index - 1) >> 2]}, ${KNUCKLES[(index - 1) & 3]}`;
}

/**
 * The point { person, part, index } nearest to (x, y), within `reach`; null if there is none. Hidden ones count for the
 * person number `ghosts` only. Joints of bodies are meant rather than the many points of hands and faces around them.
 */
export function pointAt(pose, x, y, reach, ghosts) {
  let best = null;
  pose.people.forEach((parts, person) => partsOf(parts).forEach(([part, points]) => points.forEach((point, index) => {
    const body = part === BODY;
    if (!hasPlace(point) || !isSeen(point) && !(body && person === ghosts)) return;
    const far = Math.hypot(point[0] - x, point[1] - y);
    if (far > (body ? reach : 0.6 * reach)) return;
    const distance = far + (body ? 0 : 0.3 * reach) + (isSeen(point) ? 0 : reach / 2);
    if (distance <= 1.001 * reach && !(best?.distance <= distance)) best = { person, part, index, distance };
  })));
  return best && { person: best.person, part: best.part, index: best.index };
}

/** The person with a limb within `reach` of (x, y); null if there is none. */
export function limbAt(pose, x, y, reach, skeleton) {
  const near = ([ax, ay], [bx, by]) => {
    const [dx, dy] = [bx - ax, by - ay];
    const along = Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1), 0), 1);
    return Math.hypot(ax + along * dx - x, ay + along * dy - y) <= reach;
  };
  const found = pose.people.findLastIndex(({ [BODY]: body }) =>
    skeleton.limbs.some(([a, b]) => isSeen(body[a]) && isSeen(body[b]) && near(body[a], body[b])));
  return found < 0 ? null : found;
}

const refsOf = (pose, wanted) => pose.people.flatMap((parts, person) => partsOf(parts).flatMap(([part, points]) =>
  points.flatMap((point, index) => (wanted(point, person) ? [{ person, part, index }] : []))));

/** The visible points in a box [left, top, right, bottom]. */
export const pointsIn = (pose, [left, top, right, bottom]) => refsOf(pose, (point) =>
  isSeen(point) && point[0] >= left && point[0] <= right && point[1] >= top && point[1] <= bottom);

/** All points of a person that have a place, hidden ones among them. */
export const pointsOf = (pose, index) => refsOf(pose, (point, person) => person === index && hasPlace(point));

/** The people of whom every visible joint of the body is among these points. */
export function wholePeople(pose, refs) {
  const counts = new Map();
  for (const { person, part, index } of refs) {
    if (part === BODY && isSeen(pose.people[person][BODY][index])) counts.set(person, (counts.get(person) ?? 0) + 1);
  }
  return [...counts.keys()].filter((person) => counts.get(person) === pose.people[person][BODY].filter(isSeen).length);
}

/** The joint after (or, backwards, before) one in the order of the body; from a point of a hand, within the hand. */
export function nextPoint(pose, ref, person, step) {
  const part = ref?.part ?? BODY;
  const points = pose.people[person][part];
  let index = ref?.index ?? (step > 0 ? -1 : points.length);
  for (let i = 0; i < points.length; i++) {
    index = (index + step + points.length) % points.length;
    if (hasPlace(points[index])) return { person, part, index };
  }
  return null;
}

export const isHand = (part) => part === LEFT_HAND || part === RIGHT_HAND;
