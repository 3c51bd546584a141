"""Two poses in one picture: what was wanted, what was found, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InputError
from .draw import paint_capsules, to_floats
from .keypoints import Pose, openpose_to_coco
from .limits import check_pixels
from .skeleton import COCO_LIMBS

WANTED, FOUND, ERROR = (0, 220, 120), (255, 150, 0), (255, 0, 60)
"""RGB of the wanted skeletons (green), the found ones (orange), and the lines between their joints (red)."""
DIMMED = 0.6
_WIDTH = 1 / 180  # half the width of a limb, of the shorter side


def draw_comparison(
    wanted: Pose,
    found: Pose,
    pairs: Sequence[tuple[int, int]],
    height: int,
    width: int,
    picture: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw found poses over wanted ones, as COCO-17, with a line from each wanted joint to the one found for it.

    A wanted joint without such a line was not found.

    Args:
        wanted, found: letterboxed into the picture.
        pairs: who of `wanted` is who of `found`.
        height, width: of the picture in pixels.
        picture: (3, height, width) in 0..1, shown behind at 60 % of its brightness; black where None.

    Returns:
        (3, height, width) float32 in 0..1.

    Raises:
        InputError: a picture of another size, or too many pixels.
    """
    check_pixels("wanted_pose", 1, height, width)
    canvas = np.zeros((1, height, width, 3), np.float32)
    if picture is not None:
        if tuple(picture.shape) != (3, height, width):
            raise InputError(f"The picture has shape {tuple(picture.shape)}, not (3, {height}, {width}).")
        canvas[0] = DIMMED * 255 * picture.detach().cpu().clamp(0, 1).movedim(0, -1).float().numpy()
    half = max(0.75, _WIDTH * min(height, width))
    people = [openpose_to_coco(pose.resized(height, width).joints.astype(np.float64)) for pose in (wanted, found)]
    for joints, colour in zip(people, (WANTED, FOUND), strict=True):
        for person in joints:
            _paint_person(canvas, person[None], half, colour)
    for i, j in pairs:
        one, other = people[0][None, i], people[1][None, j]
        for k in range(one.shape[1]):
            both = (one[:, k, 2] > 0) & (other[:, k, 2] > 0)
            paint_capsules(canvas, one[:, k, :2], other[:, k, :2], both, half, ERROR)
    return to_floats(canvas)


def _paint_person(canvas: np.ndarray, joints: np.ndarray, half: float, colour: tuple) -> None:
    """Limbs at 60 % brightness under brighter joints; joints (1, 17, 3)."""
    present = joints[..., 2] > 0
    dark = tuple(0.6 * channel for channel in colour)
    for a, b in COCO_LIMBS:
        paint_capsules(canvas, joints[:, a, :2], joints[:, b, :2], present[:, a] & present[:, b], 0.6 * half, dark)
    for k in range(joints.shape[1]):
        paint_capsules(canvas, joints[:, k, :2], joints[:, k, :2], present[:, k], 2.5 * half, colour)
