"""Who a synthetic person is: body, colours, clothes, hair, background and light, from one random generator.

`sample_person(rng)` takes everything that all pictures of an identity share; poses, camera and light
direction are drawn afterwards, picture by picture, so that an identity looks the same however many pictures
are asked for.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from training.data import materials as m

_SKIN = [(0.96, 0.80, 0.69), (0.90, 0.72, 0.58), (0.80, 0.60, 0.44), (0.65, 0.46, 0.33), (0.48, 0.32, 0.22),
         (0.33, 0.22, 0.16)]  # fmt: skip
_HAIR = [(0.08, 0.06, 0.05), (0.22, 0.13, 0.08), (0.40, 0.26, 0.13), (0.72, 0.55, 0.30), (0.55, 0.20, 0.08),
         (0.58, 0.57, 0.56)]  # fmt: skip
_IRIS = [(0.12, 0.07, 0.04), (0.15, 0.25, 0.40), (0.14, 0.28, 0.16)]
_LABELS = ("gender", "age", "muscle", "weight", "height", "proportions")


@dataclass(frozen=True)
class Background:
    """kind: plain, vertical, horizontal, radial or floor; colours (2, 3); split in (0, 1); noise (7, 6)."""

    kind: str
    colours: np.ndarray
    split: float
    noise: np.ndarray


@dataclass(frozen=True)
class Person:
    """What all pictures of an identity share.

    phenotype: Anny's shape parameters in [0, 1]; palette (PALETTE_SIZE, 3) and style (STYLE_SIZE,), float32,
    as in `materials`; stature: standing height as a fraction of the picture; light: x and z of its direction;
    ambient in (0, 1).
    """

    phenotype: dict[str, float]
    palette: np.ndarray
    style: np.ndarray
    background: Background
    stature: float
    light: tuple[float, float]
    ambient: float


def sample_colour(rng: np.random.Generator) -> np.ndarray:
    """A garment colour (3,) in [0, 1]: three in ten neutral, the rest clearly coloured."""
    if rng.random() < 0.3:
        value = rng.choice([rng.uniform(0.06, 0.25), rng.uniform(0.35, 0.7), rng.uniform(0.85, 0.97)])
        return value * np.array([1, rng.uniform(0.95, 1), rng.uniform(0.9, 1)])
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.45, 0.95), rng.uniform(0.3, 0.95)))


def contrasting_colour(rng: np.random.Generator, *others: np.ndarray, distance: float = 0.8) -> np.ndarray:
    """A garment colour at least `distance` (L1) from all others; after 50 draws the furthest one."""
    drawn = [sample_colour(rng) for _ in range(50)]
    nearest = [min(float(np.abs(colour - other).sum()) for other in others) for colour in drawn]
    good = [colour for colour, gap in zip(drawn, nearest, strict=True) if gap > distance]
    return good[0] if good else drawn[int(np.argmax(nearest))]


def sample_person(rng: np.random.Generator) -> Person:
    """Draw an identity."""
    phenotype = {name: float(rng.uniform(0.2, 0.8)) for name in _LABELS}
    phenotype["gender"] = float(rng.uniform(0, 1))
    phenotype["age"] = float(rng.uniform(0.42, 0.55) if rng.random() < 0.15 else rng.uniform(0.58, 0.95))
    style = _sample_style(rng)
    style[m.BEARD] *= phenotype["gender"] < 0.5  # Anny: 0 is male, 1 is female
    palette = _sample_palette(rng, dress=style[m.SKIRT_HEM] < m.NO_SKIRT and rng.random() < 0.35)
    background = _sample_background(rng, palette)
    return Person(
        phenotype, palette, style, background,
        stature=float(rng.uniform(0.74, 0.88)),
        light=(float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.3, 0.8))),
        ambient=float(rng.uniform(0.5, 0.62)),
    )  # fmt: skip


def _sample_palette(rng: np.random.Generator, dress: bool) -> np.ndarray:
    palette = np.zeros((m.PALETTE_SIZE, 3))
    skin = np.array(_SKIN[rng.integers(len(_SKIN))]) * rng.uniform(0.94, 1.04)
    hair = np.array(_HAIR[rng.integers(len(_HAIR))]) * rng.uniform(0.8, 1.2)
    palette[m.SKIN], palette[m.HAIR] = skin, hair
    palette[m.TOP_A] = contrasting_colour(rng, skin, distance=0.35)
    palette[m.TOP_B] = contrasting_colour(rng, palette[m.TOP_A])
    palette[m.BOTTOM_A] = contrasting_colour(rng, skin, palette[m.TOP_A], distance=0.35)
    palette[m.BOTTOM_B] = contrasting_colour(rng, palette[m.BOTTOM_A])
    if dress:
        palette[[m.BOTTOM_A, m.BOTTOM_B]] = palette[[m.TOP_A, m.TOP_B]]
    palette[m.SHOE] = contrasting_colour(rng, skin, palette[m.BOTTOM_A], distance=0.35)
    palette[m.SOLE] = palette[m.SHOE] * 0.45 if rng.random() < 0.5 else 0.9
    palette[m.LIPS] = skin * [0.85, 0.55, 0.52]
    palette[m.EYE_WHITE] = 0.93
    palette[m.IRIS] = _IRIS[rng.integers(len(_IRIS))]
    palette[m.BROW] = 0.5 * hair + 0.12 * skin
    palette[m.LOGO] = contrasting_colour(rng, palette[m.TOP_A], palette[m.TOP_B], distance=0.7)
    palette[m.BELT_COLOUR] = contrasting_colour(rng, palette[m.TOP_A], palette[m.BOTTOM_A], distance=0.6)
    palette[m.HAT_COLOUR] = contrasting_colour(rng, skin, hair, distance=0.5)
    palette[m.INNER] = contrasting_colour(rng, palette[m.TOP_A], skin, distance=0.6)
    return palette.clip(0.02, 1).astype(np.float32)


def _sample_style(rng: np.random.Generator) -> np.ndarray:
    style = np.zeros(m.STYLE_SIZE)
    patterns = [m.PLAIN, m.STRIPES, m.PINSTRIPES, m.CHECKS, m.DOTS, m.BAND, m.DIAGONAL, m.PLAID]
    style[m.TOP_PATTERN] = rng.choice(patterns, p=[0.36, 0.16, 0.08, 0.10, 0.08, 0.08, 0.06, 0.08])
    style[m.BOTTOM_PATTERN] = rng.choice(patterns, p=[0.60, 0.08, 0.07, 0.07, 0.05, 0.03, 0.04, 0.06])
    style[m.TOP_PERIOD], style[m.BOTTOM_PERIOD] = rng.uniform(0.045, 0.085, 2)
    style[m.WAIST] = rng.uniform(0.03, 0.17)
    style[m.SLEEVE] = rng.choice([0.06, 0.28, 0.40, 0.68, 0.97], p=[0.16, 0.20, 0.22, 0.10, 0.32])
    style[m.COLLAR], style[m.NECKLINE] = [(0.575, 0.53), (0.565, 0.45), (0.61, 0.60)][
        rng.choice(3, p=[0.5, 0.3, 0.2])
    ]
    style[m.LOGO_KIND] = rng.integers(1, 5) if rng.random() < 0.3 else m.NO_LOGO
    style[m.OPEN_FRONT] = rng.uniform(0.03, 0.07) if rng.random() < 0.15 else 0.0
    if style[m.OPEN_FRONT] > 0:
        style[m.LOGO_KIND] = m.NO_LOGO
    skirt = rng.random() < 0.27
    hem, leg = rng.uniform(-0.62, -0.18), rng.choice([-0.76, -0.50, -0.34, -0.22], p=[0.55, 0.12, 0.15, 0.18])
    style[m.SKIRT_HEM] = hem if skirt else m.NO_SKIRT
    # Under a skirt the legs carry its colour to the hem: a knee that pokes through looks like cloth.
    style[m.LEG_END] = hem + 0.03 if skirt else leg
    style[m.LOOSE_TOP], style[m.LOOSE_BOTTOM] = rng.uniform(0, 0.022), rng.uniform(0, 0.035)
    if skirt:
        style[m.LOOSE_TOP] *= 0.4
        style[m.LOOSE_BOTTOM] = 0
    style[m.BELT] = rng.uniform(0.018, 0.03) if rng.random() < 0.25 and not skirt else 0.0
    style[m.SHOE_TOP] = rng.choice([-0.775, -0.745, -0.62], p=[0.45, 0.40, 0.15])
    style[m.HAIRLINE] = rng.uniform(0.778, 0.800)
    style[m.NAPE] = rng.uniform(0.655, 0.70)
    hair = rng.choice(["cropped", "long", "shoulder", "bald"], p=[0.56, 0.20, 0.18, 0.06])
    style[m.HAIR_HEM] = {"long": rng.uniform(0.2, 0.42), "shoulder": rng.uniform(0.5, 0.6)}.get(
        str(hair), m.NO_HAIR_SHELL
    )
    if hair == "bald":
        style[m.HAIRLINE] = style[m.NAPE] = 2.0
    style[m.BEARD] = float(hair in ("cropped", "bald") and rng.random() < 0.15)
    style[m.HAT] = float(hair in ("cropped", "bald") and rng.random() < 0.12)
    return style.astype(np.float32)


def _sample_background(rng: np.random.Generator, palette: np.ndarray) -> Background:
    kind = str(
        rng.choice(["plain", "vertical", "horizontal", "radial", "floor"], p=[0.3, 0.22, 0.1, 0.13, 0.25])
    )
    colours = np.empty((2, 3))
    # Mostly pale, sometimes dark or strong; never hiding the top.
    for _ in range(20):
        tint = sample_colour(rng)
        amount, level = rng.choice([0.15, 0.3, 0.7], p=[0.45, 0.4, 0.15]), rng.uniform(0.35, 1.0)
        colours[0] = amount * tint + (1 - amount) * level
        if np.abs(colours[0] - palette[m.TOP_A]).sum() > 0.35:
            break
    if kind == "floor":
        colours[1] = 0.4 * sample_colour(rng) + 0.6 * rng.uniform(0.2, 0.9)
    else:
        colours[1] = colours[0] * rng.uniform(0.65, 1.1)
    noise = rng.normal(0, 1, (7, 6)) * rng.choice([0.0, 0.015, 0.04], p=[0.5, 0.3, 0.2])
    return Background(kind, colours.clip(0, 1), float(rng.uniform(0.62, 0.85)), noise)


def render_background(background: Background, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32 in [0, 1]: the same picture at any resolution."""
    y = ((np.arange(height) + 0.5) / height)[:, None]
    x = ((np.arange(width) + 0.5) / width)[None, :]
    if background.kind == "vertical":
        mix = np.broadcast_to(y, (height, width))
    elif background.kind == "horizontal":
        mix = np.broadcast_to(x, (height, width))
    elif background.kind == "radial":
        mix = np.minimum(1.8 * ((x - 0.5) ** 2 + (y - 0.45) ** 2), 1.0)
    elif background.kind == "floor":
        mix = np.broadcast_to((y > background.split).astype(float), (height, width))
    else:
        mix = np.zeros((height, width))
    picture = (1 - mix[..., None]) * background.colours[0] + mix[..., None] * background.colours[1]
    picture = picture + _smooth(background.noise, height, width)[..., None]
    return picture.clip(0, 1).astype(np.float32)


def _smooth(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Value noise: a coarse grid interpolated with smooth steps."""
    rows, columns = np.linspace(0, grid.shape[0] - 1, height), np.linspace(0, grid.shape[1] - 1, width)
    i, j = np.minimum(rows.astype(int), grid.shape[0] - 2), np.minimum(columns.astype(int), grid.shape[1] - 2)
    fy, fx = (rows - i)[:, None], (columns - j)[None, :]
    fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    top = grid[i][:, j] * (1 - fx) + grid[i][:, j + 1] * fx
    bottom = grid[i + 1][:, j] * (1 - fx) + grid[i + 1][:, j + 1] * fx
    return top * (1 - fy) + bottom * fy
