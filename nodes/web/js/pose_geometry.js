// Poses as plain data, and what can be done to them. Every function returns a new pose; none knows of a page.
//
// A pose is { width, height, guessed, people }, in pixels of its canvas, of which `guessed` tells what nobody knows:
// "size", "width", "height", or nothing. A person has one list of points [x, y, score] for each part, and perhaps an
// id; a score of 0 hides a point, which keeps its place. The skeleton (names, limbs, a standing person, ...) comes with
// the node's definition.

export const BODY = "pose_keypoints_2d";
export const FACE = "face_keypoints_2d";
export const FEET = "foot_keypoints_2d";
const HANDS = { left_wrist: "hand_left_keypoints_2d", right_wrist: "hand_right_keypoints_2d" };
const ID = "person_id";
const GUESSED = "canvas_guessed";
// What goes with a joint: a part, and which of its points.
const FOLLOWERS = { nose: [FACE, 0, 70], left_wrist: [HANDS.left_wrist, 0, 21], right_wrist: [HANDS.right_wrist, 0, 21],
  left_ankle: [FEET, 0, 3], right_ankle: [FEET, 3, 6] };
const COUNTS = { [BODY]: 18, [FACE]: 70, [HANDS.left_wrist]: 21, [HANDS.right_wrist]: 21, [FEET]: 6 };
const NORMALISED = 1.5, NEAR_NORMALISED = 4;

const round = (value) => Math.round(value * 100) / 100;
const isSeen = (point) => point[2] > 0;
const hasPlace = (point) => point[0] !== 0 || point[1] !== 0;

/** An OpenPose frame as a pose; null if it is none, or of a kind that only the node itself reads. */
export function readFrame(frame) {
  if (!(frame?.canvas_width > 0 && frame.canvas_height > 0 && Array.isArray(frame.people))) return null;
  const people = [];
  for (const person of frame.people) {
    const parts = {};
    for (const [part, count] of Object.entries(COUNTS)) {
      const values = person?.[part]?.length ? person[part] : new Array(3 * count).fill(0);
      if (values.length !== 3 * count || !values.every(Number.isFinite)) return null;
      parts[part] = Array.from({ length: count }, (_, i) => values.slice(3 * i, 3 * i + 3));
    }
    if (person?.[ID]) parts[ID] = person[ID];
    people.push(parts);
  }
  const size = { width: frame.canvas_width, height: frame.canvas_height, guessed: frame[GUESSED] };
  // As in the node: somebody without a body joint is nobody.
  const seen = inPixels(people, size).filter((parts) => parts[BODY].some(isSeen));
  return seen.length ? { ...size, people: seen } : null;
}

/** Parts in 0..1 as pixels. They are told from pixels as the node does it: most of their points are near the origin. */
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

/** The parts of a person, [name, points] each. */
export const partsOf = (person) => Object.entries(person).filter(([part]) => part in COUNTS);

/** The pose that `writePose` wrote; null if the text is none. */
export function readPose(text) {
  try {
    const data = JSON.parse(text);
    return readFrame(Array.isArray(data) ? data[0] : data);
  } catch {
    return null;
  }
}

/** Compact OpenPose JSON: hundredths of pixels, parts without a point left out. */
export function writePose(pose) {
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
  return JSON.stringify({ people, ...size, ...(pose.guessed ? { [GUESSED]: pose.guessed } : {}) });
}

const mapPoints = (person, move) => ({ ...person, ...Object.fromEntries(
  partsOf(person).map(([part, points]) => [part, points.map((p) => (hasPlace(p) ? [...move(p), p[2]] : p))])) });

const replacePerson = (pose, index, person) => ({ ...pose, people: pose.people.with(index, person) });

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

/** Centre [x, y] of the box of a person's visible joints. */
export function centre(person) {
  const seen = person[BODY].filter(isSeen);
  return [0, 1].map((axis) => {
    const values = seen.map((point) => point[axis]);
    return values.length ? (Math.min(...values) + Math.max(...values)) / 2 : 0;
  });
}

export function movePerson(pose, index, right, down) {
  return replacePerson(pose, index, mapPoints(pose.people[index], ([x, y]) => [x + right, y + down]));
}

