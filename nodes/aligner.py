"""Recurrent Pose Aligner: source picture and pose → the denoiser's conditioning."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError
from ..reposedm_core.alignment.flow_image import flow_colours
from ..reposedm_core.conditioning import condition_image
from ..reposedm_core.full_size import MODEL, aligned
from ..reposedm_core.images import check_size
from .aligning import align, conditionings, joints_of, known_joints
from .decode import DETAIL, REFERENCE, unpack
from .host.images import fitted, frames_of, to_comfy, to_mask
from .host.poses import asked_to_stop, poses_of, target_poses
from .host.reposedm_model import check_vae
from .host.sizes import output_inputs, size_inputs, untrained, view_of
from .host.sockets import AlignerSocket, EstimatorSocket, LoadedAligner, LoadedEstimator, PoseKeypoint

EACH, TOGETHER = "one picture a result", "all of one person"
MOST_SOURCES = 32
"""Pictures of one person: they are aligned together, so that their number is one of memory."""


class RecurrentPoseAlignerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMRecurrentPoseAligner",
            display_name="Recurrent Pose Aligner",
            category="RePoseDM",
            description="Warps the person of the source picture step by step towards the target pose, and makes of it "
            "the conditioning for the sampler. Runs once per picture.",
            search_aliases=[
                "pose transfer",
                "repose",
                "character",
                "reference",
                "reference person",
                "warp to pose",
                "align person",
                "optical flow",
            ],
            inputs=[
                AlignerSocket.Input("aligner", tooltip="From RePoseDM Loader."),
                io.Vae.Input("vae", tooltip="The VAE of the same RePoseDM Loader."),
                io.Image.Input(
                    "source",
                    tooltip="A picture that shows one person, fitted to the size with its borders "
                    "continued; sources sets how a batch is read.",
                ),
                PoseKeypoint.Input(
                    "pose",
                    tooltip="The target pose; its first person counts. One frame serves all "
                    "pictures, several frames with one picture give a result per frame.",
                ),
                *size_inputs(),
                io.Combo.Input(
                    "sources",
                    options=[EACH, TOGETHER],
                    default=EACH,
                    optional=True,
                    tooltip="What a batch of source pictures is: people of their own, a result each, or "
                    "several pictures of one person, whose seen parts are put together in every "
                    "result.",
                ),
                PoseKeypoint.Input(
                    "source_pose",
                    optional=True,
                    tooltip="Pose of the person in the source, in the source's own pixels, for models "
                    "whose aligner reads it (mini-256): a frame per picture, or one for all. "
                    "Without it the estimator finds it.",
                ),
                EstimatorSocket.Input(
                    "pose_estimator",
                    optional=True,
                    tooltip="Finds the source's pose where none is connected, in place of the "
                    "checkpoint's own estimator.",
                ),
                *output_inputs(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Conditioning.Output("positive", tooltip="Pose and aligned person."),
                io.Conditioning.Output("negative", tooltip="Neither: the null condition of classifier-free guidance."),
                io.Latent.Output("latent", tooltip="Empty, of the right size."),
                io.Image.Output(
                    "aligned",
                    tooltip="The source as the aligner warped it, in front of the source's own "
                    "background where the model finds the person; what it could not "
                    "see is left for the sampler to invent.",
                ),
                io.Mask.Output("visibility", tooltip="White where the source shows what the result will need."),
                io.Image.Output(
                    "flow",
                    tooltip="Where each pixel was fetched from: the hue is the direction (red from "
                    "the right, cyan from the left), the strength the distance, white is "
                    "from the same place. A picture for every source and pose.",
                ),
                io.Mask.Output(
                    "person",
                    tooltip="White where the person is in the target pose; black with a model "
                    "whose aligner does not find the person.",
                ),
                io.Mask.Output(
                    "changed",
                    tooltip="White where the picture changes: where the person is, and where the person was. White "
                    "all over with a model whose aligner does not find the person.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        aligner: LoadedAligner,
        vae: Any,
        source: Tensor,
        pose: Any,
        width: int,
        height: int,
        sources: str = EACH,
        source_pose: Any = None,
        pose_estimator: LoadedEstimator | None = None,
        output_size: str = MODEL,
        output_height: int = 1024,
    ) -> io.NodeOutput:
        check_vae(vae, aligner)
        height, width = height or aligner.config.height, width or aligner.config.width
        check_size(height, width, vae.downscale_ratio)
        note = untrained(cls, "Recurrent Pose Aligner", aligner, height, width)
        poses = target_poses(pose)
        together = len(source) if sources == TOGETHER else 1
        if together == 1 and len(source) != len(poses) and min(len(source), len(poses)) != 1:
            raise InputError(
                f"pose: it has {len(poses)} frames and source {len(source)} pictures; give one pose for "
                "all, one picture for all, or as many of both."
            )
        if together > MOST_SOURCES:
            raise InputError(
                f"source: {together} pictures of one person; choose {MOST_SOURCES} of them or fewer, "
                "those that show different sides."
            )
        reads = aligner.patcher.model.aligner.reads_pose
        own = None
        if reads and source_pose is not None:
            own = poses_of(source_pose, source, "source_pose", inside=True)
        if output_size != MODEL:  # the result shows what the source shows: a pose lies in the picture, not in the frame
            rows, columns = frames_of(source)[0].shape[1:3]
            poses = [each.resized(rows, columns) for each in poses]
        image = fitted(source, "source", height, width)
        skeleton = torch.cat([condition_image(frame, height, width) for frame in poses])
        joints = None
        if reads:
            joints = known_joints(image, own, pose_estimator or aligner.estimator), joints_of(poses, height, width)
        found = align(aligner, vae, image, skeleton, together, joints)
        latent: dict[str, Any] = {
            "samples": torch.zeros(found.condition.pose.shape, device=management.intermediate_device())
        }
        person = latent["samples"].new_zeros(len(found.image), 1, height, width)
        changed = torch.ones_like(person)
        reference = None
        if found.reference is not None:
            latent[REFERENCE] = found.reference
            reference = unpack(found.reference)[0]
            person, changed = reference.person, torch.maximum(reference.person, reference.hidden)
        seen = comfy.utils.common_upscale(found.visibility, width, height, "bilinear", "disabled")
        masks = [seen, person, changed]
        shown = view_of(output_size, output_height, source, (height, width), len(found.image))
        if shown is None:
            picture, flow = to_comfy(found.image), flow_colours(found.sampling, height, width)
        else:
            pictures = list(source[None] if source.ndim == 3 else source)
            latent[DETAIL] = detail = found.detail(shown, pictures)
            picture = to_mask(aligned(detail, reference, asked_to_stop))
            masks, flow = [shown.enlarge(mask) for mask in masks], shown.colours(found.sampling)
        seen, person, changed = (to_mask(mask[:, 0]) for mask in masks)
        return io.NodeOutput(
            *conditionings(aligner, found.condition),
            latent,
            picture,
            seen,
            to_mask(flow).movedim(1, -1),
            person,
            changed,
            ui={"text": [note]} if note else None,
        )
