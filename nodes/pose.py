"""Load Pose, Estimate Pose and Draw Pose."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from comfy_api.latest import io

from ..reposedm_core import InputError
from ..reposedm_core.field import predict_pose
from ..reposedm_core.pipeline import fit_image
from ..reposedm_core.pose import (
    STYLES,
    Pose,
    coco_to_openpose,
    draw_pose,
    load_pose_file,
    load_pose_text,
    parse_keypoints,
    to_keypoints,
)
from . import folders
from .bridge import from_comfy, load, to_mask
from .sockets import EstimatorSocket, LoadedEstimator, PoseKeypoint

NO_FILE = "none"


class LoadPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMLoadPose",
            display_name="Load Pose",
            category="RePoseDM",
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


class EstimatePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMEstimatePose",
            display_name="Estimate Pose",
            category="RePoseDM",
            description="Finds the pose of the one person in each picture with RePoseDM's own estimator. The small one "
                        "was trained on synthetic people: on photographs a DWPose node sees better.",
            search_aliases=["pose detection", "keypoints from image", "openpose", "HigherHRNet"],
            inputs=[
                EstimatorSocket.Input("pose_estimator", tooltip="From RePoseDM Loader."),
                io.Image.Input("image", tooltip="Pictures that show one person each; a batch gives a frame a picture."),
                io.Float.Input("threshold", default=0.1, min=0.1, max=1.0, step=0.01,
                               tooltip="Joints that the estimator is less sure of than this are left out; below 0.1 "
                                       "no node counts a joint."),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The poses, in pixels of the pictures.")],
        )

    @classmethod
    def execute(cls, pose_estimator: LoadedEstimator, image: torch.Tensor, threshold: float) -> io.NodeOutput:
        picture = from_comfy(image, "image")
        height, width = picture.shape[-2:]
        fitted = fit_image(picture, pose_estimator.height, pose_estimator.width)
        device = load(pose_estimator.patcher, pixels=fitted[:, 0].numel())
        joints = predict_pose(pose_estimator.patcher.model, fitted.to(device), threshold)
        return io.NodeOutput(to_keypoints(
            Pose(people[people[..., 2].any(1)], *fitted.shape[-2:]).unfitted(height, width)
            for people in coco_to_openpose(joints[:, None].cpu().numpy())))


class DrawPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMDrawPose",
            display_name="Draw Pose",
            category="RePoseDM",
            description="Draws poses as skeletons: OpenPose's for a ControlNet, hands and faces too, HumanSD's for "
                        "RePoseSD and HumanSD, or COCO's to look at.",
            search_aliases=["render skeleton", "openpose image", "pose preview", "HumanSD skeleton", "stick figure"],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The poses; every frame gives a picture."),
                io.Int.Input("width", default=0, min=0, max=16384,
                             tooltip="Width of the pictures in pixels; 0 is the width of the pose's own canvas."),
                io.Int.Input("height", default=0, min=0, max=16384,
                             tooltip="Height of the pictures in pixels; 0 is the height of the pose's own canvas."),
                io.Combo.Input("style", options=list(STYLES), default="openpose",
                               tooltip="openpose: for ControlNets. humansd: what HumanSD and RePoseSD were trained with. "
                                       "coco: the person's left green, the right orange."),
                io.Float.Input("line_width", default=1.0, min=0.1, max=10.0, step=0.1,
                               tooltip="Makes lines and joints thinner or thicker; 1 is what networks expect."),
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
