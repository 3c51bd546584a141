from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reposedm_core.errors import InputError
from reposedm_core.pose import EASINGS, MATCHES, METHODS, Pose, edit_people, fill_empty, interpolate_poses
from reposedm_core.pose.tree import MID_HIP, with_mid_hip

from .conftest import assert_same, examples, people

LIMBS = [(3, 2), (4, 3), (6, 5), (7, 6), (9, 8), (10, 9), (12, 11), (13, 12), (MID_HIP, 1)]


def lengths(pose: Pose) -> np.ndarray:
    points = with_mid_hip(pose.joints)[0, :, :2]
    return np.array([np.linalg.norm(points[a] - points[b]) for a, b in LIMBS])


def crowd(*poses: Pose) -> Pose:
    return poses[0].with_parts(*(np.concatenate(parts) for parts in zip(*(p.parts for p in poses), strict=True)))


@examples
@given(people(2), people(2), st.integers(2, 5), st.sampled_from(METHODS), st.sampled_from(EASINGS))
def test_ends_are_exact_and_everything_is_finite(one: Pose, other: Pose, count: int, method: str, easing: str) -> None:
    frames = interpolate_poses([one, other], count, method, easing, "as given")
    assert len(frames) == count
    assert_same(frames[0], one)
    assert_same(frames[-1], other)
    for frame in frames:
        assert all(np.isfinite(part).all() for part in frame.parts)
        assert len(frame.joints) in (len(one.joints), len(other.joints))


@examples
@given(people(3), st.sampled_from(METHODS), st.sampled_from(MATCHES))
def test_between_a_pose_and_itself_is_that_pose(pose: Pose, method: str, match: str) -> None:
    for frame in interpolate_poses([pose, pose], 4, method, match=match):
        assert_same(frame, pose, 1e-3)


def test_a_raised_arm_does_not_shrink(whole: Pose) -> None:
    raised = whole.joints.copy()
    raised[0, [6, 7], 1] = 2 * 30 - raised[0, [6, 7], 1]  # the left arm mirrored at the shoulder's height
    up = whole.with_parts(raised, *whole.parts[1:])
    turning = interpolate_poses([whole, up], 9)
    for frame in turning:
        np.testing.assert_allclose(lengths(frame), lengths(whole), atol=1e-3)
    straight = interpolate_poses([whole, up], 9, "straight lines")
    assert lengths(straight[4])[2] < 0.6 * lengths(whole)[2]
    middle = (whole.joints + raised) / 2
    np.testing.assert_allclose(straight[4].joints, middle, atol=1e-4)

    # the angle goes half of the way in half of the time
    def angle(pose: Pose) -> float:
        return float(np.arctan2(*(pose.joints[0, 6, :2] - pose.joints[0, 5, :2])[::-1]))

    assert angle(turning[4]) == pytest.approx((angle(whole) + angle(up)) / 2, abs=1e-4)


@pytest.mark.parametrize("lean", [-4, 0, 4])
@pytest.mark.parametrize("turn", [0, 90])
def test_hanging_arms_are_raised_around_the_outside(whole: Pose, lean: float, turn: float) -> None:
    down, up = whole.joints.copy(), whole.joints.copy()
    for shoulder, side in ((2, -1), (5, 1)):
        x, y = whole.joints[0, shoulder, :2]
        down[0, shoulder + 1 : shoulder + 3, :2] = [(x - side * lean, y + 16), (x - 2 * side * lean, y + 32)]
        up[0, shoulder + 1 : shoulder + 3, :2] = [(x, y - 16), (x, y - 32)]
    ends = whole.with_parts(down, *whole.parts[1:]), edit_people(whole.with_parts(up, *whole.parts[1:]), angle=turn)
    middle = edit_people(interpolate_poses(ends, 3)[1], angle=-turn / 2).joints[0]
    assert middle[3, 0] < middle[2, 0] - 12 and middle[4, 0] < middle[2, 0] - 25
    assert middle[6, 0] > middle[5, 0] + 12 and middle[7, 0] > middle[5, 0] + 25


