"""Measures shared by training and evaluation."""

from __future__ import annotations

import numpy as np


def pck(predicted: np.ndarray, truth: np.ndarray, distance: float) -> float:
    """Percentage of correct keypoints (0..1): visible joints found within `distance` pixels.

    Args:
        predicted: (n, 17, 3), x, y in pixels and score.
        truth: (n, 17, 3), x, y in pixels and 0 outside the frame, 1 occluded, 2 visible.
        distance: tolerance in pixels, e.g. 0.05·H.
    """
    visible = truth[..., 2] == 2
    near = np.linalg.norm(predicted[..., :2] - truth[..., :2], axis=-1) <= distance
    return float((near & visible).sum() / max(1, visible.sum()))


def joint_error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in pixels over visible joints (arrays as in `pck`)."""
    visible = truth[..., 2] == 2
    return float(np.linalg.norm(predicted[..., :2] - truth[..., :2], axis=-1)[visible].mean())
