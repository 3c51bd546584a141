// Joints dragged with the lengths of limbs kept: an arm or a leg bends to reach, everything else turns about the joint
// that it hangs on, and what hangs on it turns along.

import { BODY, FEET, LEFT_HAND, RIGHT_HAND, hasPlace, isSeen } from "./pose_parts.js";
import { branch, changePoints, movePerson, turning, withFollowers } from "./pose_geometry.js";

const HANDS = [LEFT_HAND, RIGHT_HAND];
const length = ([ax, ay], [bx, by]) => Math.hypot(bx - ax, by - ay);
const direction = ([ax, ay], [bx, by]) => Math.atan2(by - ay, bx - ax);

/**
 * A point dragged towards (x, y), lengths kept.
 *
 * @param reach true where an arm or a leg is to bend (dragged by its wrist or ankle), false where only the last limb turns
 */
export function pull(pose, ref, x, y, skeleton, reach = true) {
  const { person, part, index } = ref;
  if (part === BODY) return shown(pullJoint(pose, person, index, [x, y], skeleton, reach), ref);
  if (HANDS.includes(part)) return shown(pullFinger(pose, ref, [x, y], skeleton), ref);
  const point = pose.people[person][part][index];
  if (part !== FEET) return shown(changePoints(pose, [ref], () => [x, y]), ref);  // a face has no bones
  const ankle = pose.people[person][BODY][skeleton.names.indexOf(index < 3 ? "left_ankle" : "right_ankle")];
  const foot = [0, 1, 2].map((i) => ({ person, part, index: i + (index < 3 ? 0 : 3) }));
  return shown(turned(pose, foot, ankle, point, [x, y]), ref);
}

/** The dragged point made visible, as every drag does. */
function shown(pose, { person, part, index }) {
  const points = pose.people[person][part];
  const [x, y] = points[index];
  const people = pose.people.with(person, { ...pose.people[person], [part]: points.with(index, [x, y, 1]) });
  return { ...pose, people };
}

/** Points turned about `centre` so far that `from` comes into the direction of `to`. */
function turned(pose, refs, centre, from, to) {
  if (!length(centre, from) || !length(centre, to)) return pose;
  return changePoints(pose, refs, turning(centre, direction(centre, to) - direction(centre, from)));
}

function joints(person, numbers, skeleton) {
  return withFollowers(numbers.map((index) => ({ person, part: BODY, index })), skeleton);
}

function pullJoint(pose, person, joint, goal, skeleton, reach) {
  const body = pose.people[person][BODY];
  const parent = new Map(skeleton.limbs.map(([from, to]) => [to, from]));
  const middle = parent.get(joint);
  if (middle === undefined) {  // the neck carries everything
    return movePerson(pose, person, goal[0] - body[joint][0], goal[1] - body[joint][1]);
  }
  const root = parent.get(middle);
  const limb = /_(wrist|ankle)$/.test(skeleton.names[joint]);
  const own = joints(person, branch(joint, skeleton.limbs), skeleton);
  if (!reach || !limb || root === undefined) return turned(pose, own, body[middle], body[joint], goal);

  const elbow = bend(body[root], body[middle], body[joint], goal);
  const upper = joints(person, branch(middle, skeleton.limbs), skeleton);
  const first = turned(pose, upper, body[root], body[middle], elbow);
  const lower = first.people[person][BODY];
  return turned(first, own, lower[middle], lower[joint], goal);
}

/** Where the elbow goes, so that the wrist comes as near to the goal as the arm is long; it bends to its own side. */
function bend(shoulder, elbow, wrist, goal) {
  const [upper, lower] = [length(shoulder, elbow), length(elbow, wrist)];
  const far = Math.min(Math.max(length(shoulder, goal), Math.abs(upper - lower), 1e-6), upper + lower);
  const cosine = upper ? (upper ** 2 + far ** 2 - lower ** 2) / (2 * upper * far) : 1;
  const side = (elbow[0] - shoulder[0]) * (wrist[1] - shoulder[1]) - (elbow[1] - shoulder[1]) * (wrist[0] - shoulder[0]);
  const angle = direction(shoulder, goal) + (side > 0 ? -1 : 1) * Math.acos(Math.min(Math.max(cosine, -1), 1));
  return [shoulder[0] + upper * Math.cos(angle), shoulder[1] + upper * Math.sin(angle)];
}

function pullFinger(pose, { person, part, index }, goal, skeleton) {
  const hand = pose.people[person][part];
  const before = skeleton.handLimbs.find(([, to]) => to === index)?.[0];
  const beyond = branch(index, skeleton.handLimbs).map((other) => ({ person, part, index: other }));
  if (before === undefined) {  // the wrist of the hand: all of it
    const [right, down] = [goal[0] - hand[index][0], goal[1] - hand[index][1]];
    return changePoints(pose, beyond, ([x, y]) => [x + right, y + down]);
  }
  if (!hasPlace(hand[before]) || !isSeen(hand[before])) return changePoints(pose, beyond.slice(0, 1), () => goal);
  return turned(pose, beyond, hand[before], hand[index], goal);
}
