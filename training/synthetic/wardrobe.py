"""What a synthetic person wears: garments, their cut, colours, patterns and prints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.synthetic import materials as m
from training.synthetic import patterns as p
from training.synthetic.prints import sample_print

_IRIS = [(0.12, 0.07, 0.04), (0.15, 0.25, 0.40), (0.14, 0.28, 0.16)]
LOWER = {"trousers": 0.36, "cropped trousers": 0.07, "shorts": 0.15, "skirt": 0.15, "dress": 0.19, "coat": 0.08}
"""What is worn below the waist and its shares; a dress is one garment with the top, a coat hangs over trousers."""
SLEEVES = {"none": (0.04, 0.17), "short": (0.28, 0.20), "elbow": (0.42, 0.20), "three-quarter": (0.70, 0.10),
           "long": (0.97, 0.33)}  # fmt: skip
"""Kinds of sleeve: where it ends, as a fraction of the arm, and the kind's share."""
NECKS = {"round": 0.36, "V": 0.22, "scoop": 0.16, "square": 0.08, "turtleneck": 0.18}
TOP_PATTERNS = (0.27, 0.13, 0.07, 0.08, 0.07, 0.05, 0.05, 0.06, 0.04, 0.05, 0.03, 0.03, 0.07)
BOTTOM_PATTERNS = (0.56, 0.06, 0.06, 0.06, 0.05, 0.02, 0.03, 0.04, 0.02, 0.03, 0.01, 0.02, 0.04)
"""Shares of the patterns of `patterns.NAMES`."""
SHOES = {"low": (-0.775, 0.34), "trainers": (-0.745, 0.30), "ankle boots": (-0.68, 0.14), "boots": (-0.52, 0.10),
         "sandals": (-0.755, 0.12)}  # fmt: skip
"""Kinds of shoe: height of the upper edge in rest units, and the kind's share."""


@dataclass(frozen=True)
class Outfit:
    """Colours and clothes, and in words what the card counts."""

    look: m.Look
    words: dict[str, str]


def sample_colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """Garment colours (count, 3) in [0, 1]: three in ten neutral, the rest clearly coloured."""
    hue, saturation, value = rng.uniform(0, 6, count), rng.uniform(0.45, 0.95, count), rng.uniform(0.3, 0.95, count)
    k = (hue[:, None] + np.array([5, 3, 1])) % 6  # hue, saturation, value → red, green, blue
    clear = value[:, None] * (1 - saturation[:, None] * np.minimum(k, 4 - k).clip(0, 1))
    levels = np.array([[0.06, 0.25], [0.35, 0.7], [0.85, 0.97]])[rng.integers(0, 3, count)]
    grey = rng.uniform(levels[:, 0], levels[:, 1])[:, None] * rng.uniform([1, 0.95, 0.9], 1, (count, 3))
    return np.where(rng.random((count, 1)) < 0.3, grey, clear)


def sample_colour(rng: np.random.Generator) -> np.ndarray:
    """One garment colour (3,)."""
    return sample_colours(rng, 1)[0]


def contrasting_colour(rng: np.random.Generator, *others: np.ndarray, distance: float = 0.8) -> np.ndarray:
    """A garment colour (3,) at least `distance` (L1) from all others; after 50 draws the furthest one."""
    drawn = sample_colours(rng, 50)
    nearest = np.abs(drawn[:, None] - np.stack(others)).sum(-1).min(1)
    return drawn[np.argmax(nearest > distance) if (nearest > distance).any() else np.argmax(nearest)]


def sample_outfit(rng: np.random.Generator, skin: np.ndarray, hair: np.ndarray) -> Outfit:
    """Draw the clothes of a person with these colours (3,) of skin and hair; the hair's cut is not drawn here."""
    style = np.zeros(m.STYLE_SIZE)
    words = _cut_top(rng, style) | _cut_lower(rng, style) | _cut_shoes(rng, style)
    style[m.BELT] = rng.uniform(0.018, 0.03) if rng.random() < 0.22 and style[m.SKIRT_KIND] != m.COAT else 0
    style[m.SCARF] = rng.uniform(0.05, 0.08) if rng.random() < 0.07 else 0
    style[m.GLOVES] = float(words["sleeves"] == "long" and rng.random() < 0.15)
    prints, place, kind = _sample_prints(rng, allowed=style[m.OPEN_FRONT] == 0)
    words["print"] = kind
    palette = _sample_palette(rng, skin, hair)
    return Outfit(m.Look(palette, style.astype(np.float32), prints, place), words)


