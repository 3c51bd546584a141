"""The part of a picture that a person needs, and where it lies (**ours**)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .letterbox import Size
from .pose import Pose

STEP = 16
"""Pixels of which a crop's sides are multiples: what the autoencoders of all families can take."""
LEAST = 16
"""Pixels of the shorter side of a crop."""
SURE = 0.5
"""Of a mask from which a pixel counts."""


@dataclass(frozen=True)
class Crop:
    """Where a crop lies in its picture.

    Attributes:
        top, left, height, width: the box in pixels of the picture; it may reach beyond the picture's border.
        picture: height and width of the picture. index: which one of a batch.
        size: height and width of the crop itself, other than the box's where it is scaled.
    """

    top: int
    left: int
    height: int
    width: int
    picture: Size
    index: int = 0
    size: Size = (0, 0)

    def __post_init__(self) -> None:
        if not min(self.size):
            object.__setattr__(self, "size", (self.height, self.width))

    def image(self, picture: Tensor, border: str = "replicate") -> Tensor:
        """The crop (C, h, w) of a picture (C, H, W); the picture's own values where the box is not scaled.

        `border` is what lies beyond the picture: "replicate" repeats its edge, "mirror" shows it as in a mirror,
        "constant" is 0.
        """
        top, rows, on_rows = _places(self.top, self.height, self.picture[0], border)
        left, columns, on_columns = _places(self.left, self.width, self.picture[1], border)
        seen = picture[:, top : top + int(rows.max()) + 1, left : left + int(columns.max()) + 1]
        if self.size != (self.height, self.width):  # not rounded in between
            seen = seen.to(torch.promote_types(picture.dtype, torch.float32))
        # Rows first, and scaled before the columns: with a wide margin the unscaled box would take gigabytes.
        part = seen[:, rows]
        part[:, ~on_rows] = 0
        part = resize(part, (self.size[0], part.shape[-1]))[..., columns]
        part[..., ~on_columns] = 0
        return resize(part, self.size).to(picture.dtype)

    def overlap(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns of the picture that lie in the box, and the same ones counted from the box's own corner.

        They stop before they start where the box lies beside the picture.
        """
        bottom, right = min(self.top + self.height, self.picture[0]), min(self.left + self.width, self.picture[1])
        top, left = max(0, self.top), max(0, self.left)
        return (slice(top, bottom), slice(left, right)), (
            slice(top - self.top, bottom - self.top),
            slice(left - self.left, right - self.left),
        )

    def pose(self, pose: Pose) -> Pose:
        """A pose of the picture, in pixels of the crop."""
        scale = np.array([self.size[1] / self.width, self.size[0] / self.height])
        pose = pose.resized(*self.picture)

        def move(points: np.ndarray) -> np.ndarray:
            moved = points.astype(np.float64)
            moved[..., :2] = (moved[..., :2] - (self.left, self.top)) * scale
            return moved

        return pose._placed(move, *self.size)

    def scaled(self, size: Size) -> Crop:
        """The same box at another size."""
        return replace(self, size=size)


def _places(first: int, count: int, side: int, border: str) -> tuple[int, Tensor, Tensor]:
    """What `count` pixels from `first` on show of `side` of a picture: the first that is shown, which one after it
    each shows, and whether it shows any (of "constant", beyond the picture none does)."""
    places = torch.arange(first, first + count)
    inside = (places >= 0) & (places < side)
    places = _mirrored(places, side) if border == "mirror" else places.clamp(0, side - 1)
    least = int(places.min())
    return least, places - least, inside if border == "constant" else torch.ones_like(inside)


def _mirrored(places: Tensor, count: int) -> Tensor:
    """Indices beyond 0..count − 1 turned back at both ends, as often as it takes; the edge itself comes twice."""
    places = places % (2 * count)
    return torch.minimum(places, 2 * count - 1 - places)


def resize(picture: Tensor, size: Sequence[int]) -> Tensor:
    """(C, h, w) or (B, C, h, w) at another size: bilinear, averaged where it shrinks; itself where it has that size.

    In float32 at least: a CPU cannot do it in half precision.
    """
    if tuple(picture.shape[-2:]) == tuple(size):
        return picture
    if picture.ndim == 3:
        return resize(picture[None], size)[0]
    if size[1] == 1 < size[0]:  # torch makes all rows of such a one the same
        return resize(picture.mT, (1, size[0])).mT
    wide = picture.to(torch.promote_types(picture.dtype, torch.float32))
    return F.interpolate(wide, tuple(size), mode="bilinear", align_corners=False, antialias=True).to(picture.dtype)


def part_of_resized(picture: Tensor, size: Size, rows: slice, columns: slice) -> Tensor:
    """`resize(picture, size)[:, rows, columns]` of a picture (C, h, w), of which the whole may not fit in memory."""
    part = resize(picture, (size[0], picture.shape[-1]))[:, rows]
    return resize(part, (part.shape[-2], size[1]))[..., columns]


def person_box(pose: Pose, size: Size, name: str = "pose") -> np.ndarray:
    """(4,) x and y of the first corner and of the last of what of the first person of a pose is in a picture.

    Raises:
        InputError: nobody is in the pose, or nobody's joint in the picture.
    """
    if not len(pose.joints):
        raise InputError(f"{name}: nobody is in it; connect a pose, or a mask, of the person.")
    points = np.concatenate([part[0] for part in pose.resized(*size).parts])
    points = points[points[:, 2] > 0, :2].astype(np.float64)
    inside = ((points >= 0) & (points <= (size[1], size[0]))).all(1)
    if not inside.any():
        raise InputError(
            f"{name}: no joint of its person lies inside the picture of {size[1]} × {size[0]} pixels; connect the pose "
            "that was found in this picture."
        )
    points = points.clip(0, (size[1], size[0]))
    return np.concatenate([points.min(0), points.max(0)])


def mask_box(mask: Tensor) -> np.ndarray:
    """(4,) as `person_box`, of a mask (H, W) in 0..1.

    Raises:
        InputError: an empty mask.
    """
    on = mask > SURE
    if not on.any():
        raise InputError("mask: it is black: there is nobody to crop to; paint the person white, or connect a pose.")
    rows, columns = (on.any(dim).nonzero()[:, 0] for dim in (1, 0))
    return np.array([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1], np.float64)


def crop_around(
    boxes: list[np.ndarray],
    picture: Size,
    margin: float = 0.15,
    aspect: float | None = None,
    index: int = 0,
    step: int = STEP,
) -> Crop:
    """The crop that shows all of some boxes and a margin around them.

    It is moved into the picture where it fits, and reaches beyond its border where it does not.

    Args:
        boxes: (4,) each, see `person_box`.
        picture: its height and width.
        margin: of the longer side of what is shown, on each side.
        aspect: width by height; None leaves it as the boxes are.
        step: what both sides are multiples of.
    """
    low = np.min([box[:2] for box in boxes], 0)
    high = np.max([box[2:] for box in boxes], 0)
    width, height = np.maximum(high - low + 2 * margin * (high - low).max(), LEAST)
    if aspect is not None:
        width, height = max(width, height * aspect), max(height, width / aspect)
    width, height = (max(LEAST, math.ceil(side / step - 1e-6) * step) for side in (width, height))
    if aspect is not None:  # the nearest that is a multiple, too
        width, height = (
            (max(step, round(height * aspect / step) * step), height)
            if aspect < 1
            else (width, max(step, round(width / aspect / step) * step))
        )
    corner = np.floor((low + high - (width, height)) / 2 + 0.5).astype(int)
    place = [
        (side - size) // 2 if size >= side else int(np.clip(first, 0, side - size))
        for first, size, side in zip(corner, (width, height), picture[::-1], strict=True)
    ]
    return Crop(place[1], place[0], height, width, (picture[0], picture[1]), index)


def crops_of_one_shape(
    boxes: list[list[np.ndarray]], picture: Size, margin: float, numbers: Sequence[int]
) -> list[Crop]:
    """A crop around each list of boxes, as of `crop_around`, all of a shape that is wide and high enough for any.

    The sides of the largest are multiples of `STEP`; those of smaller ones, which are to be scaled to its size, are of
    its shape to the pixel.

    Args:
        numbers: which picture of a batch each crop is of.
    """
    alone = [crop_around(each, picture, margin) for each in boxes]
    aspect = max(crop.width for crop in alone) / max(crop.height for crop in alone)
    found = [crop_around(each, picture, margin, aspect, n) for each, n in zip(boxes, numbers, strict=True)]
    largest = max(found, key=lambda crop: crop.height)
    shape, same = largest.width / largest.height, (largest.width, largest.height)
    return [
        crop if (crop.width, crop.height) == same else crop_around(each, picture, margin, shape, crop.index, step=1)
        for each, crop in zip(boxes, found, strict=True)
    ]
