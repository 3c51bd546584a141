"""OKS and the cosine of CAP, against plain loops; the slip of the published CAP is reproduced."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reposedm_core.metrics import object_keypoint_similarity, pose_cosine
from reposedm_core.pose.skeleton import COCO_SIGMAS


def random_pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(5, 90, (17, 2)), rng.integers(0, 3, (17, 1))], -1)


def cosine_by_loop(detected, truth, published: bool) -> float:
    """The definition coordinate by coordinate, and the public code's two departures from it."""
    vectors = []
    for pose in (detected, truth):
        parts = []
        for axis in (0, 1):
            values = [pose[j][axis] / (COCO_SIGMAS[j] if published else 1) for j in range(17) if truth[j][2] > 0]
            low, high = min(values), max(values)
            parts.append([(v - low) / (high - low) for v in values])
        vectors.append(parts)
    (xd, yd), (xg, yg) = vectors

    def length(values):
        return math.sqrt(sum(v * v for v in values))

    xg, yg, xd = [v / length(xg) for v in xg], [v / length(yg) for v in yg], [v / length(xd) for v in xd]
    yd = [v / length(yd) for v in (xd if published else yd)]
    one, other = xd + yd, xg + yg
    return sum(a * b for a, b in zip(one, other, strict=True)) / (length(one) * length(other))


@pytest.mark.parametrize("published", [False, True])
def test_cosine_is_the_definition(published):
    for seed in range(5):
        detected, truth = random_pose(seed), random_pose(seed + 100)
        assert pose_cosine(detected, truth, published) == pytest.approx(cosine_by_loop(detected, truth, published))


def test_cosine_sees_shape_alone_and_the_published_one_does_not():
    truth = random_pose(1)
    moved = truth * (0.5, 2.0, 1) + (20, -7, 0)
    assert pose_cosine(truth, truth) == pytest.approx(1)
    assert pose_cosine(moved, truth) == pytest.approx(1), "moved and stretched is the same shape"
    assert pose_cosine(truth, truth, published=True) < 0.95, "the published slip refuses the true pose itself"
    assert abs(pose_cosine(moved, truth, True) - pose_cosine(truth, truth, True)) > 1e-3, "its weights see the place"
    assert pose_cosine(truth * (1, -1, 1), truth) < 0.9, "upside down is another shape"


def test_cosine_without_shape_is_zero():
    truth = random_pose(2)
    assert pose_cosine(np.zeros((17, 3)), truth) == 0
    hidden = truth * (1, 1, 0)
    assert pose_cosine(truth, hidden) == 0


def test_oks_is_the_definition():
    detected, truth = random_pose(3), random_pose(4)
    detected[:, :2] = truth[:, :2] + np.linspace(-3, 3, 34).reshape(17, 2)
    area = 1500.0
    terms = [
        math.exp(
            -((detected[j, 0] - truth[j, 0]) ** 2 + (detected[j, 1] - truth[j, 1]) ** 2)
            / (2 * area * (2 * COCO_SIGMAS[j]) ** 2)
        )
        for j in range(17)
        if truth[j, 2] > 0
    ]
    assert object_keypoint_similarity(detected, truth, area) == pytest.approx(sum(terms) / len(terms))
    assert object_keypoint_similarity(truth, truth, area) == 1
    assert math.isnan(object_keypoint_similarity(truth, truth * (1, 1, 0), area))
