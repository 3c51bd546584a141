// Everything that buttons and keys do, in one table: the toolbar, the keyboard and the help overlay are made of it.

import * as edits from "./pose_edits.js";
import * as files from "./pose_files.js";
import { say } from "./pose_words.js";

/**
 * id: also of the button, `pose-editor-ID`; label: on the button; help: in its tooltip and in the help overlay; keys:
 * as `keyOf` writes them; place: the toolbar's row, or the panel that has the button; run, enabled, pressed: take the
 * PoseWidget.
 */
export const ACTIONS = [
  { id: "undo", label: "Undo", help: "undo the last edit", keys: ["Ctrl+z"], place: 1,
    run: (w) => w.step(-1), enabled: (w) => !w.history.first },
  { id: "redo", label: "Redo", help: "do it again", keys: ["Ctrl+y", "Ctrl+Shift+z"], place: 1,
    run: (w) => w.step(1), enabled: (w) => !w.history.last },
  { id: "add", label: "Add", help: "add a person", keys: ["a"], place: 1, run: edits.add },
  { id: "copy", label: "Copy", help: "duplicate the selected people in the frame", keys: ["Ctrl+d"], place: 1,
    run: edits.duplicate, enabled: (w) => w.pose.people.length },
  { id: "remove", label: "Delete", help: "take the selected people away", keys: ["Shift+Delete"], place: 1,
    run: edits.removePeople, enabled: (w) => w.pose.people.length },
  { id: "mirror", label: "Mirror", help: "mirror the selected people on the spot", keys: ["m"], place: 1,
    run: edits.mirror, enabled: (w) => w.pose.people.length },
  { id: "hide", label: "Hide", help: "hide the selected points, or bring them back", keys: ["h"], place: 1,
    run: edits.hide, enabled: (w) => w.points.length },
  { id: "reset", label: "Reset", help: "drop all edits: back to the pose that comes in", keys: [], place: 1,
    run: (w) => w.commit(""), enabled: (w) => w.value !== "" },
  { id: "poses", label: "Poses", help: "poses to start from", keys: ["p"], place: 2, panel: true },
  { id: "people", label: "People", help: "hands, faces, feet, copying", keys: [], place: 2, panel: true },
  { id: "file", label: "File", help: "load, save and copy JSON", keys: [], place: 2, panel: true },
  { id: "view", label: "View", help: "zoom, dimming, the connected picture", keys: [], place: 2, panel: true },
  { id: "lengths", label: "Lengths", help: "keep the lengths of limbs: they turn and bend", keys: ["l"], place: 2,
    run: (w) => w.set({ keep: !w.settings.keep }), pressed: (w) => w.settings.keep },
  { id: "detect", label: "Detect", help: "find the people of the connected picture", keys: ["e"], place: 2,
    run: (w) => w.detect(), pressed: (w) => Boolean(w.work) },
  { id: "large", label: "Large", help: "open the editor in a large window, and back", keys: ["f"], place: 2,
    run: (w) => w.toggleLarge(), pressed: (w) => w.large },
  { id: "help", label: "Help", help: "show keys and gestures", keys: ["?", "F1"], place: 2, panel: true },

  { id: "hands", label: "Hands", help: "give the person hands, or take them away", keys: ["1"], place: "people",
    run: (w) => edits.toggleParts(w, "hands") },
  { id: "face", label: "Face", help: "give the person a face, or take it away", keys: ["2"], place: "people",
    run: (w) => edits.toggleParts(w, "face") },
  { id: "feet", label: "Feet", help: "give the person feet, or take them away", keys: ["3"], place: "people",
    run: (w) => edits.toggleParts(w, "feet") },
  { id: "bring-in", label: "Bring in", help: "bring everybody into the canvas", keys: ["b"], place: "people",
    run: edits.bringPeopleIn },
  { id: "select-all", label: "Select all", help: "select the person; again: everybody", keys: ["Ctrl+a"],
    place: "people", run: edits.selectAll },
  { id: "clip", label: "To clipboard", help: "copy the selected people", keys: ["Ctrl+c"], place: "people",
    native: true, run: files.copyPeople },
  { id: "cut", label: "Cut", help: "copy the selected people and take them away", keys: ["Ctrl+x"], place: "people",
    native: true, run: files.cutPeople },
  { id: "paste", label: "Paste", help: "paste people, also into another Pose Editor", keys: ["Ctrl+v"],
    place: "people", native: true, run: files.pastePeople },

  { id: "load", label: "Load JSON…", help: "load a pose from a file (or drop one here)", keys: ["o"],
    place: "file", run: files.chooseFile },
  { id: "save", label: "Save JSON", help: "save the pose as a file", keys: ["s"], place: "file", run: files.saveFile },
  { id: "copy-json", label: "Copy JSON", help: "copy the pose as text", keys: ["c"], place: "file",
    run: files.copyJson },

  { id: "show", label: "Show inputs", help: "run what is connected, and nothing else, to see picture and pose",
    keys: ["i"], place: "view", run: (w) => w.showInputs() },
  { id: "fit", label: "Fit", help: "show the whole canvas", keys: ["0"], place: "view", run: (w) => w.zoomFit() },
  { id: "zoom-selected", label: "To selection", help: "zoom to what is selected", keys: ["z"], place: "view",
    run: (w) => w.zoomSelected() },
  { id: "zoom-in", label: "Zoom in", help: "zoom in", keys: ["Ctrl++", "Ctrl+="], place: "view",
    run: (w) => w.zoomBy(1.25) },
  { id: "zoom-out", label: "Zoom out", help: "zoom out", keys: ["Ctrl+-"], place: "view", run: (w) => w.zoomBy(0.8) },
  { id: "dim", label: "Dim", help: "darken the picture, in steps", keys: ["d"], place: "view",
    run: (w) => w.set({ dim: w.settings.dim >= 1 ? 0 : Math.min(Math.floor(w.settings.dim * 5 + 1.001) / 5, 1) }) },

  { id: "erase", help: "hide the selected points, or take the selected people away", keys: ["Delete", "Backspace"],
    run: edits.erase },
  { id: "left", help: "nudge what is selected; with Shift by ten pixels", keys: ["ArrowLeft"],
    run: (w) => edits.nudge(w, -1, 0) },
  { id: "right", keys: ["ArrowRight"], run: (w) => edits.nudge(w, 1, 0) },
  { id: "up", keys: ["ArrowUp"], run: (w) => edits.nudge(w, 0, -1) },
  { id: "down", keys: ["ArrowDown"], run: (w) => edits.nudge(w, 0, 1) },
  { id: "left-far", keys: ["Shift+ArrowLeft"], run: (w) => edits.nudge(w, -10, 0) },
  { id: "right-far", keys: ["Shift+ArrowRight"], run: (w) => edits.nudge(w, 10, 0) },
  { id: "up-far", keys: ["Shift+ArrowUp"], run: (w) => edits.nudge(w, 0, -10) },
  { id: "down-far", keys: ["Shift+ArrowDown"], run: (w) => edits.nudge(w, 0, 10) },
  { id: "larger", help: "larger", keys: ["+", "="], run: (w) => edits.scale(w, 1) },
  { id: "smaller", help: "smaller", keys: ["-"], run: (w) => edits.scale(w, -1) },
  { id: "clockwise", help: "turn by five degrees; with Shift the other way", keys: ["r"],
    run: (w) => edits.turn(w, 5) },
  { id: "anticlockwise", keys: ["Shift+r"], run: (w) => edits.turn(w, -5) },
  { id: "next-joint", help: "select the next joint; with Shift the one before", keys: ["j"],
    run: (w) => edits.nextJoint(w, 1) },
  { id: "previous-joint", keys: ["Shift+j"], run: (w) => edits.nextJoint(w, -1) },
  { id: "next-person", help: "select the next person; with Shift the one before", keys: ["n"],
    run: (w) => edits.nextPerson(w, 1) },
  { id: "previous-person", keys: ["Shift+n"], run: (w) => edits.nextPerson(w, -1) },
  { id: "next-frame", help: "the next frame of a sequence", keys: ["."], run: (w) => edits.goTo(w, w.frame + 1) },
  { id: "previous-frame", help: "the frame before", keys: [","], run: (w) => edits.goTo(w, w.frame - 1) },
  { id: "add-frame", label: "+", help: "another frame after this one, like it", keys: ["Shift+a"], place: "film",
    run: edits.addFrame },
  { id: "remove-frame", label: "−", help: "take this frame away", keys: [], place: "film", run: edits.removeFrame },
  { id: "escape", help: "close what is open; then select nothing; then leave the large window", keys: ["Escape"],
    run: (w) => w.escape() },
].map((action) => ({ ...action, label: action.label && say(action.label), help: action.help && say(action.help) }));

