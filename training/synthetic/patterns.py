"""Woven and printed patterns of cloth, as functions of the rest position (compiled, one point at a time)."""

from __future__ import annotations

import math

import numba as nb

from training.synthetic.body import ZONE_ARM, ZONE_HAND

(PLAIN, STRIPES, PINSTRIPES, CHECKS, DOTS, BAND, DIAGONAL, PLAID, ZIGZAG, CAMOUFLAGE, OMBRE, GRID, LEAVES) = range(13)
NAMES = ("plain", "stripes", "pinstripes", "checks", "dots", "band", "diagonal", "plaid", "zigzag", "camouflage",
         "ombre", "grid", "leaves")  # fmt: skip

# Rest geometry of the template: shoulder and wrist (left; mirrored for the right) and the axis of a leg.
SHOULDER = (0.160, -0.017, 0.490)
ARM = (0.625, -0.300, -0.720)  # unit vector from shoulder to wrist
ARM_LENGTH = 0.45
# Circumferences used to fit a whole number of pattern repeats.
_TORSO_TURN, SKIRT_TURN, _ARM_TURN, _LEG_TURN = 0.95, 1.3, 0.32, 0.50


@nb.njit(cache=True, fastmath=True)
def along_arm(x, y, z):
    """Distance from the shoulder along the arm, in rest units."""
    return (abs(x) - SHOULDER[0]) * ARM[0] + (y - SHOULDER[1]) * ARM[1] + (z - SHOULDER[2]) * ARM[2]


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
    if kind == ZIGZAG:
        fold = abs(0.5 * u - math.floor(0.5 * u) - 0.5)
        return float(math.floor(v + 2 * fold) % 2)
    if kind == GRID:
        return 1.0 if min(0.5 * u - math.floor(0.5 * u), 0.5 * v - math.floor(0.5 * v)) < 0.22 else 0.0
    return 0.0


@nb.njit(cache=True, fastmath=True)
def _hash(i, j, k):
    """A number in [0, 1) of a lattice point."""
    mixed = (i * 73856093) ^ (j * 19349663) ^ (k * 83492791)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return ((mixed ^ (mixed >> 16)) & 0xFFFF) / 65536.0


@nb.njit(cache=True, fastmath=True)
def blotches(x, y, z):
    """Value noise in [0, 1] of a position in lattice units."""
    i, j, k = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = x - i, y - j, z - k
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                weight = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
                total += weight * _hash(i + a, j + b, k + c)
    return total


@nb.njit(cache=True, fastmath=True)
def leaves(x, y, z):
    """Tone of the cell that a position in lattice units belongs to: 0, 0.5, 1, 1.5 or 2; a cell lies round a random
    point, one a lattice cube."""
    nearest, tone = 1e9, 0.0
    for a in range(-1, 2):
        for b in range(-1, 2):
            for c in range(-1, 2):
                i, j, k = math.floor(x) + a, math.floor(y) + b, math.floor(z) + c
                dx, dy, dz = i + _hash(i, j, k) - x, j + _hash(i + 401, j, k) - y, k + _hash(i, j + 401, k) - z
                distance = dx * dx + dy * dy + dz * dz
                if distance < nearest:
                    nearest, tone = distance, 0.5 * math.floor(5 * _hash(i, j, k + 401))
    return tone


@nb.njit(cache=True, fastmath=True)
def turns(angle, circumference, period):
    """Pattern repeats at an angle around a limb: an even whole number a turn, so that there is no seam."""
    repeats = 2 * max(round(0.5 * circumference / period), 1)
    return (angle / (2 * math.pi) + 0.5) * repeats


@nb.njit(cache=True, fastmath=True)
def cloth(kind, period, zone, skirt, x, y, z):
    """Blend weight of a garment's second colour at a rest position, in cylinders round torso, skirt, arm or leg; above
    1 it leads on to a third colour."""
    if kind == PLAIN:
        return 0.0
    if kind == BAND:
        return 1.0 if (0.27 < z < 0.37 or (-0.52 < z < -0.42)) else 0.0
    if kind == CAMOUFLAGE:
        coarse, fine = 0.75 / period, 1.725 / period
        noise = blotches(x * coarse, y * coarse, z * coarse) + 0.4 * blotches(x * fine, y * fine, z * fine)
        return 1.0 if noise > 0.72 else 0.0
    if kind == LEAVES:
        return leaves(x / period, y / period, z / period)
    if kind == OMBRE:
        t = (0.46 - z) / 0.36 if z > 0.1 else (0.05 - z) / 0.65
        return min(max(t, 0.0), 1.0)
    if zone in (ZONE_ARM, ZONE_HAND):
        along = along_arm(x, y, z)
        dx, dz = abs(x) - SHOULDER[0], z - SHOULDER[2]
        across = dx * 0.755 + dz * 0.655  # roughly perpendicular to the arm, outwards and up
        u = turns(math.atan2(y - SHOULDER[1] - along * ARM[1], across), _ARM_TURN, period)
        return pattern(kind, u, along / period)
    if skirt:
        return pattern(kind, turns(math.atan2(x, -(y + 0.02)), SKIRT_TURN, period), z / period)
    if z < -0.02:
        centre = 0.10 + 0.103 * -z
        u = turns(math.atan2(abs(x) - centre, -(y + 0.02)), _LEG_TURN, period)
        return pattern(kind, u, z / period)
    return pattern(kind, turns(math.atan2(x, -(y + 0.02)), _TORSO_TURN, period), z / period)
