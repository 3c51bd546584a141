"""Moving, scaling, turning and mirroring people, and single joints of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InputError, quoted
from .keypoints import PARTS, Pose
from .people import people_boxes
from .skeleton import FACE_FLIP, FOOT_FLIP, OPENPOSE18, OPENPOSE_FLIP
from .tree import CARRIED, descendants

FLIPS = ("no", "person", "canvas")
"""What `edit_people` mirrors at: nothing, the middle of each person, the middle of the canvas."""


def edit_people(
    pose: Pose,
    person: int | None = None,
    shift: tuple[float, float] = (0, 0),
    scale: float = 1,
    angle: float = 0,
    flip: str = "no",
) -> Pose:
    """Mirror, then scale, then turn people around the middle of their boxes of body joints, then move them.

    Hands, faces and feet come along; points may leave the canvas and are kept there.

    Args:
        pose: the frame.
        person: whom, counted from 0; everybody where None. A frame without that person stays as it is.
        shift: to the right and down, in pixels.
        scale: factor on the size, above 0.
        angle: in degrees, clockwise as the picture is seen.
        flip: one of `FLIPS`. A mirrored person has left and right swapped in the names of the joints, as the picture of
            a mirrored person has.

    Returns:
        Everybody on the same canvas.

    Raises:
        InputError: a number that is not finite, a scale that is not positive, or another flip.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale: {scale} is no factor for a size; use one above 0.")
    if not all(map(math.isfinite, (*shift, angle))):
        raise InputError(f"move: {shift[0]}, {shift[1]} and rotate: {angle} must be finite numbers.")
    if flip not in FLIPS:
        raise InputError(f"flip: there is no {quoted(flip)}; choose {', '.join(FLIPS)}.")
    turn = math.radians(angle % 360)
    linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    if flip != "no":
        linear = linear @ np.diag([-1, 1])
    boxes = people_boxes(pose)
    # float64 until the very end: what is far outside must not overflow
    parts = [part.astype(np.float64) for part in pose.parts]
    for i in _chosen(pose, person):
        middle = (boxes[i, :2] + boxes[i, 2:]) / 2
        if not np.isfinite(middle).all():
            continue
        goal = middle + shift
        if flip == "canvas":
            goal[0] += pose.width - 2 * middle[0]
        for part in parts:
            part[i, :, :2] = (part[i, :, :2] - middle) @ linear.T + goal
        if flip != "no":
            joints, face, left, right, feet = parts
            joints[i] = joints[i, list(OPENPOSE_FLIP)]
            face[i] = face[i, list(FACE_FLIP)]
            left[i], right[i] = right[i].copy(), left[i].copy()
            feet[i] = feet[i, list(FOOT_FLIP)]
    return pose.with_parts(*parts)


def edit_joint(
    pose: Pose,
    joint: str,
    shift: tuple[float, float] = (0, 0),
    remove: bool = False,
    limb: bool = True,
    person: int | None = None,
) -> Pose:
    """Move or remove one body joint.

    Args:
        pose: the frame.
        joint: its name in OpenPose-18, such as "left_wrist".
        shift: to the right and down, in pixels.
        remove: the joint is made absent instead.
        limb: what hangs on the joint shares its fate: an elbow takes wrist and hand along, a knee ankle and foot,
            a nose the face, and the neck the whole body. Otherwise the joint alone.
        person: whose, counted from 0; everybody's where None. People without the joint are unchanged.

    Returns:
        Everybody who has a body joint left, on the same canvas.

    Raises:
        InputError: there is no such joint, or a shift that is not finite.
    """
    if joint not in OPENPOSE18:
        raise InputError(f"joint: there is no {quoted(joint)}; choose {', '.join(OPENPOSE18)}.")
    if not all(map(math.isfinite, shift)):
        raise InputError(f"joint offset: {shift[0]}, {shift[1]} must be finite numbers.")
    number = OPENPOSE18.index(joint)
    moved = descendants(number) if limb else [number]
    parts = {name: part.astype(np.float64) for name, part in zip(PARTS, pose.parts, strict=True)}
    joints = parts["joints"]
    carried = [parts[part][:, points] for part, points, point in CARRIED if point in moved]
    for i in _chosen(pose, person):
        if not joints[i, number, 2] > 0:
            continue
        if remove:
            joints[i, moved] = 0
        else:
            joints[i, moved, :2] += shift
        for part in carried if limb else []:
            if remove:
                part[i] = 0
            else:
                part[i, :, :2] += shift
    edited = pose.with_parts(*parts.values())
    return edited.take(np.flatnonzero((edited.joints[..., 2] > 0).any(1)))


def has_person(frames: Sequence[Pose], person: int | None) -> None:
    """Raise an InputError if no frame has a person of this number, counted from 0."""
    most = max((len(frame.joints) for frame in frames), default=0)
    if person is not None and person >= most:
        raise InputError(f"person: there is no person {person}; the fullest frame has {most}, counted from 0.")


def _chosen(pose: Pose, person: int | None) -> list[int]:
    people = range(len(pose.joints))
    return list(people) if person is None else [person] if person in people else []
