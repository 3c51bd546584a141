"""Pose Editor: the Python half. The widget is nodes/web/js; it puts its result as JSON into the input `edit`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..reposedm_core import InputError, Pose
from ..reposedm_core.pose import load_pose_text, to_keypoints
from ..reposedm_core.pose import skeleton as sk
from .host.figure import FIGURE, STANDING
from .host.images import from_comfy, to_comfy
from .host.poses import read_poses, write_poses
from .host.sockets import PoseKeypoint

WIDGET = "REPOSEDM_POSE_EDITOR"
MAX_SIDE = 16384
HELP = (
    "Drag joints, fingers, points of face and feet; with Ctrl, what hangs on them goes along. Drag a limb to move "
    "the person, drag over the empty canvas to select points with a box. Ctrl and the wheel zoom. Right-click or "
    "Delete hides. Help in the editor shows all keys."
)


def _skeleton() -> dict[str, Any]:
    """What the widget knows about people, so that it has no copy of these tables."""
    return {
        "names": sk.OPENPOSE18,
        "limbs": sk.OPENPOSE_LIMBS,
        "colours": sk.OPENPOSE_COLOURS,
        "flip": sk.OPENPOSE_FLIP,
        "faceFlip": sk.FACE_FLIP,
        "footFlip": sk.FOOT_FLIP,
        "handLimbs": sk.HAND_LIMBS,
        "standing": to_keypoints(STANDING)[0],
        "figure": to_keypoints(FIGURE)[0],
    }


def _read(edit: str, size: tuple[int, int]) -> list[Pose]:
    """The frames that the widget saved, or another client sent, on a canvas; none where nothing was edited."""
    if not edit.strip():
        return []
    try:
        return [pose.resized(*size) for pose in load_pose_text(edit, "edit", picture=size)]
    except InputError as error:
        raise InputError(f"{error} Or press Reset in the Pose Editor.") from error


def _first(poses: list[Pose]) -> Pose:
    """The first frame with somebody in it, or the first one."""
    return next((pose for pose in poses if len(pose.joints)), poses[0])


class PoseEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMPoseEditor",
            display_name="Pose Editor",
            category="RePoseDM/pose",
            description="Drag people by joints, fingers and faces over the picture; add, copy, turn and scale them; "
            "frame by frame. As long as nothing was edited, the pose that comes in goes out; after that "
            "the edited pose does, until Reset. It is saved in the workflow.",
            search_aliases=[
                "openpose editor",
                "edit pose",
                "drag joints",
                "skeleton editor",
                "pose maker",
                "mannequin",
                "stick figure",
                "character pose",
                "animate pose",
                "keyframes",
            ],
            # It can be run by itself, to bring picture and pose into the widget.
            is_output_node=True,
            inputs=[
                io.Int.Input(
                    "width",
                    default=768,
                    min=8,
                    max=MAX_SIDE,
                    step=8,
                    tooltip="Width of the canvas in pixels, if neither picture nor pose is connected.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=8,
                    max=MAX_SIDE,
                    step=8,
                    tooltip="Height of the canvas in pixels, if neither picture nor pose is connected.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Picture behind the skeleton (the first of a batch). Its size is the canvas.",
                ),
                PoseKeypoint.Input(
                    "pose", optional=True, tooltip="Pose to start from. It is in the widget after the first run."
                ),
                # A text for everybody but the page: other clients send OpenPose JSON here, or nothing.
                io.String.Input(
                    "edit",
                    default="",
                    optional=True,
                    socketless=True,
                    extra_dict={"widgetType": WIDGET, "skeleton": _skeleton()},
                    tooltip=HELP,
                ),
            ],
            outputs=[
                PoseKeypoint.Output(
                    "pose", tooltip="The edited pose, or the one that came in, in pixels of the canvas."
                )
            ],
        )

    @classmethod
    def execute(
        cls, width: int, height: int, image: torch.Tensor | None = None, pose: Any = None, edit: str = ""
    ) -> io.NodeOutput:
        picture = None if image is None else to_comfy(from_comfy(image[:1], "image"))
        size = None if picture is None else (picture.shape[1], picture.shape[2])
        poses = [] if pose is None else read_poses(pose, "pose", allow_nobody=True, picture=size)
        first = _first(poses) if poses else None
        nobody = first is not None and not len(first.joints)
        if size is None:
            size = height, width
            if first is not None and not (nobody and first.guessed):
                size = first.height, first.width
        if first is None or nobody:
            poses = [STANDING.resized(*size)]
        elif picture is not None:
            poses = [frame.resized(*size) for frame in poses]
        guessed = _first(poses).guessed
        edited = _read(edit, size)
        shown = {
            "pose_editor_start": write_poses(poses),
            "pose_editor_picture": [] if picture is None else ui.PreviewImage(picture).values,
        }
        if nobody:
            shown["pose_editor_nobody"] = [True]
        if edited:
            poses = [replace(pose, guessed=guessed) for pose in edited]  # what was drawn on a guess is on that guess
        return io.NodeOutput(write_poses(poses), ui=shown)
