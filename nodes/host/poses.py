"""POSE_KEYPOINT in and out of nodes, frame by frame, so that a run can be stopped at every one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor

from ...reposedm_core import InputError, Pose, parse_keypoints
from ...reposedm_core.errors import MESSAGE, shortened
from ...reposedm_core.pose import check_in_frame, to_keypoints
from ...reposedm_core.pose.limits import check_pixels
from .images import frames_of


def asked_to_stop() -> None:
    """Ends the run, if the user has asked for it, by the host's own exception."""
    management.throw_exception_if_processing_interrupted()


def read_poses(data: Any, name: str, **reading: Any) -> list[Pose]:
    """Poses of the input `name`; `reading` are arguments of core's `parse_keypoints`."""
    return parse_keypoints(data, name, tick=asked_to_stop, **reading)


def poses_of(data: Any, image: Tensor, name: str, inside: bool = False) -> list[Pose]:
    """Poses of the pictures of an IMAGE from the input `name`, on their canvas: one for all, or one per picture.

    Frames may be empty. With `inside` the first person must be in the picture.
    """
    pictures = frames_of(image)
    height, width = pictures[0].shape[1:3]
    poses = [pose.resized(height, width) for pose in read_poses(data, name, allow_nobody=True, picture=(height, width))]
    if len(poses) not in (1, len(pictures)):
        raise InputError(
            f"{name}: it has {len(poses)} frames and there are {len(pictures)} pictures; give one frame "
            "for all, or a frame per picture."
        )
    for pose in poses:
        if inside and len(pose.joints):
            check_in_frame(pose, name)
    return poses


def write_poses(poses: Sequence[Pose]) -> list[dict[str, Any]]:
    """POSE_KEYPOINT of poses."""
    return to_keypoints(poses, tick=asked_to_stop)


def images(name: str, count: int, height: int, width: int, draw: Callable[[int], Tensor]) -> Tensor:
    """IMAGE (count, height, width, 3) of the pictures (3, height, width) that `draw` makes, one at a time.

    Raises:
        InputError: they are too many, or too large, for this machine too; it speaks of the input `name`.
    """
    check_pixels(name, count, height, width)
    try:
        pictures = torch.empty((count, height, width, 3), device=management.intermediate_device())
    except RuntimeError as error:
        raise InputError(
            f"{name}: there is no memory for {count} pictures of {width} × {height}; give fewer frames, "
            "or a smaller width and height."
        ) from error
    for number in range(count):
        asked_to_stop()
        pictures[number] = draw(number).movedim(0, -1)
    return pictures


def show_text(node: Any, text: str) -> None:
    """Show a text on a node that asks for `unique_id`; nothing outside of a running host.

    What it showed before goes when it begins to run (nodes/web/js/notes.js); "" shows nothing new.
    """
    if node.hidden is not None and node.hidden.unique_id:
        from server import PromptServer  # the running host

        # a file's name may hold what no encoding takes
        PromptServer.instance.send_progress_text(shortened(text, MESSAGE), node.hidden.unique_id)


def target_poses(data: Any) -> list[Pose]:
    """POSE_KEYPOINT as poses with somebody in every frame; an `InputError` names the input "pose" and empty frames."""
    poses = parse_keypoints(data, "pose")
    empty = [str(number) for number, pose in enumerate(poses) if not len(pose.joints)]
    if empty:
        raise InputError(
            f"pose: nobody is in frame {', '.join(empty)} (counted from 0); leave out such frames (Select Person does)."
        )
    return poses


def poses_in_turn(poses: int, pictures: int, batch_index: Sequence[int] | None = None) -> list[int] | None:
    """Which of so many poses each picture of a LATENT has; None where they do not match in number.

    One pose serves all, and of twice as many pictures as poses the second half begins anew, as ComfyUI repeats batches.

    Args:
        batch_index: of the LATENT: which pictures of a batch these are, where nodes have taken it apart. It is a seed's
            alone where numbers occur twice, or where there is a pose for each of these pictures and none beyond.
    """
    places = [int(place) for place in batch_index or ()]
    if poses > 1 and len(set(places)) == len(places) == pictures and 0 <= min(places) <= max(places) < poses:
        return places
    return [picture % poses for picture in range(pictures)] if pictures % poses == 0 else None
