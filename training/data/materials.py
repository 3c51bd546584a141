"""What colour every surface point of a dressed person has, as a function of its rest position.

Colouring by rest position (not by texture coordinates) gives seamless cloth and exact waist, sleeve and hem
lines, and it gives a body triangle that pokes through a shell the colour of the shell. A person's look is two
small arrays, indexed by the constants below: a palette of colours and a list of style numbers (lengths in
rest units).
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from training.data.body import (
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

# Labels of garments.npy
BACKGROUND, LABEL_SKIN, LABEL_HAIR, LABEL_TOP, LABEL_BOTTOM, LABEL_SHOES, LABEL_OTHER = range(7)

# Palette rows
(SKIN, HAIR, TOP_A, TOP_B, BOTTOM_A, BOTTOM_B, SHOE, SOLE, LIPS, EYE_WHITE, IRIS, BROW, LOGO, BELT_COLOUR,
 HAT_COLOUR, INNER) = range(16)  # fmt: skip
PALETTE_SIZE = 16

# Style entries
(TOP_PATTERN, TOP_PERIOD, BOTTOM_PATTERN, BOTTOM_PERIOD, WAIST, SLEEVE, COLLAR, NECKLINE, LEG_END, SHOE_TOP,
 SKIRT_HEM, LOGO_KIND, OPEN_FRONT, HAIRLINE, NAPE, HAIR_HEM, BEARD, HAT, BELT, LOOSE_TOP,
 LOOSE_BOTTOM) = range(21)  # fmt: skip
STYLE_SIZE = 21

PLAIN, STRIPES, PINSTRIPES, CHECKS, DOTS, BAND, DIAGONAL, PLAID = range(8)
NO_LOGO, LOGO_DISC, LOGO_SQUARE, LOGO_CROSS, LOGO_TRIANGLE = range(5)
NO_SKIRT = 9.0  # a hem above the head: no skirt; likewise a hair hem means no long hair
NO_HAIR_SHELL = 9.0

# Rest geometry of the template: shoulder and wrist (left; mirrored for the right) and the axis of a leg.
_SHOULDER = (0.160, -0.017, 0.490)
_ARM = (0.625, -0.300, -0.720)  # unit vector from shoulder to wrist
_ARM_LENGTH = 0.45
_TORSO_TURN, _SKIRT_TURN, _ARM_TURN, _LEG_TURN = (
    0.95,
    1.3,
    0.32,
    0.50,
)  # circumferences used to fit a whole number of pattern repeats


@nb.njit(cache=True, fastmath=True)
def pattern(kind, u, v):
    """Blend weight of the second colour at (u, v), in stripe widths: 0 or 1, for plaid also 0.5."""
    column, row = math.floor(u), math.floor(v)
    if kind == STRIPES:
        return float(row % 2)
    if kind == PINSTRIPES:
        return float(column % 2)
    if kind == CHECKS:
        return float((column + row) % 2)
    if kind == DOTS:
        du, dv = 0.5 * u - math.floor(0.5 * u) - 0.5, 0.5 * v - math.floor(0.5 * v) - 0.5
        return 1.0 if du * du + dv * dv < 0.08 else 0.0
    if kind == DIAGONAL:
        return float(math.floor(0.7 * (u + v)) % 2)
    if kind == PLAID:
        return 0.5 * (column % 2) + 0.5 * (row % 2)
    return 0.0


@nb.njit(cache=True, fastmath=True)
def _turns(angle, circumference, period):
    """Pattern repeats at an angle around a limb: an even whole number a turn, so that there is no seam."""
    repeats = 2 * max(round(0.5 * circumference / period), 1)
    return (angle / (2 * math.pi) + 0.5) * repeats


@nb.njit(cache=True, fastmath=True)
def cloth(kind, period, zone, x, y, z):
    """Blend weight of a garment's second colour at a rest position, in cylinders round torso, arm or leg."""
    if kind == PLAIN:
        return 0.0
    if kind == BAND:
        return 1.0 if (0.27 < z < 0.37 or (-0.52 < z < -0.42)) else 0.0
    side = abs(x)
    if zone in (ZONE_ARM, ZONE_HAND):
        dx, dy, dz = side - _SHOULDER[0], y - _SHOULDER[1], z - _SHOULDER[2]
        along = dx * _ARM[0] + dy * _ARM[1] + dz * _ARM[2]
        across = dx * 0.755 + dz * 0.655  # roughly perpendicular to the arm, outwards and up
        u = _turns(math.atan2(dy - along * _ARM[1], across), _ARM_TURN, period)
        return pattern(kind, u, along / period)
    if z < -0.02:
        centre = 0.10 + 0.103 * -z
        u = _turns(math.atan2(side - centre, -(y + 0.02)), _LEG_TURN, period)
        return pattern(kind, u, z / period)
    u = _turns(math.atan2(x, -(y + 0.02)), _TORSO_TURN, period)
    return pattern(kind, u, z / period)


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
    if z > _hair_line(y, style[HAIRLINE], style[NAPE]) and not ear:
        return LABEL_HAIR, HAIR
    if y < -0.10:
        if 0.745 < z < 0.755 and 0.013 < side < 0.048:
            return LABEL_SKIN, BROW
        if 0.662 < z < 0.675 and side < 0.025 and y < -0.13:
            return LABEL_SKIN, LIPS
    if style[BEARD] > 0 and y < -0.06 and z < 0.690 - 0.35 * max(0.05 - side, 0.0) and z > 0.615:
        return LABEL_HAIR, HAIR
    return LABEL_SKIN, SKIN