def _share(rng: np.random.Generator, kinds: dict) -> str:
    """One of the kinds by its share, which is the value or its last item."""
    shares = [value[-1] if isinstance(value, tuple) else value for value in kinds.values()]
    return str(rng.choice(list(kinds), p=shares))


def _period(rng: np.random.Generator, kind: int) -> float:
    """A pattern's period in rest units; prints of leaves are small or large."""
    return rng.uniform(*(0.025, 0.11) if kind == p.LEAVES else (0.045, 0.085))


def _cut_top(rng: np.random.Generator, style: np.ndarray) -> dict[str, str]:
    kind = int(rng.choice(len(p.NAMES), p=TOP_PATTERNS))
    style[m.TOP_PATTERN], style[m.TOP_PERIOD] = kind, _period(rng, kind)
    style[m.WAIST] = rng.uniform(0.02, 0.16)
    style[m.MIDRIFF] = -m.NONE
    sleeves, neck = _share(rng, SLEEVES), _share(rng, NECKS)
    style[m.SLEEVE] = SLEEVES[sleeves][0] + (rng.uniform(-0.02, 0.02) if sleeves != "long" else 0)
    style[m.COLLAR] = {"turtleneck": 0.61, "round": 0.565, "scoop": 0.55}.get(neck, 0.575)
    style[m.NECK_KIND] = {"V": m.NECK_V, "scoop": m.NECK_SCOOP, "square": m.NECK_SQUARE}.get(neck, m.NECK_ROUND)
    depths = {"V": (0.42, 0.50), "scoop": (0.45, 0.50), "square": (0.46, 0.50)}
    style[m.NECKLINE] = rng.uniform(*depths.get(neck, (m.NONE, m.NONE)))
    style[m.OPEN_FRONT] = rng.uniform(0.03, 0.07) if rng.random() < 0.13 else 0.0
    plain = kind in (p.PLAIN, p.BAND, p.OMBRE)
    style[m.CONTRAST_SLEEVES] = float(sleeves not in ("none", "short") and plain and rng.random() < 0.2)
    style[m.YOKE] = rng.uniform(0.42, 0.46) if plain and rng.random() < 0.1 else m.NONE
    style[m.TRIM] = rng.uniform(0.018, 0.028) if rng.random() < 0.22 else -1
    style[m.LOOSE_TOP] = rng.uniform(0, 0.024)
    return {"sleeves": sleeves, "neckline": neck, "top pattern": p.NAMES[kind]}


def _cut_lower(rng: np.random.Generator, style: np.ndarray) -> dict[str, str]:
    lower = _share(rng, LOWER)
    kind = int(rng.choice(len(p.NAMES), p=BOTTOM_PATTERNS))
    style[m.BOTTOM_PATTERN], style[m.BOTTOM_PERIOD] = kind, _period(rng, kind)
    style[m.SKIRT_KIND] = {"skirt": m.SKIRT, "dress": m.DRESS, "coat": m.COAT}.get(lower, m.NO_SKIRT)
    style[m.SKIRT_HEM] = m.NONE
    if lower in ("skirt", "dress"):
        hem = rng.uniform(-0.62, -0.16)
        # Under a skirt the legs carry its colour to the hem: a knee that pokes through looks like cloth.
        style[m.SKIRT_HEM], style[m.LEG_END] = hem, hem + 0.03
        style[m.SKIRT_FIT] = rng.uniform(-0.035, 0.015)
        style[m.LOOSE_TOP] *= 0.4
        if lower == "dress":
            style[m.WAIST] = rng.uniform(0.08, 0.16)
    elif lower == "coat":
        style[m.SKIRT_HEM], style[m.LEG_END] = rng.uniform(-0.38, -0.12), -0.76
        style[m.SKIRT_FIT], style[m.LOOSE_TOP] = rng.uniform(-0.02, 0.01), 0.5 * style[m.LOOSE_TOP]
        style[m.WAIST] = rng.uniform(0.08, 0.16)
        style[m.SLEEVE] = max(style[m.SLEEVE], 0.7)
    else:
        ends = {"trousers": (-0.78, -0.74), "cropped trousers": (-0.58, -0.46), "shorts": (-0.38, -0.17)}
        style[m.LEG_END] = rng.uniform(*ends[lower])
        style[m.LOOSE_BOTTOM] = rng.uniform(0, 0.04)
        style[m.SIDE_STRIPE] = rng.uniform(0.014, 0.024) if kind == p.PLAIN and rng.random() < 0.2 else 0
        if rng.random() < 0.1:
            style[m.MIDRIFF] = style[m.WAIST] + rng.uniform(0.06, 0.12)
    return {"lower": lower, "lower pattern": p.NAMES[int(style[m.TOP_PATTERN])] if lower == "dress" else p.NAMES[kind]}


