"""How far found joints are from the true ones: distances in pixels and percentages of correct keypoints (PCK).

Arrays of COCO-17 joints are (n, 17, 3): x, y in pixels, then a score (found joints) or a state (true joints: 0 outside
the frame or unknown, 1 occluded, 2 visible). Only joints that are visible in the truth are judged; one that was not
found has infinite coordinates, and counts as wrong.
"""

from __future__ import annotations

import numpy as np

from ..pose.skeleton import COCO17

TORSO = (COCO17.index("left_shoulder"), COCO17.index("right_hip"))
EARS = (COCO17.index("left_ear"), COCO17.index("right_ear"))


def joint_distances(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance in pixels of every joint, (n, 17) float64; NaN where the true one is hidden, infinite if not found."""
    distance = np.linalg.norm(predicted[..., :2].astype(np.float64) - truth[..., :2], axis=-1)
    return np.where(truth[..., 2] == 2, distance, np.nan)


def torso_sizes(truth: np.ndarray) -> np.ndarray:
    """Torso diameter in pixels, (n,): left shoulder to right hip; NaN where one of them is unknown.

    Sapp and Taskar, "MODEC", CVPR 2013, normalise PCK by it.
    """
    return _segment(truth, *TORSO)


def head_sizes(truth: np.ndarray) -> np.ndarray:
    """Width of the head in pixels, (n,): ear to ear; NaN where one of them is unknown.

    COCO has no head segment, which MPII's PCKh is normalised by: **ours**, so "PCKh-like", and small in profile views.
    """
    return _segment(truth, *EARS)


def pck(predicted: np.ndarray, truth: np.ndarray, distance: float | np.ndarray) -> float:
    """Percentage of correct keypoints (0..1) over all pictures: visible joints found within `distance` pixels.

    Args:
        predicted, truth: (n, 17, 3).
        distance: tolerance in pixels, e.g. 0.05·H; or one per picture, (n,), e.g. 0.2·`torso_sizes`, whose NaN leave
            the picture out.
    """
    distances = joint_distances(predicted, truth)
    return float(_correct(distances, distance).sum() / max(1, _judged(distances, distance).sum()))


def joint_error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in pixels over the visible joints of all pictures that were found; NaN where there is none."""
    distances = joint_distances(predicted, truth)
    distances = distances[np.isfinite(distances)]
    return float(distances.mean()) if len(distances) else float("nan")


def pck_measures(predicted: np.ndarray, truth: np.ndarray, height: int) -> dict[str, np.ndarray]:
    """One number per picture, (n,) float64 each, NaN where nothing can be judged.

    Args:
        predicted, truth: (n, 17, 3).
        height: of the pictures in pixels.

    Returns:
        "pck@0.05" and "pck@0.1": share of the visible joints within 0.05·H and 0.1·H; "pck_torso@0.2": within 0.2 of
        the torso's diameter; "pck_head@0.5": within half of the head's width; "joint_error": mean distance in pixels of
        those that were found.
    """
    distances = joint_distances(predicted, truth)
    limits = {
        "pck@0.05": np.full(len(truth), 0.05 * height),
        "pck@0.1": np.full(len(truth), 0.1 * height),
        "pck_torso@0.2": 0.2 * torso_sizes(truth),
        "pck_head@0.5": 0.5 * head_sizes(truth),
    }
    found = {name: _mean(_correct(distances, limit), _judged(distances, limit)) for name, limit in limits.items()}
    return {**found, "joint_error": _mean(distances, np.isfinite(distances))}


def _segment(joints: np.ndarray, first: int, second: int) -> np.ndarray:
    known = (joints[:, [first, second], 2] > 0).all(1)
    length = np.linalg.norm(joints[:, first, :2].astype(np.float64) - joints[:, second, :2], axis=-1)
    return np.where(known, length, np.nan)


def _correct(distances: np.ndarray, limit: float | np.ndarray) -> np.ndarray:
    return distances <= np.broadcast_to(np.asarray(limit, np.float64), len(distances))[:, None]


def _judged(distances: np.ndarray, limit: float | np.ndarray) -> np.ndarray:
    return ~np.isnan(distances) & np.isfinite(np.broadcast_to(limit, len(distances)))[:, None]


def _mean(values: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Means (n,) of the judged among values (n, 17); NaN where there is none."""
    count = judged.sum(1)
    return np.where(count > 0, np.where(judged, values, 0).sum(1) / np.maximum(count, 1), np.nan)
