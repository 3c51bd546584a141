"""Samplers in the variance-exploding form that ComfyUI and k-diffusion use: x = y / √ᾱ, σ = √((1-ᾱ)/ᾱ).

Every sampler is a function of (model, x, sigmas, callback, generator); `model(x, σ)` returns a `Denoised`. The
arithmetic and its order are those of ComfyUI's samplers of the same name, so that one seed gives one picture in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError
from .context_cache import sampling_of
from .schedule import schedule_sigmas, simple_sigmas, timestep_of

__all__ = [
    "Callback",
    "Denoised",
    "Model",
    "Sampler",
    "initial_latent",
    "sample_ancestral",
    "sample_ddim",
    "schedule_sigmas",
    "simple_sigmas",
    "timestep_of",
]


@dataclass
class Denoised:
    """ŷ_0 (B, C, h, w) and the variance logits of the same shape (None where the model has none)."""

    x0: Tensor
    variance_logits: Tensor | None = None


Model = Callable[[Tensor, Tensor], Denoised]
Callback = Callable[[int, int, Tensor], None]
"""(step, steps, ŷ_0), after each step; raising in it ends the sampling."""
Sampler = Callable[..., Tensor]
"""(model, x, sigmas, callback=None, generator=None) → ŷ_0, (B, C, h, w). `x` is `initial_latent(noise, sigmas[0])`,
`sigmas` fall and end with 0, `generator` is a CPU generator for the samplers that draw noise."""


def initial_latent(noise: Tensor, sigma: Tensor) -> Tensor:
    """Pure noise at the first σ: y_T ~ N(0, I) has x = ε √(1 + σ²)."""
    return noise * torch.sqrt(1.0 + sigma**2)


def _sampler(loop: Callable[..., None]) -> Sampler:
    """What every sampler does around its loop: checks, no gradients, and the model's own preparations."""

    @wraps(loop)
    def sample(
        model: Model,
        x: Tensor,
        sigmas: Tensor,
        callback: Callback | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        check_tensor(x, "x", "B C h w", finite=True)
        check_tensor(sigmas, "sigmas", "N")
        if len(sigmas) < 2 or sigmas[-1] != 0 or not (sigmas[:-1] > sigmas[1:]).all():
            raise InputError(f"sigmas = {sigmas.tolist()}: must be 2 or more falling noise levels, the last 0.")
        with torch.no_grad(), sampling_of(model):
            return loop(model, x, sigmas, callback, generator)

    return sample


@_sampler
def sample_ddim(
    model: Model, x: Tensor, sigmas: Tensor, callback: Callback | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Deterministic DDIM (Song et al., η = 0); in this form it is Euler's method. Returns ŷ_0, (B, C, h, w)."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x0 = model(x, sigmas[i].expand(len(x))).x0
        x = x + (x - x0) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        if callback:
            callback(i, steps, x0)
    return x


@_sampler
def sample_ancestral(
    model: Model, x: Tensor, sigmas: Tensor, callback: Callback | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """DDPM ancestral sampling on the given levels with the learned variance Σ_θ (eq. 2; improved DDPM).

    Between levels ᾱ_s > ᾱ_t the step's β is 1 - ᾱ_t/ᾱ_s; the logits interpolate log β and log β̃. A model without
    variance logits gets β̃. The logits are not bounded, as they are not in training (`DiffusionSchedule.log_variance`)
    and in diffusers' own. Noise is drawn on the CPU from `generator`.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        out = model(x, sigmas[i].expand(len(x)))
        alpha_t, alpha_s = (1 / (1 + sigmas[j].cpu().double() ** 2) for j in (i, i + 1))
        beta = 1 - alpha_t / alpha_s
        y = x * alpha_t.sqrt().to(x)
        mean = (beta * alpha_s.sqrt() / (1 - alpha_t)).to(x) * out.x0 + (
            (1 - alpha_s) * (alpha_t / alpha_s).sqrt() / (1 - alpha_t)
        ).to(x) * y
        if i + 1 < steps:
            low, high = (beta * (1 - alpha_s) / (1 - alpha_t)).log().to(x), beta.log().to(x)
            fraction = 0.0 if out.variance_logits is None else (out.variance_logits + 1) / 2
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
            mean = mean + (0.5 * (fraction * high + (1 - fraction) * low)).exp() * noise
        x = mean / alpha_s.sqrt().to(x)
        if callback:
            callback(i, steps, out.x0)
    return x
