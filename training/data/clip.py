"""Frames of a person who moves, with the exact correspondence from each to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clip:
    """Frames of one person, and a picture of the same person who stands, to make them from.

    Attributes:
        pictures: (T, H, W, 3) uint8. poses: (T, 18, 3) float32 OpenPose-18 in pixels; the score of a hidden joint is 1
            and that of a seen one 2.
        source: (H, W, 3) uint8. source_pose: (18, 3).
        flow: (T - 1, H, W, 2) float32, where the surface that a frame but the first shows at each pixel lies in the
            frame before: x and y as in `grid_sample`.
        seen: (T - 1, H, W) bool, is it the person and seen in both.
    """

    pictures: np.ndarray
    poses: np.ndarray
    source: np.ndarray
    source_pose: np.ndarray
    flow: np.ndarray
    seen: np.ndarray
