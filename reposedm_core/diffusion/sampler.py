"""Samplers in the variance-exploding form that ComfyUI and k-diffusion use: x = y / √ᾱ, σ = √((1-ᾱ)/ᾱ).

Every sampler is a function of (model, x, sigmas, callback, generator); `model(x, σ)` returns a `Denoised`. The
arithmetic and its order are those of ComfyUI's samplers of the same name, so that one seed gives one picture in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise

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
"""(x, σ) → `Denoised`, of x (B, C, h, w) and σ (B,). So that no step waits for the device, a model may read the levels
of a run before the first, in its `sampling(x, levels)`, where it has one (see `GuidedModel.sampling`)."""
Callback = Callable[[int, int, Tensor], None]
"""(step, steps, ŷ_0), after each step; raising in it ends the sampling."""
Sampler = Callable[..., Tensor]
"""(model, x, sigmas, callback=None, generator=None) → ŷ_0, (B, C, h, w). `x` is `initial_latent(noise, sigmas[0])`,
`sigmas` fall and end with 0, `generator` is a CPU generator for the samplers that draw noise."""


def initial_latent(noise: Tensor, sigma: Tensor) -> Tensor:
    """Pure noise at the first σ: y_T ~ N(0, I) has x = ε √(1 + σ²)."""
    return noise * torch.sqrt(1.0 + sigma**2)


def _sampler(loop: Callable[..., Tensor]) -> Sampler:
    """What every sampler does around its loop: checks, no gradients, and the model's own preparations.

    The loop is given `levels` too: σ_i (B,) of each step, the very tensors that the model was prepared for.
    """

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
        with torch.no_grad():
            levels = [sigma.expand(len(x)) for sigma in sigmas[:-1]]
            with sampling_of(model, x, levels):
                return loop(model, x, sigmas, levels, callback, generator)

    del sample.__wrapped__  # its signature is not the sampler's
    return sample


@_sampler
def sample_ddim(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    levels: list[Tensor],
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Deterministic DDIM (Song et al., η = 0); in this form it is Euler's method. Returns ŷ_0, (B, C, h, w)."""
    for i, level in enumerate(levels):
        x0 = model(x, level).x0
        x = x + (x - x0) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
        if callback:
            callback(i, len(levels), x0)
    return x


@_sampler
def sample_ancestral(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    levels: list[Tensor],
    callback: Callback | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDPM ancestral sampling on the given levels with the learned variance Σ_θ (eq. 2; improved DDPM).

    Between levels ᾱ_s > ᾱ_t the step's β is 1 - ᾱ_t/ᾱ_s; the logits interpolate log β and log β̃. A model without
    variance logits gets β̃. The logits are not bounded, as they are not in training (`DiffusionSchedule.log_variance`)
    and in diffusers' own. Noise is drawn on the CPU from `generator`.
    """
    steps = len(levels)
    factors = torch.stack([_ancestral_factors(*pair) for pair in pairwise(sigmas.cpu().double())]).to(x)
    for i, level in enumerate(levels):
        out = model(x, level)
        root_t, of_x0, of_y, low, high, root_s = factors[i]
        mean = of_x0 * out.x0 + of_y * (x * root_t)
        if i + 1 < steps:
            fraction = 0.0 if out.variance_logits is None else (out.variance_logits + 1) / 2
            # From main memory to the device nobody waits.
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x, non_blocking=True)
            mean = mean + (0.5 * (fraction * high + (1 - fraction) * low)).exp() * noise
        x = mean / root_s
        if callback:
            callback(i, steps, out.x0)
    return x


def _ancestral_factors(sigma_t: Tensor, sigma_s: Tensor) -> Tensor:
    """Of a step: √ᾱ_t; the factors of ŷ_0 and y_t in the mean; log β̃ and log β; √ᾱ_s; (6,) in float64."""
    alpha_t, alpha_s = (1 / (1 + sigma**2) for sigma in (sigma_t, sigma_s))
    beta = 1 - alpha_t / alpha_s
    return torch.stack(
        [
            alpha_t.sqrt(),
            beta * alpha_s.sqrt() / (1 - alpha_t),
            (1 - alpha_s) * (alpha_t / alpha_s).sqrt() / (1 - alpha_t),
            (beta * (1 - alpha_s) / (1 - alpha_t)).log(),
            beta.log(),
            alpha_s.sqrt(),
        ]
    )
