"""Skeleton Warp: a picture brought into another pose by the two skeletons alone."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError
from ..reposedm_core.full_size import SOURCE, view
from ..reposedm_core.images import in_turn
from ..reposedm_core.pose.limits import check_pixels
from ..reposedm_core.skeleton_warp import warp_by_skeletons
from .host.images import frames_of, masks_of, to_mask
from .host.poses import asked_to_stop, poses_of, target_poses
from .host.sizes import HEIGHT, output_inputs
from .host.sockets import PoseKeypoint


class SkeletonWarp(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMSkeletonWarp",
            display_name="Skeleton Warp",
            category="RePoseDM",
            description="Brings the person of a picture into another pose by the two poses alone, limb by limb, at the "
            "picture's own size and on its own background. Needs no model: a start for inpainting with any checkpoint.",
            search_aliases=["warp to pose", "puppet warp", "repose", "pose transfer", "move limbs", "liquify"],
            inputs=[
                io.Image.Input("source", tooltip="Pictures that show one person each."),
                PoseKeypoint.Input(
                    "source_pose",
                    tooltip="Pose of the person in the source, in the source's own pixels, from any estimator: a frame "
                    "per picture, or one for all.",
                ),
                PoseKeypoint.Input(
                    "pose",
                    tooltip="The target pose; its first person counts. One frame serves all pictures, several frames "
                    "with one picture give a result per frame.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the source shows the person, as a background remover finds it. Without it, "
                    "and in a black one of a batch, what is near the skeleton.",
                ),
                *output_inputs((SOURCE, HEIGHT)),
            ],
            outputs=[
                io.Image.Output(
                    "aligned",
                    tooltip="The person in the target pose, in front of the source's own background, which is filled "
                    "in where the person stood.",
                ),
                io.Mask.Output("visibility", tooltip="White where the source shows what the result will need."),
                io.Image.Output("flow", tooltip="Where each pixel was fetched from, as colours; white is from here."),
                io.Mask.Output("person", tooltip="White where the person is in the target pose."),
                io.Mask.Output("changed", tooltip="White where the person is, and where the person was."),
            ],
        )

    @classmethod
    def execute(
        cls,
        source: Tensor,
        source_pose: Any,
        pose: Any,
        mask: Tensor | None = None,
        output_size: str = SOURCE,
        output_height: int = 1024,
    ) -> io.NodeOutput:
        pictures = [frame[0] for frame in frames_of(source)]
        poses, own = target_poses(pose), poses_of(source_pose, source, "source_pose")
        results = max(len(pictures), len(poses))
        if min(len(pictures), len(poses)) != 1 and len(pictures) != len(poses):
            raise InputError(
                f"pose: it has {len(poses)} frames and source {len(pictures)} pictures; give one pose for all, one "
                "picture for all, or as many of both."
            )
        empty = [str(number) for number, each in enumerate(own) if not len(each.joints)]
        if empty:
            raise InputError(
                f"source_pose: nobody is in frame {', '.join(empty)} (counted from 0); draw the pose in Pose Editor, "
                "or leave the picture out."
            )
        size = output_height if output_size == HEIGHT else SOURCE
        seen = view(size, (pictures[0].shape[0], pictures[0].shape[1]), (1, 1))
        if seen is not None:
            check_pixels("output_size", results, *seen.size)
        masks: list[Tensor | None] = [None] * results
        if mask is not None:
            whole = in_turn(masks_of(mask), results)[:, 0]
            some = bool(whole.any())  # then a frame that is black, in which nobody was found, is as without a mask
            masks = [None if some and not each.any() else each for each in whole]
        progress = comfy.utils.ProgressBar(results) if results > 1 else None
        found = []
        for number in range(results):
            made = warp_by_skeletons(
                pictures[number % len(pictures)],
                own[number % len(own)],
                poses[number % len(poses)],
                size,
                masks[number],
                asked_to_stop,
            )
            found.append([made.aligned, made.visibility, made.flow, made.person, made.changed])
            if progress is not None:
                progress.update(1)
        return io.NodeOutput(*(to_mask(torch.stack(each)) for each in zip(*found, strict=True)))
