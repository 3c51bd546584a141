"""Pose Interaction Field Guidance: bend the sampling of any model towards a pose (section 3.3-3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as management
import comfy.model_sampling
from comfy_api.latest import io
from torch import Tensor, nn

from ..reposedm_core import PRESETS, InputError
from ..reposedm_core.diffusion.guidance import alpha_bar_of
from ..reposedm_core.diffusion.guided import FieldGuidance
from ..reposedm_core.field import PoseInteractionField, PoseTarget
from ..reposedm_core.field.field import SPACES
from ..reposedm_core.pipeline import fit_image, pose_target
from ..reposedm_core.pose import Pose
from .bridge import differentiable, own_copy, target_poses
from .model import RePoseDMModel
from .sockets import EstimatorSocket, LoadedEstimator, PoseKeypoint


class PoseInteractionFieldGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        default = PRESETS["mini"].field
        return io.Schema(
            node_id="RePoseDMPoseFieldGuidance",
            display_name="Pose Interaction Field Guidance",
            category="RePoseDM",
            description="Pushes every sampling step towards the target pose, by the gradient of how far the pose in "
                        "the picture is from it. Works on any picture model, not on RePoseDM alone; costs a decoding "
                        "and its gradient a step.",
            search_aliases=["gradient guidance", "pose guidance", "pose field", "pose control"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide: RePoseDM, or any other that makes pictures."),
                io.Vae.Input("vae", tooltip="The VAE of that model."),
                EstimatorSocket.Input("pose_estimator", tooltip="From RePoseDM Loader."),
                PoseKeypoint.Input("pose", tooltip="The pose to reach; its first person counts. One frame serves all "
                                                   "pictures of a batch, or give a frame a picture."),
                io.Float.Input("strength", default=default.strength, min=0.0, max=100.0, step=0.05,
                               tooltip="Weight of the gradient; with RePoseDM it is multiplied by w_c as in eq. 16. "
                                       "A step changes the latent by the limit at most, so that a strength suits "
                                       "every model; beyond that, more changes little. 0 is exactly the unguided "
                                       "model."),
                io.Float.Input("start_percent", default=default.start, min=0.0, max=1.0, step=0.001,
                               tooltip="Where in the sampling guidance begins; 0 is the first step, which knows little "
                                       "of the pose yet."),
                io.Float.Input("end_percent", default=default.end, min=0.0, max=1.0, step=0.001,
                               tooltip="Where in the sampling guidance ends; 1 is after the last step, in which too "
                                       "much strength leaves traces. Sooner is quicker."),
                io.Combo.Input("space", options=list(SPACES), default=default.space,
                               tooltip="What is compared: heatmaps of the joints with those of the pose, or (the "
                                       "paper's) features of the picture with those of the drawn skeleton."),
                io.Float.Input("limit", default=default.limit, min=0.0, max=1.0, step=0.01,
                               tooltip="How much of its own size a step may change the picture at most. More moves the "
                                       "pose further and spoils the picture sooner; 0 is no bound."),
            ],
            outputs=[io.Model.Output("model", tooltip="The same model, guided.")],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, pose_estimator: LoadedEstimator, pose: Any, strength: float,
                start_percent: float, end_percent: float, space: str,
                limit: float = PRESETS["mini"].field.limit) -> io.NodeOutput:
        poses = target_poses(pose)
        if strength == 0 or start_percent >= end_percent:
            return io.NodeOutput(model)
        if getattr(vae, "patcher", None) is None:
            raise InputError("vae: the loaded file holds no VAE; load one with Load VAE and connect that.")
        if vae.latent_dim != 2:
            raise InputError("vae: this is a VAE of videos or sounds; the guidance needs one of pictures.")
        networks = FieldNetworks(PoseInteractionField(own_copy(pose_estimator.patcher), space), own_copy(vae.patcher))
        guided = model.clone()
        others = guided.get_additional_models_with_key("reposedm_field")   # of a guidance before this one
        guided.set_additional_models("reposedm_field", [*others, differentiable(networks)])
        sampling = model.get_model_object("model_sampling")
        first, last = (sampling.percent_to_sigma(percent) for percent in (start_percent, end_percent))
        native = pose_estimator.height, pose_estimator.width
        guided.set_model_sampler_post_cfg_function(guidance(networks, vae, poses, native, strength, first, last,
                                                               limit))
        return io.NodeOutput(guided)


class FieldNetworks(nn.Module):
    """What the gradient passes through, in one patcher: the field's estimator, and the VAE as the decoder."""

    def __init__(self, field: PoseInteractionField, vae: nn.Module):
        super().__init__()
        self.field, self.vae = field, vae


def guidance(networks: FieldNetworks, vae: Any, poses: list[Pose], native: tuple[int, int], strength: float,
             first: float, last: float, limit: float) -> Callable[[dict], Tensor]:
    """What ComfyUI calls after each step's classifier-free guidance: x̂₀ → x̂₀, guided where first ≥ σ > last."""
    targets: dict[tuple[int, int], PoseTarget] = {}

    def guide(args: dict) -> Tensor:
        management.throw_exception_if_processing_interrupted()
        x0, sigma, host = args["denoised"], args["sigma"], args["model"]
        if not last < float(sigma[0]) <= first:
            return x0
        if len(poses) not in (1, len(x0)):
            raise InputError(f"pose: it has {len(poses)} frames and the latent {len(x0)} pictures; give one frame for "
                             "all, or as many of both.")
        size = tuple(side * vae.spacial_compression_decode() for side in x0.shape[-2:])
        if size not in targets:
            targets[size] = pose_target(networks.field, poses, size, native)

        def decode(latent: Tensor) -> Tensor:
            latent = host.process_latent_out(latent).to(vae.vae_dtype)
            return fit_image(networks.vae.decode(latent).float(), *native)

        weight = args["cond_scale"] if isinstance(host, RePoseDMModel) else 1.0
        alpha_bar = alpha_bar_of(sigma, isinstance(host.model_sampling, comfy.model_sampling.CONST))
        return FieldGuidance(networks.field, targets[size], decode, strength, limit=limit)(x0, alpha_bar, weight)

    return guide
