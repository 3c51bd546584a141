"""Bodies by their number of points: which of them are OpenPose's 18, and which are feet, face and hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..keypoints import PARTS, coco_to_openpose
from ..skeleton import BODY25_TO_OPENPOSE, OPENPOSE18, OPENPOSE_LIMBS

_RIGHT_ANKLE, _LEFT_ANKLE = OPENPOSE18.index("right_ankle"), OPENPOSE18.index("left_ankle")
_OPENPOSE, _COCO = tuple(range(18)), tuple(range(17))
# MediaPipe's landmarks in the order of COCO-17.
_MEDIAPIPE = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
Indices = Sequence["int | None"]


@dataclass(frozen=True)
class Body:
    """One order of points.

    Attributes:
        points: how many there are.
        name: of the order, as the help page of Load Pose has it.
        joints: where the joints are: 18 of OpenPose, or 17 of COCO, whose neck is made of the shoulders.
        feet, face, left_hand, right_hand: where the points of these parts are, None for what it has not.
        toes: two of its points are toes whose sides nobody agrees on: each goes to the nearer ankle.
    """

    points: int
    name: str
    joints: tuple[int, ...]
    feet: Indices = ()
    face: Indices = ()
    left_hand: Indices = ()
    right_hand: Indices = ()
    toes: bool = False

    def split(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Points (N, 3), absent ones zero, as the parts of a `Pose`: (18, 3), (70, 3), ...; zeros for what it has
        not."""
        joints = points[list(self.joints)]
        parts = {"joints": coco_to_openpose(joints) if len(joints) == 17 else joints}
        with_absent = np.concatenate([points, np.zeros((1, 3))])
        for part, count in list(PARTS.items())[1:]:
            indices = [-1 if index is None else index for index in getattr(self, part)]
            parts[part] = with_absent[indices + [-1] * (count - len(indices))]
        if self.toes:
            _to_nearer_ankles(parts["joints"], parts["feet"])
        return parts


BODIES = (
    Body(17, "COCO", _COCO),
    Body(18, "OpenPose", _OPENPOSE),
    Body(19, "OpenPose and one more, which is left out", _OPENPOSE),
    Body(19, "BODY_25 without feet", BODY25_TO_OPENPOSE),
    Body(20, "OpenPose and two toes", _OPENPOSE, (18, None, None, 19, None, None), toes=True),
    Body(24, "OpenPose and feet", _OPENPOSE, range(18, 24)),
    Body(25, "BODY_25", BODY25_TO_OPENPOSE, range(19, 25)),
    Body(25, "BODY_25B", _COCO, range(19, 25)),
    Body(26, "Halpe", _COCO, (20, 22, 24, 21, 23, 25)),
    Body(33, "MediaPipe", _MEDIAPIPE, (31, None, 29, 32, None, 30)),
    Body(133, "COCO-WholeBody", _COCO, range(17, 23), range(23, 91), range(91, 112), range(112, 133)),
    Body(
        134,
        "DWPose: OpenPose, feet, face and hands",
        _OPENPOSE,
        range(18, 24),
        range(24, 92),
        range(92, 113),
        range(113, 134),
    ),
    Body(135, "BODY_135", _COCO, range(19, 25), range(65, 135), (9, *range(25, 45)), (10, *range(45, 65))),
    Body(135, "OpenPose and others, which are left out", _OPENPOSE),
    Body(
        136,
        "Halpe with face and hands",
        _COCO,
        (20, 22, 24, 21, 23, 25),
        range(26, 94),
        range(94, 115),
        range(115, 136),
    ),
)
"""All orders that are read. Two of the same number of points are told apart by their limbs, see `choose_body`."""

COUNTS = tuple(sorted({body.points for body in BODIES}))
"""Numbers of points that a body can have."""


def choose_body(points: int, people: Sequence[np.ndarray]) -> Body:
    """The order of bodies of `points` points: where there are several, the one that gives the shortest limbs.

    Args:
        people: all such bodies of a sequence, (points, 3) each, absent points zero.
    """
    bodies = [body for body in BODIES if body.points == points]
    if len(bodies) == 1:
        return bodies[0]
    return min(bodies, key=lambda body: _mean_limb([body.split(person)["joints"] for person in people]))


def _mean_limb(people: Sequence[np.ndarray]) -> float:
    joints = np.stack(people)
    start, end = (joints[:, [limb[side] for limb in OPENPOSE_LIMBS]] for side in (0, 1))
    lengths = np.linalg.norm(start[..., :2] - end[..., :2], axis=-1)
    seen = (start[..., 2] > 0) & (end[..., 2] > 0)
    return float(lengths[seen].mean()) if seen.any() else np.inf


def _to_nearer_ankles(joints: np.ndarray, feet: np.ndarray) -> None:
    """Change the two big toes of feet (6, 3), in place, where both then are nearer to their ankles."""
    toes, ankles = feet[[0, 3]], joints[[_LEFT_ANKLE, _RIGHT_ANKLE]]
    if (toes[:, 2] > 0).all() and (ankles[:, 2] > 0).all():
        apart = np.linalg.norm(toes[:, None, :2] - ankles[None, :, :2], axis=-1)
        if apart[0, 1] + apart[1, 0] < apart[0, 0] + apart[1, 1]:
            feet[[0, 3]] = toes[::-1]
