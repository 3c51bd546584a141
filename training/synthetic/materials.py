"""What colour every surface point of a dressed person has, as a function of its rest position.

Colouring by rest position (not by texture coordinates) gives seamless cloth and exact waist, sleeve and hem
lines, and it gives a body triangle that pokes through a shell the colour of the shell. A person's look is a few
small arrays (`Look`), indexed by the constants below: colours, style numbers (lengths in rest units) and prints.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from training.synthetic.body import (
    PART_BODY,
    PART_EYE,
    PART_HAIR,
    PART_SKIRT,
    PART_TIGHTS,
    ZONE_ARM,
    ZONE_HAND,
    ZONE_HEAD,
    Mesh,
)
from training.synthetic.patterns import ARM_LENGTH, along_arm, cloth
from training.synthetic.prints import COLUMNS, ROWS

# Labels of garments.npy
(BACKGROUND, LABEL_SKIN, LABEL_HAIR, LABEL_TOP, LABEL_BOTTOM, LABEL_SHOES, LABEL_OTHER, LABEL_DRESS) = range(8)
LABELS = ("background", "skin", "hair", "top", "bottom", "shoes", "other", "dress")

# Palette rows
(SKIN, HAIR, TOP_A, TOP_B, BOTTOM_A, BOTTOM_B, SHOE, SOLE, LIPS, EYE_WHITE, IRIS, BROW, LOGO, LOGO_GROUND, BELT_COLOUR,
 HAT_COLOUR, INNER, SOCK, SCARF_COLOUR, GLOVE) = range(20)  # fmt: skip
PALETTE_SIZE = 20

# Style entries; a length that is never reached (NONE) switches its part off.
(TOP_PATTERN, TOP_PERIOD, BOTTOM_PATTERN, BOTTOM_PERIOD, WAIST, MIDRIFF, SLEEVE, COLLAR, NECK_KIND, NECKLINE, LEG_END,
 SHOE_TOP, SOCK_TOP, SANDALS, SKIRT_KIND, SKIRT_HEM, SKIRT_FIT, OPEN_FRONT, CONTRAST_SLEEVES, YOKE, TRIM, SIDE_STRIPE,
 HAIRLINE, NAPE, CROWN, HAIR_HEM, HAIR_WIDTH, BEARD, HAT, GLASSES, BELT, SCARF, GLOVES, LOOSE_TOP,
 LOOSE_BOTTOM) = range(35)  # fmt: skip
STYLE_SIZE = 35

NECK_ROUND, NECK_V, NECK_SCOOP, NECK_SQUARE = range(4)
NO_SKIRT, SKIRT, DRESS, COAT = range(4)  # what the skirt shell belongs to: nothing, the bottom, a dress, a long coat
NONE = 9.0  # above the head


class Look(NamedTuple):
    """A person's colours and clothes: palette (PALETTE_SIZE, 3), style (STYLE_SIZE,) float32, prints (2, ROWS,
    COLUMNS) uint8 of chest and back as in `prints`, place (2, 3) float32: their centre x and z and a cell's size, 0
    none."""

    palette: np.ndarray
    style: np.ndarray
    prints: np.ndarray
    place: np.ndarray


@nb.njit(cache=True, fastmath=True)
def _hair_line(y, hairline, nape):
    """Height above which hair covers the head, from forehead (y = -0.15) over the temple to the nape."""
    if y < -0.11:
        return hairline
    if y < -0.075:
        return hairline + (0.735 - hairline) * (y + 0.11) / 0.035
    if y < -0.045:
        return 0.735 + (0.690 - 0.735) * (y + 0.075) / 0.03
    if y < 0.0:
        return 0.690 + (nape - 0.690) * (y + 0.045) / 0.045
    return nape


@nb.njit(cache=True, fastmath=True)
def head(x, y, z, style):
    """(label, palette row) of a point of the head or neck."""
    side = abs(x)
    if style[HAT] > 0 and z > 0.782 + 0.10 * (y + 0.06):
        return LABEL_OTHER, HAT_COLOUR
    ear = side > 0.0745 and 0.665 < z < 0.752 and -0.065 < y < 0.0
    if _hair_line(y, style[HAIRLINE], style[NAPE]) < z < style[CROWN] + 0.2 * y and not ear:
        return LABEL_HAIR, HAIR
    if y < -0.10:
        if style[GLASSES] > 0 and 0.717 < z < 0.741 and (side > 0.008 or z > 0.729):
            return LABEL_OTHER, HAT_COLOUR
        if 0.745 < z < 0.755 and 0.013 < side < 0.048:
            return LABEL_SKIN, BROW
        if 0.662 < z < 0.675 and side < 0.025 and y < -0.13:
            return LABEL_SKIN, LIPS
    if style[BEARD] > 0 and y < -0.06 and z < 0.690 - 0.35 * max(0.05 - side, 0.0) and z > 0.615:
        return LABEL_HAIR, HAIR
    return LABEL_SKIN, SKIN


@nb.njit(cache=True, fastmath=True)
def _collar(x, y, style):
    """Height of the upper edge of the top at (x, y): a neckline is cut into its front."""
    side, kind = abs(x), style[NECK_KIND]
    if y > -0.03:
        return style[COLLAR]
    if kind == NECK_V:
        edge = style[NECKLINE] + 1.6 * side
    elif kind == NECK_SCOOP:
        edge = style[NECKLINE] + 9 * side * side
    elif kind == NECK_SQUARE:
        edge = style[NECKLINE] if side < 0.075 else NONE
    else:
        edge = style[COLLAR]
    return min(style[COLLAR], edge)


@nb.njit(cache=True, fastmath=True)
def _printed(prints, place, x, y, z):
    """The cell of the print at a point of the torso: 0 nothing, 1 the print, 2 its ground."""
    back = 1 if y > -0.02 else 0
    size = place[back, 2]
    if size <= 0:
        return 0
    across = (x - place[back, 0]) * (-1 if back else 1)
    column = int(math.floor(across / size + 0.5 * COLUMNS))
    row = int(math.floor((place[back, 1] - z) / size + 0.5 * ROWS))
    if column < 0 or row < 0 or column >= COLUMNS or row >= ROWS:
        return 0
    return prints[back, row, column]


@nb.njit(cache=True, fastmath=True)
def _dyed(label, first, second, third, blend):
    """As `material`, of cloth whose blend goes from the first colour (0) by the second (1) to the third (2)."""
    if blend > 1:
        return label, second, third, blend - 1
    return label, first, second, blend


@nb.njit(cache=True, fastmath=True)
def _top(zone, skirt, x, y, z, edge, style, prints, place):
    """As `material`, of a point that the top, dress or coat covers; edge: distance to the nearest end of the cloth."""
    label = LABEL_DRESS if style[SKIRT_KIND] == DRESS else LABEL_TOP
    arm = zone in (ZONE_ARM, ZONE_HAND)
    if not arm and y < -0.03 and abs(x) < style[OPEN_FRONT] * (1 if z > style[WAIST] else 0.6):
        return label, INNER, INNER, 0.0
    if edge < style[TRIM]:
        return label, TOP_B, TOP_B, 0.0
    if style[CONTRAST_SLEEVES] > 0 and arm:
        return label, TOP_B, TOP_B, 0.0
    if not arm and z > style[YOKE]:
        return label, TOP_B, TOP_B, 0.0
    if not arm and z > style[WAIST]:
        cell = _printed(prints, place, x, y, z)
        if cell > 0:
            row = LOGO if cell == 1 else LOGO_GROUND
            return label, row, row, 0.0
    return _dyed(label, TOP_A, TOP_B, LOGO, cloth(int(style[TOP_PATTERN]), style[TOP_PERIOD], zone, skirt, x, y, z))


@nb.njit(cache=True, fastmath=True)
def _leg(zone, x, y, z, style):
    """As `material`, of a point of legs or feet below the top."""
    if z < style[SHOE_TOP]:
        if style[SANDALS] > 0 and z > -0.805 and math.floor((z + y) / 0.022) % 2 == 0:
            return LABEL_SKIN, SKIN, SKIN, 0.0
        row = SOLE if z < -0.805 else SHOE
        return LABEL_SHOES, row, row, 0.0
    if z > style[LEG_END]:
        if style[SIDE_STRIPE] > 0 and abs(x) > 0.10 + 0.103 * -z + 0.03 and abs(y + 0.015) < style[SIDE_STRIPE]:
            return LABEL_BOTTOM, BOTTOM_B, BOTTOM_B, 0.0
        blend = cloth(int(style[BOTTOM_PATTERN]), style[BOTTOM_PERIOD], zone, False, x, y, z)
        return _dyed(LABEL_BOTTOM, BOTTOM_A, BOTTOM_B, BELT_COLOUR, blend)
    if z < style[SOCK_TOP]:
        return LABEL_OTHER, SOCK, SOCK, 0.0
    return LABEL_SKIN, SKIN, SKIN, 0.0


@nb.njit(cache=True, fastmath=True)
def material(part, zone, x, y, z, style, prints, place):
    """(label, first palette row, second palette row, blend weight of the second) of a surface point."""
    if part == PART_HAIR:
        return LABEL_HAIR, HAIR, HAIR, 0.0
    if part == PART_EYE:
        if style[GLASSES] > 1:  # sunglasses
            return LABEL_OTHER, HAT_COLOUR, HAT_COLOUR, 0.0
        dx, dz = abs(x) - 0.031, z - 0.728
        row = IRIS if dx * dx + dz * dz < 0.0075**2 else EYE_WHITE
        return LABEL_SKIN, row, row, 0.0
    margin = 0.015 if part == PART_BODY else 0.0  # skin that pokes through at the edge of a garment takes its colour
    kind = style[SKIRT_KIND]
    if part == PART_SKIRT:
        if kind == SKIRT:
            blend = cloth(int(style[BOTTOM_PATTERN]), style[BOTTOM_PERIOD], zone, True, x, y, z)
            if z < style[SKIRT_HEM] + style[TRIM]:
                blend = 1.0
            return _dyed(LABEL_BOTTOM, BOTTOM_A, BOTTOM_B, BELT_COLOUR, blend)
        return _top(-1, True, x, y, z, z - style[SKIRT_HEM], style, prints, place)

    if zone == ZONE_HAND:
        if style[GLOVES] > 0:
            return LABEL_OTHER, GLOVE, GLOVE, 0.0
        return LABEL_SKIN, SKIN, SKIN, 0.0
    if zone == ZONE_ARM:
        left = style[SLEEVE] * ARM_LENGTH + margin - along_arm(x, y, z)
        if left < 0:
            return LABEL_SKIN, SKIN, SKIN, 0.0
        return _top(zone, False, x, y, z, left, style, prints, place)
    if style[SCARF] > 0 and 0.535 < z < 0.535 + style[SCARF] and part != PART_EYE:
        return LABEL_OTHER, SCARF_COLOUR, SCARF_COLOUR, 0.0
    collar = _collar(x, y, style) + (margin if zone != ZONE_HEAD else 0.0)
    if z > collar:
        if zone == ZONE_HEAD and part != PART_TIGHTS:
            label, row = head(x, y, z, style)
            return label, row, row, 0.0
        return LABEL_SKIN, SKIN, SKIN, 0.0
    if z > style[WAIST]:
        if z < style[MIDRIFF]:
            return LABEL_SKIN, SKIN, SKIN, 0.0
        below = NONE if kind in (DRESS, COAT) else z - max(style[WAIST], style[MIDRIFF])
        return _top(zone, False, x, y, z, min(collar - z, below), style, prints, place)
    if z > style[WAIST] - style[BELT]:
        return LABEL_OTHER, BELT_COLOUR, BELT_COLOUR, 0.0
    if kind == DRESS and z > style[LEG_END]:
        # Legs under a dress carry its colour to the hem: a knee that pokes through looks like cloth.
        return _top(zone, False, x, y, z, NONE, style, prints, place)
    return _leg(zone, x, y, z, style)


@nb.njit(cache=True, fastmath=True)
def paint(picture, face, rest, normals, part, zone, palette, style, prints, place, light, ambient, direct):
    """Colour every pixel that shows the person.

    picture (H, W, 3) float32 in [0, 1] holds the background and is painted in place; face (H, W); rest,
    normals (H, W, 3) interpolated; light (3,) unit vector towards the light; Lambert shading `ambient + direct · cos`,
    both (3,) float32 of linear strength a channel. Returns the garment labels (H, W) uint8.
    """
    height, width = face.shape
    labels = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            f = face[y, x]
            if f < 0:
                continue
            n0, n1, n2 = normals[y, x, 0], normals[y, x, 1], normals[y, x, 2]
            norm = math.sqrt(n0 * n0 + n1 * n1 + n2 * n2) + 1e-12
            cosine = max((n0 * light[0] + n1 * light[1] + n2 * light[2]) / norm, 0.0)
            label, row_a, row_b, blend = material(
                part[f], zone[f], rest[y, x, 0], rest[y, x, 1], rest[y, x, 2], style, prints, place
            )
            labels[y, x] = label
            for c in range(3):
                colour = (1 - blend) * palette[row_a, c] + blend * palette[row_b, c]
                picture[y, x, c] = min(colour * (ambient[c] + direct[c] * cosine), 1.0)
    return labels


def shell_clip(style: np.ndarray) -> np.ndarray:
    """(parts, 4) float32 for `rasteriser.rasterise`: skirt to its hem, hair behind the face to its hem and width."""
    clip = np.full((PART_EYE + 1, 4), -np.inf, np.float32)
    clip[PART_SKIRT] = style[SKIRT_HEM], style[WAIST], -9, 9
    clip[PART_HAIR] = style[HAIR_HEM], 9, -0.075, style[HAIR_WIDTH]
    return clip


def shown_faces(mesh: Mesh, style: np.ndarray) -> np.ndarray:
    """(F,) bool: the triangles this person has; of the skirt and hair shells, those that the clip leaves."""
    skirt = (mesh.highest > style[SKIRT_HEM]) & (style[SKIRT_KIND] != NO_SKIRT)
    hair = (mesh.highest > style[HAIR_HEM]) & (mesh.innermost < min(0.2, style[HAIR_WIDTH]))
    return np.where(mesh.part == PART_SKIRT, skirt, np.where(mesh.part == PART_HAIR, hair, True))


def looseness(mesh: Mesh, style: np.ndarray) -> np.ndarray:
    """(V,) float32: how far cloth stands off the body at vertices of tights and skirt, zero where skin shows."""
    (x, y, z), zone = mesh.rest.T, mesh.tights_zone
    sleeve = ((style[SLEEVE] * ARM_LENGTH - along_arm.py_func(x, y, z)) / 0.03).clip(0, 1)
    torso = ((z - max(style[WAIST], style[MIDRIFF])) / 0.03).clip(0, 1) * ((0.5 - z) / 0.08).clip(0, 1)
    flare = 0.4 + 0.6 * ((0.1 - z) / 0.6).clip(0, 1)
    leg = ((z - max(style[LEG_END], style[SHOE_TOP])) / 0.03).clip(0, 1) * ((style[WAIST] - z) / 0.1).clip(0, 1) * flare
    arm = style[LOOSE_TOP] * 0.7 * sleeve
    body = style[LOOSE_TOP] * torso + style[LOOSE_BOTTOM] * leg
    loose = np.where(zone < 0, 0, np.where(zone == ZONE_ARM, arm, body))
    return np.where(mesh.in_skirt, style[SKIRT_FIT] * ((0.1 - z) / 0.5).clip(0, 1), loose).astype(np.float32)
