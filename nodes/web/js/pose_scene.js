// What a Pose Editor knows of its node: the size of the canvas, the picture, the poses that come in.

import { api } from "../../../scripts/api.js";
import { isLinked, originOf, outputsOf } from "./pose_graph.js";
import { readFrames } from "./pose_parts.js";

/** Nodes whose preview is the picture that they give, at once. */
const LOADERS = ["LoadImage", "LoadImageOutput"];
const LOOKS = 20, PAUSE = 500;  // milliseconds: a page that opens a workflow knows its pictures only after a while

/** Keeps a widget up to date with its node. */
export class Scene {
  constructor(node, widget) {
    const sides = ["width", "height"].map((name) => node.widgets.find((other) => other.name === name));
    Object.assign(this, { node, widget, sides, picture: null, url: null, given: null, ran: null, looks: 0 });
  }

  get linked() {
    return isLinked(this.node, "image") || isLinked(this.node, "pose");
  }

  /** Do width or height come from another node? */
  get sized() {
    return isLinked(this.node, "width") || isLinked(this.node, "height");
  }

  /**
   * The picture to show: that of a node which loads one, at once; of another one what the editor's last run has shown,
   * as long as the same node is connected, before that what that node itself shows.
   */
  pictureUrl() {
    if (!isLinked(this.node, "image")) return null;
    const origin = originOf(this.node, "image");
    const shown = origin && this.gives(origin) ? outputsOf(origin.node).images?.[0] : null;
    const own = outputsOf(this.node).pose_editor_picture;
    if (!this.ran || own !== this.ran.own) this.ran = { own, by: origin?.node };
    const fresh = own?.[0] && this.ran.by === origin?.node ? own[0] : null;
    const image = (LOADERS.includes(origin?.node.comfyClass) ? shown ?? fresh : fresh ?? shown) ?? own?.[0];
    if (!image) return null;
    const { filename, subfolder = "", type = "input" } = image;
    return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  }

  /** Is what a node shows what it gives here? Sure for its only picture. */
  gives({ node, slot }) {
    const pictures = (node.outputs ?? []).flatMap(({ type }, index) => (type === "IMAGE" ? [index] : []));
    return pictures.length === 1 && pictures[0] === slot;
  }

  loadPicture() {
    const url = this.pictureUrl();
    if (url) this.looks = 0;
    else this.lookAgain();
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

  /** Where a node loads the picture: nothing tells when the page has it. */
  lookAgain() {
    if (this.waiting || this.looks >= LOOKS || !LOADERS.includes(originOf(this.node, "image")?.node.comfyClass)) return;
    this.looks++;
    this.waiting = setTimeout(() => {
      this.waiting = null;
      this.update();
    }, PAUSE);
  }

  /** @param ran the frame that the node sent in its last run, whose canvas holds also where a side comes from a link */
  size(frames, ran) {
    const { picture } = this;
    if (picture) return { width: picture.naturalWidth, height: picture.naturalHeight };
    const known = frames?.[0] ?? (this.linked ? this.widget.edited?.[0] : null);
    if (known) return { width: known.width, height: known.height };
    if (this.sized && ran) return { width: ran.canvas_width, height: ran.canvas_height };
    const [width, height] = this.sides.map(({ value }) => Number(value) || 1);
    return { width, height };
  }

  /** The poses that the last run has sent; read once. */
  framesOf(ran) {
    if (!this.read || this.read.ran !== ran) this.read = { ran, frames: ran ? readFrames(ran) : null };
    return this.read.frames;
  }

  /** Look again, and tell the widget where something is new. */
  update() {
    const { node, sized, linked } = this;
    this.loadPicture();
    const [image, pose] = [isLinked(node, "image"), isLinked(node, "pose")];
    const { pose_editor_start: ran, pose_editor_nobody: empty } = outputsOf(node);
    const frames = pose ? this.framesOf(ran) : null;
    const nobody = Boolean(pose && empty?.[0]);
    const missing = [pose && !frames && "pose", image && !this.picture && "picture",
      sized && !linked && !ran && "size"].filter(Boolean);
    const origin = frames && !nobody ? "as connected" : "standing pose";
    const hint = missing.length ? `run once to see the connected ${missing.join(" and ")} (I)`
      : nobody ? "nobody is in the connected pose" : "";
    const scene = { frames, picture: this.picture, ...this.size(frames, ran?.[0]), origin, hint, linked };
    const now = [frames, scene.picture, scene.width, scene.height, scene.hint, linked, nobody];
    if (this.given?.every((value, i) => value === now[i])) return;
    this.given = now;
    for (const side of this.sides) side.disabled = linked;
    this.widget.setScene(scene);
  }
}
