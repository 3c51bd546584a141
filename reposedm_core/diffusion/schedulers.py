"""The samplers by name; the schedulers of diffusers over our schedule, stepping any `model(x, σ)` of `sampler.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError, quoted
from .context_cache import sampling_of
from .sampler import Callback, Model, Sampler, initial_latent, sample_ancestral, sample_ddim
from .schedule import DiffusionSchedule, simple_sigmas


@dataclass(frozen=True)
class SchedulerKind:
    """A class of diffusers by name, and the options that it is built with beside those of the schedule."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


SCHEDULERS: dict[str, SchedulerKind] = {
    "ddim": SchedulerKind("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
    "ddpm": SchedulerKind("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_small"}),
    "ddpm_learned": SchedulerKind("DDPMScheduler", {"clip_sample": False, "variance_type": "learned_range"}),
    "dpmpp_2m": SchedulerKind("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero"}),
    "dpmpp_2m_sde": SchedulerKind(
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"}
    ),
    "unipc": SchedulerKind("UniPCMultistepScheduler", {"final_sigmas_type": "zero"}),
    "euler": SchedulerKind("EulerDiscreteScheduler"),
    "euler_ancestral": SchedulerKind("EulerAncestralDiscreteScheduler"),
    "heun": SchedulerKind("HeunDiscreteScheduler"),
    # Its multistep formula mixes predictions of several t, which holds for ε only.
    "pndm": SchedulerKind(
        "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True, "prediction_type": "epsilon"}
    ),
}
"""By our names; "ddpm" has the posterior's variance β̃, "ddpm_learned" the model's Σ_θ."""


def build_scheduler(name: str, schedule: DiffusionSchedule, **options: Any) -> Any:
    """A scheduler of diffusers with the β, T and prediction type of `schedule`, its steps counted from the noisiest.

    Args:
        name: a key of `SCHEDULERS`.
        options: of the scheduler's class, in place of those in `SCHEDULERS`.

    Raises:
        InputError: another name.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise InputError(f"scheduler = {quoted(name)}: known are {', '.join(SCHEDULERS)}.")
    kind, config = SCHEDULERS[name], schedule.config
    known = {
        "num_train_timesteps": config.timesteps,
        "trained_betas": schedule.beta.numpy(),
        "prediction_type": config.prediction,
        "timestep_spacing": "trailing",
    }
    scheduler = getattr(diffusers, kind.name)(**{**known, **kind.options, **options})
    # In float32, as they make it, 1 - ᾱ of the first steps is good to 1e-3 only.
    scheduler.alphas, scheduler.alphas_cumprod = 1 - schedule.beta, schedule.alpha_bar.clone()
    return scheduler


def sample_with_scheduler(
    model: Model,
    noise: Tensor,
    scheduler: Any,
    steps: int,
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    schedule: DiffusionSchedule | None = None,
) -> Tensor:
    """Sample with a scheduler of diffusers. Returns ŷ_0, (B, C, h, w).

    Args:
        model: `model(x, σ)` → `Denoised` (see `sampler.py`), such as a `GuidedDenoiser`.
        noise: standard normal, (B, C, h, w).
        scheduler: from `build_scheduler`, or any of diffusers' that steps by (prediction, t, sample) and has the same
            T and β; its prediction type need not be the network's.
        steps: of the scheduler; methods of higher order may call the model more often.
        callback: see `sampler.Callback`, after every call of the model.
        generator: CPU generator of the schedulers that draw noise; with one seed, one picture.
        schedule: default `model.schedule`.

    Raises:
        InputError: bad noise or steps, or a scheduler for another T, other β or with a prediction type that is not
            known.
    """
    check_tensor(noise, "noise", "B C h w", finite=True)
    schedule = schedule_of(model) if schedule is None else schedule
    if not 1 <= steps <= schedule.timesteps:
        raise InputError(f"steps = {steps}: must be 1 to {schedule.timesteps}.")
    _check_levels(scheduler, schedule)
    convert = _conversion(getattr(scheduler.config, "prediction_type", None))
    variance = getattr(scheduler.config, "variance_type", None)
    if variance == "learned":
        raise InputError(
            "scheduler: variance_type = 'learned' is for a network that says Σ_θ itself; this one's "
            "logits are for 'learned_range'."
        )
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    scheduler.set_timesteps(steps, device=noise.device)
    sample, wide = noise * scheduler.init_noise_sigma, torch.promote_types(noise.dtype, torch.float32)
    alpha_bars = [_alpha_bar(schedule, t) for t in scheduler.timesteps.tolist()]
    roots = [(alpha_bar**0.5, (1 - alpha_bar) ** 0.5) for alpha_bar in alpha_bars]
    levels = [noise.new_full((len(noise),), spread / signal, dtype=wide) for signal, spread in roots]
    with torch.no_grad(), sampling_of(model, noise, levels):
        for i, t in enumerate(scheduler.timesteps):
            z = scheduler.scale_model_input(sample, t)  # y_t, whatever form the scheduler keeps its sample in
            signal, spread = roots[i]
            out = model(z / signal, levels[i])
            prediction = convert(z, out.x0, signal, spread)
            if variance == "learned_range":
                if out.variance_logits is None:
                    raise InputError(
                        "scheduler: it takes a learned variance and the model has none; choose another variance_type."
                    )
                last = i + 1 == len(scheduler.timesteps)
                # There β̃ is 0 and diffusers' logarithm of it -46: a logit above 1 would make of that a huge variance.
                logits = torch.full_like(out.variance_logits, -1.0) if last else out.variance_logits
                prediction = torch.cat([prediction, logits], 1)
            sample = scheduler.step(prediction, t, sample, **extra).prev_sample.to(noise.dtype)
            if callback:
                callback(i, len(scheduler.timesteps), out.x0)
    return sample


def schedule_of(model: Any) -> DiffusionSchedule:
    """`model.schedule`, or an `InputError`."""
    schedule = getattr(model, "schedule", None)
    if not isinstance(schedule, DiffusionSchedule):
        raise InputError(
            f"model: a {type(model).__name__} without `schedule`; the schedulers of diffusers need its "
            "DiffusionSchedule."
        )
    return schedule


def _check_levels(scheduler: Any, schedule: DiffusionSchedule) -> None:
    """Raise an `InputError` unless `scheduler` has the T and the ᾱ of `schedule`."""
    theirs = getattr(scheduler, "alphas_cumprod", None)
    if theirs is None:
        raise InputError(f"scheduler: a {type(scheduler).__name__} has no β; take one of DDPM's family.")
    if len(theirs) != schedule.timesteps:
        raise InputError(f"scheduler: it is for T = {len(theirs)}, the model for {schedule.timesteps}.")
    # In float32, as diffusers makes them, 1 - ᾱ of the first steps is good to 1e-3 only.
    if not torch.allclose(theirs.double().cpu(), schedule.alpha_bar, rtol=1e-3, atol=1e-7):
        raise InputError(
            f"scheduler: its β are not the model's ({schedule.config.beta_schedule}, "
            f"{schedule.config.beta_start} to {schedule.config.beta_end}); build it with them, or with "
            "build_scheduler."
        )


def _alpha_bar(schedule: DiffusionSchedule, t: float) -> float:
    """ᾱ_t, between whole t by log σ."""
    low = min(int(t), schedule.timesteps - 1)
    high, part = min(low + 1, schedule.timesteps - 1), t - int(t)
    if part == 0:
        return float(schedule.alpha_bar[low])
    log_sigma = 0.5 * torch.logit(1 - schedule.alpha_bar[[low, high]])
    return float(1 / (1 + (2 * torch.lerp(log_sigma[0], log_sigma[1], part)).exp()))


def _conversion(prediction_type: str | None) -> Callable[[Tensor, Tensor, float, float], Tensor]:
    """(y_t, ŷ_0, √ᾱ_t, √(1-ᾱ_t)) → what the scheduler takes for the network's output."""
    known = {
        "epsilon": lambda z, x0, signal, spread: (z - signal * x0) / spread,
        "v_prediction": lambda z, x0, signal, spread: (signal * z - x0) / spread,
        "sample": lambda z, x0, signal, spread: x0,
    }
    if prediction_type not in known:
        raise InputError(f"scheduler: prediction_type = {quoted(prediction_type)}; known are {', '.join(known)}.")
    return known[prediction_type]