export const GESTURES = [
  ["drag a joint, a finger, a point of face or foot", "move it"],
  ["… with Ctrl", "and all that hangs on it"],
  ["… with Lengths on", "an arm or a leg bends to reach; with Ctrl only the last limb turns"],
  ["drag a limb, or anything with Shift", "move the person"],
  ["drag over the empty canvas", "select points with a box; with Shift or a click with Shift: more of them"],
  ["the corners and the knob of a selection", "change its size (Shift: its shape), turn it (Shift: by 15°)"],
  ["right-click, long touch", "hide a point, or bring it back"],
  ["double-click", "select what hangs on a joint; on the empty canvas: fit"],
  ["Ctrl and the wheel, two fingers", "zoom; in the large window the wheel alone"],
  ["Alt and drag, two fingers", "pan; in the large window the middle button, too"],
  ["Alt and the wheel", "larger, smaller"],
].map((gesture) => gesture.map(say));

/** What a key event is called in the table: "Ctrl+z", "Shift+ArrowLeft", "?". */
export function keyOf(event) {
  const letter = event.key.length === 1;
  const key = letter ? event.key.toLowerCase() : event.key;
  const shift = event.shiftKey && (!letter || key !== key.toUpperCase());  // of "?" it is part of the character
  return (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + (event.altKey ? "Alt+" : "") + (shift ? "Shift+" : "") + key;
}

const BY_KEY = new Map(ACTIONS.flatMap((action) => action.keys.map((key) => [key, action])));

/** The action of a key event; undefined where it has none. */
export const actionOf = (event) => BY_KEY.get(keyOf(event));

/** Keys as people read them. */
export const keysText = (keys) => keys.map((key) => key.replace("Arrow", "")
  .replace(/(^|\+)([a-z])$/, (_, before, letter) => before + letter.toUpperCase())).join(", ");
