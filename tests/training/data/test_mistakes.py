"""Poses as an estimator finds them."""

from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.pose.skeleton import OPENPOSE18, OPENPOSE_FLIP
from training.data.mistakes import EXCHANGED, FAR, MISSING, exchange, mistaken


def person() -> np.ndarray:
    """Joints far from each other."""
    x, y = np.meshgrid(np.arange(6) * 40.0, np.arange(3) * 80.0)
    return np.stack([x.ravel(), y.ravel(), np.ones(18)], 1).astype(np.float32)


def test_pairs_change_places_and_nothing_else():
    assert exchange("all") == list(OPENPOSE_FLIP)
    legs = exchange("legs")
    assert {OPENPOSE18[n] for n in range(18) if legs[n] != n} == {
        f"{side}_{part}" for side in ("left", "right") for part in ("hip", "knee", "ankle")
    }
    for name in EXCHANGED:
        order = exchange(name)
        assert [order[n] for n in order] == list(range(18)), "twice is not at all"


def test_the_shares_are_those_that_were_said():
    joints, rng, count = person(), np.random.default_rng(0), 4000
    found = np.stack([mistaken(rng, joints, 256) for _ in range(count)])
    assert np.array_equal(joints, person()) and found.dtype == np.float32
    assert (found[..., 2] == 0).mean() == pytest.approx(MISSING, rel=0.1)
    assert (found[found[..., 2] == 0] == 0).all()
    at = np.linalg.norm(found[:, :, None, :2] - joints[None, None, :, :2], axis=-1).argmin(-1)
    knee, hip = OPENPOSE18.index("left_knee"), OPENPOSE18.index("left_hip")
    swapped = at[:, knee] == OPENPOSE_FLIP[knee]
    expected = EXCHANGED["all"] * (1 - EXCHANGED["legs"]) + EXCHANGED["legs"] * (1 - EXCHANGED["all"])
    assert swapped.mean() == pytest.approx(expected * (1 - MISSING), rel=0.15)
    assert (swapped == (at[:, hip] == OPENPOSE_FLIP[hip])).mean() > 0.85, "a leg as a whole"
    neck = np.linalg.norm(found[:, 1, :2] - joints[1, :2], axis=-1)[found[:, 1, 2] > 0]
    assert (neck > 15).mean() == pytest.approx(FAR * 0.6, rel=0.4)


def test_who_is_not_there_is_not_found():
    joints = person()
    joints[3:9] = 0
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = mistaken(rng, joints, 256)
        assert (found[:, 2] > 0).sum() <= 12 and (found[found[:, 2] == 0] == 0).all()
