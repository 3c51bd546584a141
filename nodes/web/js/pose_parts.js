// Poses as plain data: what they are made of, and how they are read and written.
//
// A pose is { width, height, guessed, people }, in pixels of its canvas, of which `guessed` tells what nobody knows:
// "size", "width", "height", or nothing. A person has one list of points [x, y, score] for each part, and perhaps an
// id; a score of 0 hides a point, which keeps its place. A point is named by { person, part, index }.

export const BODY = "pose_keypoints_2d";
export const FACE = "face_keypoints_2d";
export const FEET = "foot_keypoints_2d";
export const LEFT_HAND = "hand_left_keypoints_2d";
export const RIGHT_HAND = "hand_right_keypoints_2d";
export const COUNTS = { [BODY]: 18, [FACE]: 70, [LEFT_HAND]: 21, [RIGHT_HAND]: 21, [FEET]: 6 };
// What goes with a joint: a part, and which of its points.
export const FOLLOWERS = { nose: [FACE, 0, 70], left_wrist: [LEFT_HAND, 0, 21], right_wrist: [RIGHT_HAND, 0, 21],
  left_ankle: [FEET, 0, 3], right_ankle: [FEET, 3, 6] };
const ID = "person_id";
const GUESSED = "canvas_guessed";
const NORMALISED = 1.5, NEAR_NORMALISED = 4;

const round = (value) => Math.round(value * 100) / 100;
export const isSeen = (point) => point[2] > 0;
export const hasPlace = (point) => point[0] !== 0 || point[1] !== 0;

/** The parts of a person, [name, points] each. */
export const partsOf = (person) => Object.entries(person).filter(([part]) => part in COUNTS);

/** A person without a point. */
export const emptyPerson = () => Object.fromEntries(Object.entries(COUNTS).map(([part, count]) =>
  [part, Array.from({ length: count }, () => [0, 0, 0])]));

export const pointOf = (pose, { person, part, index }) => pose.people[person]?.[part]?.[index];
export const samePoint = (one, other) =>
  one?.person === other?.person && one?.part === other?.part && one?.index === other?.index;

/** An OpenPose frame as a pose, perhaps of nobody; null if it is none, or of a kind that only the node itself reads. */
function readAnyFrame(frame) {
  if (!(frame?.canvas_width > 0 && frame.canvas_height > 0 && Array.isArray(frame.people))) return null;
  const people = [];
  for (const person of frame.people) {
    const parts = {};
    for (const [part, count] of Object.entries(COUNTS)) {
      const values = person?.[part]?.length ? person[part] : new Array(3 * count).fill(0);
      if (values.length !== 3 * count || !values.every?.(Number.isFinite)) return null;
      parts[part] = Array.from({ length: count }, (_, i) => values.slice(3 * i, 3 * i + 3));
    }
    if (person?.[ID]) parts[ID] = person[ID];
    people.push(parts);
  }
  const size = { width: frame.canvas_width, height: frame.canvas_height, guessed: frame[GUESSED] };
  // As in the node: somebody without a body joint is nobody.
  return { ...size, people: inPixels(people, size).filter((parts) => parts[BODY].some(isSeen)) };
}

/** An OpenPose frame as a pose; null if nobody is in it, or if it is none. */
export function readFrame(frame) {
  const pose = readAnyFrame(frame);
  return pose?.people.length ? pose : null;
}

/** Frames as poses, of which one at least shows somebody; null if they are none. */
export function readFrames(data) {
  const poses = (Array.isArray(data) ? data : [data]).map(readAnyFrame);
  return poses.every(Boolean) && poses.some(({ people }) => people.length) ? poses : null;
}

/** The poses that `writePoses` wrote; null if the text holds none. */
export function readPoses(text) {
  try {
    return readFrames(JSON.parse(text));
  } catch {
    return null;
  }
}

/** The first pose of a text; null if it holds none. */
export const readPose = (text) => readPoses(text)?.find(({ people }) => people.length) ?? null;

/** Parts in 0..1 as pixels. They are recognised as the node does it: most of their points are near the origin. */
function inPixels(people, { width, height }) {
  const extent = (points) => {
    const reach = points.filter(isSeen).map(([x, y]) => Math.max(Math.abs(x), Math.abs(y))).sort((a, b) => a - b);
    const middle = reach.length / 2;
    return reach.length ? (reach[Math.ceil(middle) - 1] + reach[Math.floor(middle)]) / 2 : Infinity;
  };
  const some = people.some((person) => partsOf(person).some(([, points]) => extent(points) <= NORMALISED));
  const limit = some ? NEAR_NORMALISED : NORMALISED;
  return people.map((person) => ({ ...person, ...Object.fromEntries(partsOf(person).map(([part, points]) =>
    [part, extent(points) <= limit ? points.map(([x, y, score]) => [x * width, y * height, score]) : points])) }));
}

/** An OpenPose frame: hundredths of pixels, parts without a point left out. */
export function toFrame(pose) {
  const people = pose.people.map((person) => {
    const parts = partsOf(person).filter(([part, points]) => part === BODY || points.some(isSeen));
    const written = Object.fromEntries(parts.map(([part, points]) => [part, points.flatMap(([x, y, score]) => {
      const place = [round(x), round(y)];
      // OpenPose writes "not found" as (0, 0) or (-1, -1).
      if (score > 0 && place[0] === place[1] && (place[0] === 0 || place[0] === -1)) place[0] += 0.01;
      return [...place, round(score)];
    })]));
    return person[ID] ? { ...written, [ID]: person[ID] } : written;
  });
  const size = { canvas_width: pose.width, canvas_height: pose.height };
  return { people, ...size, ...(pose.guessed ? { [GUESSED]: pose.guessed } : {}) };
}

/** Compact OpenPose JSON of one pose. */
export const writePose = (pose) => JSON.stringify(toFrame(pose));

/** Of one pose a frame, of several a list. */
export const writePoses = (poses) => (poses.length === 1 ? writePose(poses[0]) : JSON.stringify(poses.map(toFrame)));

/** As other programs want it: a list of frames, every part of everybody there, zeros for what is hidden. */
export function exportPoses(poses) {
  const shown = (points) => points.map((point) => (isSeen(point) ? point : [0, 0, 0]));
  return JSON.stringify(poses.map((pose) => {
    const frame = toFrame(pose);
    frame.people.forEach((person, number) => {
      for (const [part, points] of partsOf(pose.people[number])) {
        if (part === FEET && !points.some(isSeen)) continue;
        person[part] = shown(points).flatMap(([x, y, score]) => [round(x), round(y), round(score)]);
      }
    });
    return frame;
  }));
}
