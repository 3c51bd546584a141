from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.errors import InputError
from reposedm_core.pose import ORDERS, Pose, broadcast_frames, match_people, select_people
from reposedm_core.pose.people import order_people, people_boxes


@pytest.fixture
def crowd(person: np.ndarray) -> Pose:
    """Three people in 300x128: a small sure one at the right, a large one left of it, a middling one in the centre."""

    def put(x: float, scale: float, score: float) -> np.ndarray:
        placed = person * [scale, scale, score]
        return placed + [x - 48 * scale, 64 - 64 * scale, 0]

    return Pose(np.stack([put(260, 0.5, 1), put(40, 1, 0.6), put(150, 0.7, 0.8)]), 128, 300)


def names(pose: Pose, crowd: Pose) -> list[int]:
    """Who in `pose` is who in `crowd`, by their noses."""
    return [int(np.argmin(np.abs(crowd.joints[:, 0, 0] - x))) for x in pose.joints[:, 0, 0]]


def test_orders(crowd: Pose) -> None:
    expected = {
        "as given": [0, 1, 2],
        "largest": [1, 2, 0],
        "most central": [2, 0, 1],
        "most confident": [0, 2, 1],
        "left to right": [1, 2, 0],
    }
    assert set(expected) == set(ORDERS)
    for order, people in expected.items():
        assert order_people(crowd, order) == people, order
        assert names(select_people([crowd], order)[0], crowd) == people[:1]
        assert names(select_people([crowd], order, 1, 2)[0], crowd) == people[1:]
        assert names(select_people([crowd], order, count=0)[0], crowd) == people


def test_missing_joints_lower_the_confidence_and_the_box(crowd: Pose) -> None:
    joints = crowd.joints.copy()
    joints[0, 5:, 2] = 0
    fewer = Pose(joints, 128, 300)
    assert order_people(fewer, "most confident") == [2, 1, 0]
    np.testing.assert_allclose(people_boxes(fewer)[0], [*joints[0, :5, :2].min(0), *joints[0, :5, :2].max(0)])
    assert order_people(Pose(np.zeros((2, 18, 3)), 8, 8), "largest") == [0, 1]


def test_hands_and_face_come_along(whole: Pose) -> None:
    other = whole.with_parts(*(part + np.array([20, 0, 0]) for part in whole.parts))
    both = whole.with_parts(*(np.concatenate(pair) for pair in zip(whole.parts, other.parts, strict=True)))
    (chosen,) = select_people([both], "as given", 1)
    for part, expected in zip(chosen.parts, other.parts, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_frames_with_too_few_stay_and_nobody_at_all_is_an_error(crowd: Pose) -> None:
    frames = [crowd.take([]), crowd.take([1]), crowd]
    assert [len(frame.joints) for frame in select_people(frames, "as given", 1, 2)] == [0, 0, 2]
    with pytest.raises(InputError, match=r"index: there is no person 3; the fullest frame has 3, counted from 0"):
        select_people(frames, "largest", 3)
    with pytest.raises(InputError, match=r"order: .*as given, largest"):
        select_people(frames, "prettiest")


def test_following_through_changes_of_order_gaps_and_strangers(crowd: Pose) -> None:
    def step(number: int, *people: int) -> Pose:
        return Pose(crowd.joints[list(people)] + np.array([2.0 * number, 0, 0]), 128, 300)

    frames = [crowd.take([]), step(0, 0, 1, 2), step(1, 2, 0, 1), step(2, 1, 2), step(3, 1, 0, 2), step(4)]
    followed = select_people(frames, "left to right", 1, 2, follow=True)  # the middling one, then the small one
    assert [names(frame, crowd) for frame in followed] == [[], [2, 0], [2, 0], [2], [2, 0], []]
    alone = select_people(frames, "left to right", 1, 2)
    assert [names(frame, crowd) for frame in alone] == [[], [2, 0], [2, 0], [2], [2, 0], []]
    # somebody else is nearer to the left now, and the canvas is twice as large
    stranger = np.concatenate([crowd.joints[[2]] - np.array([140, 0, 0]), crowd.joints])
    large = Pose(stranger, 128, 300).resized(256, 600)
    first, then = select_people([crowd, large], "left to right", 1, 1, follow=True)
    assert names(first, crowd) == [2] and names(then.resized(128, 300), crowd) == [2]


def test_matching_is_the_best_assignment(crowd: Pose) -> None:
    shuffled = Pose(crowd.joints[[2, 0, 1]] + np.array([5.0, -3, 0]), 128, 300)
    assert match_people(crowd, shuffled) == [(0, 1), (1, 2), (2, 0)]
    assert match_people(crowd, shuffled.resized(512, 1200)) == [(0, 1), (1, 2), (2, 0)]
    assert match_people(crowd, shuffled.take([1])) == [(0, 0)]
    assert match_people(crowd, crowd.take([])) == match_people(crowd.take([]), crowd) == []
    halves = crowd.joints[:, :, 2] * (np.arange(18) < 9)
    top, bottom = (
        Pose(np.concatenate([crowd.joints[..., :2], score[..., None]], -1), 128, 300)
        for score in (halves, crowd.joints[..., 2] - halves)
    )
    assert match_people(top, bottom) == [(0, 0), (1, 1), (2, 2)]  # no joint in common: by their places
    assert match_people(crowd, shuffled, reach=0.01) == []


def test_frames_are_broadcast() -> None:
    assert broadcast_frames(a=[1, 2], b=[3]) == [(1, 3), (2, 3)]
    assert broadcast_frames(a=[1], b=[3, 4], c=[5]) == [(1, 3, 5), (1, 4, 5)]
    with pytest.raises(InputError, match=r"b: it has 2 frames and a has 3; give the same number, or one for all"):
        broadcast_frames(a=[1, 2, 3], b=[1, 2])
