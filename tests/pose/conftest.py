from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reposedm_core.pose import Pose
from reposedm_core.pose.keypoints import PARTS


@pytest.fixture
def person() -> np.ndarray:
    """A standing person, OpenPose-18 in pixels of a 128x96 picture, facing the camera."""
    points = [
        (48, 18), (48, 30), (38, 30), (32, 45), (30, 60), (58, 30), (64, 45), (66, 60), (42, 62), (40, 88),
        (38, 112), (54, 62), (56, 88), (58, 112), (45, 15), (51, 15), (41, 17), (55, 17),
    ]  # fmt: skip
    return np.array([(x, y, 1) for x, y in points], np.float32)


@pytest.fixture
def whole(person: np.ndarray) -> Pose:
    """That person with hands that hang on the wrists, a face around the nose and feet at the ankles."""
    angles = np.linspace(0, 5, 21)
    hands = [
        np.stack([person[wrist, 0] + 3 * np.sin(angles), person[wrist, 1] + angles, np.full(21, 0.9)], -1)
        for wrist in (7, 4)
    ]
    ring = np.linspace(0, 6.2, 70)
    face = np.stack([48 + 7 * np.cos(ring), 17 + 8 * np.sin(ring), np.full(70, 0.8)], -1)
    feet = np.concatenate(
        [person[ankle] + [(x, 4, -0.2), (x + 2, 3, -0.2), (-x / 2, 2, -0.2)] for ankle, x in ((13, 4), (10, -4))]
    )
    return Pose(person[None], 128, 96, face[None], hands[0][None], hands[1][None], feet[None])


# poses of several people are many numbers, and a busy machine makes them slowly
examples = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def people(most: int = 3, least: int = 1):
    """Strategy: poses of anybody, joints missing and outside of the canvas, with other parts that may be absent."""

    def points(count: int, size: int):
        numbers = hnp.arrays(np.float64, (count, size, 2), elements=st.floats(-200, 400, width=32))
        scores = hnp.arrays(np.float64, (count, size, 1), elements=st.sampled_from([0.0, 0.5, 1.0]))
        return st.tuples(numbers, scores).map(lambda both: np.concatenate(both, -1))

    def pose(count: int):
        parts = st.tuples(*(points(count, size) for size in PARTS.values()))
        return parts.map(lambda p: Pose(p[0], 128, 96, *p[1:])).filter(
            lambda made: (made.joints[..., 2] > 0).any(1).all()
        )

    return st.integers(least, most).flatmap(pose)


def assert_same(one: Pose, other: Pose, tolerance: float = 0) -> None:
    """Same canvas, same people, same points, but for `tolerance` pixels."""
    assert (one.height, one.width, one.ids) == (other.height, other.width, other.ids)
    for part, expected in zip(one.parts, other.parts, strict=True):
        np.testing.assert_allclose(part, expected, atol=tolerance, rtol=0)
