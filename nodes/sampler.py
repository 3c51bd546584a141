"""RePoseDM KSampler: ComfyUI's own sampling with the settings that suit RePoseDM, and the paper's ancestral sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import PRESETS, InputError
from ..reposedm_core.diffusion.sampler import Denoised, sample_ancestral
from ..reposedm_core.presets import SHIPPED_PRESET
from .host.poses import poses_in_turn
from .host.reposedm_model import EXTRAS, VARIANCE, HostDenoiser
from .host.reposesd_model import POSE_LATENT
from .host.sockets import BATCH_INDEX, FIELD, FIELD_STRENGTH

LEARNED = "ancestral (learned variance)"
AS_GUIDED = -1.0
PER_PICTURE = (*EXTRAS.values(), POSE_LATENT)
"""Keys of a CONDITIONING under which there is something for every picture."""


def sampling_inputs() -> list:
    """The widgets that every node which samples has."""
    preset = PRESETS[SHIPPED_PRESET]
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=True,
            tooltip="The noise to start from: the same seed gives the same picture.",
        ),
        io.Int.Input("steps", default=preset.steps, min=1, max=1000, tooltip="Denoising steps. RePoseDM needs few."),
        io.Float.Input(
            "cfg",
            default=preset.guidance_scale,
            min=0.0,
            max=30.0,
            step=0.05,
            tooltip="Classifier-free guidance (w_c of eq. 16): how strongly pose and person are "
            "followed. 1 is off and twice as fast.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=[*comfy.samplers.SAMPLER_NAMES, LEARNED],
            default="ddim",
            tooltip="The sampling algorithm. ddim gives the pictures of the Python pipeline when both are guided "
            "alike; the last of the list is the paper's, which draws noise in every step with the variance that the "
            "model learned.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.SCHEDULER_NAMES,
            default="simple",
            tooltip="How the steps are spread over the noise levels. simple is the pipeline's.",
        ),
    ]


def field_input() -> io.Float.Input:
    """The widget `field_strength`."""
    return io.Float.Input(
        "field_strength",
        default=AS_GUIDED,
        min=AS_GUIDED,
        max=100.0,
        step=0.05,
        optional=True,
        tooltip="Strength of the pose field guidance of the model, in place of what Pose Interaction Field Guidance "
        "says: 0 is off, -1 leaves it as it is there.",
    )


class RePoseDMKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMKSampler",
            display_name="RePoseDM KSampler",
            category="RePoseDM",
            description="Samples the person in the new pose. It is ComfyUI's own sampling with the settings that were "
            "measured best for RePoseDM as defaults; any other sampler node works, too.",
            search_aliases=["sampler", "denoise", "pose transfer", "ancestral", "learned variance"],
            inputs=[
                io.Model.Input("model", tooltip="From RePoseDM Loader, or through Pose Interaction Field Guidance."),
                io.Conditioning.Input("positive", tooltip="From Recurrent Pose Aligner."),
                io.Conditioning.Input("negative", tooltip="From Recurrent Pose Aligner."),
                io.Latent.Input("latent", tooltip="From Recurrent Pose Aligner, or an encoded picture to start from."),
                *sampling_inputs(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 starts from noise alone; the less, the more is kept of the latent that came in.",
                ),
                field_input(),
                io.Boolean.Input(
                    "same_noise",
                    default=False,
                    optional=True,
                    tooltip="Begin every picture of the batch with the same noise: on for the frames of an animation, "
                    "which then flicker less; off for pictures that should differ.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="For RePoseDM Decode or VAE Decode, with the VAE of RePoseDM Loader."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        latent: dict,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        field_strength: float = AS_GUIDED,
        same_noise: bool = False,
    ) -> io.NodeOutput:
        check_order(positive, negative)
        model = with_field_strength(model, field_strength)
        settings = seed, steps, cfg, sampler_name, scheduler, denoise
        return io.NodeOutput(sample(model, positive, negative, latent, *settings, same_noise))


def check_order(positive: list, negative: list) -> None:
    """Raise an `InputError` where only the negative CONDITIONING has a pose: RePoseDM's null condition has none."""

    def poses(entries: list) -> list[bool]:
        return [bool(extra[EXTRAS["pose"]].any()) for _, extra in entries if EXTRAS["pose"] in extra]

    if any(poses(negative)) and poses(positive) and not any(poses(positive)):
        raise InputError(
            "positive: it holds no pose, and negative does: they are swapped; connect positive of Recurrent Pose "
            "Aligner to positive, negative to negative."
        )


def with_field_strength(model: ModelPatcher, strength: float) -> ModelPatcher:
    """The model whose pose field guidance has this strength; `AS_GUIDED` is the model itself."""
    if strength == AS_GUIDED:
        return model
    if strength < 0:
        raise InputError(
            f"field_strength = {strength:g}: must be 0 (off) or more, or -1 for what Pose Interaction "
            "Field Guidance says."
        )
    if strength > 0 and not model.get_additional_models_with_key(FIELD):
        raise InputError(
            "field_strength: this model is not guided; put Pose Interaction Field Guidance of a strength "
            "above 0 before it, or leave -1."
        )
    model = model.clone()
    model.model_options["transformer_options"][FIELD_STRENGTH] = strength
    return model


