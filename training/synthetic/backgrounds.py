"""What stands behind a person: plain, graded, textured and cluttered backgrounds, the same at any resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.clutter import dead_leaves, pink_noise, value_noise

KINDS = {"plain": 0.112, "vertical": 0.07, "horizontal": 0.035, "radial": 0.056, "floor": 0.084, "noise": 0.07,
         "stripes": 0.049, "bricks": 0.056, "tiles": 0.049, "room": 0.077, "blobs": 0.042, "leaves": 0.17,
         "clutter": 0.13}  # fmt: skip
"""Kinds of background and their shares."""


@dataclass(frozen=True)
class Background:
    """kind: one of `KINDS`; colours (3, 3) in [0, 1]; split in (0, 1), the height of the floor's edge; period in
    picture heights; angle in radians; noise (2, 9, 7) standard normal; grain: strength of the noise; seed: for
    leaves and clutter."""

    kind: str
    colours: np.ndarray
    split: float
    period: float
    angle: float
    noise: np.ndarray
    grain: float
    seed: int


def sample_background(rng: np.random.Generator, tint, avoid: np.ndarray) -> Background:
    """Draw a background; tint(rng) gives a clear colour (3,), `avoid` (3,) is the colour that it must not hide."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    colours = np.empty((3, 3))
    for _ in range(20):  # mostly pale, sometimes dark or strong; never hiding the top
        amount, level = rng.choice([0.15, 0.3, 0.7], p=[0.45, 0.4, 0.15]), rng.uniform(0.35, 1.0)
        colours[0] = amount * tint(rng) + (1 - amount) * level
        if np.abs(colours[0] - avoid).sum() > 0.35:
            break
    near = kind in ("plain", "vertical", "horizontal", "radial", "noise", "stripes", "bricks", "tiles", "blobs")
    colours[1] = colours[0] * rng.uniform(0.68, 1.12) if near else 0.4 * tint(rng) + 0.6 * rng.uniform(0.2, 0.9)
    if kind in ("stripes", "blobs", "noise"):
        colours[1] = 0.75 * colours[1] + 0.25 * tint(rng)
    colours[2] = 0.5 * tint(rng) + 0.5 * rng.uniform(0.3, 1.0)
    return Background(
        kind, colours.clip(0, 1), float(rng.uniform(0.62, 0.85)), float(rng.uniform(0.05, 0.14)),
        float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])), rng.standard_normal((2, 9, 7)),
        float(rng.choice([0.0, 0.015, 0.04], p=[0.45, 0.3, 0.25])), int(rng.integers(2**31)),
    )  # fmt: skip


def render_background(background: Background, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32 in [0, 1]."""
    v = ((np.arange(height) + 0.5) / height)[:, None]  # down, in picture heights
    u = ((np.arange(width) + 0.5) / height)[None, :]  # right, in picture heights
    aspect = width / height
    first, second, third = background.colours
    blend = _blend(background, u, v, aspect)
    picture = (1 - blend[..., None]) * first + blend[..., None] * second
    if background.kind in ("leaves", "clutter"):
        draw = dead_leaves if background.kind == "leaves" else pink_noise
        picture = draw(np.random.default_rng(background.seed), height, width)
    if background.kind == "room":
        picture = _furnish(background, picture, u, v, aspect, third)
    if background.kind == "blobs":
        amount = (0.9 * value_noise(background.noise[1], height, width) - 0.2).clip(0, 1)[..., None]
        picture = (1 - amount) * picture + amount * third
    picture = picture + background.grain * value_noise(background.noise[0], height, width)[..., None]
    return picture.clip(0, 1).astype(np.float32)


def _blend(background: Background, u: np.ndarray, v: np.ndarray, aspect: float) -> np.ndarray:
    """Share (H, W) of the second colour."""
    kind, shape, period = background.kind, (v.shape[0], u.shape[1]), background.period
    zero = np.zeros(shape)
    if kind == "vertical":
        return zero + v
    if kind == "horizontal":
        return zero + u / aspect
    if kind == "radial":
        return np.minimum(1.8 * ((u / aspect - 0.5) ** 2 + (v - 0.45) ** 2), 1.0)
    if kind in ("floor", "room"):
        return zero + (v > background.split)
    if kind in ("noise", "blobs"):
        waves = value_noise(background.noise[0], *shape) + 0.6 * value_noise(background.noise[1].T, *shape)
        return 1 / (1 + np.exp(-2.5 * waves))
    if kind == "stripes":
        along = u * np.cos(background.angle) + v * np.sin(background.angle)
        return zero + (np.floor(along / period) % 2)
    if kind == "bricks":
        row = np.floor(v / (0.5 * period))
        joint = (v / (0.5 * period)) % 1 < 0.14
        return zero + (joint | (((u / period + 0.5 * (row % 2)) % 1) < 0.08))
    if kind == "tiles":
        return zero + (np.floor(u / period) + np.floor(v / period)) % 2
    return zero


def _furnish(
    background: Background, picture: np.ndarray, u: np.ndarray, v: np.ndarray, aspect: float, colour: np.ndarray
) -> np.ndarray:
    """A room: floor boards in perspective, a skirting board, and on the wall a window, a picture or a door."""
    split, picture = background.split, picture.copy()
    floor = np.broadcast_to(v > split, picture.shape[:2])
    depth = 1 / np.maximum(v - split + 0.12, 1e-3)  # boards run towards a point above the floor's edge
    boards = (np.floor((u - 0.5 * aspect) * depth / 0.9) % 2).astype(bool)
    picture[floor & boards] *= 0.9
    picture[np.broadcast_to((v > split - 0.022) & (v <= split), floor.shape)] *= 0.72
    kind = int(background.angle * 100) % 3
    centre = (0.18 + 0.64 * (background.period - 0.05) / 0.09) * aspect
    half, top, bottom = ((0.13, 0.08, 0.36), (0.09, 0.12, 0.28), (0.11, 0.14, split))[kind]
    inside = (np.abs(u - centre) < half) & (v > top) & (v < bottom)
    bottom -= 0.012 if kind < 2 else 0  # a door has no rim at the floor
    rim = inside & ~((np.abs(u - centre) < half - 0.012) & (v > top + 0.012) & (v < bottom))
    picture[inside] = colour
    if kind == 0:
        rim |= inside & ((np.abs(u - centre) < 0.006) | (np.abs(v - 0.22) < 0.006))
    picture[rim] = 0.35 * picture[rim] + 0.1
    return picture
