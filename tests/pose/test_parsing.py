from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reposedm_core.errors import InputError
from reposedm_core.pose import (
    Pose,
    coco_to_openpose,
    one_pose,
    openpose_to_coco,
    parse_keypoints,
    to_keypoints,
)

CANVAS = {"canvas_height": 128, "canvas_width": 96}


def _flat(points: np.ndarray) -> list[float]:
    return points.reshape(-1).tolist()


def _frame(person: np.ndarray, **parts: Any) -> dict[str, Any]:
    return {"people": [{"pose_keypoints_2d": _flat(person), **parts}], **CANVAS}


def _assert_person(poses: list[Pose], person: np.ndarray) -> None:
    assert len(poses) == 1 and (poses[0].height, poses[0].width) == (128, 96)
    np.testing.assert_allclose(poses[0].joints, person[None], atol=1e-4)


# ---- variants that must be read


def test_frame_list_and_text(person: np.ndarray) -> None:
    frame = _frame(person)
    for data in (frame, [frame], (frame,), [[frame]], json.dumps(frame), "\ufeff" + json.dumps([frame])):
        _assert_person(parse_keypoints(data), person)
    _assert_person(parse_keypoints(json.dumps(frame).encode()), person)


def test_several_frames_keep_their_numbers(person: np.ndarray) -> None:
    poses = parse_keypoints([{"people": [], **CANVAS}, _frame(person), {"people": None, **CANVAS}])
    assert [len(pose.joints) for pose in poses] == [0, 1, 0]
    assert poses[0].face.shape == (0, 70, 3)


def test_an_empty_frame_without_size_has_the_canvas_of_the_others(person: np.ndarray) -> None:
    poses = parse_keypoints([{"people": []}, _frame(person), {"people": [], "canvas_height": 7, "canvas_width": 9}])
    assert [(pose.height, pose.width) for pose in poses] == [(128, 96), (128, 96), (7, 9)]
    (nobody,) = parse_keypoints({"people": []}, allow_nobody=True)
    assert (len(nobody.joints), nobody.height, nobody.width) == (0, 1, 1)
    with pytest.raises(InputError, match="nobody"):
        parse_keypoints([], allow_nobody=True)


def test_one_pose_is_of_the_first_person_with_a_joint(person: np.ndarray, tmp_path: Path) -> None:
    people = np.stack([np.zeros_like(person), person, person + 5])
    frames = [Pose(people[:1], 128, 96), Pose(people, 128, 96)]
    (tmp_path / "pose.json").write_text(json.dumps(to_keypoints(frames)))
    for data in (frames, frames[1], to_keypoints(frames), tmp_path / "pose.json", str(tmp_path / "pose.json")):
        _assert_person([one_pose(data)], person)
    for nobody in (frames[0], Pose(people[:0], 128, 96)):
        with pytest.raises(InputError, match=r"target: nobody is in it"):
            one_pose(nobody, "target")


@pytest.mark.parametrize("absent", [None, [], [0.0] * 63, "missing"])
def test_switched_off_parts(person: np.ndarray, absent: Any) -> None:
    frame = _frame(person)
    if absent != "missing":
        frame["people"][0] |= {"hand_left_keypoints_2d": absent, "hand_right_keypoints_2d": absent}
        frame["people"][0] |= {
            "face_keypoints_2d": [0.0] * 204 if absent else absent,
            "foot_keypoints_2d": absent,
        }
    (pose,) = parse_keypoints(frame)
    assert not pose.left_hand.any() and not pose.right_hand.any() and not pose.face.any()


@pytest.mark.parametrize("points", [68, 70])
def test_faces_and_hands(person: np.ndarray, points: int) -> None:
    face = np.stack([np.arange(points) + 3, np.arange(points) + 5, np.full(points, 0.5)], -1)
    hand = np.stack([np.arange(21) + 9, np.arange(21) + 2, np.ones(21)], -1)
    (pose,) = parse_keypoints(_frame(person, face_keypoints_2d=_flat(face), hand_left_keypoints_2d=_flat(hand)))
    np.testing.assert_allclose(pose.face[0, :points], face)
    assert pose.face.shape == (1, 70, 3) and not pose.face[0, points:].any()
    np.testing.assert_allclose(pose.left_hand[0], hand)
    assert not pose.right_hand.any()


