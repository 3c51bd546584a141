"""Somebody who faces the camera: what there is to drag where no pose comes in, and the shape of new hands and faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...reposedm_core import Pose

_BODY = np.array([
    (48, 20, 1), (48, 32, 1), (38.5, 32.5, 1), (33, 48, 1), (29.5, 62.5, 1), (57.5, 32.5, 1), (63, 48, 1),
    (66.5, 62.5, 1), (42, 64, 1), (41, 88, 1), (40, 111, 1), (54, 64, 1), (55, 88, 1), (56, 111, 1), (45.5, 17.5, 1),
    (50.5, 17.5, 1), (42, 19, 1), (54, 19, 1),
])  # fmt: skip
_SIDE = 96
_HAND_LENGTH = 10.5
# Along the forearm, and from it towards the thumb, as parts of the hand's length: the wrist, then four joints a finger.
_HAND = np.array([
    (0, 0), (0.18, 0.18), (0.36, 0.3), (0.5, 0.36), (0.62, 0.4), (0.46, 0.17), (0.66, 0.2), (0.79, 0.21), (0.9, 0.22),
    (0.48, 0.05), (0.71, 0.06), (0.86, 0.06), (1, 0.06), (0.46, -0.06), (0.67, -0.08), (0.81, -0.09), (0.93, -0.09),
    (0.42, -0.17), (0.57, -0.21), (0.67, -0.23), (0.76, -0.24),
])  # fmt: skip


def _hand() -> np.ndarray:
    """(21, 3) the left hand, its thumb towards the body."""
    elbow, wrist = _BODY[6, :2], _BODY[7, :2]
    along = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    inwards = np.array([-along[1], along[0]])
    points = wrist + _HAND_LENGTH * (_HAND[:, :1] * along + _HAND[:, 1:] * inwards)
    return np.column_stack([points, np.ones(len(points))])


def _face() -> np.ndarray:
    """(70, 3) the points of iBUG and two pupils: jaw, brows, nose, eyes, mouth outside and inside."""

    def oval(x: float, y: float, across: float, up: float, count: int) -> list[tuple[float, float]]:
        """From its left end over the top."""
        turns = 2 * np.pi * np.arange(count) / count
        return [(x - across * np.cos(turn), y - up * np.sin(turn)) for turn in turns]

    jaw = [(48 - 5.4 * np.cos(turn), 18.5 + 7.8 * np.sin(turn)) for turn in np.pi * np.arange(17) / 16]
    brow = [(-4.2, 16.2), (-3.5, 15.6), (-2.7, 15.4), (-1.9, 15.5), (-1.2, 15.9)]
    brows = [(48 + x, y) for x, y in brow] + [(48 - x, y) for x, y in reversed(brow)]
    nostrils = [(48 + x, 20.9 + 0.3 * (x == 0)) for x in (-1.2, -0.6, 0, 0.6, 1.2)]
    nose = [(48, y) for y in (17.4, 18.3, 19.2, 20)] + nostrils
    eyes = oval(45.5, 17.5, 1.1, 0.5, 6) + oval(50.5, 17.5, 1.1, 0.5, 6)
    mouth = oval(48, 23.3, 2.1, 0.9, 12) + oval(48, 23.3, 1.5, 0.3, 8)
    points = np.array([*jaw, *brows, *nose, *eyes, *mouth, (45.5, 17.5), (50.5, 17.5)])
    return np.column_stack([points, np.ones(len(points))])


def _mirrored(points: np.ndarray) -> np.ndarray:
    return points * (-1, 1, 1) + (_SIDE, 0, 0)


_LEFT_FOOT = np.array([(56.5, 117, 1), (60, 116.5, 1), (56.5, 112.8, 1)])

FIGURE = Pose(
    _BODY[None],
    height=128,
    width=_SIDE,
    face=_face()[None],
    left_hand=_hand()[None],
    right_hand=_mirrored(_hand())[None],
    feet=np.concatenate([_LEFT_FOOT, _mirrored(_LEFT_FOOT)])[None],
)
"""With everything that a person can have."""

STANDING = replace(FIGURE, face=0 * FIGURE.face, feet=0 * FIGURE.feet)
"""With hands."""
