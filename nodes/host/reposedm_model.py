"""RePoseDM's networks as ComfyUI sees them: a MODEL, a VAE, and the networks that make the conditioning."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as management
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor, nn

from ...reposedm_core import InputError, ModelConfig
from ...reposedm_core.alignment import MatchingPoseAligner, RecurrentPoseAligner
from ...reposedm_core.diffusion.autoencoder import Autoencoder, KLAutoencoder
from ...reposedm_core.diffusion.context_cache import cached_context
from ...reposedm_core.diffusion.denoiser import Conditioner, Denoiser
from ...reposedm_core.diffusion.guided import Condition
from ...reposedm_core.diffusion.schedule import DiffusionSchedule
from ...reposedm_core.diffusion.tiny import TinyAutoencoder
from ...reposedm_core.garment_parser import GarmentParser
from ...reposedm_core.layout import LayoutNetwork
from ...reposedm_core.networks import NoAlignment
from .field_presets import SAYS
from .patchers import host_layers, in_patcher, interruptible
from .poses import poses_in_turn
from .sockets import LoadedAligner

EXTRAS = {"pose": "reposedm_pose", "aligned": "reposedm_aligned", "visibility": "reposedm_visibility"}
"""Fields of a `Condition` beside the tokens, and their keys in a CONDITIONING."""

VARIANCE = "reposedm_variance"
"""Key in the transformer options of what is called with a pass's variance logits and, for each part of its batch, 0
where that is of the positive conditioning."""


def to_conditioning(condition: Condition) -> list:
    """A `Condition` as a CONDITIONING: the tokens, and the rest under the keys of `EXTRAS`."""
    device = management.intermediate_device()
    extras = {key: getattr(condition, field).to(device) for field, key in EXTRAS.items()}
    return [[condition.tokens.to(device), extras]]


class ConditioningNetworks(nn.Module):
    """What reads the pictures, once per run: the aligner, with tiny encoder, parser and layout network where it has
    them, and what makes the context tokens in the denoiser."""

    def __init__(
        self,
        aligner: RecurrentPoseAligner | MatchingPoseAligner | NoAlignment,
        denoiser: Denoiser,
        tiny: TinyAutoencoder | None = None,
        parser: GarmentParser | None = None,
        layout: LayoutNetwork | None = None,
    ):
        super().__init__()
        self.tiny, self.parser, self.layout = tiny, parser, layout
        self.aligner, self.conditioner = aligner, Conditioner(denoiser.config)
        own = self.conditioner.state_dict()
        self.conditioner.load_state_dict({key: denoiser.state_dict()[key] for key in own})
        self.requires_grad_(False).eval()
        for network in filter(None, (self.aligner, self.tiny, self.parser, self.layout)):
            interruptible(network)


class RePoseDMLatent(comfy.latent_formats.LatentFormat):
    """Latents of the pack's autoencoder: already scaled; previews use its linear decoder."""

    def __init__(self, autoencoder: Autoencoder | KLAutoencoder):
        self.latent_channels, self.spacial_downscale_ratio = autoencoder.channels, autoencoder.stride
        unit = torch.eye(autoencoder.channels)[:, :, None, None]
        black = autoencoder.decode_linear(torch.zeros_like(unit[:1])).mean((2, 3))
        self.latent_rgb_factors = (autoencoder.decode_linear(unit).mean((2, 3)) - black).tolist()
        self.latent_rgb_factors_bias = black[0].tolist()


