"""Samplers in the variance-exploding form that ComfyUI and k-diffusion use: x = y / √ᾱ, σ = √((1-ᾱ)/ᾱ).

Every sampler is a function of (model, x, sigmas, callback); `model(x, σ)` returns a `Denoised`. The arithmetic and its
order are those of ComfyUI's samplers of the same name, so that one seed gives one picture in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .schedule import DiffusionSchedule


@dataclass
class Denoised:
    """ŷ_0 (B, C, h, w) and the variance logits of the same shape (None where the model has none)."""

    x0: Tensor
    variance_logits: Tensor | None = None


Model = Callable[[Tensor, Tensor], Denoised]
Callback = Callable[[int, int, Tensor], None]
"""(step, steps, ŷ_0), after each step; raising in it ends the sampling."""


def schedule_sigmas(schedule: DiffusionSchedule) -> Tensor:
    """σ_t for t = 0 … T-1, ascending, float32."""
    return ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt().float()


def simple_sigmas(schedule: DiffusionSchedule, steps: int) -> Tensor:
    """`steps` noise levels evenly spaced in t from the noisiest down, then 0 (ComfyUI's scheduler "simple").

    Raises:
        InputError: steps is not in 1..T.
    """
    if not 1 <= steps <= schedule.timesteps:
        raise InputError(f"steps = {steps}: must be 1 to {schedule.timesteps}.")
    table = schedule_sigmas(schedule)
    stride = len(table) / steps
    return torch.cat([torch.stack([table[-(1 + int(i * stride))] for i in range(steps)]), table.new_zeros(1)])


def timestep_of(schedule: DiffusionSchedule, sigma: Tensor) -> Tensor:
    """The t whose σ_t is nearest in logarithm; sigma (B,) → (B,) int64."""
    log_table = schedule_sigmas(schedule).log().to(sigma.device)
    return (sigma.float().log()[:, None] - log_table).abs().argmin(1)


def initial_latent(noise: Tensor, sigma: Tensor) -> Tensor:
    """Pure noise at the first σ: y_T ~ N(0, I) has x = ε √(1 + σ²)."""
    return noise * torch.sqrt(1.0 + sigma**2)


@torch.no_grad()
def sample_ddim(model: Model, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Deterministic DDIM (Song et al., η = 0); in this form it is Euler's method. Returns ŷ_0, (B, C, h, w)."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x0 = model(x, sigmas[i].expand(len(x))).x0
        x = x + (x - x0) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        if callback:
            callback(i, steps, x0)
    return x


@torch.no_grad()
def sample_ancestral(model: Model, x: Tensor, sigmas: Tensor, callback: Callback | None = None,
                     generator: torch.Generator | None = None) -> Tensor:
    """DDPM ancestral sampling on the given levels with the learned variance Σ_θ (eq. 2; improved DDPM).

    Between levels ᾱ_s > ᾱ_t the step's β is 1 - ᾱ_t/ᾱ_s; the logits interpolate log β and log β̃. A model without
    variance logits gets β̃. Noise is drawn on the CPU from `generator`.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        out = model(x, sigmas[i].expand(len(x)))
        alpha_t, alpha_s = (1 / (1 + sigmas[j].cpu().double() ** 2) for j in (i, i + 1))
        beta = 1 - alpha_t / alpha_s
        y = x * alpha_t.sqrt().to(x)
        mean = ((beta * alpha_s.sqrt() / (1 - alpha_t)).to(x) * out.x0
                + ((1 - alpha_s) * (alpha_t / alpha_s).sqrt() / (1 - alpha_t)).to(x) * y)
        if i + 1 < steps:
            low, high = (beta * (1 - alpha_s) / (1 - alpha_t)).log().to(x), beta.log().to(x)
            fraction = 0.0 if out.variance_logits is None else (out.variance_logits.clamp(-1, 1) + 1) / 2
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
            mean = mean + (0.5 * (fraction * high + (1 - fraction) * low)).exp() * noise
        x = mean / alpha_s.sqrt().to(x)
        if callback:
            callback(i, steps, out.x0)
    return x


SAMPLERS: dict[str, Callable] = {"ddim": sample_ddim, "ancestral": sample_ancestral}
