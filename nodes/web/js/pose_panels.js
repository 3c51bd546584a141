// The panels that open over the canvas: poses to start from, buttons of one kind, the help.

import { ACTIONS, GESTURES, keysText } from "./pose_actions.js";
import { drawSmall } from "./pose_drawing.js";
import { preset } from "./pose_edits.js";
import { make } from "./pose_elements.js";
import { BODY, emptyPerson } from "./pose_parts.js";
import { say } from "./pose_words.js";

const SIDE = 72;  // of the picture of a preset, in layout pixels
let presets = null;  // the promise of the file

/** [{ name, joints }], joints 18 points [x, y, score] in 0..1 of a square. */
function loadPresets() {
  presets ??= fetch(new URL("../pose_presets.json", import.meta.url)).then((answer) => {
    if (!answer.ok) throw new Error(`The poses could not be loaded (${answer.status}).`);
    return answer.json();
  }).then(({ poses }) => poses.map(({ name, joints }) => ({ name,
    joints: Array.from({ length: 18 }, (_, i) => joints.slice(3 * i, 3 * i + 3)) })));
  presets.catch(() => { presets = null; });  // the next try loads them again
  return presets;
}

/** Fills the open panel of a widget's controls. */
export function fillPanel(controls, panel) {
  ({ poses: posesPanel, help: helpPanel }[panel] ?? buttonsPanel)(controls, panel);
}

function buttonsPanel(controls, panel) {
  const { widget, panelBox } = controls;
  const actions = ACTIONS.filter(({ place }) => place === panel);
  panelBox.append(make("div", { className: "list" }, ...actions.map((action) => {
    const button = make("button", { type: "button", title: action.help, testid: action.id },
      make("span", { textContent: action.label }), make("kbd", { textContent: keysText(action.keys.slice(0, 1)) }));
    button.addEventListener("click", () => {
      controls.open(null);
      action.run(widget);
      controls.focus();
    });
    return button;
  })));
  if (panel === "view") panelBox.append(dimming(widget));
}

function dimming(widget) {
  const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: widget.settings.dim,
    testid: "dimming" });
  slider.addEventListener("input", () => widget.set({ dim: Number(slider.value) }));
  return make("label", { className: "slider" }, say("Dim the picture"), slider);
}

function helpPanel({ panelBox }) {
  const row = (what, means) => make("tr", {}, make("td", { textContent: what }), make("td", { textContent: means }));
  const keys = ACTIONS.filter(({ help, keys: { length } }) => help && length);
  panelBox.append(make("table", {}, ...GESTURES.map((gesture) => row(...gesture)),
    ...keys.map((action) => row(keysText(action.keys), action.help))));
}

async function posesPanel(controls) {
  const { panelBox, widget } = controls;
  const more = make("input", { type: "checkbox", testid: "preset-adds" });
  const grid = make("div", { className: "grid" });
  panelBox.append(make("label", {}, more, ` ${say("add a person (or click with Shift)")}`), grid);
  try {
    for (const { name, joints } of await loadPresets()) {
      const canvas = make("canvas", { width: 2 * SIDE, height: 2 * SIDE });
      const pose = { width: 1, height: 1, people: [{ ...emptyPerson(), [BODY]: joints }] };
      drawSmall(canvas.getContext("2d"), pose, widget.skeleton, 2 * SIDE, 2 * SIDE);
      const button = make("button", { type: "button", title: name, testid: "preset" }, canvas,
        make("span", { textContent: name }));
      button.addEventListener("click", (event) => {
        controls.open(null);
        preset(widget, joints, more.checked || event.shiftKey);
        controls.focus();
      });
      grid.append(button);
    }
  } catch (error) {
    controls.open(null);
    widget.tell(error.message);
  }
}
