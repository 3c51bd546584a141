"""Guidance arithmetic of section 3.4: classifier-free guidance and the pose field's gradient.

A weight of 0 hands back the very tensor it was given, so that guidance that is off changes not one bit.
"""

from __future__ import annotations

import torch


def classifier_free(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """eq. 16 without its gradient: ε_uncond + w_c (ε_cond − ε_uncond), for ε-, v- or x̂₀-predictions alike.

    The bracket is the paper's ε_interaction, read as a direction (**ours**, after PIDM). All of eq. 16 is
    `guide_epsilon(classifier_free(cond, uncond, w_c), gradient, alpha_bar, w_c)`.

    Args:
        conditional, unconditional: predictions of one shape.
        scale: w_c; 1 returns `conditional` itself, 0 `unconditional`.
    """
    if scale == 1:
        return conditional
    if scale == 0:
        return unconditional
    return unconditional + scale * (conditional - unconditional)


def alpha_bar_of(sigma: torch.Tensor, flow: bool = False) -> torch.Tensor:
    """ᾱ of a noise level: 1 / (1 + σ²) where x = y_0 + σ ε, and with `flow` that of x = (1 − σ) y_0 + σ ε.

    At least `LEAST_ALPHA_BAR`: at pure noise eq. 15 written on x̂₀ has no finite step.
    """
    signal = 1 - sigma if flow else torch.ones_like(sigma)
    return (signal**2 / (signal**2 + sigma**2)).clamp(min=LEAST_ALPHA_BAR)


LEAST_ALPHA_BAR = 4e-5
"""About ᾱ_T of the linear schedule."""


def guide_epsilon(
    epsilon: torch.Tensor, gradient: torch.Tensor, alpha_bar: torch.Tensor | float, weight: float = 1.0
) -> torch.Tensor:
    """eq. 15: ε̃ = ε + w √(1 − ᾱ_t) ∇G.

    Args:
        epsilon: (B, C, h, w) predicted noise.
        gradient: ∇G, the same shape.
        alpha_bar: ᾱ_t in 0..1, a number or one a picture (B,).
        weight: w; 1 is the paper's, 0 returns `epsilon` itself.
    """
    if weight == 0:
        return epsilon
    alpha_bar = _as_tensor(alpha_bar)
    return epsilon + _coefficient(weight * (1 - alpha_bar).sqrt(), epsilon) * gradient


def guide_x0(
    x0: torch.Tensor, gradient: torch.Tensor, alpha_bar: torch.Tensor | float, weight: float = 1.0
) -> torch.Tensor:
    """eq. 15 written on the clean estimate: x̂₀ − w σ √(1 − ᾱ_t) ∇G with σ = √((1 − ᾱ_t) / ᾱ_t).

    The same step as `guide_epsilon`, through x̂₀ = (y_t − √(1 − ᾱ_t) ε) / √ᾱ_t; it serves ε-, v- and
    flow-predicting models. Arguments as there, with `x0` (B, C, h, w) for ε and ᾱ_t above 0.
    """
    if weight == 0:
        return x0
    alpha_bar = _as_tensor(alpha_bar)
    return x0 - _coefficient(weight * (1 - alpha_bar) / alpha_bar.sqrt(), x0) * gradient


def limit_step(x0: torch.Tensor, guided: torch.Tensor, limit: float) -> torch.Tensor:
    """Shorten the step x̂₀ → guided, per picture, to at most `limit` times the root mean square of x̂₀ (**ours**).

    On x̂₀ the step of eq. 15 grows with σ, which is over a hundred at the first step, where x̂₀ says least about the
    pose. A bound keeps the direction, leaves the small steps of the later sampling as they are, and makes one strength
    serve every model.

    Args:
        x0, guided: (B, ...). limit: above 0.
    """
    scale = x0.float().square().flatten(1).mean(1).sqrt()
    return x0 + bound_step((guided - x0).float(), limit * scale).to(x0.dtype)


def bound_step(step: torch.Tensor, size: torch.Tensor | float) -> torch.Tensor:
    """Each picture's step (B, ...), shortened where its root mean square is above `size`, a number or (B,)."""
    own = step.square().flatten(1).mean(1).sqrt()
    return step * (size / own.clamp(min=1e-12)).clamp(max=1).reshape(-1, *[1] * (step.ndim - 1))


def normalise_gradient(gradient: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Each picture's gradient scaled to the root mean square of its reference (**ours**); zero stays zero.

    ∇G has the unit of the estimator's outputs per latent, so that a weight that suits one estimator is far
    off for another. With the latent (or ε) as reference, a gradient is as large as that, whatever G is.

    Args:
        gradient, reference: (B, ...).

    Returns:
        Like `gradient`, detached.
    """
    # Half precision would lose the squares of small gradients.
    work = torch.promote_types(gradient.dtype, torch.float32)
    step, scale = gradient.detach().to(work), reference.detach().to(work)
    # Divided by the largest value first, so that no square underflows.
    peak = step.abs().amax(tuple(range(1, step.ndim)), keepdim=True)
    step = step / torch.where(peak > 0, peak, 1.0)
    size, wanted = (t.square().flatten(1).mean(1).sqrt().reshape(peak.shape) for t in (step, scale))
    return (step * (wanted / torch.where(size > 0, size, 1.0))).to(gradient.dtype)


def _as_tensor(value: torch.Tensor | float) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


def _coefficient(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A number () or one a picture (B,), broadcasting over `like`."""
    value = value.to(like.dtype)
    return value.to(like.device).reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value