@nb.njit(cache=True, fastmath=True)
def _logo(kind, x, z):
    """Whether the chest point (x, z) is inside the logo, a shape of about 0.12 units."""
    dx, dz = x, z - 0.375
    if kind == LOGO_DISC:
        return dx * dx + dz * dz < 0.0034
    if kind == LOGO_SQUARE:
        return abs(dx) < 0.055 and abs(dz) < 0.05
    if kind == LOGO_CROSS:
        return (abs(dx) < 0.02 and abs(dz) < 0.065) or (abs(dz) < 0.02 and abs(dx) < 0.065)
    if kind == LOGO_TRIANGLE:
        return abs(dz) < 0.055 and abs(dx) < 0.6 * (0.055 - dz)
    return False


@nb.njit(cache=True, fastmath=True)
def material(part, zone, x, y, z, style):
    """(label, first palette row, second palette row, blend weight of the second) of a surface point."""
    if part == PART_HAIR:
        return LABEL_HAIR, HAIR, HAIR, 0.0
    if part == PART_EYE:
        dx, dz = abs(x) - 0.031, z - 0.728
        row = IRIS if dx * dx + dz * dz < 0.0075**2 else EYE_WHITE
        return LABEL_SKIN, row, row, 0.0
    if part == PART_SKIRT:
        u = _turns(math.atan2(x, -(y + 0.02)), _SKIRT_TURN, style[BOTTOM_PERIOD])
        blend = pattern(int(style[BOTTOM_PATTERN]), u, z / style[BOTTOM_PERIOD])
        return LABEL_BOTTOM, BOTTOM_A, BOTTOM_B, blend

    margin = (
        0.015 if part == PART_BODY else 0.0
    )  # skin that pokes through at the edge of a garment takes its colour
    if zone == ZONE_HAND:
        return LABEL_SKIN, SKIN, SKIN, 0.0
    if zone == ZONE_ARM:
        along = (
            (abs(x) - _SHOULDER[0]) * _ARM[0] + (y - _SHOULDER[1]) * _ARM[1] + (z - _SHOULDER[2]) * _ARM[2]
        )
        if along > style[SLEEVE] * _ARM_LENGTH + margin:
            return LABEL_SKIN, SKIN, SKIN, 0.0
        return LABEL_TOP, TOP_A, TOP_B, cloth(int(style[TOP_PATTERN]), style[TOP_PERIOD], zone, x, y, z)
    front = y < -0.03
    collar = style[COLLAR]
    if front:
        collar = min(collar, style[NECKLINE] + 1.6 * abs(x))
    if z > collar + (margin if zone != ZONE_HEAD else 0.0):
        if zone == ZONE_HEAD and part != PART_TIGHTS:
            label, row = head(x, y, z, style)
            return label, row, row, 0.0
        return LABEL_SKIN, SKIN, SKIN, 0.0
    if z > style[WAIST]:
        if front and abs(x) < style[OPEN_FRONT]:
            return LABEL_TOP, INNER, INNER, 0.0
        if y < -0.05 and style[LOGO_KIND] > 0 and _logo(int(style[LOGO_KIND]), x, z):
            return LABEL_TOP, LOGO, LOGO, 0.0
        return LABEL_TOP, TOP_A, TOP_B, cloth(int(style[TOP_PATTERN]), style[TOP_PERIOD], zone, x, y, z)
    if z > style[WAIST] - style[BELT]:
        return LABEL_OTHER, BELT_COLOUR, BELT_COLOUR, 0.0
    if z < style[SHOE_TOP]:
        row = SOLE if z < -0.805 else SHOE
        return LABEL_SHOES, row, row, 0.0
    if z > style[LEG_END]:
        return (
            LABEL_BOTTOM,
            BOTTOM_A,
            BOTTOM_B,
            cloth(int(style[BOTTOM_PATTERN]), style[BOTTOM_PERIOD], zone, x, y, z),
        )
    return LABEL_SKIN, SKIN, SKIN, 0.0


