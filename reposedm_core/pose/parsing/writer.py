"""`Pose` to POSE_KEYPOINT data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..keypoints import Pose
from ..limits import no_tick
from .canvas import GUESSED


def to_keypoints(poses: Pose | Iterable[Pose], tick: Callable[[], object] = no_tick) -> list[dict[str, Any]]:
    """POSE_KEYPOINT frames in pixels, plain Python numbers, 18/70/21/21 points, zeros for what is absent.

    People who have feet also have `foot_keypoints_2d` (6 points), and those with an id `person_id`, as OpenPose writes
    them. A canvas that is a guess is marked with `canvas_guessed`. A point that lies exactly where formats write "not
    found" is moved by a hundredth of a pixel. `tick` is called for every frame; it may raise, to stop.
    """
    frames = []
    for pose in [poses] if isinstance(poses, Pose) else poses:
        tick()
        parts = {
            "pose_keypoints_2d": pose.joints,
            "face_keypoints_2d": pose.face,
            "hand_left_keypoints_2d": pose.left_hand,
            "hand_right_keypoints_2d": pose.right_hand,
        }
        parts = {key: _off_nowhere(part) for key, part in parts.items()}
        feet = _off_nowhere(pose.feet)
        people = []
        for number, who in enumerate(pose.ids):
            person: dict[str, Any] = {} if who is None else {"person_id": [who]}
            person |= {key: part[number].reshape(-1).tolist() for key, part in parts.items()}
            if feet[number].any():
                person["foot_keypoints_2d"] = feet[number].reshape(-1).tolist()
            people.append(person)
        frame = {"people": people, "canvas_height": int(pose.height), "canvas_width": int(pose.width)}
        frames.append(frame | ({GUESSED: pose.guessed} if pose.guessed else {}))
    return frames


def _off_nowhere(points: np.ndarray) -> np.ndarray:
    x, y, score = np.moveaxis(points, -1, 0)
    hit = (score > 0) & (x == y) & ((x == 0) | (x == -1))
    return points + hit[..., None] * np.array([0.01, 0, 0], np.float32) if hit.any() else points
