"""Clutter as photographs have it: dead leaves and coloured 1/f noise, the same picture at any resolution."""

from __future__ import annotations

import numba as nb
import numpy as np

_SMALLEST, _LARGEST = (0.012, 0.045), 0.4  # radii of leaves in picture heights; the smallest differs by picture
_LAYERS = 5  # leaves over an average point
_OCTAVES = 7  # of 1/f noise, from 2 cells per picture height


def dead_leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Discs and rectangles of a few dozen colours that hide one another, as many of a size as natural things have.

    Returns:
        (height, width, 3) float32 in [0, 1]; the generator's state and the aspect decide the picture.
    """
    aspect, smallest = width / height, rng.uniform(*_SMALLEST)
    least, most = smallest**-2, _LARGEST**-2
    mean_area = 2 * np.pi * np.log(_LARGEST / smallest) / (least - most)  # of radii with a density of 1 / r³
    count = int(_LAYERS * aspect / mean_area)
    radius = (least - rng.random(count) * (least - most)) ** -0.5
    stretch, turn = rng.uniform(0.55, 1.0, count), rng.uniform(0, np.pi, count)
    shapes = np.stack([
        rng.uniform(-0.05, 1.05, count) * aspect, rng.uniform(-0.05, 1.05, count), radius, radius * stretch,
        np.cos(turn), np.sin(turn), rng.random(count) < rng.uniform(0.2, 0.9), rng.uniform(0, 0.12, count),
        rng.uniform(10, 90, count), rng.uniform(-0.2, 0.2, count),
    ], 1)  # fmt: skip
    colours = _colours(rng, int(rng.integers(4, 40)))
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = colours[0]
    shades = rng.uniform(0.75, 1.2, (count, 1))
    _paint(picture, shapes.astype(np.float32), (colours[rng.integers(len(colours), size=count)] * shades).astype("f4"))
    return picture


def pink_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Coloured noise whose strength falls with its frequency, as in natural pictures.

    Returns:
        (height, width, 3) float32 in [0, 1]; the generator's state and the aspect decide the picture.
    """
    fall, noise, total = rng.uniform(0.0, 0.7), np.zeros((3, height, width), np.float32), 0.0
    for octave in range(_OCTAVES):
        rows = 2 ** (octave + 1)
        grid = rng.standard_normal((3, rows + 1, max(round(rows * width / height), 1) + 1), np.float32)
        strength = np.float32(2.0 ** (-fall * octave))
        noise += strength * value_noise(grid, height, width)
        total += float(strength) ** 2
    mixing = rng.uniform(0.5, 0.9)  # how far the channels go together
    noise = mixing * noise.mean(0) * 3**0.5 + (1 - mixing) * noise
    contrast = rng.uniform(0.12, 0.34) / total**0.5
    picture = rng.uniform(0.25, 0.75) + rng.uniform(-0.15, 0.15, 3)[:, None, None] + contrast * noise
    return np.moveaxis(picture, 0, -1).clip(0, 1).astype(np.float32)


def value_noise(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """A coarse grid (…, rows, columns) at the pixels' centres, (…, height, width), interpolated in smooth steps."""
    (i, fy), (j, fx) = _steps(grid.shape[-2], height, grid.dtype), _steps(grid.shape[-1], width, grid.dtype)
    rows = grid[..., i, :] * (1 - fy)[:, None] + grid[..., i + 1, :] * fy[:, None]
    return rows[..., j] * (1 - fx) + rows[..., j + 1] * fx


def _steps(count: int, size: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    place = (np.arange(size) + 0.5) / size * (count - 1)
    first = np.minimum(place.astype(int), count - 2)
    left = (place - first).astype(dtype)
    return first, left * left * (3 - 2 * left)


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) in [0, 1]: from a common tint to all kinds of colours."""
    common, strength = rng.uniform(0, 1, 3), rng.uniform(0.15, 1.0)
    grey = rng.uniform(0.05, 0.95, (count, 1))
    own = grey + strength * rng.uniform(-0.5, 0.5, (count, 3))
    return (0.8 * own + 0.2 * common).clip(0.02, 1)


@nb.njit(cache=True, fastmath=True)
def _paint(picture, shapes, colours):
    """Paint shapes (N, 10) one over another: centre x, y, half axes, cosine, sine, 1 for a rectangle, strength and
    frequency of a weave, slope of the brightness."""
    height, width = picture.shape[:2]
    for n in range(shapes.shape[0]):
        x, y, a, b, cos, sin, square, weave, frequency, slope = shapes[n]
        reach = (a * a + b * b) ** 0.5 if square else max(a, b)
        for row in range(max(int((y - reach) * height - 0.5), 0), min(int((y + reach) * height + 1), height)):
            dy = (row + 0.5) / height - y
            for column in range(max(int((x - reach) * height - 0.5), 0), min(int((x + reach) * height + 1), width)):
                dx = (column + 0.5) / height - x
                p, q = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
                if max(abs(p), abs(q)) > 1 if square else p * p + q * q > 1:
                    continue
                shade = 1 + slope * p + weave * np.sin(frequency * (dx + 0.5 * dy))
                for c in range(3):
                    picture[row, column, c] = min(max(colours[n, c] * shade, 0), 1)