@nb.njit(cache=True, fastmath=True)
def paint(picture, face, rest, normals, part, zone, palette, style, light, ambient):
    """Colour every pixel that shows the person.

    picture (H, W, 3) float32 in [0, 1] holds the background and is painted in place; face (H, W); rest,
    normals (H, W, 3) interpolated; light (3,) unit vector towards the light; Lambert shading `ambient + (1 -
    ambient) cos`. Returns the garment labels (H, W) uint8.
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
            cosine = (n0 * light[0] + n1 * light[1] + n2 * light[2]) / norm
            shade = ambient + (1 - ambient) * max(cosine, 0.0)
            label, row_a, row_b, blend = material(
                part[f], zone[f], rest[y, x, 0], rest[y, x, 1], rest[y, x, 2], style
            )
            labels[y, x] = label
            for c in range(3):
                picture[y, x, c] = ((1 - blend) * palette[row_a, c] + blend * palette[row_b, c]) * shade
    return labels


def shell_clip(style: np.ndarray) -> np.ndarray:
    """(parts, 3) float32 for `rasteriser.rasterise`: skirt to its hem, hair behind the face to its hem."""
    clip = np.full((PART_EYE + 1, 3), -np.inf, np.float32)
    clip[PART_SKIRT] = style[SKIRT_HEM], style[WAIST], -9
    clip[PART_HAIR] = style[HAIR_HEM], 9, -0.075
    return clip


def shown_faces(mesh: Mesh, style: np.ndarray) -> np.ndarray:
    """(F,) bool: the triangles this person has; of the skirt and hair shells, those that the clip leaves."""
    highest = mesh.rest[mesh.faces][..., 2].max(1)
    side = np.abs(mesh.rest[mesh.faces][..., 0]).min(1)
    skirt = highest > style[SKIRT_HEM]
    hair = (highest > style[HAIR_HEM]) & (side < 0.2)
    return np.where(mesh.part == PART_SKIRT, skirt, np.where(mesh.part == PART_HAIR, hair, True))


def looseness(mesh: Mesh, style: np.ndarray) -> np.ndarray:
    """(V,) float32: how far cloth stands off the body at vertices of the tights, zero where skin shows."""
    x, y, z = np.abs(mesh.rest[:, 0]), mesh.rest[:, 1], mesh.rest[:, 2]
    along = (x - _SHOULDER[0]) * _ARM[0] + (y - _SHOULDER[1]) * _ARM[1] + (z - _SHOULDER[2]) * _ARM[2]
    zone = np.full(len(mesh.rest), -1)
    tights = mesh.part == PART_TIGHTS
    zone[mesh.faces[tights]] = mesh.zone[tights][:, None]
    sleeve = ((style[SLEEVE] * _ARM_LENGTH - along) / 0.03).clip(0, 1)
    torso = ((z - style[WAIST]) / 0.03).clip(0, 1) * ((0.5 - z) / 0.08).clip(0, 1)
    flare = 0.4 + 0.6 * ((0.1 - z) / 0.6).clip(0, 1)
    leg = (
        ((z - max(style[LEG_END], style[SHOE_TOP])) / 0.03).clip(0, 1)
        * ((style[WAIST] - z) / 0.1).clip(0, 1)
        * flare
    )
    arm = style[LOOSE_TOP] * 0.7 * sleeve
    body = style[LOOSE_TOP] * torso + style[LOOSE_BOTTOM] * leg
    return np.where(zone < 0, 0, np.where(zone == ZONE_ARM, arm, body)).astype(np.float32)
