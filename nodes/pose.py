"""Load Pose, Save Pose and Draw Pose."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import torch
from comfy_api.latest import io

from ..reposedm_core import InputError
from ..reposedm_core.pose import (
    STYLES,
    draw_pose,
    load_pose_file,
    load_pose_text,
    parse_keypoints,
    to_keypoints,
)
from . import folders
from .bridge import to_mask
from .sockets import PoseKeypoint

NO_FILE = "none"


class LoadPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMLoadPose",
            display_name="Load Pose",
            category="RePoseDM/pose",
            description="Reads a pose: an OpenPose JSON file from the input folder, or pasted JSON text. Every variant "
                        "that OpenPose, DWPose and SDPose write is understood; several frames give several poses.",
            search_aliases=["openpose", "keypoints", "load skeleton", "pose json", "POSE_KEYPOINT"],
            inputs=[
                io.Combo.Input("file", options=[NO_FILE, *folders.pose_files()], default=NO_FILE,
                               tooltip="A JSON file in ComfyUI's input folder. Press R after copying one there."),
                io.String.Input("text", multiline=True, default="", placeholder="or paste OpenPose JSON here",
                                tooltip="OpenPose JSON. Used instead of the file when it is not empty."),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The pose, in pixels of its canvas.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        return file == NO_FILE or folders.problem(folders.pose_path, file)

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, text: str | None = None) -> str:
        if file is None or text is None:   # another node supplies it
            return "linked"
        content = text.encode() if text.strip() or file == NO_FILE else folders.pose_path(file).read_bytes()
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def execute(cls, file: str, text: str) -> io.NodeOutput:
        if text.strip():
            return io.NodeOutput(to_keypoints(load_pose_text(text, "text")))
        if file == NO_FILE:
            raise InputError("text: it is empty and no file is chosen; choose a file or paste a pose.")
        return io.NodeOutput(to_keypoints(load_pose_file(folders.pose_path(file))))


class SavePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMSavePose",
            display_name="Save Pose",
            category="RePoseDM/pose",
            description="Writes poses as an OpenPose JSON file into ComfyUI's output folder.",
            search_aliases=["export pose", "pose json", "write keypoints", "save openpose", "POSE_KEYPOINT"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The poses; all frames go into one file."),
                io.String.Input("filename_prefix", default="poses/pose",
                                tooltip="Folder and beginning of the file's name below the output folder, as for Save "
                                        "Image; a number follows. %year%, %month%, %day%, %hour%, %minute%, %second%, "
                                        "%width% and %height% (of the canvas) are filled in."),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The poses as they were saved, to go on with.")],
        )

    @classmethod
    def execute(cls, pose: Any, filename_prefix: str) -> io.NodeOutput:
        poses = parse_keypoints(pose, "pose")
        frames = to_keypoints(poses)
        path, subfolder = folders.output_path(filename_prefix, ".json", poses[0].width, poses[0].height)
        try:
            path.write_text(json.dumps(frames, allow_nan=False), encoding="utf-8")
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise InputError(f"filename_prefix: {path.name} could not be written ({error.strerror or error}); choose "
                             "another name, or make room on the disk.") from error
        name = f"{subfolder}/{path.name}" if subfolder else path.name
        if cls.hidden is not None and cls.hidden.unique_id:
            from server import PromptServer  # the running host; shows the text on the node

            PromptServer.instance.send_progress_text(name, cls.hidden.unique_id)
        file = {"filename": path.name, "subfolder": subfolder, "type": "output"}
        return io.NodeOutput(frames, ui={"text": [name], "files": [file]})


class DrawPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMDrawPose",
            display_name="Draw Pose",
            category="RePoseDM/pose",
            description="Draws poses as skeletons: OpenPose's for a ControlNet, hands and faces too, HumanSD's, "
                        "or COCO's to look at.",
            search_aliases=["render skeleton", "openpose image", "pose preview", "HumanSD skeleton", "stick figure"],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The poses; every frame gives a picture."),
                io.Int.Input("width", default=0, min=0, max=16384,
                             tooltip="Width of the pictures in pixels; 0 is the width of the pose's own canvas."),
                io.Int.Input("height", default=0, min=0, max=16384,
                             tooltip="Height of the pictures in pixels; 0 is the height of the pose's own canvas."),
                io.Combo.Input("style", options=list(STYLES), default="openpose", optional=True,
                               tooltip="openpose: as RePoseDM and RePoseSD learn it. controlnet: the same colours "
                                       "in the thinner lines of ControlNet's preprocessors. humansd: what HumanSD's "
                                       "weights were trained with. coco: the person's left green, the right orange."),
                io.Float.Input("line_width", default=1.0, min=0.1, max=10.0, step=0.1, optional=True,
                               tooltip="Makes lines and joints thinner or thicker; 1 is what the style's networks "
                                       "were trained with."),
            ],
            outputs=[io.Image.Output("image", tooltip="Skeletons on black, one picture a frame.")],
        )

    @classmethod
    def execute(cls, pose: Any, width: int, height: int, style: str = "openpose",
                line_width: float = 1.0) -> io.NodeOutput:
        poses = parse_keypoints(pose, "pose")
        # A batch has one size: that of the first frame, where none is given.
        size = height or poses[0].height, width or poses[0].width
        pictures = [draw_pose(frame, *size, style, line_width) for frame in poses]
        return io.NodeOutput(to_mask(torch.stack(pictures).movedim(1, -1)))