class RePoseDMHostConfig(comfy.supported_models_base.BASE):
    """What ComfyUI asks of a model's configuration."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: ModelConfig, latent_format: RePoseDMLatent):
        super().__init__({"disable_unet_model_creation": True})
        self.latent_format = latent_format
        # ComfyUI calls Stable Diffusion's schedule "linear" and the linear one "sqrt_linear".
        names = {"linear": "sqrt_linear", "scaled_linear": "linear"}
        schedule = config.schedule
        self.sampling_settings = {
            "beta_schedule": names[schedule.beta_schedule],
            "timesteps": schedule.timesteps,
            "linear_start": schedule.beta_start,
            "linear_end": schedule.beta_end,
        }


class HostDenoiser(nn.Module):
    """A `Denoiser` with the call that ComfyUI makes; hands back the prediction, and the variance to who asks for it."""

    dtype = torch.float32

    def __init__(self, denoiser: Denoiser, schedule: DiffusionSchedule):
        super().__init__()
        self.denoiser, self.schedule = host_layers(denoiser), schedule

    def forward(
        self,
        z: Tensor,
        timesteps: Tensor,
        context: Tensor,
        pose: Tensor,
        aligned: Tensor,
        visibility: Tensor,
        transformer_options: dict[str, Any] | None = None,
        **host: Any,
    ) -> Tensor:
        """v or ε at y_t = z (B, C, h, w); `host` are options for ComfyUI's own networks."""
        sigma = self.schedule.roots(timesteps.long(), z)[1]
        prediction, variance = self.denoiser(z, timesteps, pose, context, aligned, visibility, sigma)
        options = transformer_options or {}
        report = options.get(VARIANCE)
        if report is not None:
            report(variance, options["cond_or_uncond"])
        return prediction


class RePoseDMModel(comfy.model_base.BaseModel):
    """RePoseDM as a diffusion model of ComfyUI's, for any of its samplers and schedulers."""

    def __init__(self, config: ModelConfig, autoencoder: Autoencoder | KLAutoencoder, denoiser: Denoiser):
        kinds = {"v_prediction": comfy.model_base.ModelType.V_PREDICTION, "epsilon": comfy.model_base.ModelType.EPS}
        host = RePoseDMHostConfig(config, RePoseDMLatent(autoencoder))
        super().__init__(host, kinds[config.schedule.prediction])
        self.diffusion_model = HostDenoiser(denoiser, DiffusionSchedule(config.schedule))
        self.diffusion_model.requires_grad_(False).eval()
        setattr(self, SAYS, config.field)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Pose latent, aligned latent and visibility of a CONDITIONING, beside its tokens."""
        noise, conds = kwargs["noise"], super().extra_conds(**kwargs)
        self.check_latent(noise)
        for field, key in EXTRAS.items():
            value = kwargs.get(key)
            if value is None:
                raise InputError(
                    "positive / negative: this conditioning has no pose; connect the conditioning outputs "
                    "of Recurrent Pose Aligner, text prompts do not steer RePoseDM."
                )
            if value.shape[-2:] != noise.shape[-2:]:
                stride = self.latent_format.spacial_downscale_ratio
                raise InputError(
                    f"latent: it is for {_size(noise, stride)} pixels and the conditioning for "
                    f"{_size(value, stride)}; connect the latent output of Recurrent Pose Aligner."
                )
            if value.shape[1] != noise.shape[1] and field != "visibility":
                raise InputError(
                    f"positive / negative: it is for latents of {value.shape[1]} channels, and this model "
                    f"has {noise.shape[1]}; take all from the same RePoseDM Loader."
                )
            if poses_in_turn(len(value), len(noise)) is None:
                raise InputError(
                    f"latent: it has {len(noise)} pictures and positive / negative {len(value)} poses; "
                    "give as many of both, or one pose for all. RePoseDM KSampler finds the poses that "
                    "belong to a part of a batch, other samplers do not."
                )
            conds[field] = comfy.conds.CONDNoiseShape(value.to(kwargs["device"]))
        return conds

    def check_latent(self, noise: Tensor) -> None:
        """Raise an `InputError` unless noise of this shape is what the network was trained with."""
        channels, shape = self.latent_format.latent_channels, tuple(noise.shape)
        if noise.ndim != 4:
            raise InputError(
                f"latent: it has shape {shape}, such as videos have; RePoseDM takes (pictures, "
                f"{channels}, height, width). Connect the latent output of Recurrent Pose Aligner."
            )
        if noise.shape[1] != channels:
            raise InputError(
                f"latent: it has {noise.shape[1]} channels and RePoseDM {channels}: it is of another one. "
                "Connect the latent output of Recurrent Pose Aligner, or encode the picture with the VAE "
                "of RePoseDM Loader."
            )


def keep_keys(patcher: ModelPatcher) -> ModelPatcher:
    """Let every sampling with the `RePoseDMModel` of `patcher` compute the context's keys and values only once."""
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "reposedm", _sample_with_kept_keys)
    return patcher


