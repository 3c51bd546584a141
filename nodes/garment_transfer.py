"""Garment Transfer (Fig. 4): the clothes of one picture on the person of another, inside a mask."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError, Pose
from ..reposedm_core.appearance import Dressing, blend, check_cover, inside, keep_outside, latent_mask, resized
from ..reposedm_core.conditioning import condition_image, find_pose
from ..reposedm_core.full_size import MODEL, aligned
from ..reposedm_core.images import check_size
from ..reposedm_core.letterbox import size_of
from ..reposedm_core.pose import one_pose
from .aligning import align, conditionings, joints_of, known_joints
from .decode import paint, unpack
from .host.images import fitted, frames_of, from_comfy, masks_of, to_comfy, to_mask
from .host.patchers import load
from .host.poses import asked_to_stop, poses_of
from .host.reposedm_model import RePoseDMModel, check_vae
from .host.sizes import output_inputs, size_inputs, untrained, view_of
from .host.sockets import AlignerSocket, EstimatorSocket, LoadedAligner, LoadedEstimator, PoseKeypoint
from .sampler import AS_GUIDED, field_input, sample, sampling_inputs, with_field_strength


class GarmentTransfer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMGarmentTransfer",
            display_name="Garment Transfer",
            category="RePoseDM",
            description="Puts the clothes that a person wears in one picture on the person of another, inside a mask "
            "and in that person's pose; around the mask not a pixel changes.",
            search_aliases=[
                "try on",
                "tryon",
                "virtual try-on",
                "outfit",
                "clothes",
                "dress",
                "appearance control",
                "inpaint garment",
            ],
            inputs=[
                io.Model.Input("model", tooltip="From RePoseDM Loader, or through Pose Interaction Field Guidance."),
                io.Vae.Input("vae", tooltip="The VAE of the same RePoseDM Loader."),
                AlignerSocket.Input("aligner", tooltip="From the same RePoseDM Loader."),
                io.Image.Input("reference", tooltip="One picture of the person to dress."),
                io.Image.Input(
                    "garment",
                    tooltip="A picture of a person who wears the clothes; a batch gives a result per picture.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the clothes go, drawn on the reference: white is replaced. Open "
                    "the picture of Load Image in the mask editor to draw it. Masks of a "
                    "batch are taken in turn, a result each.",
                ),
                *sampling_inputs(),
                io.Int.Input(
                    "feather",
                    default=2,
                    min=0,
                    max=64,
                    tooltip="Pixels inside the mask's edge over which the result fades into the reference; 0 "
                    "is a hard edge.",
                ),
                *size_inputs(),
                PoseKeypoint.Input(
                    "pose",
                    optional=True,
                    tooltip="Pose of the reference, in its own pixels; the first person counts. Without "
                    "it the estimator finds it.",
                ),
                EstimatorSocket.Input(
                    "pose_estimator",
                    optional=True,
                    tooltip="Finds the poses that are not connected, in place of the checkpoint's own estimator.",
                ),
                field_input(),
                PoseKeypoint.Input(
                    "garment_pose",
                    optional=True,
                    tooltip="Pose of the person in the garment picture, in its own pixels, for models "
                    "whose aligner reads it (mini-256): a frame per picture, or one for all. "
                    "Without it the estimator finds it.",
                ),
                *output_inputs(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Image.Output("image", tooltip="The reference person in the clothes of the garment picture."),
                io.Image.Output(
                    "aligned", tooltip="The garment picture as the aligner warped it to the pose of the reference."
                ),
                io.Mask.Output(
                    "mask",
                    tooltip="The share of the new picture in every pixel of the result: the mask, "
                    "fitted to the size and feathered.",
                ),
                io.Latent.Output(
                    "latent", tooltip="What was sampled, for VAE Decode; around the mask it is the reference."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        aligner: LoadedAligner,
        reference: Tensor,
        garment: Tensor,
        mask: Tensor,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        feather: int,
        width: int,
        height: int,
        pose: Any = None,
        pose_estimator: LoadedEstimator | None = None,
        field_strength: float = AS_GUIDED,
        garment_pose: Any = None,
        output_size: str = MODEL,
        output_height: int = 1024,
    ) -> io.NodeOutput:
        check_vae(vae, aligner)
        if not isinstance(model.model, RePoseDMModel):
            raise InputError("model: this is no RePoseDM; connect the model of RePoseDM Loader.")
        height, width = height or aligner.config.height, width or aligner.config.width
        check_size(height, width, vae.downscale_ratio)
        note = untrained(cls, "Garment Transfer", aligner, height, width)
        person, image = from_comfy(reference, "reference"), fitted(garment, "garment", height, width)
        cover = masks_of(mask)[: len(image)]  # those beyond the last garment are not used
        check_cover(person, cover)
        dressing = Dressing.fitted(person, cover, height, width, feather)
        estimator = pose_estimator or aligner.estimator
        found_pose, joints = pose_of(person, pose, estimator), None
        if aligner.patcher.model.aligner.reads_pose:
            own = None if garment_pose is None else poses_of(garment_pose, garment, "garment_pose", inside=True)
            joints = known_joints(image, own, estimator), joints_of([found_pose], height, width)
        found = align(
            aligner, vae, image, condition_image(found_pose, height, width), joints=joints, background=dressing.person
        )
        kept = vae.encode(to_comfy(dressing.person))
        dressed = inside_mask(
            with_field_strength(model, field_strength), kept, latent_mask(dressing.cover, vae.downscale_ratio)
        )
        latent = sample(
            dressed,
            *conditionings(aligner, found.condition),
            {"samples": torch.zeros_like(found.condition.pose)},
            seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
        )
        shown = view_of(output_size, output_height, reference, (height, width), len(image))
        if shown is None:
            new = paint(vae, aligner, latent["samples"], found.reference).movedim(-1, 1)
            result, share, picture = dressing.blend(new), dressing.share, to_comfy(found.image)
        else:
            channels = None if found.reference is None else unpack(found.reference)[0]
            detail = found.detail(shown, [frame[0] for frame in frames_of(garment)], frames_of(reference)[0][0])
            new = paint(vae, aligner, latent["samples"], found.reference, detail).movedim(-1, 1)
            new = new if channels is not None else shown.enlarge(new)
            share = inside(resized(cover, shown.size), feather)
            result, picture = blend(new, detail.base(0), share), to_mask(aligned(detail, channels, asked_to_stop))
        return io.NodeOutput(
            result.movedim(1, -1).to(management.intermediate_device(), torch.float32),
            picture,
            to_mask(share[:, 0]),
            latent,
            ui={"text": [note]} if note else None,
        )


def pose_of(person: Tensor, pose: Any, estimator: LoadedEstimator) -> Pose:
    """The reference's pose in pixels of its picture (1, 3, H, W): what is given, or what the estimator finds."""
    if pose is None:
        native = estimator.height, estimator.width
        device = load(estimator.patcher, pixels=native[0] * native[1])
        pose = find_pose(estimator.patcher.model, person, native, device)
        if not len(pose.joints):
            raise InputError(
                "reference: nobody was found in it; connect its pose, or a picture that shows one person whole."
            )
    size = size_of(person)
    return one_pose(pose, picture=size).resized(*size)


def inside_mask(model: ModelPatcher, reference: Tensor, mask: Tensor) -> ModelPatcher:
    """The model whose estimate ŷ_0 is the reference's latent outside of a latent mask (`appearance.KeepOutside`).

    ComfyUI's own noise mask also replaces the sample, by noise of its own that differs from sampler to sampler; so the
    result would not be that of `RePoseDMPipeline.dress`. Added last, it follows a guidance of the model.
    """

    def keep(args: dict) -> Tensor:
        x0 = args["denoised"]
        return keep_outside(x0, args["model"].process_latent_in(reference.to(x0)), mask.to(x0))

    model = model.clone()
    model.set_model_sampler_post_cfg_function(keep)
    return model
