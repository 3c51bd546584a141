// Draws what the Pose Editor shows: the picture, and people in OpenPose's colours.

import { BODY, FACE, FEET, isSeen, partsOf, pointOf, samePoint } from "./pose_parts.js";
import { isHand, nameOf } from "./pose_select.js";

const rgb = (colour, alpha = 1) => `rgb(${colour.join(" ")} / ${alpha})`;
const ACCENT = "#6ae";

/**
 * @param context 2D context whose unit is a layout pixel
 * @param scene { pose, view, skeleton, picture, dim, person, points, hovered, handles, frame }: `dim` how dark the
 *   picture is from 0 to 1, `person` the number of the current one, `points` what is selected, `hovered` a point or
 *   null, `handles` those around the selection or null, `frame` the box that is being drawn in layout pixels or null
 */
export function draw(context, scene) {
  const { pose, view, skeleton } = scene;
  drawCanvas(context, scene);
  const toScreen = (point) => [view.left + point[0] * view.scale, view.top + point[1] * view.scale];
  // As thick as Draw Pose draws them, as long as they can be hit and do not cover the picture.
  const radius = Math.min(Math.max(0.0125 * pose.height * view.scale, 4), 7);
  pose.people.forEach((person, index) => {
    drawLimbs(context, person[BODY].map((p) => (isSeen(p) ? toScreen(p) : null)), skeleton, radius);
    drawDetails(context, person, skeleton, toScreen, index === scene.person);
    drawJoints(context, person[BODY], skeleton, toScreen, radius, index === scene.person);
  });
  const size = (ref) => (ref.part === BODY ? radius + 3 : 4);
  for (const ref of scene.points) {
    const point = pointOf(pose, ref);
    if (point) ring(context, toScreen(point), size(ref), 2.5, samePoint(ref, scene.points.at(-1)) ? "#fff" : "#fffb");
  }
  if (scene.handles) drawHandles(context, scene.handles);
  if (scene.hovered) {
    ring(context, toScreen(pointOf(pose, scene.hovered)), size(scene.hovered), 1.5, "#fff");
    drawName(context, scene, toScreen, radius);
  }
  if (scene.frame) drawFrame(context, scene.frame);
}

/** A small picture of a pose, without a thing to take hold of: for presets and the filmstrip. */
export function drawSmall(context, pose, skeleton, width, height) {
  const scale = Math.min(width / pose.width, height / pose.height);
  const [left, top] = [(width - scale * pose.width) / 2, (height - scale * pose.height) / 2];
  context.clearRect(0, 0, width, height);
  for (const person of pose.people) {
    drawLimbs(context, person[BODY].map((p) => (isSeen(p) ? [left + p[0] * scale, top + p[1] * scale] : null)), skeleton,
      Math.max(0.018 * height, 1.5));
  }
}

function drawCanvas(context, { pose, view, picture, dim }) {
  const [width, height] = [pose.width * view.scale, pose.height * view.scale];
  context.fillStyle = "#000";
  context.fillRect(view.left, view.top, width, height);
  if (picture) {
    context.globalAlpha = 1 - dim;
    context.drawImage(picture, view.left, view.top, width, height);
    context.globalAlpha = 1;
  }
  context.strokeStyle = "rgb(255 255 255 / 0.25)";
  context.lineWidth = 1;
  context.strokeRect(view.left - 0.5, view.top - 0.5, width + 1, height + 1);
}

function circle(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
}

function ring(context, [x, y], radius, width, colour) {
  circle(context, x, y, radius);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}

function line(context, from, to, width, colour) {
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.lineWidth = width;
  context.lineCap = "round";
  context.strokeStyle = colour;
  context.stroke();
}

function drawLimbs(context, points, skeleton, radius) {
  const limbs = skeleton.limbs.map(([a, b], i) => [points[a], points[b], skeleton.colours[i]]);
  for (const [from, to, colour] of limbs.filter(([from, to]) => from && to)) {
    line(context, from, to, 1.3 * radius, rgb(colour.map((channel) => 0.6 * channel), 0.85));
  }
}

function drawDetails(context, person, skeleton, toScreen, current) {
  const size = current ? 1.8 : 1.2;
  for (const [part, points] of partsOf(person)) {
    if (part === BODY) continue;
    if (isHand(part)) {
      skeleton.handLimbs.forEach(([a, b], i) => {
        if (!isSeen(points[a]) || !isSeen(points[b])) return;
        line(context, toScreen(points[a]), toScreen(points[b]), 1.2, `hsl(${18 * i} 100% 50%)`);
      });
    }
    context.fillStyle = part === FACE ? "#fff" : part === FEET ? "#fa6" : "#88f";
    for (const point of points.filter(isSeen)) {
      circle(context, ...toScreen(point), size);
      context.fill();
    }
  }
}

function drawJoints(context, body, skeleton, toScreen, radius, ghosts) {
  body.forEach((point, joint) => {
    const seen = isSeen(point);
    if (!seen && !ghosts) return;
    circle(context, ...toScreen(point), seen ? radius : radius - 1);
    context.lineWidth = 1;
    if (seen) {
      context.fillStyle = rgb(skeleton.colours[joint]);
      context.fill();
      context.strokeStyle = "rgb(0 0 0 / 0.7)";
    } else {
      context.fillStyle = "rgb(0 0 0 / 0.35)";
      context.fill();
      context.strokeStyle = rgb(skeleton.colours[joint], 0.8);
      context.setLineDash([2, 2]);
    }
    context.stroke();
    context.setLineDash([]);
  });
}

function drawHandles(context, { box: [left, top, right, bottom], corners, knob }) {
  context.strokeStyle = ACCENT;
  context.lineWidth = 1;
  context.setLineDash([4, 3]);
  context.strokeRect(left, top, right - left, bottom - top);
  context.setLineDash([]);
  line(context, [knob[0], Math.max(top, knob[1])], knob, 1, ACCENT);
  context.fillStyle = "#fff";
  for (const [x, y] of corners) {
    context.fillRect(x - 4, y - 4, 8, 8);
    context.strokeStyle = ACCENT;
    context.strokeRect(x - 4, y - 4, 8, 8);
  }
  circle(context, ...knob, 5);
  context.fill();
  context.stroke();
}

function drawFrame(context, [left, top, right, bottom]) {
  context.fillStyle = "rgb(102 170 238 / 0.15)";
  context.fillRect(left, top, right - left, bottom - top);
  context.strokeStyle = ACCENT;
  context.lineWidth = 1;
  context.strokeRect(left, top, right - left, bottom - top);
}

function drawName(context, { pose, skeleton, hovered, width }, toScreen, radius) {
  const point = pointOf(pose, hovered);
  const text = nameOf(hovered, skeleton) + (isSeen(point) ? "" : " (hidden)");
  const [x, y] = toScreen(point);
  context.font = "12px sans-serif";
  const wide = context.measureText(text).width + 10;
  const left = x + radius + 6 + wide > width ? x - radius - 6 - wide : x + radius + 6;
  context.fillStyle = "rgb(0 0 0 / 0.75)";
  context.beginPath();
  context.roundRect(left, y - 10, wide, 20, 4);
  context.fill();
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + 5, y);
}