/** Scaled about the centre; left as it is where it would become too small or too large to be dragged. */
export function scalePerson(pose, index, factor) {
  const person = pose.people[index];
  const [cx, cy] = centre(person);
  const reach = factor * Math.max(...person[BODY].filter(isSeen).map(([x, y]) => Math.hypot(x - cx, y - cy)));
  const side = Math.max(pose.width, pose.height);
  if (factor < 1 ? reach < 0.01 * side : reach > 10 * side) return pose;
  return replacePerson(pose, index, mapPoints(person, ([x, y]) => [cx + (x - cx) * factor, cy + (y - cy) * factor]));
}

/** Mirrored on the spot: left and right change places, so that the body stays a body. */
export function mirrorPerson(pose, index, skeleton) {
  const [cx] = centre(pose.people[index]);
  const turned = mapPoints(pose.people[index], ([x, y]) => [2 * cx - x, y]);
  return replacePerson(pose, index, {
    ...turned,
    [BODY]: skeleton.flip.map((i) => turned[BODY][i]),
    [FACE]: skeleton.faceFlip.map((i) => turned[FACE][i]),
    [HANDS.left_wrist]: turned[HANDS.right_wrist],
    [HANDS.right_wrist]: turned[HANDS.left_wrist],
    [FEET]: skeleton.footFlip.map((i) => turned[FEET][i]),
  });
}

/** The joints that hang on one, and itself: of an elbow the wrist, of the neck all. */
function branch(joint, skeleton) {
  const beyond = skeleton.limbs.filter(([from]) => from === joint);
  return [joint, ...beyond.flatMap(([, to]) => branch(to, skeleton))];
}

/**
 * One joint put somewhere, and made visible. A hand goes with its wrist, a foot with its ankle, the face with the nose;
 * where `along` is true all joints go along that hang on it.
 */
export function placeJoint(pose, index, joint, x, y, skeleton, along = false) {
  const person = { ...pose.people[index] };
  const [right, down] = [x - person[BODY][joint][0], y - person[BODY][joint][1]];
  const shift = (p) => (hasPlace(p) ? [p[0] + right, p[1] + down, p[2]] : p);
  const moved = along ? branch(joint, skeleton) : [joint];
  for (const [part, first, last] of moved.map((other) => FOLLOWERS[skeleton.names[other]]).filter(Boolean)) {
    person[part] = person[part].map((p, i) => (first <= i && i < last ? shift(p) : p));
  }
  person[BODY] = person[BODY].map((p, j) => (moved.includes(j) ? shift(p) : p)).with(joint, [x, y, 1]);
  return replacePerson(pose, index, person);
}

/** One joint hidden, or shown again; null where it is the last one, as a person without joints is nobody. */
export function toggleJoint(pose, index, joint) {
  const body = pose.people[index][BODY];
  const [x, y, score] = body[joint];
  if (score > 0 && body.filter(isSeen).length === 1) return null;
  return replacePerson(pose, index, { ...pose.people[index], [BODY]: body.with(joint, [x, y, score > 0 ? 0 : 1]) });
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
function relativeSize(body, standing) {
  const spread = (points) => Math.hypot(...[0, 1].map((axis) => {
    const values = points.map((point) => point[axis]);
    return Math.max(...values) - Math.min(...values);
  }));
  const seen = body.flatMap((point, joint) => (isSeen(point) ? [joint] : []));
  const own = spread(seen.map((joint) => body[joint]));
  return own > 0 ? own / spread(seen.map((joint) => standing[joint])) : null;
}

/** { person, joint } nearest to (x, y), within `reach`; hidden joints count for the person number `ghosts` only. */
export function jointAt(pose, x, y, reach, ghosts) {
  let best = null;
  pose.people.forEach((parts, person) => parts[BODY].forEach((point, joint) => {
    if (!isSeen(point) && person !== ghosts) return;
    // A visible joint is meant rather than a hidden one behind it.
    const distance = Math.hypot(point[0] - x, point[1] - y) + (isSeen(point) ? 0 : reach / 2);
    if (distance <= reach && !(best?.distance <= distance)) best = { person, joint, distance };
  }));
  return best && { person: best.person, joint: best.joint };
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
