// Draws what the Pose Editor shows: the picture, and people in OpenPose's colours.

import { BODY, FACE, FEET, partsOf } from "./pose_geometry.js";

const rgb = (colour, alpha = 1) => `rgb(${colour.join(" ")} / ${alpha})`;
const seen = (point) => point[2] > 0;

/** Where the canvas of a pose lies on the screen: { scale, left, top } in layout pixels of the widget. */
export function viewOf(pose, width, height, margin = 12) {
  const scale = Math.max(Math.min((width - 2 * margin) / pose.width, (height - 2 * margin) / pose.height), 1e-6);
  return { scale, left: (width - scale * pose.width) / 2, top: (height - scale * pose.height) / 2 };
}

/**
 * @param context 2D context whose unit is a layout pixel
 * @param scene { pose, view, skeleton, picture, selected, hovered }, the last two { person, joint } or null
 */
export function draw(context, scene) {
  const { pose, view, skeleton, picture } = scene;
  const [width, height] = [pose.width * view.scale, pose.height * view.scale];
  context.fillStyle = "#000";
  context.fillRect(view.left, view.top, width, height);
  if (picture) {
    context.globalAlpha = 0.8;  // so that the skeleton stands out
    context.drawImage(picture, view.left, view.top, width, height);
    context.globalAlpha = 1;
  }
  context.strokeStyle = "rgb(255 255 255 / 0.25)";
  context.lineWidth = 1;
  context.strokeRect(view.left - 0.5, view.top - 0.5, width + 1, height + 1);

  const toScreen = (point) => [view.left + point[0] * view.scale, view.top + point[1] * view.scale];
  // As thick as Draw Pose draws them, as long as they can be hit and do not cover the picture.
  const radius = Math.min(Math.max(0.0125 * height, 4), 7);
  pose.people.forEach((person, index) => {
    drawLimbs(context, person[BODY].map((p) => (seen(p) ? toScreen(p) : null)), skeleton, radius);
    drawDetails(context, person, skeleton, toScreen);
    drawJoints(context, person[BODY], skeleton, toScreen, radius, index === scene.selected?.person);
  });
  for (const [mark, ring] of [[scene.hovered, 1.5], [scene.selected, 2.5]]) {
    if (mark?.joint == null) continue;
    const [x, y] = toScreen(pose.people[mark.person][BODY][mark.joint]);
    circle(context, x, y, radius + 3);
    context.strokeStyle = "#fff";
    context.lineWidth = ring;
    context.stroke();
  }
  if (scene.hovered?.joint != null) drawName(context, scene, toScreen, radius);
}

function circle(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
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

function drawDetails(context, person, skeleton, toScreen) {
  for (const [part, points] of partsOf(person)) {
    if (part === BODY) continue;
    if (part !== FACE && part !== FEET) {
      skeleton.handLimbs.forEach(([a, b], i) => {
        if (!seen(points[a]) || !seen(points[b])) return;
        line(context, toScreen(points[a]), toScreen(points[b]), 1.2, `hsl(${18 * i} 100% 50%)`);
      });
    }
    context.fillStyle = part === FACE ? "#fff" : "#66f";
    for (const point of points.filter(seen)) {
      circle(context, ...toScreen(point), 1.2);
      context.fill();
    }
  }
}

function drawJoints(context, body, skeleton, toScreen, radius, ghosts) {
  body.forEach((point, joint) => {
    if (!seen(point) && !ghosts) return;
    circle(context, ...toScreen(point), seen(point) ? radius : radius - 1);
    context.lineWidth = 1;
    if (seen(point)) {
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

function drawName(context, { pose, skeleton, hovered, view }, toScreen, radius) {
  const point = pose.people[hovered.person][BODY][hovered.joint];
  const text = skeleton.names[hovered.joint].replaceAll("_", " ") + (seen(point) ? "" : " (hidden)");
  const [x, y] = toScreen(point);
  context.font = "12px sans-serif";
  const width = context.measureText(text).width + 10;
  const right = view.left + pose.width * view.scale;
  const left = x + radius + 6 + width > right ? x - radius - 6 - width : x + radius + 6;
  context.fillStyle = "rgb(0 0 0 / 0.75)";
  context.beginPath();
  context.roundRect(left, y - 10, width, 20, 4);
  context.fill();
  context.fillStyle = "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + 5, y);
}