def _sample_with_kept_keys(executor: WrapperExecutor, guider: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    network = getattr(guider.inner_model, "diffusion_model", None)
    if not isinstance(network, HostDenoiser):
        return executor(guider, sigmas, *args, **kwargs)
    times = guider.inner_model.model_sampling.timestep(sigmas[:-1]).long().tolist()
    if times and not 0 <= min(times) <= max(times) < network.schedule.timesteps:
        raise InputError(
            f"model: its noise levels are at the times {times}, and RePoseDM knows 0 to "
            f"{network.schedule.timesteps - 1}; remove the node that changes the model's sampling."
        )
    # Hooks may change the weights from step to step.
    if guider.model_patcher.hook_patches:
        return executor(guider, sigmas, *args, **kwargs)
    with cached_context(network.denoiser):
        return executor(guider, sigmas, *args, **kwargs)


def _size(latent: Tensor, stride: int) -> str:
    return f"{latent.shape[-1] * stride} × {latent.shape[-2] * stride}"


class RePoseDMVAE(comfy.sd.VAE):
    """The pack's autoencoder as a VAE of ComfyUI's, and the model's tiny one, where it has one."""

    def __init__(
        self, autoencoder: Autoencoder | KLAutoencoder, plain: bool = False, tiny: TinyAutoencoder | None = None
    ):
        with _quiet():
            # Without weights the host's constructor sets its defaults, whatever they are in this version, and stops.
            super().__init__(sd={})
        self.first_stage_model = autoencoder
        # Of its own: the aligner's patcher moves the other, and its weights may then let no gradient through.
        self.tiny = copy.deepcopy(tiny)
        self.downscale_ratio = self.upscale_ratio = autoencoder.stride
        self.latent_channels = autoencoder.channels
        if isinstance(autoencoder, Autoencoder):  # of Stable Diffusion's the host's own counts are true
            # Eight times the decoder's channels at 4 times the size of the latent, and four pictures of the full size.
            cell = 128 * autoencoder.config.widths[0] + 12 * autoencoder.stride**2
            self.memory_used_encode = lambda shape, dtype: 32 * shape[2] * shape[3] * dtype.itemsize
            self.memory_used_decode = lambda shape, dtype: cell * shape[2] * shape[3] * dtype.itemsize
        self.working_dtypes = [torch.float32]
        self.device, self.vae_dtype = management.vae_device(), torch.float32
        self.output_device = management.intermediate_device()
        self.disable_offload = True
        self.patcher = in_patcher(autoencoder, plain, self.device, management.vae_offload_device(), whole=True)

    def get_sd(self) -> dict[str, Tensor]:
        """The weights, as VAESave writes them: not in the order of channels in which they are quicker."""
        return {key: weight.contiguous() for key, weight in super().get_sd().items()}


def check_vae(vae: Any, aligner: LoadedAligner) -> None:
    """Raise an `InputError` unless this is the VAE of a RePoseDM, and of one whose latents the aligner's model has."""
    if not isinstance(vae, RePoseDMVAE):
        raise InputError(
            "vae: this is no VAE of RePoseDM; connect the VAE of the RePoseDM Loader that the aligner comes from."
        )
    own, wanted = (vae.latent_channels, vae.downscale_ratio), aligner.config.autoencoder
    if own[0] != wanted.channels:
        raise InputError(
            f"vae: its latents have {own[0]} channels, the aligner wants {wanted.channels}; connect the "
            "VAE of the same RePoseDM Loader."
        )
    if own[1] != wanted.stride:
        raise InputError(
            f"vae: its cells are {own[1]} pixels wide, the aligner wants {wanted.stride}; connect the VAE "
            "of the same RePoseDM Loader."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