def test_body25_and_openpose_files_without_canvas(person: np.ndarray) -> None:
    body25 = np.full((25, 3), 99.0)  # mid-hip, to be left out
    body25[:8], body25[9:19], body25[19:] = person[:8], person[8:], (50, 110, 1)
    file = {
        "version": 1.3,
        "people": [{"person_id": [-1], "pose_keypoints_2d": _flat(body25), "pose_keypoints_3d": []}],
    }
    (pose,) = parse_keypoints(file)
    np.testing.assert_allclose(pose.joints[0], person)
    np.testing.assert_allclose(pose.feet[0], [(50, 110, 1)] * 6)
    # x from 30 to 66 and y from 15 to 112: the same margin on the far sides.
    assert (pose.height, pose.width) == (112 + 15, 66 + 30)
    old = {"people": [{"pose_keypoints": _flat(person)}]}
    np.testing.assert_allclose(parse_keypoints(old)[0].joints[0], person)


def test_inferred_canvas_holds_points_left_of_it(person: np.ndarray) -> None:
    person[4, :2] = (-7, 60)
    (pose,) = parse_keypoints({"people": [{"pose_keypoints_2d": _flat(person)}], "canvas_height": 0})
    assert pose.width == 66 and pose.joints[0, 4, 0] == -7


def test_coco_people(person: np.ndarray) -> None:
    coco = openpose_to_coco(person).copy()
    coco[5:, 2] = 2  # COCO's "labelled and visible"
    expected = coco_to_openpose(np.minimum(coco, [np.inf, np.inf, 1]))
    _assert_person(parse_keypoints(_frame(coco)), expected)
    _assert_person(parse_keypoints({"people": [{"keypoints": _flat(coco)}], **CANVAS}), expected)
    coco[6, 2] = 0
    assert not parse_keypoints(_frame(coco))[0].joints[0, 1].any()  # one shoulder: no neck


def test_normalised_coordinates(person: np.ndarray) -> None:
    hand = np.stack([np.arange(21) + 40.0, np.arange(21) + 60.0, np.ones(21)], -1)
    scaled = person / [96, 128, 1]
    frame = _frame(scaled, hand_right_keypoints_2d=_flat(hand))  # some editors mix: a hand in pixels
    (pose,) = parse_keypoints(frame)
    _assert_person([pose], person)
    np.testing.assert_allclose(pose.right_hand[0], hand)
    scaled[10] = (0.4, 1.9, 1)  # a foot guessed far below the frame changes nothing
    (pose,) = parse_keypoints(_frame(scaled))
    np.testing.assert_allclose(pose.joints[0, 10], [0.4 * 96, 1.9 * 128, 1], rtol=1e-6)


def test_normalised_close_up_that_is_mostly_below_the_frame(person: np.ndarray) -> None:
    person[:, 1] += 110
    assert (person[:, 1] > 128).sum() > 9
    _assert_person(parse_keypoints(_frame(person / [96, 128, 1])), person)


def test_pixels_near_the_corner_are_not_normalised(person: np.ndarray) -> None:
    person[2] = (0.5, 0.9, 1)
    _assert_person(parse_keypoints(_frame(person)), person)


def test_points_outside_the_canvas_are_kept(person: np.ndarray) -> None:
    person[10, :2], person[4, :2] = (38, 500), (-60, 40)
    _assert_person(parse_keypoints(_frame(person)), person)


