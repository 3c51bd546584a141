"""The skeleton as a tree: which joint hangs on which, with the middle of the hips between torso and legs.

Trees have 19 points: OpenPose-18 and, as the last, the middle of the hips, which is there where both hips are. It
keeps the length of the torso apart from the width of the hips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .skeleton import NECK, OPENPOSE18

MID_HIP = 18
PARENT_OF = {
    "nose": "neck", "right_eye": "nose", "left_eye": "nose", "right_ear": "right_eye", "left_ear": "left_eye",
    "right_shoulder": "neck", "right_elbow": "right_shoulder", "right_wrist": "right_elbow",
    "left_shoulder": "neck", "left_elbow": "left_shoulder", "left_wrist": "left_elbow",
    "right_knee": "right_hip", "right_ankle": "right_knee", "left_knee": "left_hip", "left_ankle": "left_knee",
}  # fmt: skip

PARENTS: tuple[int, ...] = (
    *(
        -1 if name == "neck" else MID_HIP if name.endswith("_hip") else OPENPOSE18.index(PARENT_OF[name])
        for name in OPENPOSE18
    ),
    NECK,
)
"""Parent of each of the 19 points; -1 for the neck, which is the root."""

NOSE = OPENPOSE18.index("nose")
CARRIED = (
    ("face", slice(None), NOSE),
    ("left_hand", slice(None), OPENPOSE18.index("left_wrist")),
    ("right_hand", slice(None), OPENPOSE18.index("right_wrist")),
    ("feet", slice(0, 3), OPENPOSE18.index("left_ankle")),
    ("feet", slice(3, 6), OPENPOSE18.index("right_ankle")),
)
"""What hangs on the joints: a part of a `Pose`, which of its points, and their joint."""

_HIPS = [OPENPOSE18.index("right_hip"), OPENPOSE18.index("left_hip")]


def _depth(point: int) -> int:
    return 0 if PARENTS[point] < 0 else 1 + _depth(PARENTS[point])


ORDER: tuple[int, ...] = tuple(sorted(range(len(PARENTS)), key=_depth))
"""The 19 points, every one after its parent."""


def with_mid_hip(joints: np.ndarray) -> np.ndarray:
    """OpenPose-18 (..., 18, 3) → (..., 19, 3) float64; three zeros where a hip is absent."""
    hips = joints[..., _HIPS, :].astype(np.float64)
    middle = hips.mean(-2, keepdims=True)
    middle[..., 2] = hips[..., 2].min(-1, keepdims=True)
    middle[~(middle[..., 2] > 0)] = 0
    return np.concatenate([joints.astype(np.float64), middle], -2)


def way_up(point: int, present: Sequence[bool] | np.ndarray) -> tuple[int, list[int]]:
    """The nearest present point above `point`, or -1, and the points whose bones lead there, `point` first."""
    way, above = [point], PARENTS[point]
    while above >= 0 and not present[above]:
        way.append(above)
        above = PARENTS[above]
    return above, way


def descendants(joint: int) -> list[int]:
    """The joints (0..17) that hang on a joint, itself first; on the neck hangs everybody."""
    found = [joint]
    for point in ORDER:
        if PARENTS[point] in found and point not in found:
            found.append(point)
    return [point for point in found if point != MID_HIP]
