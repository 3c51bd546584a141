from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reposedm_core.errors import InputError
from reposedm_core.pose import Pose, edit_people, smooth_poses
from reposedm_core.pose.skeleton import OPENPOSE18

from .conftest import assert_same, examples, people

WRIST = OPENPOSE18.index("left_wrist")


def walking(whole: Pose, count: int, step: float = 1.0) -> list[Pose]:
    """A person who goes to the right and swings the left arm."""
    frames = []
    for number in range(count):
        joints = whole.joints.copy()
        angle = 0.5 * np.sin(number / 4)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shoulder = joints[0, 5, :2].copy()
        joints[0, 6:8, :2] = (joints[0, 6:8, :2] - shoulder) @ turn.T + shoulder
        hand = whole.left_hand + np.append(joints[0, WRIST, :2] - whole.joints[0, WRIST, :2], 0)
        moved = whole.with_parts(joints, whole.face, hand, whole.right_hand, whole.feet)
        frames.append(edit_people(moved, shift=(step * number, 0)))
    return frames


def trembling(frames: list[Pose], by: float) -> list[Pose]:
    rng = np.random.default_rng(0)
    shaken = [[part + rng.normal(0, by, part.shape) * (1, 1, 0) for part in frame.parts] for frame in frames]
    return [frame.with_parts(*parts) for frame, parts in zip(frames, shaken, strict=True)]


def places(frames: list[Pose]) -> np.ndarray:
    return np.stack([np.concatenate([part[0, :, :2] for part in frame.parts]) for frame in frames])


def without(pose: Pose, joint: int) -> Pose:
    joints = pose.joints.copy()
    joints[:, joint] = 0
    return pose.with_parts(joints, *pose.parts[1:])


def test_trembling_goes_and_nothing_lags(whole: Pose) -> None:
    true = walking(whole, 40)
    shaken = trembling(true, 0.6)
    smooth = smooth_poses(shaken)
    before, after = (np.abs(places(frames) - places(true)) for frames in (shaken, smooth))
    assert after.mean() < 0.7 * before.mean()
    jerk = [np.abs(np.diff(places(frames), 2, 0)).mean() for frames in (shaken, smooth)]
    assert jerk[1] < 0.3 * jerk[0]
    # somebody who goes on evenly is where he is, but for the ends
    even = [edit_people(whole, shift=(2 * number, 0)) for number in range(40)]
    np.testing.assert_allclose(
        places(smooth_poses(even))[10:-10], places(even)[10:-10], atol=0.2
    )  # one way alone would lag by more than 1


def test_fast_moves_are_smoothed_less(whole: Pose) -> None:
    true = walking(whole, 40, 3.0)
    errors = [np.abs(places(smooth_poses(true, 5, fast)) - places(true)).mean() for fast in (0.0, 1.0, 4.0)]
    assert errors[0] > 1.5 * errors[1] and errors[1] > 1.5 * errors[2]


@examples
@given(people(3))
def test_the_same_pose_in_every_frame_stays_and_nothing_smoothed_is_what_came(pose: Pose) -> None:
    (alone,) = smooth_poses([pose], 0, gap=0)
    numbered = replace(pose, ids=alone.ids)
    assert_same(alone, numbered)
    for frame in smooth_poses([pose] * 4):
        assert_same(frame, numbered, 1e-3)


@examples
@given(st.lists(people(3, 0), min_size=1, max_size=6))
def test_any_sequence_gives_as_many_finite_frames(frames: list[Pose]) -> None:
    smooth = smooth_poses(frames)
    assert len(smooth) == len(frames)
    for frame in smooth:
        assert all(np.isfinite(part).all() for part in frame.parts)
        assert len(set(frame.ids)) == len(frame.ids)


def test_a_missing_joint_comes_back_on_its_arm(whole: Pose) -> None:
    true = walking(whole, 12, 4.0)
    holes = [without(frame, WRIST) if 4 <= number < 7 else frame for number, frame in enumerate(true)]
    filled = smooth_poses(holes, 0)
    for number in range(12):
        assert np.linalg.norm(filled[number].joints[0, WRIST, :2] - true[number].joints[0, WRIST, :2]) < 1.0
    # a longer hole than the limit stays, and everything else with it
    kept = smooth_poses(holes, 0, gap=2)
    assert [int(frame.joints[0, WRIST, 2] > 0) for frame in kept] == [1] * 4 + [0] * 3 + [1] * 5
    assert_same(kept[5], holes[5])