def test_lengths_change_evenly(whole: Pose) -> None:
    double = whole.resized(256, 192)
    double = Pose(double.joints, 128, 96, *double.parts[1:])
    frames = interpolate_poses([whole, double], 3)
    np.testing.assert_allclose(lengths(frames[1]), 1.5 * lengths(whole), rtol=1e-5)
    np.testing.assert_allclose(np.ptp(frames[1].left_hand[0, :, 0]), 1.5 * np.ptp(whole.left_hand[0, :, 0]), rtol=1e-4)


def test_a_cartwheel_turns_as_a_whole(whole: Pose) -> None:
    """Arms, shoulders, hands and face keep their places in a body that turns far; no limb goes a way of its own."""
    turned = edit_people(whole, angle=170)
    for number, frame in enumerate(interpolate_poses([whole, turned], 18)):
        expected = edit_people(whole, angle=10 * number)
        shift = frame.joints[0, 1, :2] - expected.joints[0, 1, :2]  # the neck goes straight, not around the middle
        assert_same(frame, edit_people(expected, shift=tuple(shift)), 2e-3)


def test_shoulders_of_somebody_who_turns_around_narrow(whole: Pose) -> None:
    around = whole.joints.copy()
    around[..., 0] = 96 - around[..., 0]  # seen from behind: names stay, sides change
    frames = interpolate_poses([whole, Pose(around, 128, 96)], 5)
    widths = [np.linalg.norm(f.joints[0, 2, :2] - f.joints[0, 5, :2]) for f in frames]
    np.testing.assert_allclose(widths, [20, 10, 0, 10, 20], atol=1e-3)


def test_through_a_sequence_and_around(whole: Pose) -> None:
    keys = [edit_people(whole, shift=(x, 0)) for x in (0, 10, 40)]
    frames = interpolate_poses(keys, 5)
    xs = [frame.joints[0, 1, 0] - 48 for frame in frames]
    np.testing.assert_allclose(xs, [0, 5, 10, 25, 40], atol=1e-4)
    assert_same(frames[2], keys[1])
    loop = interpolate_poses(keys, 6, loop=True)
    np.testing.assert_allclose([f.joints[0, 1, 0] - 48 for f in loop], [0, 5, 10, 25, 40, 20], atol=1e-4)
    assert_same(interpolate_poses(keys, 1)[0], keys[0])


def test_empty_frames_are_filled(whole: Pose) -> None:
    def at(x: float) -> Pose:
        return edit_people(whole, shift=(x, 0))

    nobody = whole.take([])
    frames = [nobody, at(0), nobody, nobody, at(30).resized(256, 192), nobody.resized(64, 48)]
    filled = fill_empty(frames)
    assert [(frame.height, frame.width) for frame in filled] == [(f.height, f.width) for f in frames]
    xs = [frame.resized(128, 96).joints[0, 1, 0] - 48 for frame in filled]
    np.testing.assert_allclose(xs, [0, 0, 10, 20, 30, 30], atol=1e-3)
    assert_same(filled[1], frames[1])
    assert fill_empty([nobody, nobody])[1] is nobody and fill_empty([]) == []


def test_easings(whole: Pose) -> None:
    keys = [whole, edit_people(whole, shift=(16, 0))]
    xs = {
        easing: [round(float(f.joints[0, 1, 0]) - 48, 3) for f in interpolate_poses(keys, 5, easing=easing)]
        for easing in EASINGS
    }
    assert xs["even"] == [0, 4, 8, 12, 16] and xs["ease in"] == [0, 1, 4, 9, 16]
    assert xs["ease out"] == [0, 7, 12, 15, 16] and xs["ease in and out"] == [0, 2.5, 8, 13.5, 16]


