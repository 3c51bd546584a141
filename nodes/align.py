"""Recurrent Pose Aligner: source picture and pose → what the denoiser is told."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy_api.latest import io

from ..reposedm_core import InputError
from ..reposedm_core.diffusion.guided import Condition
from ..reposedm_core.pipeline import check_size, condition_image, fit_image
from .bridge import from_comfy, load, target_poses, to_comfy, to_mask
from .model import RePoseDMVAE, to_conditioning
from .sockets import AlignerSocket, LoadedAligner, PoseKeypoint


class RecurrentPoseAlignerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMRecurrentPoseAligner",
            display_name="Recurrent Pose Aligner",
            category="RePoseDM",
            description="Warps the person of the source picture step by step towards the target pose, and makes of it "
                        "the conditioning for the sampler. Runs once a picture.",
            search_aliases=["pose transfer", "repose", "warp to pose", "align person"],
            inputs=[
                AlignerSocket.Input("aligner", tooltip="From RePoseDM Loader."),
                io.Vae.Input("vae", tooltip="The VAE of the same RePoseDM Loader."),
                io.Image.Input("source", tooltip="A picture that shows one person, fitted to the size with its borders "
                                                 "continued; a batch gives a result a picture."),
                PoseKeypoint.Input("pose", tooltip="The target pose; its first person counts. One frame serves all "
                                                   "pictures, several frames with one picture give a result a frame."),
                io.Int.Input("width", default=0, min=0, max=4096, step=8,
                             tooltip="Width of the result in pixels, divisible by 8; 0 is what the model was trained "
                                     "at, the only size at which it was measured."),
                io.Int.Input("height", default=0, min=0, max=4096, step=8,
                             tooltip="Height of the result in pixels, divisible by 8; 0 is what the model was trained "
                                     "at, the only size at which it was measured."),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="Pose and aligned person."),
                io.Conditioning.Output("negative", tooltip="Neither: the null condition of classifier-free guidance."),
                io.Latent.Output("latent", tooltip="Empty, of the right size."),
                io.Image.Output("aligned", tooltip="The source as the aligner warped it; what it could not see is "
                                                   "left for the sampler to invent."),
                io.Mask.Output("visibility", tooltip="White where the source shows what the result will need."),
            ],
        )

    @classmethod
    def execute(cls, aligner: LoadedAligner, vae: Any, source: torch.Tensor, pose: Any, width: int,
                height: int) -> io.NodeOutput:
        if not isinstance(vae, RePoseDMVAE):
            raise InputError("vae: this is no VAE of RePoseDM; connect the VAE of the RePoseDM Loader that the aligner "
                             "comes from.")
        height, width = height or aligner.config.height, width or aligner.config.width
        check_size(height, width, vae.downscale_ratio)
        image = fit_image(from_comfy(source, "source"), height, width)
        skeleton = torch.cat([condition_image(frame, height, width) for frame in target_poses(pose)])
        batch = max(len(image), len(skeleton))
        if min(len(image), len(skeleton)) not in (1, batch):
            raise InputError(f"pose: it has {len(skeleton)} frames and source {len(image)} pictures; give one pose for "
                             "all, one picture for all, or as many of both.")
        device = load(aligner.patcher, vae.patcher, pixels=batch * height * width)
        image, skeleton = (t.to(device).expand(batch, -1, -1, -1) for t in (image, skeleton))
        networks = aligner.patcher.model

        def encode(picture: torch.Tensor) -> torch.Tensor:
            return vae.first_stage_model.encode(picture.to(vae.device)).to(device)

        alignment = networks.aligner(image, skeleton)
        visibility = networks.aligner.latent_visibility(alignment, vae.downscale_ratio)
        positive = Condition.of(networks.conditioner, encode(skeleton), encode(image), encode(alignment.image),
                                visibility)
        latent = torch.zeros(positive.pose.shape, device=management.intermediate_device())
        seen = comfy.utils.common_upscale(alignment.visibility[-1].sigmoid(), width, height, "bilinear", "disabled")
        return io.NodeOutput(
            to_conditioning(positive), to_conditioning(Condition.null(networks.conditioner, positive)),
            {"samples": latent}, to_comfy(alignment.image), to_mask(seen[:, 0]))