def test_scores_and_absence(person: np.ndarray) -> None:
    person[:, 2] = 0.8
    person[3, 2], person[4, 2] = 0.05, 40
    person[6], person[7] = (0, 0, 0.9), (-1, -1, 0.9)
    (pose,) = parse_keypoints(_frame(person))
    assert not pose.joints[0, [3, 6, 7]].any()
    assert pose.joints[0, 4, 2] == 1 and pose.joints[0, 2, 2] == np.float32(0.8)
    assert parse_keypoints(_frame(person), threshold=0)[0].joints[0, 3, 2] == np.float32(0.05)


def test_none_and_nested_points(person: np.ndarray) -> None:
    nested: list[Any] = person.tolist()
    nested[4] = None
    flat: list[Any] = _flat(person)
    flat[12:15] = [None, None, None]
    person[4] = 0
    for body in (nested, flat, [point and tuple(point) for point in nested]):
        _assert_person(parse_keypoints({"people": [{"pose_keypoints_2d": body}, None], **CANVAS}), person)


def test_points_without_scores(person: np.ndarray) -> None:
    person[4] = 0
    for body in (_flat(person[:, :2]), person[:, :2].tolist()):
        _assert_person(parse_keypoints({"people": [{"pose_keypoints_2d": body}], **CANVAS}), person)


def test_arrays_and_tensors(person: np.ndarray) -> None:
    size = {"canvas_height": np.int64(128), "canvas_width": torch.tensor(96)}
    for body in (
        person,
        torch.tensor(person),
        person.reshape(-1),
        [np.float32(v) for v in person.reshape(-1)],
    ):
        _assert_person(parse_keypoints({"people": [{"pose_keypoints_2d": body}], **size}), person)
    two = np.stack([person, person + [5, 0, 0]])
    for data in (two, torch.tensor(two)):
        np.testing.assert_allclose(parse_keypoints(data)[0].joints, two)
    assert parse_keypoints(person)[0].joints.shape == (1, 18, 3)
    pose = Pose(person[None], 128, 96)
    assert parse_keypoints(pose) == [pose] and parse_keypoints([pose, pose]) == [pose, pose]


def test_people_without_a_body_are_left_out(person: np.ndarray) -> None:
    frame = _frame(person)
    frame["people"].insert(0, {"pose_keypoints_2d": [0.0] * 54, "hand_left_keypoints_2d": [5.0] * 63})
    (pose,) = parse_keypoints(frame)
    assert len(pose.joints) == 1 and not pose.left_hand.any()


# ---- what is written


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, (2, 18, 2), elements=st.floats(8, 2000, width=32)), st.integers(1, 3000))
def test_round_trip(xy: np.ndarray, width: int) -> None:
    joints = np.concatenate([xy, np.full((2, 18, 1), 0.75, np.float32)], -1)
    joints[1, 3] = 0
    hand = np.zeros((2, 21, 3), np.float32)
    hand[0, 2] = (3, 1000, 1)
    pose = Pose(joints, 640, width, right_hand=hand)
    frames = to_keypoints([pose, pose])
    people = frames[0]["people"]
    lengths = {key: len(value) for key, value in people[1].items()}
    assert lengths == {
        "pose_keypoints_2d": 54,
        "face_keypoints_2d": 210,
        "hand_left_keypoints_2d": 63,
        "hand_right_keypoints_2d": 63,
    }
    for data in (frames, json.loads(json.dumps(frames))):
        for read in parse_keypoints(data):
            assert (read.height, read.width) == (640, width)
            np.testing.assert_array_equal(read.joints, pose.joints)
            np.testing.assert_array_equal(read.right_hand, pose.right_hand)
    assert to_keypoints(pose) == frames[:1]


@pytest.mark.parametrize("place", [(0, 0), (-1, -1)])
def test_a_joint_where_formats_write_not_found_is_kept(person: np.ndarray, place: tuple[int, int]) -> None:
    person[4, :2] = place
    (read,) = parse_keypoints(to_keypoints(Pose(person[None], 128, 96)))
    assert read.joints[0, 4, 2] == person[4, 2]
    np.testing.assert_allclose(read.joints[0, 4, :2], place, atol=0.02)
