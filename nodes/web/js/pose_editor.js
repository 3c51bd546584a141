// The Pose Editor node on ComfyUI's page: a widget for its input `edit`, and what the widget asks of the page.
// The same code serves the classic canvas and Nodes 2.0: both place the element of a DOM widget in the node.

import { app } from "../../../scripts/app.js";
import { executionId } from "./pose_graph.js";
import { detection, reading, runNode, runNodes } from "./pose_run.js";
import { Scene } from "./pose_scene.js";
import { PoseWidget } from "./pose_widget.js";

const NODE = "RePoseDMPoseEditor";
const WIDGET = "REPOSEDM_POSE_EDITOR";
const SETTINGS = "pose editor";  // among the node's properties, so that they are saved and copied with it

/** An event of the widget that is meant for the graph: zooming, panning. */
function forward(event) {
  event.preventDefault();
  event.stopPropagation();
  app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
}

/** Call `after` whenever `target[name]` was called. */
function chain(target, name, after) {
  const before = target[name];
  target[name] = function (...values) {
    const result = before?.apply(this, values);
    after();
    return result;
  };
}

/** So the page knows that the workflow has changed, and can undo it. */
function workflowChanged() {
  app.canvas.emitBeforeChange();
  app.canvas.emitAfterChange();
}

function addWidget(node, name, [, options]) {
  const host = {
    forward,
    onChange: (value) => {
      widget.callback?.(value);
      workflowChanged();
    },
    onSettings: (settings) => {
      node.properties[SETTINGS] = settings;
      workflowChanged();
    },
    detect: (frame) => runNodes(detection(executionId(node), frame)),
    read: (text) => runNodes(reading(text)),
    showInputs: () => runNode(executionId(node)),
  };
  const editor = new PoseWidget({ skeleton: options.skeleton, help: options.tooltip, host });
  const scene = new Scene(node, editor);
  const update = () => scene.update();
  const widget = node.addDOMWidget(name, WIDGET, editor.element, {
    getValue: () => editor.value,
    setValue: (value) => { editor.value = value; },
    getMinHeight: () => 340,
    onDraw: update,
    hideOnZoom: false,
    socketless: true,
  });
  // The side panel lays a selected node's widgets out, too, and leaves them its own width, which the node then keeps.
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {}, configurable: true });
  for (const side of scene.sides) chain(side, "callback", update);
  chain(node, "onExecuted", update);
  chain(node, "onConfigure", () => {
    editor.restore(node.properties[SETTINGS]);
    update();
  });
  chain(node, "onConnectionsChange", () => {
    scene.looks = 0;
    queueMicrotask(update);  // the link is there only after the call
  });
  chain(node, "onRemoved", () => editor.remove());
  editor.element.addEventListener("pointerenter", update);
  for (const kind of ["pointerdown", "pointermove", "pointerup"]) {
    // While the space bar is held, the graph is dragged by whatever is under the mouse.
    editor.element.addEventListener(kind, (event) => app.canvas.read_only && forward(event), { capture: true });
  }
  node.poseEditorUpdate = update;
  update();
  return { widget, minWidth: 380, minHeight: 640 };
}

app.registerExtension({
  name: "RePoseDM.PoseEditor",
  getCustomWidgets: () => ({ [WIDGET]: addWidget }),
  loadedGraphNode: (node) => node.poseEditorUpdate?.(),
  // A workflow tab was opened again, or a run of the history.
  onNodeOutputsUpdated: () => app.graph?.nodes?.filter((node) => node.comfyClass === NODE)
    .forEach((node) => node.poseEditorUpdate?.()),
});
