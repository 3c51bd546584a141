from __future__ import annotations

import math

import numpy as np
import pytest

from reposedm_core.metrics import match_by_oks, object_keypoint_similarity, pose_accuracy
from reposedm_core.pose import Pose, openpose_to_coco

POINTS = [
    (48, 18), (48, 30), (38, 30), (32, 45), (30, 60), (58, 30), (64, 45), (66, 60), (42, 62), (40, 88), (38, 112),
    (54, 62), (56, 88), (58, 112), (45, 15), (51, 15), (41, 17), (55, 17),
]  # fmt: skip
PERSON = np.array([(x, y, 1) for x, y in POINTS], np.float64)


def pose(*people: np.ndarray, size: tuple[int, int] = (128, 96)) -> Pose:
    return Pose(np.array(people).reshape(-1, 18, 3), *size)


def moved(x: float, y: float = 0) -> np.ndarray:
    return PERSON + np.array([x, y, 0])


def test_perfect_and_hopeless() -> None:
    perfect, pairs = pose_accuracy([pose(PERSON)], [pose(PERSON)])
    assert (perfect.pck_05, perfect.pck_10, perfect.pck_torso, perfect.oks, perfect.distance) == (1, 1, 1, 1, 0)
    assert (perfect.people, perfect.found, perfect.extra) == (1, 1, 0) and pairs == [[(0, 0)]]
    nobody, pairs = pose_accuracy([pose()], [pose(PERSON)])
    assert (nobody.pck_05, nobody.pck_10, nobody.oks, nobody.found) == (0, 0, 0, 0) and pairs == [[]]
    assert math.isnan(nobody.distance)
    empty, _ = pose_accuracy([pose(PERSON)], [pose()])
    assert all(math.isnan(value) for value in (empty.pck_05, empty.oks, empty.distance)) and empty.extra == 1


def test_numbers_by_hand() -> None:
    found = PERSON.copy()
    found[4, 0] += 6  # within 0.05 · 128 = 6.4
    found[7, 0] += 9  # within 12.8
    found[10, 0] += 20  # wrong
    found[13] = 0  # not found
    found[1, 0] += 50  # the neck does not count
    accuracy, _ = pose_accuracy([pose(found)], [pose(PERSON)])
    assert accuracy.pck_05 == pytest.approx(14 / 17) and accuracy.pck_10 == pytest.approx(15 / 17)
    assert accuracy.distance == pytest.approx(35 / 16)
    torso = 0.2 * np.hypot(58 - 42, 62 - 30)
    assert 6 < torso < 9 and accuracy.pck_torso == pytest.approx(14 / 17)
    truth, one = openpose_to_coco(PERSON), openpose_to_coco(found)
    one[~(one[:, 2] > 0)] = 1e9
    assert accuracy.oks == pytest.approx(object_keypoint_similarity(one, truth, (66 - 30) * (112 - 15)))


def test_several_people_are_matched() -> None:
    wanted = pose(moved(0), moved(60), moved(120), size=(128, 220))
    found = pose(moved(121), moved(1), moved(61), moved(160), size=(128, 220))
    accuracy, (pairs,) = pose_accuracy([found], [wanted])
    assert pairs == [(0, 1), (1, 2), (2, 0)] and match_by_oks(found, wanted) == pairs
    assert accuracy.pck_05 == 1 and accuracy.distance == pytest.approx(1) and accuracy.extra == 1
    fewer, (pairs,) = pose_accuracy([found.take([2])], [wanted])
    assert pairs == [(1, 0)] and fewer.found == 1
    assert fewer.pck_10 == pytest.approx(1 / 3) and fewer.oks == pytest.approx(accuracy.oks / 3, rel=1e-6)
    assert fewer.distance == pytest.approx(1)


def test_far_away_people_are_matched_by_distance() -> None:
    wanted, found = pose(moved(0), moved(2000), size=(128, 4096)), pose(moved(2900), moved(900), size=(128, 4096))
    assert match_by_oks(found, wanted) == [(0, 1), (1, 0)]


def test_best_sum_not_first_come() -> None:
    # the first wanted person is a little nearer to the found one that the second needs
    wanted, found = pose(moved(0), moved(10)), pose(moved(5.5), moved(-8))
    assert match_by_oks(found, wanted) == [(0, 1), (1, 0)]


def test_canvases_frames_and_joints_outside() -> None:
    large = pose(PERSON * [4, 4, 1], size=(512, 384))
    accuracy, _ = pose_accuracy([large], [pose(PERSON)])
    assert accuracy.oks == 1 and accuracy.distance == 0
    # a picture of another shape, into which the canvas was letterboxed
    for size in ((512, 300), (90, 400)):
        accuracy, _ = pose_accuracy([pose(PERSON).resized(*size)], [pose(PERSON)])
        assert accuracy.oks == pytest.approx(1) and accuracy.distance == pytest.approx(0, abs=1e-4)
    outside = PERSON.copy()
    outside[[10, 13], 1] = 140
    accuracy, _ = pose_accuracy([pose(PERSON)], [pose(outside)])
    assert accuracy.pck_05 == 1 and accuracy.oks == 1
    both, pairs = pose_accuracy([pose(PERSON), pose()], [pose(PERSON), pose(PERSON)])
    assert (both.pck_05, both.oks, both.people, both.found) == (0.5, 0.5, 2, 1) and pairs == [[(0, 0)], []]
    neck = np.zeros((18, 3))
    neck[1] = (10, 10, 1)
    nothing, _ = pose_accuracy([pose(PERSON)], [pose(neck)])
    assert math.isnan(nothing.pck_05) and math.isnan(nothing.oks) and nothing.people == 1


def test_one_pixel_and_twenty_people() -> None:
    tiny, _ = pose_accuracy([pose(PERSON).resized(1, 1)], [pose(PERSON).resized(1, 1)])
    assert tiny.pck_05 == 1 and tiny.oks == 1
    crowd = pose(*(moved(60 * i) for i in range(20)), size=(128, 1300))
    accuracy, (pairs,) = pose_accuracy([crowd.take(range(19, -1, -1))], [crowd])
    assert accuracy.oks == 1 and pairs == [(i, 19 - i) for i in range(20)]
