// What buttons and keys do to the people in a Pose Editor. Each function takes the PoseWidget.

import { addCopies, addPerson, applyPreset, bringIn, hasExtra, outside, toggleExtra } from "./pose_figure.js";
import { centre, changePoints, mirrorPerson, movePerson, placeJoint, placePoint, scalable, togglePoints, turning,
  withFollowers } from "./pose_geometry.js";
import { BODY, isSeen, pointOf } from "./pose_parts.js";
import { nextPoint, pointsOf, wholePeople } from "./pose_select.js";

/** The people that are selected as a whole. */
export const chosenPeople = (w) => (w.whole ? [w.person] : wholePeople(w.pose, w.points));
/** Those, or the current person. */
const peopleAtWork = (w) => {
  const chosen = chosenPeople(w);
  return chosen.length ? chosen : w.pose.people.length ? [w.person] : [];
};

/** The points that a move, a turn or a change of size is for. */
export const pointsAtWork = (w) => (w.points.length > 1 ? withFollowers(w.points, w.skeleton)
  : pointsOf(w.pose, w.points[0]?.person ?? w.person));

/** Somebody needed, and nobody here: said to the user. */
function nobody(w) {
  if (w.pose.people.length) return false;
  w.tell("Nobody is in this frame: Add puts somebody there.");
  return true;
}

const choose = (w, person) => w.select({ person, points: [], whole: true });

export function add(w) {
  if (w.edit(addPerson(w.pose, w.skeleton))) choose(w, w.pose.people.length - 1);
}

/** People put into the frame, and selected. */
function put(w, people) {
  const first = w.pose.people.length;
  if (!w.edit(addCopies(w.pose, people))) return;
  if (people.length === 1) return choose(w, first);
  w.select({ person: first, whole: false, points: people.flatMap((_, i) => pointsOf(w.pose, first + i)) });
}

export function duplicate(w) {
  if (!nobody(w)) put(w, peopleAtWork(w).map((person) => w.pose.people[person]));
}

export function removePeople(w) {
  if (nobody(w)) return;
  const gone = peopleAtWork(w);
  const people = w.pose.people.filter((_, person) => !gone.includes(person));
  if (!people.length && w.frameCount === 1) return w.tell("The last person stays: a pose needs somebody.");
  if (w.edit({ ...w.pose, people })) w.select({ person: Math.max(gone[0] - 1, 0), points: [], whole: false });
}

export function mirror(w) {
  if (nobody(w)) return;
  w.edit(peopleAtWork(w).reduce((pose, person) => mirrorPerson(pose, person, w.skeleton), w.pose));
}

/** Selected points hidden, or brought back. */
export function hide(w) {
  if (!w.points.length) return;
  const pose = togglePoints(w.pose, w.points);
  if (!pose) return w.tell("Somebody would be left without a joint. To take a person away, press Shift+Delete.");
  w.edit(pose);
}

/** Delete: people that are selected as a whole go, single points are hidden. Never the node. */
export function erase(w) {
  if (chosenPeople(w).length && (w.whole || w.points.length > 1)) removePeople(w);
  else hide(w);
}

/** Larger or smaller, about its own middle. */
export function scale(w, steps) {
  if (nobody(w)) return;
  const factor = 1.04 ** steps;
  change(w, (middle) => turning(middle, 0, [factor, factor]), "scale", factor);
}

export function turn(w, degrees) {
  if (!nobody(w)) change(w, (middle) => turning(middle, degrees * Math.PI / 180), "turn");
}

function change(w, movesAbout, tag, factor = 1) {
  const refs = pointsAtWork(w);
  const seen = refs.map((ref) => pointOf(w.pose, ref)).filter(isSeen);
  if (!scalable(w.pose, seen, factor)) return;
  const middle = w.points.length > 1 ? centre({ [BODY]: seen }) : centre(w.pose.people[refs[0].person]);
  w.edit(changePoints(w.pose, refs, movesAbout(middle)), `${tag} ${w.selectionName}`);
}

/** Moves the selected points, or the person, by pixels of the pose. */
export function nudge(w, right, down) {
  if (nobody(w)) return;
  const [ref] = w.points;
  let pose;
  if (w.points.length > 1) {
    pose = changePoints(w.pose, withFollowers(w.points, w.skeleton), ([x, y]) => [x + right, y + down]);
  } else if (!ref) {
    pose = movePerson(w.pose, w.person, right, down);
  } else {
    const [x, y] = pointOf(w.pose, ref);
    pose = ref.part === BODY ? placeJoint(w.pose, ref.person, ref.index, x + right, y + down, w.skeleton)
      : placePoint(w.pose, ref, x + right, y + down, w.skeleton);
  }
  w.edit(pose, `nudge ${w.selectionName}`);
}

export function toggleParts(w, extra) {
  if (nobody(w)) return;
  const had = hasExtra(w.pose.people[w.person], extra);
  w.edit(toggleExtra(w.pose, w.person, extra, w.skeleton));
  const limbs = { hands: "wrist", face: "nose", feet: "ankle" }[extra];
  if (!had && !hasExtra(w.pose.people[w.person], extra)) w.tell(`No ${limbs} is visible to put ${extra} on.`);
}

export function bringPeopleIn(w) {
  if (nobody(w)) return;
  if (!outside(w.pose)) return w.tell("Everybody is inside of the canvas.", "good");
  w.edit(bringIn(w.pose));
}

export function preset(w, joints, more) {
  if (more || !w.pose.people.length) add(w);
  if (w.edit(applyPreset(w.pose, w.person, joints, w.skeleton))) choose(w, w.person);
}

// --- selecting

/** The whole person; then everybody; then the person again. */
export function selectAll(w) {
  if (nobody(w)) return;
  if (!w.whole || w.pose.people.length === 1) return choose(w, w.person);
  w.select({ person: w.person, whole: false, points: w.pose.people.flatMap((_, person) => pointsOf(w.pose, person)) });
}

export function nextJoint(w, step) {
  if (nobody(w)) return;
  const last = w.points.at(-1);
  const point = nextPoint(w.pose, last, last?.person ?? w.person, step);
  if (point) w.select({ person: point.person, points: [point], whole: false });
}

export function nextPerson(w, step) {
  if (nobody(w)) return;
  const count = w.pose.people.length;
  choose(w, (w.person + step + count) % count);
}

// --- frames of a sequence

export const goTo = (w, frame) => w.showFrame(Math.min(Math.max(frame, 0), w.frameCount - 1));

export function addFrame(w) {
  const frames = w.allFrames();
  frames.splice(w.frame + 1, 0, w.pose);
  if (w.editFrames(frames)) w.showFrame(w.frame + 1);
}

export function removeFrame(w) {
  if (w.frameCount === 1) return w.tell("The last frame stays.");
  const frames = w.allFrames().filter((_, index) => index !== w.frame);
  if (!frames.some(({ people }) => people.length)) return w.tell("Nobody is in the other frames: this one stays.");
  w.editFrames(frames);
}

// --- the clipboard

export const peopleToCopy = (w) => peopleAtWork(w).map((person) => w.pose.people[person]);
export const putPeople = put;
