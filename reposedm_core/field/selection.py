"""Which people and which joints of a pose the field is to match, from words to a target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, quoted
from ..images import from_uint8
from ..pose import Pose, coco_to_openpose, draw_pose, openpose_to_coco
from ..pose.skeleton import COCO17
from .field import PoseInteractionField
from .target import PoseTarget

JOINT_GROUPS: dict[str, tuple[str, ...]] = {
    "head": ("nose", "eye", "ear"),
    "body": ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
    "torso": ("shoulder", "hip"),
    "arms": ("shoulder", "elbow", "wrist"),
    "legs": ("hip", "knee", "ankle"),
    "hands": ("wrist",),
    "feet": ("ankle",),
    "left": ("left",),
    "right": ("right",),
}
"""Names for several joints: those of COCO's in whose own name one of the words occurs."""


def chosen_joints(text: str) -> tuple[int, ...] | None:
    """Numbers, in COCO's order, of the joints that a text names; None for all of them.

    Args:
        text: "all", or names of COCO's joints (`left_wrist`), of kinds (`wrist`) and of groups (`JOINT_GROUPS`, `left
            arm`), separated by commas; "-" before a name leaves those out, from all where nothing is named before.

    Raises:
        InputError: an unknown name, or nothing left.
    """
    chosen: set[int] | None = None
    for word in _words(text):
        away, name = word.startswith("-"), word.removeprefix("-").strip().replace(" ", "_")
        if name == "all":
            found = set(range(len(COCO17)))
        else:
            kinds = [
                JOINT_GROUPS.get(part) or JOINT_GROUPS.get(part + "s") or (part.removesuffix("s"),)
                for part in name.split("_")
            ]
            found = {
                number
                for number, joint in enumerate(COCO17)
                if all(set(joint.split("_")) & set(kind) for kind in kinds)
            }
        if not found:
            raise InputError(
                f"joints: {quoted(name)} is no joint; name some of {', '.join(COCO17)}, or "
                f"{', '.join(JOINT_GROUPS)}, or all."
            )
        if away:
            chosen = (set(range(len(COCO17))) if chosen is None else chosen) - found
        else:
            chosen = found | (chosen or set())
    if chosen is None or len(chosen) == len(COCO17):
        return None
    if not chosen:
        raise InputError(f"joints: {quoted(text)} leaves no joint to match; name one or more, or all.")
    return tuple(sorted(chosen))


def chosen_people(text: str) -> tuple[int, ...] | None:
    """Numbers, from 0, of the people that a text such as "0, 2-4" names; None for "all".

    Raises:
        InputError: anything else.
    """
    found: set[int] = set()
    for word in _words(text):
        if word == "all":
            return None
        first, _, last = word.partition("-")
        if not (first.strip().isdecimal() and (last or first).strip().isdecimal()):
            raise InputError(f"people: {quoted(word)} is no person; give numbers from 0 such as 0 or 0, 2-4, or all.")
        low, high = (int(part) if len(part) < 10 else 10**9 for part in (first, last or first))
        if not low <= high < 1000:
            raise InputError(
                f"people: {quoted(word)} counts downwards or too far; give numbers from 0 such as 0 or 2-4."
            )
        found.update(range(low, high + 1))
    if not found:
        raise InputError("people: nobody is chosen; give numbers from 0 such as 0 or 0, 2-4, or all.")
    return tuple(sorted(found))


def pose_target(
    field: PoseInteractionField,
    poses: list[Pose],
    size: tuple[int, int],
    native: tuple[int, int],
    people: Iterable[int] | None = (0,),
) -> PoseTarget:
    """What the field compares pictures with: the chosen people of each pose.

    Args:
        field: in space "features" the drawn skeletons are the picture of the target.
        poses: one for all pictures, or one per picture.
        size: height and width of the pictures.
        native: height and width that the estimator was trained at; the pictures are to be fitted to it.
        people: numbers of them, None for all. Who is not in a frame is left out there.

    Raises:
        InputError: a frame with none of them, or with none of the field's joints; a size that the estimator refuses.
    """
    frames = [_people(pose, frame, people) for frame, pose in enumerate(poses)]
    for frame, joints in enumerate(frames):
        if field.joints is not None and not (openpose_to_coco(joints)[:, field.joints, 2] > 0).any():
            raise InputError(
                f"joints: the pose in frame {frame} (counted from 0) has none of those chosen; choose others, or all."
            )
    fitted = [
        Pose(joints, pose.height, pose.width).resized(*size).resized(*native).joints
        for joints, pose in zip(frames, poses, strict=True)
    ]
    if field.space == "features":
        return _drawn_target(field, fitted, *native)
    places = np.zeros((len(fitted), max(map(len, fitted)), 17, 3), np.float32)
    for row, found in zip(places, fitted, strict=True):
        row[: len(found)] = openpose_to_coco(found)
    wanted = torch.from_numpy(places)
    return field.target_from_joints(wanted[:, 0] if wanted.shape[1] == 1 else wanted, *native)


def joints_target(field: PoseInteractionField, joints: Tensor, height: int, width: int) -> PoseTarget:
    """What the field compares pictures with that have people at these joints.

    Args:
        field: in space "features" the drawn skeletons are the picture of the target.
        joints: COCO's, see `PoseInteractionField.target_from_joints`. height, width: of the pictures.
    """
    if field.space != "features":
        return field.target_from_joints(joints, height, width)
    people = coco_to_openpose(joints.cpu().numpy()).reshape(len(joints), -1, 18, 3)
    return _drawn_target(field, people, height, width)


def _drawn_target(field: PoseInteractionField, people: Iterable[np.ndarray], height: int, width: int) -> PoseTarget:
    """Of the people (n, 18, 3) of each picture."""
    field.check_size(height, width)
    drawn = torch.stack([draw_pose(Pose(each, height, width)) for each in people])
    return field.target_from_image(from_uint8((drawn * 255).round()))


def _people(pose: Pose, frame: int, people: Iterable[int] | None) -> np.ndarray:
    chosen = range(len(pose.joints)) if people is None else [n for n in people if n < len(pose.joints)]
    if not len(chosen):
        raise InputError(
            f"people: frame {frame} of the pose (counted from 0) has {len(pose.joints)} people and none "
            "of those chosen; choose others, or all."
        )
    return pose.joints[list(chosen)]


def _words(text: str) -> Sequence[str]:
    return [word for word in (part.strip().lower() for part in text.replace(";", ",").split(",")) if word]
