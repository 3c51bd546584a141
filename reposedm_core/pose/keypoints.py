"""Poses as arrays, their geometry, and the two joint orders.

Coordinates are pixels of the canvas with pixel centres at +0.5; points outside the canvas are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from ..errors import InputError
from ..letterbox import Letterbox
from .skeleton import COCO17, COCO_TO_OPENPOSE, OPENPOSE_TO_COCO

Array = TypeVar("Array", np.ndarray, torch.Tensor)
"""What is an array where an array is given, and a tensor where a tensor is."""

MAX_CANVAS = 32768
PARTS = {"joints": 18, "face": 70, "left_hand": 21, "right_hand": 21, "feet": 6}
"""Arrays of points of a `Pose`, and how many points a person has in each."""

GUESSES = ("", "height", "width", "size")
"""What of a canvas is a guess: nothing, one side, or both."""

_NOT_GIVEN: Any = None
"""The default of what is never None once a `Pose` is made."""

_LEFT_SHOULDER, _RIGHT_SHOULDER = COCO17.index("left_shoulder"), COCO17.index("right_shoulder")


@dataclass(frozen=True, eq=False)
class Pose:
    """The people of one frame.

    Attributes:
        joints: (P, 18, 3) float32, OpenPose-18: x, y in pixels of the canvas, score. An absent point (score
            of 0 or less, or a number that is not finite) is stored as three zeros.
        height, width: of the canvas in pixels.
        face, left_hand, right_hand, feet: (P, 70, 3), (P, 21, 3), (P, 21, 3), (P, 6, 3) float32 in the same form; zeros
            where not given. Feet are big toe, small toe and heel of the left, then of the right.
        ids: who each person is, as a tracker numbered them; None where nobody says.
        guessed: what of the canvas is a guess, one of `GUESSES`, because the source does not tell it; see `on_canvas`.

    Raises:
        InputError: an array of another shape, another number of ids, or a canvas without area.
    """

    joints: np.ndarray
    height: int
    width: int
    face: np.ndarray = _NOT_GIVEN
    left_hand: np.ndarray = _NOT_GIVEN
    right_hand: np.ndarray = _NOT_GIVEN
    feet: np.ndarray = _NOT_GIVEN
    ids: tuple[int | None, ...] = _NOT_GIVEN
    guessed: str = ""

    def __post_init__(self) -> None:
        if not (0 < self.height <= MAX_CANVAS and 0 < self.width <= MAX_CANVAS):
            raise InputError(
                f"The canvas of the pose is {self.width}x{self.height}: use 1 to {MAX_CANVAS} pixels a side."
            )
        people = len(self.joints)
        for name, points in PARTS.items():
            value = getattr(self, name)
            value = np.zeros((people, points, 3)) if value is None else value
            with np.errstate(over="ignore"):
                value = np.array(value, dtype=np.float32)
            if value.shape != (people, points, 3):
                raise InputError(f"The {name} of a pose have shape {value.shape}, not ({people}, {points}, 3).")
            value[~((value[..., 2] > 0) & np.isfinite(value).all(-1))] = 0
            object.__setattr__(self, name, value)
        object.__setattr__(self, "ids", (None,) * people if self.ids is None else tuple(self.ids))
        if len(self.ids) != people:
            raise InputError(f"The pose has {people} people and {len(self.ids)} ids: give one for each.")

    def select(self, person: int) -> Pose:
        """The same frame with one person, counted from 0; InputError if there is no such person."""
        if not 0 <= person < len(self.joints):
            people = len(self.joints)
            raise InputError(f"There is no person {person} in the pose: it has {people}, counted from 0.")
        return self.take([person])

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """joints, face, left_hand, right_hand and feet, in the order of `PARTS`."""
        return tuple(getattr(self, name) for name in PARTS)

    def with_parts(
        self,
        joints: np.ndarray,
        face: np.ndarray,
        left_hand: np.ndarray,
        right_hand: np.ndarray,
        feet: np.ndarray = _NOT_GIVEN,
        *,
        ids: Sequence[int | None] | None = None,
    ) -> Pose:
        """Other people on the same canvas; as many without `ids` are the same people, and keep theirs."""
        if ids is None:
            ids = self.ids if len(joints) == len(self.joints) else (None,) * len(joints)
        return replace(
            self, joints=joints, face=face, left_hand=left_hand, right_hand=right_hand, feet=feet, ids=tuple(ids)
        )

    def take(self, people: Sequence[int] | np.ndarray) -> Pose:
        """The same frame with these people, in this order, perhaps none."""
        numbers = np.asarray(people, np.int64)
        return self.with_parts(*(part[numbers] for part in self.parts), ids=[self.ids[number] for number in numbers])

    def resized(self, height: int, width: int) -> Pose:
        """Letterboxed to another canvas, as its picture would be (`Letterbox`); the whole old canvas is visible."""
        if (height, width) == (self.height, self.width):
            return self
        return self._placed(Letterbox((self.height, self.width), (height, width)).points, height, width)

    def unfitted(self, height: int, width: int) -> Pose:
        """The inverse of `resized`: from the canvas that height x width was letterboxed to, back to that size."""
        return self._placed(Letterbox((height, width), (self.height, self.width)).back, height, width)

    def on_canvas(self, height: int, width: int) -> Pose:
        """On the canvas of the picture that the pose belongs to, where that canvas was a guess; else as it is.

        Points keep their pixels. Where one side of the canvas is known, they are scaled with it.
        """
        if not self.guessed:
            return self
        scale = {"height": width / self.width, "width": height / self.height}.get(self.guessed, 1.0)
        return self._moved(scale, 0.0, 0.0, height, width)

    def _moved(self, scale: float, right: float, down: float, height: int, width: int) -> Pose:
        def move(points: np.ndarray) -> np.ndarray:
            moved = points.astype(np.float64)
            moved[..., :2] = moved[..., :2] * scale + (right, down)
            return moved

        return self._placed(move, height, width)

    def _placed(self, move: Callable[[np.ndarray], np.ndarray], height: int, width: int) -> Pose:
        # Absent points are moved too; the new pose zeroes them by their score.
        joints, face, left_hand, right_hand, feet = (move(part) for part in self.parts)
        return Pose(joints, height, width, face, left_hand, right_hand, feet, self.ids)


def check_in_frame(pose: Pose, name: str) -> None:
    """Raise an `InputError` about the input `name` if no joint of the first person lies in the canvas."""
    x, y, score = pose.joints[:1].reshape(-1, 3).T
    if not ((score > 0) & (x >= 0) & (y >= 0) & (x <= pose.width) & (y <= pose.height)).any():
        raise InputError(
            f"{name}: no joint of its first person lies inside its canvas of {pose.width} × {pose.height} "
            "pixels; move the pose into it, or give the canvas that it was made for."
        )


def fit_to_frame(pose: Pose, height: int, width: int, fill: float = 0.8) -> Pose:
    """Scale and centre the people so that the box of their body joints fills the frame.

    Args:
        pose: one person, or several that are kept together (`Pose.select` takes one).
        height, width: of the new canvas in pixels.
        fill: the part of the frame's height or width, whichever is reached first, that the box takes up.

    Raises:
        InputError: a pose without a body joint, or a fill that is not positive.
    """
    if not fill > 0:
        raise InputError(f"The fill is {fill}: use a fraction of the frame such as 0.8.")
    visible = pose.joints[pose.joints[..., 2] > 0][:, :2].astype(np.float64)
    if not len(visible):
        raise InputError("There is nobody in the pose: give one with at least one body joint.")
    low, high = visible.min(0), visible.max(0)
    # A single joint or a straight line has no extent on some axis, which then sets no limit.
    limits = [fill * side / extent for side, extent in zip((width, height), high - low, strict=True) if extent > 1e-3]
    scale = min(limits, default=1.0)
    right, down = np.array([width, height]) / 2 - scale * (low + high) / 2
    return pose._moved(scale, right, down, height, width)


def coco_to_openpose(joints: Array) -> Array:
    """COCO-17 (..., 17, 3) to OpenPose-18 (..., 18, 3), array to array and tensor to tensor.

    The neck is the middle of the shoulders with the lower of their scores; where one is absent, it is too.
    """
    _check_points(joints, 17, "COCO")
    left, right = joints[..., _LEFT_SHOULDER, :], joints[..., _RIGHT_SHOULDER, :]
    library = torch if isinstance(joints, torch.Tensor) else np
    neck = (left + right) / 2
    neck[..., 2] = library.minimum(left[..., 2], right[..., 2])
    neck[~(neck[..., 2] > 0)] = 0
    return library.stack([neck if i is None else joints[..., i, :] for i in COCO_TO_OPENPOSE], -2)


def openpose_to_coco(joints: Array) -> Array:
    """OpenPose-18 (..., 18, 3) to COCO-17 (..., 17, 3): another order, without the neck."""
    _check_points(joints, 18, "OpenPose")
    return joints[..., list(OPENPOSE_TO_COCO), :]


def _check_points(joints: np.ndarray | torch.Tensor, points: int, name: str) -> None:
    if joints.ndim < 2 or tuple(joints.shape[-2:]) != (points, 3):
        raise InputError(f"The joints have shape {tuple(joints.shape)}: {name} needs (..., {points}, 3).")
