"""Parts that cannot be read cost themselves alone; feet and ids stay with their people through every tool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reposedm_core.errors import InputError
from reposedm_core.pose import (
    Pose,
    edit_joint,
    edit_people,
    fill_empty,
    fit_to_frame,
    interpolate_poses,
    parse_keypoints,
    retarget_pose,
    select_people,
    to_keypoints,
)
from reposedm_core.pose.skeleton import OPENPOSE18

CANVAS = {"canvas_height": 128, "canvas_width": 96}


def read(frames: Any) -> tuple[list[Pose], list[str]]:
    notes: list[str] = []
    return parse_keypoints(frames, note=notes.append), notes


def points(count: int) -> list[float]:
    return [float(value) for k in range(count) for value in (20 + k % 9, 30 + k % 7, 1)]


@pytest.mark.parametrize(("key", "value", "words"), [
    *(("face_keypoints_2d", points(count), f"a face of {3 * count} values, which is not 68 or 70 points")
      for count in (1, 56, 69, 71, 72, 468, 478)),
    ("face_keypoints_2d", "", "a face that is no list of numbers"),
    ("face_keypoints_2d", False, "a face that is no list of numbers"),
    ("face_keypoints_2d", [0, 0, 0], "a face of 3 values, which is not 68 or 70 points"),
    ("face_keypoints_2d", [[1, 2, 3]] * 69 + [[4]], "a face with points that are not all x, y, score"),
    ("hand_left_keypoints_2d", points(20), "a left hand of 60 values, which is not 21 points"),
    ("hand_right_keypoints_2d", {"x": 3}, "a right hand that is no list of numbers"),
    ("hand_right_keypoints_2d", ["a"] * 63, "a right hand with something in it that is no number"),
    ("foot_keypoints_2d", points(3), "a pair of feet of 9 values, which is not 6 points"),
    ("foot_keypoints_2d", [10**400] * 18, "a pair of feet with a number that is too large"),
])  # fmt: skip
def test_a_part_that_cannot_be_read_is_left_out_alone(person: np.ndarray, key: str, value: Any, words: str) -> None:
    good = {
        "pose_keypoints_2d": person.reshape(-1).tolist(),
        "hand_left_keypoints_2d": points(21),
        "face_keypoints_2d": points(70),
        "hand_right_keypoints_2d": points(21),
        "foot_keypoints_2d": points(6),
    }
    frames = [{"people": [good], **CANVAS}, {"people": [good, {**good, key: value}], **CANVAS}]
    poses, notes = read(frames)
    assert len(notes) == 1 and notes[0].startswith(f"pose: frame 1, person 1 has {words}") and "left out" in notes[0]
    np.testing.assert_array_equal(poses[1].joints, [person, person])
    whole = [part[1].any() for part in poses[1].parts]
    assert whole.count(False) == 1 and all(part[0].any() for part in poses[1].parts)


def test_one_note_for_all_parts_of_a_kind(person: np.ndarray) -> None:
    bad = {"pose_keypoints_2d": person.reshape(-1).tolist(), "face_keypoints_2d": "", "hand_left_keypoints_2d": [1, 2]}
    _, notes = read([{"people": [bad, bad], **CANVAS}] * 50)
    assert len(notes) == 2 and all(note.startswith("pose: frame 0, person 0 has") for note in notes)
    assert "the face is left out, and so are 99 more like it" in notes[0]


@pytest.mark.parametrize("absent", [None, [], [None] * 21, [None] * 63, [0.0] * 63, [[0, 0, 0]] * 21, [None] * 5])
def test_what_is_not_there_needs_no_note(person: np.ndarray, absent: Any) -> None:
    body = {"pose_keypoints_2d": person.reshape(-1).tolist(), "hand_left_keypoints_2d": absent}
    poses, notes = read({"people": [body], **CANVAS})
    assert notes == [] and not poses[0].left_hand.any()


@pytest.mark.parametrize("body", [points(16), "", False, ["a"] * 54, 7])
def test_a_body_that_cannot_be_read_leaves_out_the_person(person: np.ndarray, body: Any) -> None:
    good = {"pose_keypoints_2d": person.reshape(-1).tolist()}
    poses, notes = read([{"people": [{"pose_keypoints_2d": body}, good], **CANVAS}, {"people": [7], **CANVAS}])
    assert [len(pose.joints) for pose in poses] == [1, 0]
    assert notes[0].startswith("pose: frame 0, person 0 has a body") and "the person is left out" in notes[0]
    assert notes[1].startswith("pose: frame 1, person 0 has no 'pose_keypoints_2d' list") and len(notes) == 2
    for allow in (False, True):  # nobody was found is another thing
        with pytest.raises(InputError, match="frame 1, person 0 has a body"):
            parse_keypoints([{"people": []}, {"people": [{"keypoints": body}]}], allow_nobody=allow)


@pytest.mark.parametrize(
    "empty",
    [
        None,
        {},
        [],
        {"people": []},
        {"people": None},
        {"animals": [[1, 2, 3]]},
        {"people": [None]},
        {"people": ""},
        {"people": False},
        {"people": {}},
        {"canvas_width": 96, "canvas_height": 128},
    ],
)
def test_frames_with_nothing_in_them_keep_their_number(person: np.ndarray, empty: Any) -> None:
    frame = {"people": [{"pose_keypoints_2d": person.reshape(-1).tolist()}], **CANVAS}
    for frames in ([frame, empty, frame], [[frame], empty, [frame]], {"frames": [frame, empty, frame]}):
        poses, notes = read(frames)
        assert [len(pose.joints) for pose in poses] == [1, 0, 1] and notes == []
        assert {(pose.height, pose.width) for pose in poses} == {(128, 96)}


def test_people_beside_animals_are_read(person: np.ndarray) -> None:
    people = [{"pose_keypoints_2d": person.reshape(-1).tolist()}]
    (pose,), notes = read({"people": people, "animals": [[1.0, 2.0, 1.0] * 17], **CANVAS})
    np.testing.assert_array_equal(pose.joints[0], person)
    assert notes == []


def test_people_in_0_to_1_beside_people_in_pixels(person: np.ndarray) -> None:
    small = person / [96, 128, 1]
    far = small + [0.9, 0, 0]  # more than half of him is outside, and further out than 1.5
    hand = [value for k in range(21) for value in (1.6 + k / 100, 0.4, 1)]
    people = [{"pose_keypoints_2d": body.reshape(-1).tolist()} for body in (small, person, far)]
    people[0]["hand_left_keypoints_2d"] = hand
    (pose,), _ = read({"people": people, **CANVAS})
    np.testing.assert_allclose(pose.joints, [person, person, person + [0.9 * 96, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(pose.left_hand[0, :, 0], [96 * (1.6 + k / 100) for k in range(21)], rtol=1e-4)


# ---- feet and ids


@pytest.fixture
def two(whole: Pose) -> Pose:
    """Two people with feet, one of them with an id."""
    parts = [np.concatenate([part, part + np.array([30, 0, 0]) * (part[..., 2:] > 0)]) for part in whole.parts]
    return Pose(parts[0], 128, 96, *parts[1:], ids=(None, 5))


AT = {name: number for number, name in enumerate(OPENPOSE18)}


def test_feet_and_ids_are_written_where_they_are(two: Pose) -> None:
    for pose in (two, Pose(two.joints, 128, 96)):
        (frame,) = to_keypoints(pose)
        (read_back,), _ = read([frame])
        np.testing.assert_array_equal(read_back.feet, pose.feet)
        assert read_back.ids == pose.ids
    assert [("foot_keypoints_2d" in person, person.get("person_id")) for person in to_keypoints(two)[0]["people"]] == [
        (True, None),
        (True, [5]),
    ]
    assert set(to_keypoints(Pose(two.joints, 128, 96))[0]["people"][0]) == {
        "pose_keypoints_2d",
        "face_keypoints_2d",
        "hand_left_keypoints_2d",
        "hand_right_keypoints_2d",
    }
    with pytest.raises(InputError, match="2 people and 1 ids"):
        Pose(two.joints, 128, 96, ids=(1,))


def test_feet_move_with_their_people(two: Pose) -> None:
    moved = edit_people(two, 1, (3, -4))
    np.testing.assert_allclose(moved.feet[1] - two.feet[1], [[3, -4, 0]] * 6, atol=1e-4)
    np.testing.assert_array_equal(moved.feet[0], two.feet[0])
    flipped = edit_people(two, flip="canvas")
    np.testing.assert_allclose(flipped.feet[0, :3], two.feet[0, 3:] * [-1, 1, 1] + [96, 0, 0], atol=1e-4)
    for scaled in (two.resized(256, 192), fit_to_frame(two, 256, 192)):
        apart = [pose.feet[0, 0, :2] - pose.joints[0, AT["left_ankle"], :2] for pose in (two, scaled)]
        spread = np.ptp(scaled.joints[0, :, 1]) / np.ptp(two.joints[0, :, 1])
        np.testing.assert_allclose(apart[1], spread * apart[0], rtol=1e-4)


def test_a_foot_goes_with_what_it_hangs_on(two: Pose) -> None:
    for joint in ("left_ankle", "left_knee", "left_hip"):
        moved = edit_joint(two, joint, (5, 2), person=0)
        np.testing.assert_allclose(moved.feet[0] - two.feet[0], [[5, 2, 0]] * 3 + [[0, 0, 0]] * 3, atol=1e-4)
        np.testing.assert_array_equal(edit_joint(two, joint, (5, 2), limb=False).feet, two.feet)
        removed = edit_joint(two, joint, remove=True, person=1)
        assert not removed.feet[1, :3].any() and removed.feet[1, 3:].any() and removed.ids == two.ids
    np.testing.assert_array_equal(edit_joint(two, "left_wrist", (5, 2)).feet, two.feet)
    assert edit_joint(two, "neck", remove=True, person=0).ids == (5,)


def test_feet_are_retargeted_as_the_shins(two: Pose) -> None:
    (half,) = retarget_pose([two], [replace(two.resized(64, 48), height=128, width=96)], size=True)
    scale = np.linalg.norm(half.joints[0, 9, :2] - half.joints[0, 10, :2]) / np.linalg.norm(
        two.joints[0, 9, :2] - two.joints[0, 10, :2]
    )
    assert scale == pytest.approx(0.5, rel=1e-3)
    for foot, ankle in ((0, "left_ankle"), (3, "right_ankle")):
        apart = [pose.feet[0, foot, :2] - pose.joints[0, AT[ankle], :2] for pose in (two, half)]
        np.testing.assert_allclose(apart[1], scale * apart[0], rtol=1e-3)
    assert half.ids == two.ids


def test_feet_between_poses_stay_at_their_ankles(two: Pose) -> None:
    joints, feet = two.joints.copy(), two.feet.copy()
    joints[:, AT["left_ankle"]] += (20, -30, 0)
    feet[:, :3] += (20, -30, 0)
    other = two.with_parts(joints, *two.parts[1:4], feet)
    for frame in interpolate_poses([two, other], 5):
        assert frame.ids == two.ids
        apart = frame.feet[0, 0, :2] - frame.joints[0, AT["left_ankle"], :2]
        assert np.linalg.norm(apart) == pytest.approx(np.hypot(4, 4), rel=0.05)
        np.testing.assert_allclose(frame.feet[0, 3:], two.feet[0, 3:], atol=1e-3)
    filled = fill_empty([two, two.take([]), other])
    assert filled[1].feet.any() and filled[1].ids == two.ids
    alone = interpolate_poses([two, other.take([0])], 3, match="as given")
    assert [frame.ids for frame in alone] == [(None, 5), (None,), (None,)]
    named = interpolate_poses([Pose(two.joints, 128, 96), other], 3)
    assert named[1].ids == (None, 5)


def test_chosen_people_keep_feet_and_ids(two: Pose) -> None:
    (chosen,) = select_people([two], "as given", 1)
    np.testing.assert_array_equal(chosen.feet, two.feet[1:])
    assert chosen.ids == (5,)
    turned = two.take([1, 0])
    followed = select_people([two, turned], "as given", 0, 2, follow=True)
    assert followed[1].ids == (None, 5) and turned.ids == (5, None)
    np.testing.assert_array_equal(followed[1].feet, two.feet)