def _of_diffusers(name: str) -> Sampler:
    """The diffusers scheduler `name` as a sampler; it takes its steps from `sigmas` and the schedule from the model."""

    def sample(
        model: Model,
        x: Tensor,
        sigmas: Tensor,
        callback: Callback | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        check_tensor(sigmas, "sigmas", "N")
        schedule = schedule_of(model)
        if not torch.allclose(sigmas.float().cpu(), simple_sigmas(schedule, len(sigmas) - 1), rtol=1e-4):
            raise InputError(
                f"sampler {quoted(name)} steps through levels of its own: give "
                "simple_sigmas(schedule, steps), or use ddim or ancestral."
            )
        noise, scheduler = x / torch.sqrt(1.0 + sigmas[0] ** 2), build_scheduler(name, schedule)
        return sample_with_scheduler(model, noise, scheduler, len(sigmas) - 1, callback, generator)

    sample.__doc__ = f"{SCHEDULERS[name].name} of diffusers."
    return sample


SAMPLERS: dict[str, Sampler] = {
    "ddim": sample_ddim,
    "ancestral": sample_ancestral,
    **{name: _of_diffusers(name) for name in SCHEDULERS if name != "ddim"},
}


def sample_noise(
    model: Model,
    noise: Tensor,
    steps: int,
    sampler: str = "ddim",
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
    start: tuple[Tensor, float] | None = None,
) -> Tensor:
    """Noise to a clean latent ŷ_0, (B, C, h, w), through levels evenly spaced in t.

    Args:
        model: with its `schedule`. noise: standard normal, (B, C, h, w).
        sampler: a key of `SAMPLERS`. callback, generator: see `sampler.Sampler`.
        start: a latent like `noise`, and the share of the schedule, below 1, to which it is noised: all steps lie in
            that share (**ours**). None starts from the noise itself.

    Raises:
        InputError: a sampler that is not known, or what it raises.
    """
    check_sampler(sampler)
    share = 1.0 if start is None else start[1]
    sigmas = simple_sigmas(schedule_of(model), round(steps / share))[-steps - 1 :].to(noise.device)
    x = initial_latent(noise, sigmas[0]) if start is None else start[0] + sigmas[0] * noise
    return SAMPLERS[sampler](model, x, sigmas, callback, generator)


def check_sampler(name: str) -> None:
    """Raise an `InputError` unless it is a key of `SAMPLERS`."""
    if name not in SAMPLERS:
        raise InputError(f"sampler = {quoted(name)}: known are {', '.join(SAMPLERS)}.")
