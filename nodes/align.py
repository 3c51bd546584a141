"""Recurrent Pose Aligner: source picture and pose → what the denoiser is told."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError
from ..reposedm_core.alignment import forget
from ..reposedm_core.alignment.colours import flow_colours
from ..reposedm_core.conditioning import condition_image, make_condition
from ..reposedm_core.diffusion.guided import Condition
from ..reposedm_core.pipeline import check_size
from .bridge import fitted, load, target_poses, to_comfy, to_mask
from .model import RePoseDMVAE, to_conditioning
from .sockets import AlignerSocket, LoadedAligner, PoseKeypoint

EACH, TOGETHER = "one picture a result", "all of one person"
AT_ONCE = 8
"""Pictures that are aligned at once: a long batch then needs no more memory, shows its progress and can be stopped."""
MOST_SOURCES = 32
"""Pictures of one person: they are aligned together, so that their number is one of memory."""


def size_inputs() -> list:
    """The widgets of a result's size."""
    return [
        io.Int.Input(side, default=0, min=0, max=4096, step=8,
                     tooltip=f"{side.capitalize()} of the result in pixels, divisible by 8; 0 is what the model was "
                             "trained at, the only size at which it was measured.")
        for side in ("width", "height")
    ]


class RecurrentPoseAlignerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMRecurrentPoseAligner",
            display_name="Recurrent Pose Aligner",
            category="RePoseDM",
            description="Warps the person of the source picture step by step towards the target pose, and makes of it "
                        "the conditioning for the sampler. Runs once a picture.",
            search_aliases=["pose transfer", "repose", "warp to pose", "align person", "optical flow"],
            inputs=[
                AlignerSocket.Input("aligner", tooltip="From RePoseDM Loader."),
                io.Vae.Input("vae", tooltip="The VAE of the same RePoseDM Loader."),
                io.Image.Input("source", tooltip="A picture that shows one person, fitted to the size with its borders "
                                                 "continued; what a batch means is for sources to say."),
                PoseKeypoint.Input("pose", tooltip="The target pose; its first person counts. One frame serves all "
                                                   "pictures, several frames with one picture give a result a frame."),
                *size_inputs(),
                io.Combo.Input("sources", options=[EACH, TOGETHER], default=EACH, optional=True,
                               tooltip="What a batch of source pictures is: people of their own, a result each, or "
                                       "several pictures of one person, whose seen parts are put together in every "
                                       "result."),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="Pose and aligned person."),
                io.Conditioning.Output("negative", tooltip="Neither: the null condition of classifier-free guidance."),
                io.Latent.Output("latent", tooltip="Empty, of the right size."),
                io.Image.Output("aligned", tooltip="The source as the aligner warped it; what it could not see is "
                                                   "left for the sampler to invent."),
                io.Mask.Output("visibility", tooltip="White where the source shows what the result will need."),
                io.Image.Output("flow", tooltip="Where each pixel was fetched from: the hue is the direction (red from "
                                                "the right, cyan from the left), the strength the distance, white is "
                                                "from the same place. A picture for every source and pose."),
            ],
        )

    @classmethod
    def execute(cls, aligner: LoadedAligner, vae: Any, source: Tensor, pose: Any, width: int, height: int,
                sources: str = EACH) -> io.NodeOutput:
        check_vae(vae, aligner)
        height, width = height or aligner.config.height, width or aligner.config.width
        check_size(height, width, vae.downscale_ratio)
        poses = target_poses(pose)
        together = len(source) if sources == TOGETHER else 1
        if together == 1 and len(source) != len(poses) and min(len(source), len(poses)) != 1:
            raise InputError(f"pose: it has {len(poses)} frames and source {len(source)} pictures; give one pose for "
                             "all, one picture for all, or as many of both.")
        if together > MOST_SOURCES:
            raise InputError(f"source: {together} pictures of one person; choose {MOST_SOURCES} of them or fewer, "
                             "those that show different sides.")
        image = fitted(source, "source", height, width)
        skeleton = torch.cat([condition_image(frame, height, width) for frame in poses])
        found = align(aligner, vae, image, skeleton, together)
        latent = torch.zeros(found.condition.pose.shape, device=management.intermediate_device())
        seen = comfy.utils.common_upscale(found.visibility, width, height, "bilinear", "disabled")
        return io.NodeOutput(
            *conditionings(aligner, found.condition), {"samples": latent}, to_comfy(found.image), to_mask(seen[:, 0]),
            to_mask(flow_colours(found.sampling, height, width)).movedim(1, -1))


