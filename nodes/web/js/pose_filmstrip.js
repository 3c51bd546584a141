// The frames of a sequence as small pictures below the canvas; nothing where there is only one.

import { ACTIONS } from "./pose_actions.js";
import { drawSmall } from "./pose_drawing.js";
import { make } from "./pose_elements.js";

const HEIGHT = 44;
const AROUND = 40;  // frames on both sides of the shown one that are drawn: a sequence may have thousands

export class Filmstrip {
  constructor(widget) {
    this.widget = widget;
    this.frames = make("div", { className: "frames", testid: "frames" });
    this.element = make("div", { className: "film", hidden: true, testid: "film" }, this.frames,
      ...ACTIONS.filter(({ place }) => place === "film").map((action) => {
        const button = make("button", { type: "button", textContent: action.label, title: action.help,
          testid: action.id });
        button.addEventListener("click", () => action.run(widget));
        return button;
      }));
    this.frames.addEventListener("click", ({ target }) => {
      const frame = target.closest("[data-frame]")?.dataset.frame;
      if (frame !== undefined) widget.showFrame(Number(frame));
    });
  }

  refresh() {
    const { widget } = this;
    this.element.hidden = widget.frameCount < 2;
    if (this.element.hidden) return this.frames.replaceChildren();
    const first = Math.max(widget.frame - AROUND, 0);
    const last = Math.min(widget.frame + AROUND + 1, widget.frameCount);
    const pictures = [];
    for (let index = first; index < last; index++) pictures.push(this.picture(index));
    this.frames.replaceChildren(...pictures);
    const current = pictures[widget.frame - first];
    // Not scrollIntoView: it would scroll the page, too.
    this.frames.scrollLeft = current.offsetLeft + current.offsetWidth / 2 - this.frames.clientWidth / 2;
  }

  picture(index) {
    const { widget } = this;
    const pose = index === widget.frame ? widget.pose : widget.placed(index);
    const width = Math.round(Math.min(Math.max(HEIGHT * pose.width / pose.height, 20), 90));
    const canvas = make("canvas", { width: 2 * width, height: 2 * HEIGHT, title: `frame ${index + 1}` });
    canvas.style.width = `${width}px`;
    canvas.style.height = `${HEIGHT}px`;
    canvas.dataset.frame = index;
    canvas.classList.toggle("current", index === widget.frame);
    drawSmall(canvas.getContext("2d"), pose, widget.skeleton, 2 * width, 2 * HEIGHT);
    return canvas;
  }
}
