"""The light on a synthetic person: soft or hard, and in some pictures a shadow that falls on the person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HARD = 0.25
"""Share of the identities in hard light: little from everywhere, much from one side."""
SHADED = 0.15
"""Share of the pictures in which a shadow falls on the person."""


@dataclass(frozen=True)
class Sun:
    """An identity's light: towards (3,), from the person; ambient and direct strength; warmth, -1 cold … 1 warm."""

    towards: np.ndarray
    ambient: float
    direct: float
    warmth: float
    hard: bool


@dataclass(frozen=True)
class Shadow:
    """What darkens a part of the picture: everything on one side of a straight line, or a blob.

    centre (2,): a point of the line, or the blob's middle, right and down from the picture's middle; half axes (2,) of
    a blob, None for a line; edge: width of the soft edge (all in picture heights); angle in radians; darkness: what
    share of the light is lost within.
    """

    centre: np.ndarray
    axes: np.ndarray | None
    angle: float
    edge: float
    darkness: float

    def left(self, height: int, width: int) -> np.ndarray:
        """Share of the light (height, width) that is left, float32."""
        v = ((np.arange(height, dtype=np.float32) + 0.5 - 0.5 * height) / height)[:, None] - np.float32(self.centre[1])
        u = ((np.arange(width, dtype=np.float32) + 0.5 - 0.5 * width) / height)[None] - np.float32(self.centre[0])
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        inside = u * cos + v * sin
        if self.axes is not None:
            p, q = inside / self.axes[0], (v * cos - u * sin) / self.axes[1]
            bulge = 1 + 0.15 * np.sin(3 * np.arctan2(q, p) + 7 * self.angle)
            inside = (bulge - np.hypot(p, q)) * self.axes.min()
        step = (inside / self.edge + 0.5).clip(0, 1)
        return (1 - self.darkness * step * step * (3 - 2 * step)).astype(np.float32)


@dataclass(frozen=True)
class Light:
    """Where a picture's light comes from, and how much: towards (3,) a unit vector; ambient, direct (3,) RGB, so that a
    surface of colour c that the light meets at an angle a is seen as c · (ambient + direct · cos a). All float32."""

    towards: np.ndarray
    ambient: np.ndarray
    direct: np.ndarray
    shadow: Shadow | None = None


UNLIT = Light(np.array([0, -1, 0], np.float32), np.ones(3, np.float32), np.zeros(3, np.float32))
"""A light that shows the colours themselves (the albedo)."""


def sample_sun(rng: np.random.Generator) -> Sun:
    """Draw an identity's light: from the front and above, or hard and from any side, even somewhat from behind."""
    hard, warmth = bool(rng.random() < HARD), float(rng.normal(0, 0.5))
    if not hard:
        towards, ambient = np.array([rng.uniform(-0.6, 0.6), -1, rng.uniform(0.3, 0.8)]), float(rng.uniform(0.5, 0.64))
        return Sun(towards, ambient, 1.02 - ambient, warmth, hard)
    side, up = np.radians(rng.uniform(-130, 130)), np.radians(rng.uniform(5, 60))
    towards = 1.3 * np.array([np.sin(side) * np.cos(up), -np.cos(side) * np.cos(up), np.sin(up)])
    ambient = float(rng.uniform(0.25, 0.45))
    return Sun(towards, ambient, float(rng.uniform(1.02, 1.25)) - ambient, warmth, hard)


def sample_light(rng: np.random.Generator, sun: Sun) -> Light:
    """The light of one picture: the identity's, turned by up to 35°, a little stronger, weaker, warmer or colder."""
    towards = sun.towards + [rng.uniform(-0.5, 0.5), 0, rng.uniform(-0.25, 0.25)]
    warmth = np.clip(sun.warmth + rng.normal(0, 0.35), -1.5, 1.5)
    tint = 1 + warmth * np.array([0.04, 0.005, -0.05])
    strength = rng.uniform(0.92, 1.06)
    ambient = sun.ambient * strength * (0.5 + 0.5 * tint)  # what comes from everywhere is less tinted
    direct = sun.direct * strength * tint
    shadow = _sample_shadow(rng) if rng.random() < SHADED else None
    towards, ambient, direct = (np.asarray(v, np.float32) for v in (towards / np.linalg.norm(towards), ambient, direct))
    return Light(towards, ambient, direct, shadow)


def _sample_shadow(rng: np.random.Generator) -> Shadow:
    blob = rng.random() < 0.5
    axes = rng.uniform(0.08, 0.3, 2).astype(np.float32) if blob else None
    centre = rng.uniform([-0.15, -0.35], [0.15, 0.35]) if blob else rng.uniform([-0.1, -0.25], [0.1, 0.25])
    return Shadow(centre, axes, *(float(rng.uniform(*span)) for span in ((0, 2 * np.pi), (0.015, 0.1), (0.3, 0.65))))
