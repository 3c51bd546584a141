from __future__ import annotations

import numpy as np

from reposedm_core.pose.skeleton import OPENPOSE18, OPENPOSE_FLIP, OPENPOSE_LIMBS
from reposedm_core.pose.tree import MID_HIP, ORDER, PARENTS, descendants, way_up, with_mid_hip

AT = {name: number for number, name in enumerate(OPENPOSE18)}


def test_bones_are_the_limbs_that_openpose_draws_but_for_the_hips() -> None:
    bones = {frozenset((k, parent)) for k, parent in enumerate(PARENTS) if parent >= 0 and MID_HIP not in (k, parent)}
    drawn = {frozenset(limb) for limb in OPENPOSE_LIMBS}
    assert drawn - bones == {frozenset((1, 8)), frozenset((1, 11))} and bones < drawn
    assert PARENTS[AT["left_hip"]] == PARENTS[AT["right_hip"]] == MID_HIP and PARENTS[MID_HIP] == AT["neck"]
    flip = [*OPENPOSE_FLIP, MID_HIP]
    assert all(PARENTS[flip[k]] == (flip[parent] if parent >= 0 else -1) for k, parent in enumerate(PARENTS))


def test_parents_come_first() -> None:
    assert sorted(ORDER) == list(range(19))
    assert all(PARENTS[k] < 0 or ORDER.index(PARENTS[k]) < ORDER.index(k) for k in ORDER)


def test_middle_of_the_hips(person: np.ndarray) -> None:
    person[8, 2], person[11, 2] = 0.4, 0.6
    points = with_mid_hip(person)
    np.testing.assert_allclose(points[MID_HIP], [48, 62, 0.4])
    np.testing.assert_array_equal(points[:18], person)
    person[8] = 0
    assert not with_mid_hip(person[None])[0, MID_HIP].any()


def test_way_up_skips_what_is_absent() -> None:
    present = np.ones(19, bool)
    ankle, knee, hip = AT["left_ankle"], AT["left_knee"], AT["left_hip"]
    assert way_up(ankle, present) == (knee, [ankle])
    present[[knee, hip, MID_HIP]] = False
    assert way_up(ankle, present) == (AT["neck"], [ankle, knee, hip, MID_HIP])
    present[AT["neck"]] = False
    assert way_up(ankle, present)[0] == -1 and way_up(AT["neck"], present) == (-1, [AT["neck"]])


def test_descendants() -> None:
    assert sorted(descendants(AT["neck"])) == list(range(18))
    assert descendants(AT["right_hip"]) == [AT["right_hip"], AT["right_knee"], AT["right_ankle"]]
    assert descendants(AT["left_ear"]) == [AT["left_ear"]]
