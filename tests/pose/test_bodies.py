"""Bodies in all orders of points: joints, feet, faces and hands are where their documentations have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reposedm_core.pose import Pose, coco_to_openpose, load_pose_file, openpose_to_coco, parse_keypoints
from reposedm_core.pose.parsing import BODIES

FIXTURES = Path(__file__).parent.parent / "fixtures" / "poses"
STANDING = load_pose_file(FIXTURES / "standing.json")[0].joints[0]
# The names of the points in each order, as its own documentation has them.
OPENPOSE = [
    "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "r_hip", "r_knee",
    "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear",
]  # fmt: skip
COCO = [
    "nose", "l_eye", "r_eye", "l_ear", "r_ear", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist", "r_wrist",
    "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle",
]  # fmt: skip
MEDIAPIPE = [
    "nose", "l_eye_inner", "l_eye", "l_eye_outer", "r_eye_inner", "r_eye", "r_eye_outer", "l_ear", "r_ear", "mouth_l",
    "mouth_r", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist", "r_wrist", "l_pinky", "r_pinky", "l_index",
    "r_index", "l_thumb", "r_thumb", "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle", "l_heel", "r_heel",
    "l_big_toe", "r_big_toe",
]  # fmt: skip
FEET = ["l_big_toe", "l_small_toe", "l_heel", "r_big_toe", "r_small_toe", "r_heel"]
BODY_25 = [*OPENPOSE[:8], "mid_hip", *OPENPOSE[8:]]
BODY_25B = [*COCO, "upper_neck", "head_top"]
HALPE = [*COCO, "head", "neck_", "hip", "l_big_toe", "r_big_toe", "l_small_toe", "r_small_toe", "l_heel", "r_heel"]
FACE, LEFT, RIGHT = (
    [f"{part}{number}" for number in range(count)] for part, count in (("face", 68), ("left", 21), ("right", 21))
)
ORDERS = {
    "COCO": COCO,
    "OpenPose": OPENPOSE,
    "OpenPose and one more, which is left out": [*OPENPOSE, "background"],
    "BODY_25 without feet": BODY_25,
    "OpenPose and two toes": [*OPENPOSE, "l_big_toe", "r_big_toe"],
    "OpenPose and feet": [*OPENPOSE, *FEET],
    "BODY_25": [*BODY_25, *FEET],
    "BODY_25B": [*BODY_25B, *FEET],
    "Halpe": HALPE,
    "MediaPipe": MEDIAPIPE,
    "COCO-WholeBody": [*COCO, *FEET, *FACE, *LEFT, *RIGHT],
    "DWPose: OpenPose, feet, face and hands": [*OPENPOSE, *FEET, *FACE, *LEFT, *RIGHT],
    "BODY_135": [*BODY_25B, *FEET, *LEFT[1:], *RIGHT[1:], *FACE, "face68", "face69"],
    "OpenPose and others, which are left out": [*OPENPOSE, *(f"other{number}" for number in range(117))],
    "Halpe with face and hands": [*HALPE, *FACE, *LEFT, *RIGHT],
}


def read(*people: dict[str, Any]) -> tuple[list[Pose], list[str]]:
    """Poses of a frame for each person, and the notes."""
    notes: list[str] = []
    frames = [{"people": [person], "canvas_width": 512, "canvas_height": 768} for person in people]
    return parse_keypoints(frames, note=notes.append), notes


def standing(order: list[str]) -> np.ndarray:
    """Points (N, 3) of the standing person in an order; all others lie around his ankles, each elsewhere."""
    joints = dict(zip(OPENPOSE, STANDING, strict=True))
    return np.array(
        [
            joints.get(name, ((290 if name[0] == "l" else 220) + 0.1 * i, 690 + 0.2 * i, 1))
            for i, name in enumerate(order)
        ]
    )


def test_all_orders_are_tested() -> None:
    assert list(ORDERS) == [body.name for body in BODIES]
    assert {name: len(order) for name, order in ORDERS.items()} == {body.name: body.points for body in BODIES}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_body(body: Any) -> None:
    order = ORDERS[body.name]
    points = standing(order)
    at = dict(zip(order, points, strict=True))
    for value in (points.reshape(-1).tolist(), points.tolist()):
        (pose,), notes = read({"pose_keypoints_2d": value})
        joints = STANDING if "neck" in order else coco_to_openpose(openpose_to_coco(STANDING))
        np.testing.assert_allclose(pose.joints[0], joints, atol=1e-3)
        assert notes == []
        wrists = {"left0": at.get("l_wrist"), "right0": at.get("r_wrist")} if body.name == "BODY_135" else {}
        for part, names in (
            ("feet", FEET),
            ("left_hand", LEFT),
            ("right_hand", RIGHT),
            ("face", [*FACE, "face68", "face69"]),
        ):
            wanted = np.array([{**wrists, **at}.get(name, (0, 0, 0)) for name in names])
            np.testing.assert_allclose(getattr(pose, part)[0], wanted, atol=1e-3)


@pytest.mark.parametrize("points", [19, 25, 135])
def test_bodies_of_one_number_are_told_apart_over_the_whole_sequence(points: int) -> None:
    for name in (body.name for body in BODIES if body.points == points):
        whole = standing(ORDERS[name])
        half = whole.copy()
        half[2:] = 0  # of nose and the next one nobody can tell
        poses, _ = read(*({"pose_keypoints_2d": part.reshape(-1).tolist()} for part in (half, whole)))
        np.testing.assert_allclose(poses[1].joints[0, 2:], STANDING[2:], atol=1e-3)
        second = ORDERS[name][1]
        assert (poses[0].joints[0, OPENPOSE.index(second), :2] == whole[1, :2]).all()


def test_toes_go_to_the_nearer_ankle() -> None:
    left, right = (294.0, 690.0, 1.0), (218.0, 690.0, 1.0)
    for toes in ((left, right), (right, left)):
        body = [*STANDING.tolist(), *toes]
        (pose,), _ = read({"pose_keypoints_2d": body})
        np.testing.assert_allclose(pose.feet[0, [0, 3]], [left, right])
        assert not pose.feet[0, [1, 2, 4, 5]].any()


def test_a_part_of_its_own_wins_over_the_one_in_the_body() -> None:
    body = standing(ORDERS["COCO-WholeBody"])
    hand = np.stack([np.arange(21) + 100.0, np.arange(21) + 300.0, np.ones(21)], -1)
    person = {
        "pose_keypoints_2d": body.tolist(),
        "hand_left_keypoints_2d": hand.tolist(),
        "hand_right_keypoints_2d": [0.0] * 63,
    }
    (pose,), _ = read(person)
    np.testing.assert_allclose(pose.left_hand[0], hand)
    np.testing.assert_allclose(pose.right_hand[0], body[112:], atol=1e-3)