@dataclass
class Found:
    """What the aligner found, where ComfyUI keeps intermediate results.

    Attributes:
        condition: for the denoiser. image: the aligned person (B, 3, H, W) in [-1, 1].
        visibility: (B, 1, h, w) in 0..1. sampling: maps (B·S, 2, h, w).
    """

    condition: Condition
    image: Tensor
    visibility: Tensor
    sampling: Tensor


def check_vae(vae: Any, aligner: LoadedAligner) -> None:
    """Raise an `InputError` unless this is the VAE of a RePoseDM, and of one whose latents the aligner's model has."""
    if not isinstance(vae, RePoseDMVAE):
        raise InputError("vae: this is no VAE of RePoseDM; connect the VAE of the RePoseDM Loader that the aligner "
                         "comes from.")
    channels = aligner.config.denoiser.latent_channels
    if vae.latent_channels != channels:
        raise InputError(f"vae: its latents have {vae.latent_channels} channels, the aligner wants {channels}; "
                         "connect the VAE of the same RePoseDM Loader.")


def conditionings(aligner: LoadedAligner, condition: Condition) -> tuple[list, list]:
    """Positive and negative CONDITIONING: the condition, and the null condition of its shape."""
    null = Condition.null(aligner.patcher.model.conditioner, condition)
    return to_conditioning(condition), to_conditioning(null)


def align(aligner: LoadedAligner, vae: RePoseDMVAE, image: Tensor, skeleton: Tensor, sources: int = 1) -> Found:
    """Align pictures to poses, a few at a time.

    Args:
        image, skeleton: (B, 3, H, W) or (1, 3, H, W) for all, in [-1, 1]; with `sources` S > 1 the S pictures of the
            one person, and as many skeletons as there are to be results.
    """
    batch = len(skeleton) if sources > 1 else max(len(image), len(skeleton))
    step = max(1, AT_ONCE // sources)
    height, width = image.shape[-2:]
    device = load(aligner.patcher, vae.patcher, pixels=min(step, batch) * sources * height * width)
    networks, keep = aligner.patcher.model, management.intermediate_device()

    def encode(picture: Tensor) -> Tensor:
        return vae.first_stage_model.encode(picture.to(vae.device)).to(device)

    def part(pictures: Tensor, start: int) -> Tensor:
        """The pictures of results `start` and after, on the device."""
        count = min(step, batch - start)
        chosen = pictures.expand(count, -1, -1, -1) if len(pictures) == 1 else pictures[start:start + count]
        return chosen.to(device)

    parts = []
    progress = comfy.utils.ProgressBar(-(-batch // step)) if batch > step else None
    try:
        for start in range(0, batch, step):
            poses = part(skeleton, start)
            if sources > 1:
                pictures = image.to(device).repeat(len(poses), 1, 1, 1)
                poses = poses.repeat_interleave(sources, 0)
            else:
                pictures = part(image, start)
            condition, alignment, seen = make_condition(networks.aligner, networks.conditioner, encode, pictures, poses,
                                                        vae.downscale_ratio, sources)
            values = [*(getattr(condition, field.name) for field in fields(Condition)), seen.image, seen.visibility,
                      alignment.maps[-1]]
            parts.append([value.to(keep) for value in values])
            if progress is not None:
                progress.update(1)
    finally:
        forget()
    *told, picture, visibility, sampling = (torch.cat(values) for values in zip(*parts, strict=True))
    return Found(Condition(*told), picture, visibility, sampling)
