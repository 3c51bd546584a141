"""The canvas of poses: what their source tells of it, and a guess for what it does not tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ...errors import InputError
from ..keypoints import GUESSES, MAX_CANVAS, Pose
from .points import plain

GUESSED = "canvas_guessed"
"""Key of a frame that tells what of its canvas is a guess, one of `GUESSES`."""

SIZE_KEYS = (("canvas_height", "canvas_width"), ("image_height", "image_width"), ("height", "width"))
_ALL_KEYS = (*(key for pair in SIZE_KEYS for key in pair), "image_size", GUESSED)
UNKNOWN = 1, 1
"""Canvas of frames without people that do not give one."""


def inherited(frame: dict, outer: dict) -> dict:
    """A frame with the size that what it lies in gives, where it gives none itself."""
    sizes = {key: outer[key] for key in _ALL_KEYS if key in outer}
    return {**sizes, **frame} if sizes and not any(key in frame for key in _ALL_KEYS) else frame


def tells_size_alone(frame: dict) -> bool:
    """Is there nothing in a frame, but perhaps its size?"""
    return all(key in _ALL_KEYS for key in frame)


def written_canvas(frame: dict, points: np.ndarray, where: str) -> tuple[int, int]:
    """Height and width that a frame tells, 0 where it does not.

    Args:
        points: (N, 3) its points that are there: of an `image_size` they tell which number is the width.

    Raises:
        InputError: no numbers, or none that a canvas can have.
    """
    sides = [
        next((value for value in (plain(frame.get(pair[side])) for pair in SIZE_KEYS) if value), 0) for side in (0, 1)
    ]
    size = plain(frame.get("image_size"))
    if not any(sides) and size:
        if isinstance(size, dict):
            sides = [size.get("height") or 0, size.get("width") or 0]
        elif isinstance(size, list) and len(size) == 2:
            sides = _in_order(size, points)
    try:
        height, width = (round(float(side)) for side in sides)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: canvas_width and canvas_height must be numbers of pixels.") from error
    if not (0 <= height <= MAX_CANVAS and 0 <= width <= MAX_CANVAS):
        raise InputError(f"{where}: the canvas is {width}x{height}: 1 to {MAX_CANVAS} pixels a side are allowed.")
    return height, width


def written_guess(frame: dict) -> str:
    """What of a frame's canvas is marked as a guess."""
    mark = frame.get(GUESSED)
    return mark if isinstance(mark, str) and mark in GUESSES else ""


def guess_canvas(points: Iterable[np.ndarray], source: str) -> tuple[int, int]:
    """The smallest canvas that holds points and leaves as much room right and below as there is left and above.

    Args:
        points: arrays (N, 3) of points that are there, of all frames that need the guess. Those further out than a
            canvas can reach do not count.

    Raises:
        InputError: none lies where a canvas can be.
    """
    lows, highs, some = [], [], False
    for each in points:
        some = some or len(each) > 0
        near = each[(np.abs(each[:, :2]) <= MAX_CANVAS).all(1), :2]
        if len(near):
            lows.append(near.min(0))
            highs.append(near.max(0))
    if not lows:
        if some:
            raise InputError(
                f"{source}: the points lie further out than a canvas can reach: 1 to {MAX_CANVAS} pixels "
                "a side are allowed; correct them, or give the width and height."
            )
        return UNKNOWN
    low, high = np.min(lows, 0), np.max(highs, 0)
    width, height = (min(max(1, math.ceil(side)), MAX_CANVAS) for side in high + np.maximum(low, 0))
    return height, width


def agreed(*sequences: Sequence[Pose]) -> list[list[Pose]]:
    """Sequences that are to be compared: canvases that are guesses give way to the first that is known.

    Where all are guesses, all become the one that holds them. Known canvases stay as they are.
    """
    every = [pose for poses in sequences for pose in poses]
    known = next(((pose.height, pose.width) for pose in every if not pose.guessed), None)
    size = known or (max(pose.height for pose in every), max(pose.width for pose in every))
    if known:
        return [[pose.on_canvas(*size) for pose in poses] for poses in sequences]
    return [[replace(pose, height=size[0], width=size[1]) for pose in poses] for poses in sequences]


def _in_order(size: list, points: np.ndarray) -> list:
    """The two numbers of an `image_size` as height and width: (width, height), unless the points fit but the other."""
    try:
        sides = np.array(size, np.float64)
    except (TypeError, ValueError, OverflowError):
        return size
    reach = points[:, :2].max(0) if len(points) else np.zeros(2)
    swapped = (reach > sides).any() and (reach <= sides[::-1]).all()
    return size if swapped else size[::-1]
