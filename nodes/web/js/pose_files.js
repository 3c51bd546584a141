// Poses into and out of the Pose Editor: the clipboard, files, JSON as text. Each function takes the PoseWidget.

import { peopleToCopy, putPeople, removePeople } from "./pose_edits.js";
import { fitted } from "./pose_geometry.js";
import { exportPoses, readFrames, readPoses, writePose } from "./pose_parts.js";

const LARGEST = 64 * 2 ** 20;  // letters of a file
let kept = "";  // what was copied last, where the browser gives no clipboard

/** Onto the clipboard: by the event of a key, else by the browser's permission; kept here in any case. */
function toClipboard(text, event) {
  kept = text;
  if (event) event.clipboardData.setData("text/plain", text);
  else navigator.clipboard?.writeText(text).catch(() => {});
}

async function fromClipboard(event) {
  if (event) return event.clipboardData.getData("text/plain");
  return (await navigator.clipboard?.readText().catch(() => "")) || kept;
}

const counted = (number, one, several = `${one}s`) => `${number} ${number === 1 ? one : several}`;

export function copyPeople(w, event) {
  const people = peopleToCopy(w);
  if (!people.length) return w.tell("Nobody is in this frame to be copied.");
  toClipboard(writePose({ ...w.pose, people }), event);
  w.tell(`${counted(people.length, "person", "people")} copied.`, "good");
}

export function cutPeople(w, event) {
  copyPeople(w, event);
  removePeople(w);
}

export async function pastePeople(w, event) {
  const text = await fromClipboard(event);
  const pose = readPoses(text)?.find(({ people }) => people.length);
  if (!pose) return w.tell("The clipboard holds no people: copy some here, or OpenPose JSON elsewhere.");
  putPeople(w, fitted({ ...pose, guessed: undefined }, w.pose.width, w.pose.height).people);
}

export function copyJson(w) {
  toClipboard(exportPoses(w.allFrames()));
  w.tell("The pose is copied as JSON.", "good");
}

export function saveFile(w) {
  const url = URL.createObjectURL(new Blob([exportPoses(w.allFrames())], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: "pose.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function chooseFile(w) {
  const input = Object.assign(document.createElement("input"), { type: "file", accept: ".json,.jsonl,.txt" });
  input.dataset.testid = "pose-editor-file-input";
  input.addEventListener("change", () => input.files[0] && loadFile(w, input.files[0]));
  input.click();
}

export async function loadFile(w, file) {
  if (file.size > LARGEST) return w.tell(`${file.name} is too large for a pose (64 MB at most).`);
  await loadText(w, await file.text(), file.name);
}

/**
 * The pose of a text into the editor, as one edit. What is not OpenPose's JSON is read by Load Pose, which knows other
 * programs' formats; what is no pose at all changes nothing, and a note
 * says so.
 */
export async function loadText(w, text, name) {
  let data = null;
  try {
    data = JSON.parse(text);
  } catch (error) {
    // Of JSON lines each is a JSON by itself; a broken file is none from the first one on.
    const [line] = text.trim().split("\n", 1);
    if (!isJson(line)) return w.tell(`${name} is no JSON: ${error.message}.`);
  }
  const frames = (data && readFrames(data)) ?? await w.readElsewhere(text, name);
  if (!frames) return;
  const { width, height } = w.scene;
  if (!w.editFrames(frames.map((frame) => fitted(frame, width, height)))) return;
  const people = Math.max(...frames.map((frame) => frame.people.length));
  const size = frames.length > 1 ? `${frames.length} frames, ` : "";
  w.tell(`${name}: ${size}${counted(people, "person", "people")}.`, "good");
}

function isJson(text) {
  try {
    return typeof JSON.parse(text) === "object";
  } catch {
    return false;
  }
}
