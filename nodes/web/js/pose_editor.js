// The Pose Editor node on ComfyUI's page: a widget for its input `edit`, and what the widget shows of the other inputs.
// The same code serves the classic canvas and Nodes 2.0: both place the element of a DOM widget in the node.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { readFrame } from "./pose_geometry.js";
import { PoseWidget } from "./pose_widget.js";

const NODE = "RePoseDMPoseEditor";
const WIDGET = "REPOSEDM_POSE_EDITOR";

/** What a node has shown in the last run; of Load Image, what it shows now. */
function outputsOf(node) {
  const { graph, id } = node;
  const inside = graph && graph !== (app.rootGraph ?? app.graph);  // a subgraph
  return app.nodeOutputs?.[inside ? `${graph.id}:${id}` : id] ?? {};
}

/** An event of the widget that is meant for the graph: zooming, panning. */
function forward(event) {
  event.preventDefault();
  event.stopPropagation();
  app.canvas.canvas.dispatchEvent(new event.constructor(event.type, event));
}

/** Keeps a widget up to date with its node: canvas size, picture, the pose that comes in. */
class Scene {
  constructor(node, widget) {
    const sides = ["width", "height"].map((name) => node.widgets.find((other) => other.name === name));
    Object.assign(this, { node, widget, sides, picture: null, url: null, told: null });
  }

  get linked() {
    return Boolean(this.input("image") || this.input("pose"));
  }

  /** Do width or height come from another node? */
  get sized() {
    return Boolean(this.input("width") || this.input("height"));
  }

  input(name) {
    const index = this.node.inputs?.findIndex((input) => input.name === name) ?? -1;
    return !this.node.graph || this.node.inputs?.[index]?.link == null ? null : { node: this.node.getInputNode(index) };
  }

  /** The picture to show: that of Load Image at once, any other one after a run. */
  pictureUrl() {
    const link = this.input("image");
    if (!link) return null;
    const loaded = link.node?.comfyClass === "LoadImage" ? outputsOf(link.node).images?.[0] : null;
    const image = loaded ?? outputsOf(this.node).pose_editor_picture?.[0];
    if (!image) return null;
    const { filename, subfolder = "", type = "input" } = image;
    return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  }

  loadPicture() {
    const url = this.pictureUrl();
    if (url === this.url) return;
    this.url = url;
    this.picture = null;
    if (!url) return;
    const picture = new Image();
    picture.onload = () => {
      if (this.url !== url) return;  // another one by now
      this.picture = picture;
      this.update();
    };
    picture.src = url;
  }

  /** @param ran the frame that the node told in its last run, whose canvas holds also where a side comes from a link */
  size(start, ran) {
    const { picture } = this;
    if (picture) return { width: picture.naturalWidth, height: picture.naturalHeight };
    const known = start ?? (this.linked ? this.widget.editedSize : null);
    if (known) return { width: known.width, height: known.height };
    if (this.sized && ran) return { width: ran.canvas_width, height: ran.canvas_height };
    const [width, height] = this.sides.map(({ value }) => Number(value) || 1);
    return { width, height };
  }

  /** Look again, and tell the widget where something is new. */
  update() {
    this.loadPicture();
    const link = this.input("pose");
    const ran = outputsOf(this.node).pose_editor_start?.[0];
    const frame = link && ran;
    const start = readFrame(frame);
    const nobody = Boolean(link && outputsOf(this.node).pose_editor_nobody?.[0]);
    const missing = [link && !start && "pose", this.input("image") && !this.picture && "picture",
      this.sized && !this.linked && !ran && "size"].filter(Boolean);
    const origin = start && !nobody ? "as connected" : "standing pose";
    const hint = missing.length ? `run once to see the connected ${missing.join(" and ")}`
      : nobody ? "nobody is in the connected pose" : "";
    const scene = { start, picture: this.picture, ...this.size(start, ran), origin, hint };
    const now = [frame, scene.picture, scene.width, scene.height, scene.hint, this.linked, nobody];
    if (this.told?.every((value, i) => value === now[i])) return;
    this.told = now;
    for (const side of this.sides) side.disabled = this.linked;
    this.widget.setScene(scene);
  }
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

function addWidget(node, name, [, options]) {
  const onChange = (value) => {
    widget.callback?.(value);
    // So the page knows that the workflow has changed, and can undo it.
    app.canvas.emitBeforeChange();
    app.canvas.emitAfterChange();
  };
  const editor = new PoseWidget({ skeleton: options.skeleton, help: options.tooltip, onChange, forward });
  const scene = new Scene(node, editor);
  const update = () => scene.update();
  const widget = node.addDOMWidget(name, WIDGET, editor.element, {
    getValue: () => editor.value,
    setValue: (value) => { editor.value = value; },
    getMinHeight: () => 280,
    onDraw: update,
    hideOnZoom: false,
    socketless: true,
  });
  for (const side of scene.sides) chain(side, "callback", update);
  chain(node, "onExecuted", update);
  chain(node, "onConfigure", update);
  chain(node, "onConnectionsChange", () => queueMicrotask(update));  // the link is there only after the call
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
