"""Numbers of a part, flat or nested, as points: rows of x, y, score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

FLAT_SIZES = (3, 2, 4)
"""Numbers of a point in a flat list: x, y, score; x, y; x, y, depth, score (MediaPipe). The first that fits counts."""

_SCORES = ("score", "confidence", "visibility", "c", "v")


class UnreadableError(ValueError):
    """A part that cannot be read: "a face of 69 points, not of 68 or 70"."""


def plain(value: Any) -> Any:
    """Arrays, tensors and tuples as lists; of a tensor without numbers (meta, sparse) nothing is left."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, torch.Tensor):
        return None if value.is_meta else (value.to_dense() if value.layout != torch.strided else value).tolist()
    return list(value) if isinstance(value, tuple) else value


def read_points(value: Any, name: str, counts: Sequence[int], scores: Any = None) -> np.ndarray | None:
    """Points of one part of one person.

    Args:
        value: a list of numbers, of lists, or of objects with x and y; None, [] or nothing but None: not there.
        name: of the part, for messages.
        counts: numbers of points that a part of this kind can have.
        scores: a list of one score for each point, where they are kept apart.

    Returns:
        (N, 3) float64, N one of `counts`, NaN for numbers that are None; None for a part that is not there.

    Raises:
        UnreadableError: anything else.
    """
    value = plain(value)
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise UnreadableError(f"a {name} that is no list of numbers")
    if not _is_flat(value):
        value = [_point(plain(item)) for item in value]
    if all(item is None for item in value):
        return None
    size = next((len(item) for item in value if isinstance(item, list)), 0)
    wanted = " or ".join(filter(None, [", ".join(map(str, sorted(counts)[:-1])), str(max(counts))]))
    if size:
        rows = [[None] * size if item is None else item for item in value]
        if len(rows) not in counts:
            raise UnreadableError(f"a {name} of {len(rows)} points, which is not {wanted} points of x, y, score")
        if size not in FLAT_SIZES or not all(isinstance(row, list) and len(row) == size for row in rows):
            raise UnreadableError(f"a {name} with points that are not all x, y, score")
    else:
        size = next((size for size in FLAT_SIZES if len(value) % size == 0 and len(value) // size in counts), 0)
        if not size or (size == 2 and _has_scores(value)):
            raise UnreadableError(f"a {name} of {len(value)} values, which is not {wanted} points of x, y, score")
        rows = value
    try:
        numbers = np.array(rows, np.float64)
        if numbers.ndim != (1 if rows is value else 2):
            raise ValueError("lists in lists")
    except OverflowError as error:
        raise UnreadableError(f"a {name} with a number that is too large") from error
    except (TypeError, ValueError) as error:
        raise UnreadableError(f"a {name} with something in it that is no number") from error
    return _with_scores(numbers.reshape(-1, size), scores)


def usable(points: np.ndarray, threshold: float) -> np.ndarray:
    """The points (N, 3) with three zeros for those that are absent; scores are at most 1.

    Absent are a score of 0, below the threshold or no number at all, and exactly (0, 0) or (-1, -1), which are how
    formats write "not found".
    """
    x, y, score = points.T
    nowhere = ((x == 0) & (y == 0)) | ((x == -1) & (y == -1))
    # Beyond this a float32 picture position means nothing, and a product with the canvas could overflow.
    there = (np.abs(points) < 1e9).all(-1) & ~nowhere & (score > 0) & (score >= threshold)
    points = np.where(there[:, None], points, 0)
    points[:, 2] = np.minimum(points[:, 2], 1)
    return points


def extent(points: np.ndarray) -> float:
    """How far from the origin most of the points (N, 3) lie, on the axis that is further; NaN where all are absent."""
    seen = points[points[:, 2] > 0, :2]
    return float(np.median(np.abs(seen).max(1))) if len(seen) else math.nan


def _is_flat(value: list) -> bool:
    """Are these plain numbers, as in nearly all files? Quicker than to look at each."""
    return {type(item) for item in value} <= {int, float, type(None)}


def _point(item: Any) -> Any:
    """A point that is an object, {"x": 3, "y": 4, "score": 1}, as a list."""
    if not isinstance(item, dict):
        return item
    score = next((item[key] for key in _SCORES if key in item), 1.0)
    return [item.get("x"), item.get("y"), score]


def _has_scores(value: list) -> bool:
    """Are these no pairs, because every third number is a score? So a body of 16 points is none of 24."""
    numbers = [number for number in value if isinstance(number, (int, float))]
    scores = [number for number in value[2::3] if isinstance(number, (int, float))]
    return len(value) % 3 == 0 and all(0 <= score <= 1 for score in scores) and any(abs(n) > 1.5 for n in numbers)


def _with_scores(numbers: np.ndarray, scores: Any) -> np.ndarray:
    """Rows of 2, 3 or 4 numbers as x, y, score."""
    if numbers.shape[1] > 2:
        return numbers[:, [0, 1, -1]]
    given = np.ones(len(numbers))
    try:
        values = np.array(plain(scores), np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        values = given
    return np.column_stack([numbers, values if len(values) == len(given) else given])
