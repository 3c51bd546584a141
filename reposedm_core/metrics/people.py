"""How well found people fit wanted ones: who is whom, then PCK, OKS and the mean distance over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..pose.keypoints import Pose, openpose_to_coco
from ..pose.limits import check_people, no_tick
from .joints import joint_error, pck, torso_sizes
from .similarity import object_keypoint_similarity

_AT_ONCE = 2**14  # pairs of people that are compared at once, some 30 MB


@dataclass(frozen=True)
class PoseAccuracy:
    """Measures over all wanted people; NaN where nothing can be judged.

    Attributes:
        pck_05, pck_10: share (0..1) of the wanted joints that were found within 0.05 and 0.1 of the canvas' height.
        pck_torso: the same within 0.2 of the torso's diameter, over the people whose torso is known.
        oks: mean object keypoint similarity, 0..1; a person who was not found counts 0.
        distance: mean distance of the found joints in pixels of the wanted canvas.
        people, found, extra: numbers of the wanted people, of those that somebody was found for, and of the found
            people that nobody was wanted for.
    """

    pck_05: float
    pck_10: float
    pck_torso: float
    oks: float
    distance: float
    people: int
    found: int
    extra: int


def match_by_oks(found: Pose, wanted: Pose) -> list[tuple[int, int]]:
    """Who of `wanted` was found as whom: pairs (wanted, found) of the greatest sum of OKS (scipy's assignment).

    Where similarities are all next to nothing, the mean distance of the joints decides. Both on the same canvas.

    Raises:
        InputError: more people than `limits.MOST_PEOPLE` in a frame.
    """
    from scipy.optimize import linear_sum_assignment

    check_people("match", [len(found.joints), len(wanted.joints)])
    truth, predicted = _truth(wanted), _predicted(found)
    step = max(1, _AT_ONCE // max(len(predicted), 1))
    costs = [
        _cost(truth[start : start + step], predicted, np.hypot(wanted.height, wanted.width))
        for start in range(0, len(truth), step)
    ]
    rows, columns = linear_sum_assignment(np.concatenate(costs)) if costs else ((), ())
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def _cost(truth: np.ndarray, predicted: np.ndarray, diagonal: float) -> np.ndarray:
    """(P, Q) for wanted people (P, 17, 3) and found ones (Q, 17, 3)."""
    areas = np.array([_area(true) for true in truth]).reshape(-1, 1)
    similarity = object_keypoint_similarity(predicted[None], truth[:, None], areas)
    shared = np.isfinite(predicted[None, ..., 0]) & (truth[:, None, :, 2] > 0)
    distance = np.linalg.norm(predicted[None, ..., :2] - truth[:, None, :, :2], axis=-1)
    far = np.where(shared, distance, 0).sum(-1) / np.maximum(shared.sum(-1), 1) / diagonal
    far = np.where(shared.any(-1), np.minimum(far, 1e3), 1e3)
    return 1 - np.nan_to_num(similarity) + 1e-6 * far


def to_wanted(found: Pose, wanted: Pose) -> Pose:
    """What was found in a picture that the canvas of `wanted` was letterboxed into, on that canvas."""
    return found.unfitted(wanted.height, wanted.width)


def pose_accuracy(
    found: Sequence[Pose], wanted: Sequence[Pose], tick: Callable[[], object] = no_tick
) -> tuple[PoseAccuracy, list[list[tuple[int, int]]]]:
    """Judge found poses by wanted ones, as COCO-17: neck, hands and faces do not count.

    Joints that were wanted outside of the canvas do not count either: no picture can show them. A joint that was not
    found is wrong. An area is that of the box of the wanted joints.

    Args:
        found, wanted: as many frames. Wanted poses are taken to have been letterboxed into the pictures that the found
            ones are of (`Pose.resized`), as everything that draws a pose does it; that is undone (`to_wanted`).
        tick: called for every frame; it may raise, to stop.

    Returns:
        The measures over all frames, and for each frame the pairs of `match_by_oks`.
    """
    truths, predictions, heights, matches = [], [], [], []
    similarities: list[float] = []
    for one, other in zip(found, wanted, strict=True):
        tick()
        fitted = to_wanted(one, other)
        pairs = match_by_oks(fitted, other)
        truth, predicted = _truth(other), _predicted(fitted)
        of_whom = dict(pairs)
        for i, true in enumerate(truth):
            j = of_whom.get(i)
            person = np.full((17, 3), np.inf) if j is None else predicted[j]
            truths.append(true)
            predictions.append(person)
            heights.append(other.height)
            similarities.append(float(object_keypoint_similarity(person, true, _area(true))))
        matches.append(pairs)
    truth, predicted = (np.array(each).reshape(-1, 17, 3) for each in (truths, predictions))
    height, judged = np.array(heights, np.float64), [value for value in similarities if not np.isnan(value)]
    torso = torso_sizes(truth)

    def share(limit: np.ndarray) -> float:
        some = ((truth[..., 2] == 2) & np.isfinite(limit)[:, None]).any()
        return pck(predicted, truth, limit) if some else float("nan")

    matched = sum(map(len, matches))
    return PoseAccuracy(
        share(0.05 * height),
        share(0.1 * height),
        share(0.2 * torso),
        float(np.mean(judged)) if judged else float("nan"),
        joint_error(predicted, truth),
        len(truth),
        matched,
        sum(len(one.joints) for one in found) - matched,
    ), matches


def _truth(pose: Pose) -> np.ndarray:
    """COCO-17 (P, 17, 3) float64 with states: 2 for joints in the canvas, 0 for others."""
    joints = openpose_to_coco(pose.joints.astype(np.float64))
    inside = ((joints[..., :2] >= 0) & (joints[..., :2] <= (pose.width, pose.height))).all(-1)
    joints[..., 2] = np.where((joints[..., 2] > 0) & inside, 2, 0)
    return joints


def _predicted(pose: Pose) -> np.ndarray:
    """COCO-17 (P, 17, 3) float64; what was not found is infinitely far away."""
    joints = openpose_to_coco(pose.joints.astype(np.float64))
    joints[~(joints[..., 2] > 0)] = np.inf
    return joints


def _area(truth: np.ndarray) -> float:
    points = truth[truth[:, 2] > 0, :2]
    return float(np.prod(np.ptp(points, axis=0))) if len(points) else 0.0
