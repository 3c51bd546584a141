"""Keep Face: the source's own face on the person in the result."""

from __future__ import annotations

import logging
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError
from ..reposedm_core.keep_face import keep_face
from ..reposedm_core.pose import who_is_who
from ..reposedm_core.pose.limits import check_pixels
from .host.images import coloured, frames_of, one_picture, to_mask
from .host.poses import asked_to_stop, poses_of, show_text
from .host.sockets import PoseKeypoint


class KeepFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMKeepFace",
            display_name="Keep Face",
            category="RePoseDM",
            description="Puts the face of the source picture on the person in the result, where both poses show it "
            "from about the same side. Elsewhere the result stays as it is.",
            search_aliases=["face restore", "face swap", "identity", "same face", "paste face", "likeness"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("result", tooltip="The pictures of the person in the new pose."),
                io.Image.Input("source", tooltip="The picture that shows the face: one for all, or one per result."),
                PoseKeypoint.Input(
                    "source_pose", tooltip="Pose of the person in the source: a frame per picture, or one for all."
                ),
                PoseKeypoint.Input("pose", tooltip="Pose of the results: a frame per picture, or one for all."),
                io.Boolean.Input("keep", default=True, tooltip="Off: the results come out as they are, bit for bit."),
                io.Float.Input(
                    "feather",
                    default=25.0,
                    min=0.0,
                    max=50.0,
                    step=1.0,
                    tooltip="Over what width the face fades into the result, in percent of the face's height.",
                ),
                io.Float.Input(
                    "match_colours",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the difference in colour and contrast around the face is taken from the "
                    "source's; 0 leaves its colours alone.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The results with the face; the node says in how many it is."),
                io.Mask.Output("mask", tooltip="The share of the source's face in every pixel."),
            ],
        )

    @classmethod
    def execute(
        cls,
        result: Tensor,
        source: Tensor,
        source_pose: Any,
        pose: Any,
        keep: bool = True,
        feather: float = 25.0,
        match_colours: float = 1.0,
    ) -> io.NodeOutput:
        results, sources = frames_of(coloured(result, "result")), frames_of(source)
        size = results[0].shape[1:3]
        check_pixels("result", len(results), *size)
        if not keep:
            return io.NodeOutput(result, torch.zeros(len(results), *size))
        if len(sources) not in (1, len(results)):
            raise InputError(
                f"source: it has {len(sources)} pictures and result {len(results)}; give one for all, or as many of "
                "both."
            )
        own, poses = poses_of(source_pose, source, "source_pose"), poses_of(pose, result, "pose")
        there, here = who_is_who(own), who_is_who(poses)
        progress = comfy.utils.ProgressBar(len(results)) if len(results) > 1 else None
        out, shares = [], []
        for number, picture in enumerate(results):
            made, share = picture[0].movedim(-1, 0), torch.zeros(size)
            seen = one_picture(sources[number % len(sources)], "source")
            own_place, place = number % len(own), number % len(poses)
            for person, who in enumerate(here[place]):
                asked_to_stop()
                if who not in there[own_place]:
                    continue
                face = own[own_place].take([there[own_place].index(who)])
                made, part = keep_face(made, seen, face, poses[place].take([person]), feather, match_colours)
                share = torch.maximum(share, part.to(share))
            out.append(made.movedim(0, -1))
            shares.append(share)
            if progress is not None:
                progress.update(1)
        kept = sum(bool(share.any()) for share in shares)
        note = f"The face is kept in {kept} of {len(shares)} pictures."
        if kept < len(shares):
            note += (
                " In the others a pose shows nobody or no face, the two do not show it from about the same side, or a "
                "hand is before it."
            )
        logging.info("Keep Face: %s", note)
        show_text(cls, note)
        return io.NodeOutput(torch.stack(out), to_mask(torch.stack(shares)), ui={"text": [note]})
