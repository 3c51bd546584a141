"""Draw the icon and the banner that the Comfy registry shows: a pose, and the sampling map that leads to it.

    python .ci/artwork.py                  # writes workflows/images/icon.png and banner.png

The arrows are a sampling map like those of Recurrent Pose Aligner: they lead from the target pose back to the
source pose, hips on hips, spread smoothly over the picture. Skeletons are in OpenPose's colours. Needs the
installed pack.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from reposedm_core.pose.skeleton import OPENPOSE_COLOURS, OPENPOSE_LIMBS

IMAGES = Path(__file__).resolve().parent.parent / "workflows" / "images"
ICON, BANNER = (400, 400), (1680, 720)
FINER = 3  # drawn three times as large, then made smaller: smooth edges

# OpenPose-18 in units of the body's height, origin between the hips, y downwards.
STANDING = np.array([
    (0.00, -0.43), (0.00, -0.31), (-0.10, -0.31), (-0.14, -0.15), (-0.16, 0.00), (0.10, -0.31), (0.14, -0.15),
    (0.16, 0.00), (-0.06, 0.00), (-0.07, 0.23), (-0.08, 0.45), (0.06, 0.00), (0.07, 0.23), (0.08, 0.45),
    (-0.022, -0.455), (0.022, -0.455), (-0.05, -0.44), (0.05, -0.44),
])  # fmt: skip
LEAPING = np.array([
    (0.06, -0.42), (0.03, -0.30), (-0.07, -0.31), (-0.20, -0.38), (-0.30, -0.50), (0.13, -0.28), (0.27, -0.32),
    (0.40, -0.42), (-0.06, 0.00), (-0.24, 0.10), (-0.45, 0.16), (0.06, 0.01), (0.22, 0.15), (0.12, 0.37),
    (0.037, -0.447), (0.08, -0.44), (0.008, -0.435), (0.106, -0.42),
])  # fmt: skip


def backdrop(size: tuple[int, int], centre: tuple[float, float]) -> Image.Image:
    """Dark blue with a light behind `centre` (in shares of the size)."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    far = np.hypot((x / width - centre[0]) * width / height, y / height - centre[1])[..., None]
    near = np.exp(-((far / 0.55) ** 2))
    return Image.fromarray((np.array([13, 15, 26]) + near * np.array([34, 36, 66])).astype(np.uint8))


def motion(points: np.ndarray, source: np.ndarray, target: np.ndarray, reach: float) -> np.ndarray:
    """Where `points` (N, 2) sample from: the joints' motion back to the source, (N, 2), fading within `reach`."""
    squared = ((points[:, None] - target) ** 2).sum(-1)
    weight = np.exp(-squared / (2 * reach**2))
    return weight @ (source - target) / (weight.sum(1, keepdims=True) + 0.25)