def test_who_is_who(whole: Pose) -> None:
    left, right = edit_people(whole, shift=(-20, 0)), edit_people(whole, shift=(60, 0))
    keys = [crowd(left, right), crowd(right, left)]
    nearest = interpolate_poses(keys, 3)
    for frame in nearest:
        assert_same(frame, keys[0], 1e-3)  # in the order of the first frame throughout
    crossing = interpolate_poses(keys, 3, match="as given")
    np.testing.assert_allclose(crossing[1].joints[:, 1, 0], [68, 68], atol=1e-3)
    assert_same(crossing[2], keys[1])


def test_people_who_come_and_go_are_shown_for_half_of_the_time(whole: Pose) -> None:
    left, right = edit_people(whole, shift=(-20, 0)), edit_people(whole, shift=(60, 0))
    counts = [len(f.joints) for f in interpolate_poses([left, crowd(right, left), left.take([]), right], 13)]
    assert counts == [1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 1, 1, 1]
    (first, *_, last) = interpolate_poses([left, crowd(right, left)], 4)
    assert_same(first, left)
    assert_same(last, crowd(left, right))


def test_joints_that_one_pose_lacks(whole: Pose) -> None:
    joints = whole.joints.copy()
    joints[0, [4, 6]] = 0  # right wrist; left elbow, but not its wrist
    lacking = edit_people(whole.with_parts(joints, whole.face * 0, *whole.parts[2:]), shift=(20, 0))
    frames = interpolate_poses([whole, lacking], 5)
    seen = [(f.joints[0, :, 2] > 0) for f in frames]
    assert [s[4] for s in seen] == [s[6] for s in seen] == [True, True, False, False, False]
    assert all(s[7] for s in seen) and [bool(f.face.any()) for f in frames] == [True, True, False, False, False]
    # what is there goes along with what it hangs on
    np.testing.assert_allclose(frames[1].joints[0, 4] - whole.joints[0, 4], [5, 0, 0], atol=1e-4)
    np.testing.assert_allclose(frames[1].left_hand[0] - whole.left_hand[0], [[5, 0, 0]] * 21, atol=1e-4)
    back = interpolate_poses([lacking, whole], 5)
    for one, other in zip(frames[:2], back[:-3:-1], strict=True):
        assert_same(one, other, 1e-3)
    nothing = whole.joints * 0
    nothing[0, 17] = (55, 17, 1)
    far = whole.joints * (np.arange(18) == 10)[None, :, None]
    frames = interpolate_poses([Pose(nothing, 128, 96), Pose(far, 128, 96)], 4)  # nothing in common
    assert [(f.joints[0, :, 2] > 0).nonzero()[0].tolist() for f in frames] == [[17], [17], [10], [10]]


def test_canvas_is_that_of_the_first(whole: Pose) -> None:
    frames = interpolate_poses([whole, whole.resized(512, 384)], 3)
    for frame in frames:
        assert_same(frame, whole, 1e-3)
    tiny = interpolate_poses([whole.resized(1, 1), whole], 3)
    assert [(f.height, f.width) for f in tiny] == [(1, 1)] * 3


def test_twenty_people(whole: Pose) -> None:
    many = crowd(*(edit_people(whole, shift=(100 * i, 0)) for i in range(20)))
    moved = edit_people(many, shift=(8, 0), angle=20).take(list(range(19, -1, -1)))
    middle = interpolate_poses([many, moved], 3)[1]
    np.testing.assert_allclose(middle.joints[:, 1, 0] - middle.joints[0, 1, 0], 100 * np.arange(20), atol=1e-2)


def test_exceptions(whole: Pose) -> None:
    with pytest.raises(InputError, match="pose: there is one frame only"):
        interpolate_poses([whole], 5)
    with pytest.raises(InputError, match="frames: 0 frames"):
        interpolate_poses([whole, whole], 0)
    for name in ("method", "easing", "match"):
        with pytest.raises(InputError, match=f"{name}: there is no 'x'"):
            interpolate_poses([whole, whole], 2, **{name: "x"})