def test_missing_people_come_back_with_hands_face_and_feet_and_empty_frames_keep_their_number(whole: Pose) -> None:
    true = walking(whole, 12, 2.0)
    nobody = whole.take([])
    frames = [nobody, nobody, *true[2:5], nobody, nobody, *true[7:10], nobody, nobody]
    filled = smooth_poses(frames, 0)
    assert [len(frame.joints) for frame in filled] == [0, 0, *[1] * 8, 0, 0]
    np.testing.assert_allclose(places(filled[5:7]), places(true[5:7]), atol=1.0)
    assert [len(frame.joints) for frame in smooth_poses(frames, gap=1)] == [len(frame.joints) for frame in frames]
    assert [len(frame.joints) for frame in smooth_poses([nobody] * 3)] == [0] * 3


@pytest.mark.parametrize("length", [1, 2])
def test_a_joint_that_jumps_away_is_brought_back_with_its_hand(whole: Pose, length: int) -> None:
    true = walking(whole, 12)
    frames = list(true)
    for number in range(5, 5 + length):
        joints, hand = true[number].joints.copy(), true[number].left_hand.copy()
        joints[0, WRIST, :2] -= (40, 30)
        hand[..., :2] -= (40, 30)
        frames[number] = true[number].with_parts(joints, true[number].face, hand, *true[number].parts[3:])
    mended = smooth_poses(frames, 0)
    np.testing.assert_allclose(places(mended), places(true), atol=1.0)
    # no frame is emptied that is not filled
    short = smooth_poses(frames, 0, gap=1)
    assert all((frame.joints[..., 2] > 0).all() for frame in short)
    np.testing.assert_allclose(places(short), places(true if length == 1 else frames), atol=1.0)
    # what stays away is believed
    away = smooth_poses([*true[:5], *(edit_people(frame, shift=(30, 0)) for frame in true[5:])], 0)
    np.testing.assert_allclose(places(away[5:]), places(true[5:]) + (30, 0), atol=1e-3)


@pytest.mark.parametrize(
    "way",
    [(0, 1, 0, -1), (0, 1), (0, 0, 0, 0, 0, 0.6, 1.6, 0.6)],
    ids=["swing", "alternation", "kick"],
)
def test_fast_moves_are_no_jumps(whole: Pose, way: tuple[float, ...]) -> None:
    frames = []
    for number in range(13):
        joints, hand = whole.joints.copy(), whole.left_hand.copy()
        joints[0, WRIST, 0] += 30 * way[number % len(way)]
        hand[..., 0] += 30 * way[number % len(way)]
        frames.append(whole.with_parts(joints, whole.face, hand, *whole.parts[3:]))
    for frame, smooth in zip(frames, smooth_poses(frames, 0), strict=True):
        assert_same(smooth, frame, 1e-3)


def test_legs_that_are_swapped_in_every_other_frame_stay_there(whole: Pose) -> None:
    joints = whole.joints.copy()
    joints[:, [8, 9, 10, 11, 12, 13]] = joints[:, [11, 12, 13, 8, 9, 10]]
    frames = [whole.with_parts(joints, *whole.parts[1:]) if number % 2 else whole for number in range(13)]
    for frame in smooth_poses(frames):
        assert np.array_equal(frame.joints[..., 2] > 0, whole.joints[..., 2] > 0)


@pytest.mark.parametrize(("hole", "gap"), [(9, 8), (1, 0), (40, 8)])
@pytest.mark.parametrize("one_person", [False, True])
def test_who_is_missing_for_longer_than_is_filled_comes_back_as_himself(
    whole: Pose, hole: int, gap: int, one_person: bool
) -> None:
    for named in (None, 7):
        true = [replace(frame, ids=(named,)) for frame in walking(whole, 20)]
        frames = [*true[:10], *[whole.take([])] * hole, *true[10:]]
        back = smooth_poses(frames, gap=gap, one_person=one_person)
        assert [frame.ids for frame in back] == [(named,)] * 10 + [()] * hole + [(named,)] * 10


