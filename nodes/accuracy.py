"""Compare Poses."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy_api.latest import io

from ..reposedm_core.images import shown
from ..reposedm_core.letterbox import size_of
from ..reposedm_core.metrics import PoseAccuracy, pose_accuracy, to_wanted
from ..reposedm_core.pose import agreed, broadcast_frames, draw_comparison
from .host.images import frames_of, from_comfy
from .host.poses import asked_to_stop, images, read_poses
from .host.sockets import PoseKeypoint


class PoseAccuracyNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMPoseAccuracy",
            display_name="Compare Poses",
            category="RePoseDM/pose",
            description="Tells how well a found pose fits the wanted one: percentage of correct keypoints, object "
            "keypoint similarity, mean distance, and a picture of both.",
            search_aliases=["pose accuracy", "PCK", "OKS", "pose error", "evaluate pose", "pose metric"],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The found poses: what Estimate Pose or DWPose sees in the result."),
                PoseKeypoint.Input(
                    "wanted_pose",
                    tooltip="The wanted poses: what the result was made from. One frame serves all, on either side.",
                ),
                io.Image.Input("image", optional=True, tooltip="The result, to be shown behind the poses."),
            ],
            outputs=[
                io.Float.Output(
                    "pck_05",
                    tooltip="Share of the wanted joints, 0 to 1, that were found within 5 % of the canvas' height.",
                ),
                io.Float.Output("pck_10", tooltip="The same within 10 % of the canvas' height."),
                io.Float.Output(
                    "oks",
                    tooltip="Mean object keypoint similarity of the wanted people, 0 to 1; a person "
                    "who was not found counts 0.",
                ),
                io.Float.Output(
                    "distance",
                    tooltip="Mean distance of the found joints from the wanted ones, in pixels "
                    "of the wanted canvas; nan where none was found.",
                ),
                io.String.Output("text", tooltip="All numbers as lines of text, over all frames and for each."),
                io.Image.Output("overlay", tooltip="Wanted joints green, found ones orange, red lines between them."),
            ],
        )

    @classmethod
    def execute(cls, pose: Any, wanted_pose: Any, image: torch.Tensor | None = None) -> io.NodeOutput:
        # nobody found is a result; nobody wanted is a mistake
        pictures = None if image is None else frames_of(image)
        size = None if pictures is None else size_of(from_comfy(pictures[0], "image"))
        found = read_poses(pose, "pose", allow_nobody=True, picture=size)
        wanted = read_poses(wanted_pose, "wanted_pose", picture=size)
        found, wanted = agreed(found, wanted)
        frames = broadcast_frames(pose=found, wanted_pose=wanted, image=[None] if pictures is None else pictures)
        whole, pairs = pose_accuracy([frame[0] for frame in frames], [frame[1] for frame in frames], asked_to_stop)
        lines = [_line("all", whole)]
        if len(frames) > 1:
            lines += [
                _line(f"frame {number}", pose_accuracy([one], [other], asked_to_stop)[0])
                for number, (one, other, _) in enumerate(frames)
            ]
        # a batch has one size: that of the picture, or of the first wanted canvas
        height, width = size or (wanted[0].height, wanted[0].width)

        def overlay(number: int) -> torch.Tensor:
            one, other, picture = frames[number]
            behind = None if picture is None else shown(from_comfy(picture, "image"))[0]
            return draw_comparison(other, to_wanted(one, other), pairs[number], height, width, behind)

        return io.NodeOutput(
            whole.pck_05,
            whole.pck_10,
            whole.oks,
            whole.distance,
            "\n".join(lines),
            images("wanted_pose", len(frames), height, width, overlay),
        )


def _line(name: str, accuracy: PoseAccuracy) -> str:
    def number(value: float, digits: int) -> str:
        return "–" if math.isnan(value) else f"{value:.{digits}f}"

    return (
        f"{name}: PCK@0.05 {number(accuracy.pck_05, 3)}, PCK@0.1 {number(accuracy.pck_10, 3)}, "
        f"PCK@0.2 torso {number(accuracy.pck_torso, 3)}, OKS {number(accuracy.oks, 3)}, "
        f"distance {number(accuracy.distance, 1)} px, {accuracy.found} of {accuracy.people} people found, "
        f"{accuracy.extra} extra"
    )
