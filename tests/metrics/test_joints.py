"""Distances of joints and PCK, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.metrics import head_sizes, joint_distances, joint_error, pck, pck_measures, torso_sizes
from reposedm_core.pose.skeleton import COCO17


def joints_at(**points: tuple[float, float, float]) -> np.ndarray:
    """One picture's COCO joints (1, 17, 3): the named ones, the others outside the frame."""
    joints = np.zeros((1, 17, 3), np.float32)
    for name, point in points.items():
        joints[0, COCO17.index(name)] = point
    return joints


TRUTH = joints_at(
    nose=(10, 10, 2), left_eye=(20, 20, 2), right_eye=(30, 30, 1), left_ear=(40, 40, 2), right_ear=(5, 50, 2)
)
FOUND = joints_at(nose=(10, 13, 1), left_eye=(25, 20, 1), left_ear=(40, 40, 0.2), right_ear=(5, 57, 1))  # 3, 5, –, 0, 7


def test_by_hand():
    found = pck_measures(FOUND, TRUTH, height=100)
    assert found["pck@0.05"].tolist() == [0.75] and found["pck@0.1"].tolist() == [1.0]
    assert found["joint_error"].tolist() == [15 / 4]
    assert np.isnan(found["pck_torso@0.2"]).all(), "no shoulder, no torso"
    assert pck(FOUND, TRUTH, 4) == 0.5 and joint_error(FOUND, TRUTH) == 15 / 4
    nobody = joints_at(nose=(1, 1, 1))
    truth, predicted = np.concatenate([TRUTH, nobody]), np.concatenate([FOUND, nobody])
    assert np.isnan(pck_measures(predicted, truth, 100)["pck@0.05"][1]), "no visible joint, no measure"
    assert pck(predicted, truth, 5) == 0.75
    assert np.isnan(joint_error(nobody, nobody)) and pck(nobody, nobody, 5) == 0


def test_sizes_are_those_of_the_body():
    body = joints_at(left_shoulder=(30, 20, 2), right_hip=(0, 60, 1), left_ear=(10, 5, 1), right_ear=(16, 13, 2))
    assert torso_sizes(body).tolist() == [50] and head_sizes(body).tolist() == [10]
    body[0, COCO17.index("right_hip"), 2] = 0
    assert np.isnan(torso_sizes(body)).all()


def test_pck_by_the_body_is_a_loop_over_joints():
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.uniform(0, 60, (20, 17, 2)), rng.integers(0, 3, (20, 17, 1))], -1)
    predicted = truth + np.concatenate([rng.normal(0, 8, (20, 17, 2)), np.ones((20, 17, 1))], -1)
    measured = pck_measures(predicted, truth, 64)
    hits = total = 0
    for n in range(20):
        ears = [COCO17.index("left_ear"), COCO17.index("right_ear")]
        ends = [COCO17.index("left_shoulder"), COCO17.index("right_hip")]
        for name, (a, b), share in (("pck_head@0.5", ears, 0.5), ("pck_torso@0.2", ends, 0.2)):
            visible = [j for j in range(17) if truth[n, j, 2] == 2]
            if not visible or truth[n, a, 2] == 0 or truth[n, b, 2] == 0:
                assert np.isnan(measured[name][n])
                continue
            limit = share * float(np.hypot(*(truth[n, a, :2] - truth[n, b, :2])))
            right = [float(np.hypot(*(predicted[n, j, :2] - truth[n, j, :2]))) <= limit for j in visible]
            assert measured[name][n] == pytest.approx(sum(right) / len(right))
            if name == "pck_torso@0.2":
                hits, total = hits + sum(right), total + len(right)
    assert pck(predicted, truth, 0.2 * torso_sizes(truth)) == pytest.approx(hits / total)


def test_a_joint_that_was_not_found_is_wrong_and_has_no_distance():
    lost = FOUND.copy()
    lost[0, COCO17.index("left_ear")] = np.inf  # 3, 5, –, not found, 7
    found = pck_measures(lost, TRUTH, height=100)
    assert found["pck@0.05"].tolist() == [0.5] and found["joint_error"].tolist() == [5]
    assert pck(lost, TRUTH, 5) == 0.5 and joint_error(lost, TRUTH) == 5


def test_distances_of_what_is_hidden_are_unknown():
    distances = joint_distances(FOUND, TRUTH)
    assert np.isnan(distances[0, COCO17.index("right_eye")]) and np.isfinite(distances).sum() == 4
