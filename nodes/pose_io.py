"""Load Pose, Save Pose and Draw Pose."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..reposedm_core import InputError, Pose
from ..reposedm_core.files import write_text
from ..reposedm_core.pose import STYLES, draw_pose, load_pose_file, load_pose_text
from ..reposedm_core.pose.keypoints import MAX_CANVAS
from .host import folders
from .host.poses import asked_to_stop, images, read_poses, show_text, write_poses
from .host.sockets import PoseKeypoint

NO_FILE = "none"
NOBODY = 64
"""Side in pixels of the black picture of a pose that shows nobody and tells no size; ComfyUI's own drawing has it."""


class LoadPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMLoadPose",
            display_name="Load Pose",
            category="RePoseDM/pose",
            description="Reads poses: a JSON file of the input folder, a folder with a file per frame, or pasted JSON "
            "text, as OpenPose, DWPose, SDPose, AlphaPose, mmpose and MediaPipe write them.",
            search_aliases=[
                "openpose",
                "keypoints",
                "load skeleton",
                "pose json",
                "POSE_KEYPOINT",
                "AlphaPose",
                "mmpose",
                "MediaPipe",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[NO_FILE, *folders.pose_files()],
                    default=NO_FILE,
                    tooltip="A JSON file in ComfyUI's input folder, or a folder there with a file per frame "
                    "(it ends in /). Press R after copying one there.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    placeholder="or paste OpenPose JSON here",
                    tooltip="JSON of a pose. Used instead of the file when it is not empty.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=MAX_CANVAS,
                        optional=True,
                        tooltip=f"{side.capitalize()} in pixels of the picture that the pose was found in. 0 is "
                        "as the file says; where it does not say, it is guessed from where people are.",
                    )
                    for side in ("width", "height")
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The pose, in pixels of its canvas.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None, text: str | None = "") -> bool | str:
        # pasted text wins, so that the file may be gone; a text from another node is not known yet
        return file == NO_FILE or text is None or bool(text.strip()) or folders.problem(folders.pose_path, file)

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, text: str | None = None, **others: object) -> str:
        if file is None:  # another node supplies it
            return "linked"
        if text is not None:
            pasted = text.strip() or file == NO_FILE
            content = text.encode("utf-8", "surrogatepass") if pasted else folders.pose_state(file)
        elif folders.problem(folders.pose_path, file) is True:  # a text from another node may be empty
            content = folders.pose_state(file)
        else:
            return "linked"
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def execute(cls, file: str, text: str, width: int = 0, height: int = 0) -> io.NodeOutput:
        notes: list[str] = []
        reading: dict[str, Any] = {"width": width, "height": height, "note": notes.append, "tick": asked_to_stop}
        if text.strip():
            poses = load_pose_text(text, "text", **reading)
        elif file == NO_FILE:
            raise InputError("text: it is empty and no file is chosen; choose a file or paste a pose.")
        else:
            poses = load_pose_file(folders.pose_path(file), **reading)
        for note in notes:
            logging.warning("Load Pose: %s", note)
        show_text(cls, "\n".join([_summary(poses), *notes]))
        return io.NodeOutput(write_poses(poses))


def _summary(poses: Sequence[Pose]) -> str:
    """What was read, in a line: "12 frames, 1 to 3 people, 512 × 768"."""
    people, sizes = [len(pose.joints) for pose in poses], {(pose.width, pose.height) for pose in poses}
    fewest, most = min(people), max(people)
    count = f"{fewest} to {most}" if fewest < most else str(most)
    size = " × ".join(map(str, sizes.pop())) if len(sizes) == 1 else f"{len(sizes)} sizes"
    frames, who = "frame" if len(poses) == 1 else "frames", "person" if count == "1" else "people"
    return f"{len(poses)} {frames}, {count} {who}, {size}"


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
                io.String.Input(
                    "filename_prefix",
                    default="poses/pose",
                    tooltip="Folder and beginning of the file's name below the output folder, as for Save "
                    "Image; a number follows. %year%, %month%, %day%, %hour%, %minute%, %second%, "
                    "%width% and %height% (of the canvas) are filled in.",
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The poses as they were saved, to go on with.")],
        )

    @classmethod
    def execute(cls, pose: Any, filename_prefix: str) -> io.NodeOutput:
        poses = read_poses(pose, "pose", allow_nobody=True)
        frames = write_poses(poses)
        path, subfolder = folders.output_path(filename_prefix, ".json", poses[0].width, poses[0].height)
        try:
            write_text(path, json.dumps(frames, allow_nan=False))
        except InputError as error:
            raise InputError(f"filename_prefix: {error}") from error
        name = f"{subfolder}/{path.name}" if subfolder else path.name
        show_text(cls, name)
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
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Width of the pictures in pixels; 0 is the width of the pose's own canvas.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Height of the pictures in pixels; 0 is the height of the pose's own canvas.",
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="openpose",
                    optional=True,
                    tooltip="openpose: as RePoseDM and RePoseSD learn it. controlnet: the same colours "
                    "in the thinner lines of ControlNet's preprocessors. humansd: what HumanSD's "
                    "weights were trained with. coco: the person's left green, the right orange.",
                ),
                io.Float.Input(
                    "line_width",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.1,
                    optional=True,
                    tooltip="Makes lines and joints thinner or thicker; 1 is what the style's networks "
                    "were trained with.",
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="Skeletons on black, one picture per frame.")],
        )

    @classmethod
    def execute(
        cls, pose: Any, width: int, height: int, style: str = "openpose", line_width: float = 1.0
    ) -> io.NodeOutput:
        poses = read_poses(pose, "pose", allow_nobody=True)
        # A batch has one size: that of the first frame, where none is given.
        first = poses[0]
        known = (first.height, first.width) if len(first.joints) or not first.guessed else (NOBODY, NOBODY)
        size = height or known[0], width or known[1]
        return io.NodeOutput(
            images("pose", len(poses), *size, lambda frame: draw_pose(poses[frame], *size, style, line_width))
        )