def sample(
    model: ModelPatcher,
    positive: list,
    negative: list,
    latent: dict,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float = 1.0,
    same_noise: bool = False,
) -> dict:
    """The LATENT that ComfyUI's sampling, or the ancestral sampler within it, makes of `latent`.

    `same_noise` begins all its pictures with the noise of the first.
    """
    if latent["samples"].is_nested:
        raise InputError("latent: it is of a video with sound; connect the latent output of Recurrent Pose Aligner.")
    # As stock KSampler does; empty latents say for which stride they are, and are made anew for the model's.
    latent = latent.copy()
    strides = [latent.pop(key, None) for key in ("downscale_ratio_spacial", "downscale_ratio_temporal")]
    strides = strides[:1] if strides[1] is None else strides  # older hosts have one
    start = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *strides)
    index = latent.get("batch_index")
    noise = comfy.sample.prepare_noise(start, seed, [0] * len(start) if same_noise else index)
    positive, negative = (of_batch(entries, len(start), index) for entries in (positive, negative))
    if index is not None and model.get_additional_models_with_key(FIELD):
        model = model.clone()
        model.model_options["transformer_options"][BATCH_INDEX] = list(index)
    options = {
        "noise_mask": latent.get("noise_mask"),
        "callback": latent_preview.prepare_callback(model, steps),
        "disable_pbar": not comfy.utils.PROGRESS_BAR_ENABLED,
        "seed": seed,
    }
    plain = "ddim" if sampler_name == LEARNED else sampler_name
    sigmas = comfy.samplers.KSampler(model, steps, model.load_device, plain, scheduler, denoise).sigmas
    if not sigmas.isfinite().all():
        raise InputError(
            f"scheduler: {scheduler} gives noise levels that are no numbers at steps = {steps}; choose "
            "more steps, or another scheduler."
        )
    if sampler_name == LEARNED:
        check_learned_variance(model)
        samples = comfy.sample.sample_custom(
            model, noise, cfg, comfy.samplers.KSAMPLER(learned_ancestral), sigmas, positive, negative, start, **options
        )
    else:
        samples = comfy.sample.sample(
            model, noise, steps, cfg, sampler_name, scheduler, positive, negative, start, denoise=denoise, **options
        )
    latent["samples"] = samples
    return latent


def of_batch(conditioning: list, pictures: int, batch_index: Sequence[int] | None) -> list:
    """The CONDITIONING of the pictures of a LATENT, which may be a part of the batch that it is for.

    Where poses and pictures do not match in number it is left as it is, and the model says so.
    """
    out = []
    for tokens, extra in conditioning:
        parts = {key: value for key, value in extra.items() if key in PER_PICTURE and isinstance(value, Tensor)}
        poses = max(map(len, (tokens, *parts.values())))
        chosen = poses_in_turn(poses, pictures, batch_index)
        if parts and poses > 1 and chosen is not None:
            cut = {key: value[chosen] for key, value in parts.items() if len(value) == poses}
            tokens, extra = tokens[chosen] if len(tokens) == poses else tokens, {**extra, **cut}
        out.append([tokens, extra])
    return out


def check_learned_variance(model: ModelPatcher) -> None:
    """Raise an `InputError` unless the network of `model` says its variance."""
    network = model.get_model_object("diffusion_model")
    if not isinstance(network, HostDenoiser):
        raise InputError(f"sampler_name: {LEARNED} is for RePoseDM models; choose another for this one.")
    if not network.denoiser.config.learned_variance:
        raise InputError(
            f"sampler_name: this RePoseDM model was trained without a variance, which {LEARNED} needs; "
            "choose another, such as ddim."
        )


class StepVariance:
    """Collects the variance logits of a step; the host may make them in several passes."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(self, variance: Tensor, kinds: list[int]) -> None:
        """Of one pass: (B·len(kinds), C, h, w); those of the positive conditioning, kind 0, count."""
        parts = variance.chunk(len(kinds))
        self.logits += [part for part, kind in zip(parts, kinds, strict=True) if kind == 0]

    def take(self, like: Tensor) -> Tensor:
        """The logits since the last call, those of several conditionings averaged."""
        logits, self.logits = self.logits, []
        if not logits or any(part.shape != like.shape for part in logits):
            raise InputError(
                f"positive: {LEARNED} works with conditionings for the whole picture; remove areas and "
                "ranges of steps from it, or choose another sampler_name."
            )
        return torch.stack(logits).mean(0) if len(logits) > 1 else logits[0]


def learned_ancestral(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """`sample_ancestral` in the form of ComfyUI's samplers; its noise follows that which the run began with."""
    extra_args = dict(extra_args or {})
    step = StepVariance()
    options = dict(extra_args.get("model_options") or {})
    options["transformer_options"] = {**options.get("transformer_options", {}), VARIANCE: step}
    extra_args["model_options"] = options

    def guess(value: Tensor, sigma: Tensor) -> Denoised:
        x0 = model(value, sigma, **extra_args)
        return Denoised(x0, step.take(value))

    def report(index: int, steps: int, x0: Tensor) -> None:
        if callback is not None:  # previews look at ŷ_0
            callback({"i": index, "x": x0, "denoised": x0, "sigma": sigmas[index], "sigma_hat": sigmas[index]})

    generator = torch.Generator().manual_seed(extra_args.get("seed") or 0)
    torch.randn(x.shape, generator=generator)  # the host drew this from the same seed
    return sample_ancestral(guess, x, sigmas, report, generator)