def test_who_left_does_not_take_the_place_of_who_is_there(whole: Pose) -> None:
    """Somebody jumps to the place where another left long before, sooner than is expected of him."""
    other = edit_people(whole, shift=(60, 0))
    pair = whole.with_parts(*map(np.concatenate, zip(whole.parts, other.parts, strict=True)), ids=(None, None))
    frames = [*[pair] * 5, *[whole] * 10, edit_people(whole, shift=(30, 0)), *[other] * 5]
    assert [frame.ids for frame in smooth_poses(frames, gap=2)] == [(0, 1)] * 5 + [(0,)] * 16


def test_one_id_is_kept_by_people_who_are_never_there_together(whole: Pose) -> None:
    """Somebody with an id of his own leaves, and comes back where nobody expects him."""
    far = edit_people(whole, shift=(400, 0))
    there, back = replace(whole, ids=(7,)), replace(far, ids=(7,))
    frames = smooth_poses([*[there] * 4, *[whole.take([])] * 9, *[back] * 4])
    assert [frame.ids for frame in frames] == [(7,)] * 4 + [()] * 9 + [(7,)] * 4
    # beside one another one of them needs another number, also where a frame is filled
    hole = smooth_poses([there, whole.take([]), there, *[back] * 2], 0)
    assert [frame.ids for frame in hole] == [(7,)] * 5
    both = smooth_poses([there, back, there], 0)
    assert [frame.ids for frame in both] == [(7,), (7, 0), (7,)]


def test_people_keep_their_place_when_detectors_exchange_them(whole: Pose) -> None:
    """Two people cross one another; their order and their ids change, and one is missing for two frames."""
    ones = walking(whole, 24, 4.0)
    others = [edit_people(whole, shift=(90 - 4.0 * number, 6)) for number in range(24)]
    frames = []
    for number, pair in enumerate(zip(ones, others, strict=True)):
        pair = pair[:1] if number in (15, 16) else pair
        pair = pair[::-1] if number % 3 == 1 else pair
        ids = (5, 9) if number < 20 else (9, 5)
        frame = pair[0].with_parts(
            *map(np.concatenate, zip(*(p.parts for p in pair), strict=True)), ids=ids[: len(pair)]
        )
        frames.append(frame)
    mended = smooth_poses(frames, 0)
    for number, frame in enumerate(mended):
        assert len(set(frame.ids)) == 2 and frame.ids == mended[0].ids
        for person, true in enumerate((ones[number], others[number])):
            np.testing.assert_allclose(frame.joints[person], true.joints[0], atol=0.7)
    alone = smooth_poses(frames, 0, one_person=True)
    np.testing.assert_allclose(places(alone), places(ones), atol=1e-3)


def test_ids_are_kept_and_given(whole: Pose) -> None:
    frames = [replace(frame, ids=(7,)) for frame in walking(whole, 4)]
    frames[2] = replace(frames[2], ids=(3,))
    assert [frame.ids for frame in smooth_poses(frames)] == [(7,)] * 4
    assert [frame.ids for frame in smooth_poses(walking(whole, 3))] == [(None,)] * 3
    beside = edit_people(whole, shift=(200, 0))
    pair = whole.with_parts(*map(np.concatenate, zip(whole.parts, beside.parts, strict=True)), ids=(None, 0))
    assert smooth_poses([pair, pair])[0].ids == (1, 0)


def test_frames_keep_their_canvas(whole: Pose) -> None:
    frames = [frame.resized(256, 192) if number % 2 else frame for number, frame in enumerate(walking(whole, 6))]
    for frame, smooth in zip(frames, smooth_poses(frames, 0), strict=True):
        assert_same(smooth, frame, 1e-3)
    alone = whole.resized(100, 300)  # of other proportions
    assert_same(smooth_poses([whole, alone], 0)[1], alone, 1e-3)


def test_stops_when_asked_and_wrong_numbers_are_refused(whole: Pose) -> None:
    calls = []

    def tick() -> None:
        calls.append(0)
        if len(calls) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        smooth_poses(walking(whole, 12), tick=tick)
    for wrong in ({"smoothing": -1}, {"fast_moves": float("nan")}, {"gap": -1}):
        with pytest.raises(InputError, match=r"(smoothing|fast_moves|fill_gaps): it is .*; use 0 or more"):
            smooth_poses([whole], **wrong)