def _cut_shoes(rng: np.random.Generator, style: np.ndarray) -> dict[str, str]:
    shoes = _share(rng, SHOES)
    style[m.SHOE_TOP] = SHOES[shoes][0]
    style[m.SANDALS] = float(shoes == "sandals")
    style[m.SOCK_TOP] = rng.uniform(-0.72, -0.45) if shoes in ("trainers", "low") and rng.random() < 0.35 else -m.NONE
    return {"shoes": shoes}


def _sample_prints(rng: np.random.Generator, allowed: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Cells and places of chest and back (`materials.Look`), and the chest's kind; the back is often like the chest."""
    (cells, size, centre, kind), back = sample_print(rng), sample_print(rng)
    if size > 0 and rng.random() < 0.5:
        back = (cells, size, (0.0, centre[1]), kind)
    if not allowed:
        size, kind = 0.0, "none"
    place = np.array([[*centre, size], [*back[2], back[1]]], np.float32)
    return np.stack([cells, back[0]]), place, kind


def _sample_palette(rng: np.random.Generator, skin: np.ndarray, hair: np.ndarray) -> np.ndarray:
    palette = np.zeros((m.PALETTE_SIZE, 3))
    palette[m.SKIN], palette[m.HAIR] = skin, hair
    palette[m.TOP_A] = contrasting_colour(rng, skin, distance=0.55)
    palette[m.TOP_B] = contrasting_colour(rng, palette[m.TOP_A])
    palette[m.BOTTOM_A] = contrasting_colour(rng, skin, palette[m.TOP_A], distance=0.55)
    palette[m.BOTTOM_B] = contrasting_colour(rng, palette[m.BOTTOM_A])
    palette[m.SHOE] = contrasting_colour(rng, skin, palette[m.BOTTOM_A], distance=0.45)
    palette[m.SOLE] = palette[m.SHOE] * 0.45 if rng.random() < 0.5 else 0.9
    palette[m.LIPS] = skin * [0.85, 0.55, 0.52]
    palette[m.EYE_WHITE] = 0.93
    palette[m.IRIS] = _IRIS[rng.integers(len(_IRIS))]
    palette[m.BROW] = 0.5 * hair + 0.12 * skin
    palette[m.LOGO] = contrasting_colour(rng, palette[m.TOP_A], palette[m.TOP_B], distance=0.9)
    palette[m.LOGO_GROUND] = contrasting_colour(rng, palette[m.LOGO], palette[m.TOP_A], distance=0.9)
    palette[m.BELT_COLOUR] = contrasting_colour(rng, palette[m.TOP_A], palette[m.BOTTOM_A], distance=0.6)
    palette[m.HAT_COLOUR] = contrasting_colour(rng, skin, hair, distance=0.5)
    palette[m.INNER] = contrasting_colour(rng, palette[m.TOP_A], skin, distance=0.6)
    palette[m.SOCK] = contrasting_colour(rng, skin, palette[m.SHOE], distance=0.5)
    palette[m.SCARF_COLOUR] = contrasting_colour(rng, skin, palette[m.TOP_A], distance=0.6)
    palette[m.GLOVE] = contrasting_colour(rng, skin, palette[m.TOP_A], distance=0.5)
    return palette.clip(0.02, 1).astype(np.float32)