def arrow(draw: ImageDraw.ImageDraw, start: np.ndarray, step: np.ndarray, width: float, opacity: int) -> None:
    """One arrow of the map, coloured by its direction as flow pictures are."""
    length = np.hypot(*step)
    if length < 4 * width:
        draw.ellipse([*(start - width), *(start + width)], fill=(120, 130, 170, opacity // 3))
        return
    hue = np.arctan2(step[1], step[0]) / (2 * np.pi) % 1
    colour = (*(round(255 * channel) for channel in colorsys.hls_to_rgb(hue, 0.7, 0.75)), opacity)
    along, end = step / length, start + step
    across = np.array([-along[1], along[0]])
    head = min(6 * width, length / 2)
    base = end - head * along
    draw.line([*start, *base], fill=colour, width=round(2 * width))
    draw.polygon([tuple(end), tuple(base + 0.55 * head * across), tuple(base - 0.55 * head * across)], fill=colour)


def skeleton(size: tuple[int, int], joints: np.ndarray, width: float, grey: bool = False) -> Image.Image:
    """A layer with one person; joints (18, 2) in pixels."""
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    for (a, b), colour in zip(OPENPOSE_LIMBS, OPENPOSE_COLOURS, strict=False):
        thin = 0.35 if max(a, b) > 13 else 0.7 if 0 in (a, b) else 1.0
        fill = (112, 120, 150, 255) if grey else (*(round(0.82 * channel + 20) for channel in colour), 255)
        draw.line([*joints[a], *joints[b]], fill=fill, width=round(2 * width * thin))
        for end in (joints[a], joints[b]):
            draw.ellipse([*(end - width * thin), *(end + width * thin)], fill=fill)
    for number, (joint, colour) in enumerate(zip(joints, OPENPOSE_COLOURS, strict=True)):
        radius = width * (0.5 if number > 13 else 1.3)
        fill = (150, 158, 188, 255) if grey else (*colour, 255)
        draw.ellipse([*(joint - radius), *(joint + radius)], fill=fill)
    return layer


def add(picture: Image.Image, layer: Image.Image, opacity: float = 1.0, glow: float = 0.0) -> None:
    """Lay `layer` over `picture`, in place; `glow` is the width in pixels of its light."""
    layer.putalpha(layer.getchannel("A").point(lambda value: round(value * opacity)))
    if glow:
        light = Image.new("RGB", picture.size)
        light.paste(layer, (0, 0), layer)
        picture.paste(ImageChops.screen(picture, light.filter(ImageFilter.GaussianBlur(glow))))
    picture.paste(layer, (0, 0), layer)


def scene(
    size: tuple[int, int],
    body: float,
    source: tuple[float, float],
    target: tuple[float, float],
    pitch: float,
    width: float,
) -> Image.Image:
    """Both poses and the map between them.

    Args:
        size: width and height of the result.
        body: height of the people in pixels.
        source, target: where their hips are, in pixels.
        pitch: distance of the arrows in pixels.
        width: half the width of a limb in pixels.
    """
    large = (size[0] * FINER, size[1] * FINER)
    picture = backdrop(large, (target[0] / size[0], target[1] / size[1]))
    before, after = (FINER * (body * pose + np.array(place)) for pose, place in ((STANDING, source), (LEAPING, target)))
    arrows = Image.new("RGBA", large)
    draw = ImageDraw.Draw(arrows)
    grid = np.stack(np.meshgrid(*(np.arange(pitch / 2, side, pitch) for side in size)), -1).reshape(-1, 2) * FINER
    still = FINER * (body * STANDING + np.array(target))
    steps = motion(grid, still, after, 0.13 * FINER * body)
    # Only lengths are shortened, to a cell's size: direction is what can be seen.
    length = np.hypot(*steps.T)[:, None]
    steps *= FINER * pitch * 0.85 * np.tanh(length / (0.12 * FINER * body)) / np.maximum(length, 1e-6)
    for start, step in zip(grid, steps, strict=True):
        arrow(draw, start - step / 2, step, 0.05 * FINER * pitch, 190)
    add(picture, arrows)
    add(picture, skeleton(large, before, FINER * width, grey=True), opacity=0.75)
    add(picture, skeleton(large, after, FINER * width), glow=FINER * width * 2.2)
    return picture.resize(size, Image.LANCZOS)


def icon() -> Image.Image:
    return scene(ICON, 345, (150, 215), (215, 205), 36, 9)


def banner() -> Image.Image:
    picture = scene(BANNER, 520, (830, 375), (1310, 370), 48, 12)
    shade = 235 * np.clip(1.25 - np.arange(BANNER[0]) / 620, 0, 1)  # a calm ground for the words
    shade = Image.fromarray(np.tile(shade.round().astype(np.uint8), (BANNER[1], 1)))
    picture.paste((13, 15, 26), (0, 0), shade)
    draw = ImageDraw.Draw(picture)
    draw.text((90, 250), "RePoseDM", fill=(240, 243, 255), font=ImageFont.load_default(112))
    draw.text((95, 395), "one picture of a person, any pose", fill=(165, 175, 210), font=ImageFont.load_default(36))
    return picture


if __name__ == "__main__":
    for name, make in (("icon", icon), ("banner", banner)):
        make().save(IMAGES / f"{name}.png", optimize=True)
