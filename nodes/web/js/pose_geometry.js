// What can be done to poses. Every function returns a new pose; none knows of a page. The skeleton (names, limbs, a
// standing person, ...) comes with the node's definition.

import { BODY, FACE, FEET, FOLLOWERS, LEFT_HAND, RIGHT_HAND, hasPlace, isSeen, partsOf, readFrame } from "./pose_parts.js";

export { readFrame, readPose, writePose } from "./pose_parts.js";

const mapPoints = (person, move) => ({ ...person, ...Object.fromEntries(
  partsOf(person).map(([part, points]) => [part, points.map((p) => (hasPlace(p) ? [...move(p), p[2]] : p))])) });

export const replacePerson = (pose, index, person) => ({ ...pose, people: pose.people.with(index, person) });

/** The nearest whole number, and of two as near the even one, as Python rounds. */
function rounded(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

/**
 * Letterboxed to another canvas as the node does it with pictures: aspect kept, whole pixels, the whole old canvas
 * visible, centred. A canvas that was a guess gives way instead: points keep their pixels, or are scaled with the side
 * that is known.
 */
export function fitted(pose, width, height) {
  const { guessed } = pose;
  const [across, up] = [width / pose.width, height / pose.height];
  const known = { size: 1, height: across, width: up }[guessed];
  const inner = [pose.width, pose.height].map((side) => Math.max(1, rounded(side * Math.min(across, up))));
  const scale = known ? [known, known] : [inner[0] / pose.width, inner[1] / pose.height];
  const offset = known ? [0, 0] : [Math.floor((width - inner[0]) / 2), Math.floor((height - inner[1]) / 2)];
  const move = ([x, y]) => [x * scale[0] + offset[0], y * scale[1] + offset[1]];
  return { width, height, guessed, people: pose.people.map((person) => mapPoints(person, move)) };
}

/** Box [left, top, right, bottom] of points; null where there is none. */
export function boxOf(points) {
  if (!points.length) return null;
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** Centre [x, y] of the box of a person's visible joints. */
export function centre(person) {
  const [left, top, right, bottom] = boxOf(person[BODY].filter(isSeen)) ?? [0, 0, 0, 0];
  return [(left + right) / 2, (top + bottom) / 2];
}

/** A change of points: `factors` [across, up] about a centre, then a turn by `angle` in radians about it. */
export function turning([cx, cy], angle, factors = [1, 1]) {
  const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
  return ([x, y]) => {
    const [right, down] = [(x - cx) * factors[0], (y - cy) * factors[1]];
    return [cx + right * cosine - down * sine, cy + right * sine + down * cosine];
  };
}

export const changePerson = (pose, index, move) => replacePerson(pose, index, mapPoints(pose.people[index], move));

export const movePerson = (pose, index, right, down) => changePerson(pose, index, ([x, y]) => [x + right, y + down]);

/** Would somebody be too small or too large to be dragged, where these joints are scaled so? */
export function scalable(pose, points, factor) {
  const [left, top, right, bottom] = boxOf(points) ?? [0, 0, 0, 0];
  const reach = factor * Math.hypot(right - left, bottom - top) / 2;
  const side = Math.max(pose.width, pose.height);
  return factor < 1 ? reach >= 0.01 * side : reach <= 10 * side;
}

/** Scaled about the centre; left as it is where it would become too small or too large to be dragged. */
export function scalePerson(pose, index, factor) {
  const person = pose.people[index];
  if (!scalable(pose, person[BODY].filter(isSeen), factor)) return pose;
  return changePerson(pose, index, turning(centre(person), 0, [factor, factor]));
}

/** Mirrored on the spot: left and right change places, so that the body stays a body. */
export function mirrorPerson(pose, index, skeleton) {
  const [cx] = centre(pose.people[index]);
  const turned = mapPoints(pose.people[index], ([x, y]) => [2 * cx - x, y]);
  return replacePerson(pose, index, {
    ...turned,
    [BODY]: skeleton.flip.map((i) => turned[BODY][i]),
    [FACE]: skeleton.faceFlip.map((i) => turned[FACE][i]),
    [LEFT_HAND]: turned[RIGHT_HAND],
    [RIGHT_HAND]: turned[LEFT_HAND],
    [FEET]: skeleton.footFlip.map((i) => turned[FEET][i]),
  });
}

/** The joints that hang on one, and itself: of an elbow the wrist, of the neck all. */
export function branch(joint, limbs) {
  const beyond = limbs.filter(([from]) => from === joint);
  return [joint, ...beyond.flatMap(([, to]) => branch(to, limbs))];
}

/** These body joints with what goes along: a hand with its wrist, a foot with its ankle, the face with the nose. */
export function withFollowers(refs, skeleton) {
  const found = new Map();
  const add = (ref) => found.set(`${ref.person} ${ref.part} ${ref.index}`, ref);
  for (const ref of refs) {
    add(ref);
    const [part, first, last] = (ref.part === BODY && FOLLOWERS[skeleton.names[ref.index]]) || [];
    for (let index = first; index < last; index++) add({ person: ref.person, part, index });
  }
  return [...found.values()];
}

/** Points, and nothing else, changed by `move`, which takes a point and gives [x, y]. */
export function changePoints(pose, refs, move) {
  const people = pose.people.slice();
  const own = new Set();  // parts that are copies by now
  for (const { person, part, index } of refs) {
    const name = `${person} ${part}`;
    if (!own.has(name)) people[person] = { ...people[person], [part]: people[person][part].slice() };
    own.add(name);
    const point = people[person][part][index];
    if (hasPlace(point)) people[person][part][index] = [...move(point), point[2]];
  }
  return { ...pose, people };
}

/**
 * One joint put somewhere, and made visible. A hand goes with its wrist, a foot with its ankle, the face with the nose;
 * where `along` is true all joints go along that hang on it.
 */
export function placeJoint(pose, index, joint, x, y, skeleton, along = false) {
  const [fromX, fromY] = pose.people[index][BODY][joint];
  const joints = along ? branch(joint, skeleton.limbs) : [joint];
  const refs = withFollowers(joints.map((other) => ({ person: index, part: BODY, index: other })), skeleton);
  const moved = changePoints(pose, refs, (p) => [p[0] + x - fromX, p[1] + y - fromY]);
  const body = moved.people[index][BODY].with(joint, [x, y, 1]);
  return replacePerson(moved, index, { ...moved.people[index], [BODY]: body });
}

/** One point of a face, hand or foot put somewhere, and made visible; `along` takes a finger with all beyond it. */
export function placePoint(pose, { person, part, index }, x, y, skeleton, along = false) {
  const [fromX, fromY] = pose.people[person][part][index];
  const whole = (part === LEFT_HAND || part === RIGHT_HAND) && (along || index === 0);
  const moved = changePoints(pose, (whole ? branch(index, skeleton.handLimbs) : [index])
    .map((other) => ({ person, part, index: other })), (p) => [p[0] + x - fromX, p[1] + y - fromY]);
  const points = moved.people[person][part].with(index, [x, y, 1]);
  return replacePerson(moved, person, { ...moved.people[person], [part]: points });
}

/**
 * Points hidden, or, where none of them is seen, shown again; null where somebody would be left without a joint, as a
 * person without joints is nobody.
 */
export function togglePoints(pose, refs) {
  const score = refs.some(({ person, part, index }) => isSeen(pose.people[person][part][index])) ? 0 : 1;
  const people = pose.people.slice();
  for (const { person, part, index } of refs) {
    const [x, y] = people[person][part][index];
    people[person] = { ...people[person], [part]: people[person][part].with(index, [x, y, score]) };
  }
  return people.every((person) => person[BODY].some(isSeen)) ? { ...pose, people } : null;
}

/** Joints that were never seen get a place, still hidden: where a standing person has them, from the next joint in. */
export function withPlaces(pose, skeleton) {
  const reference = readFrame(skeleton.standing);
  const standing = reference.people[0][BODY];
  const parent = new Map(skeleton.limbs.map(([from, to]) => [to, from]));
  const inside = (value, side) => Math.min(Math.max(value, 0.02 * side), 0.98 * side);
  const people = pose.people.map((person) => {
    const body = person[BODY].slice();
    const size = relativeSize(body, standing) ?? Math.min(pose.width / reference.width, pose.height / reference.height);
    const place = (joint) => {
      if (!hasPlace(body[joint])) {
        const from = parent.get(joint) ?? body.findIndex(isSeen);
        const [x, y] = place(from);
        body[joint] = [inside(x + size * (standing[joint][0] - standing[from][0]), pose.width),
          inside(y + size * (standing[joint][1] - standing[from][1]), pose.height), 0];
      }
      return body[joint];
    };
    body.forEach((_, joint) => place(joint));
    return { ...person, [BODY]: body };
  });
  return { ...pose, people };
}

/** How many times as large as the standing person somebody is, by the joints seen; null if they do not tell. */
export function relativeSize(body, standing) {
  const spread = (points) => {
    const [left, top, right, bottom] = boxOf(points) ?? [0, 0, 0, 0];
    return Math.hypot(right - left, bottom - top);
  };
  const seen = body.flatMap((point, joint) => (isSeen(point) ? [joint] : []));
  const [own, like] = [spread(seen.map((joint) => body[joint])), spread(seen.map((joint) => standing[joint]))];
  return own > 0 && like > 0 ? own / like : null;
}
