"""Guidance arithmetic of section 3.4: classifier-free guidance and the pose field's gradient.

A weight of 0 hands back the very tensor it was given, so that guidance that is off changes not one bit.
"""

from __future__ import annotations

import torch

from ..config import UPDATES
from ..errors import InputError, quoted


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
    sigma = _work(sigma)
    signal = 1 - sigma if flow else torch.ones_like(sigma)
    return (signal**2 / (signal**2 + sigma**2)).clamp(min=LEAST_ALPHA_BAR)


LEAST_ALPHA_BAR = 4e-5
"""About ᾱ_T of the linear schedule."""


def noise_factor(alpha_bar: torch.Tensor, update: str = "eq15") -> torch.Tensor:
    """What ∇G is multiplied by in ε̃ = ε + factor · ∇G, from ᾱ_t.

    "eq15": √(1 − ᾱ_t), eq. 15 as printed. "eq14": √ᾱ_t, which is eq. 14 with Δy_0 = −η ∇G and η = √(1 − ᾱ_t), the
    scale factor that the paper takes over. Eq. 15 would follow from eq. 14 with η = (1 − ᾱ_t) / √ᾱ_t alone.
    """
    return (1 - alpha_bar).sqrt() if _is_equation_15(update) else alpha_bar.sqrt()


def clean_factor(alpha_bar: torch.Tensor, update: str = "eq15") -> torch.Tensor:
    """The same on the clean estimate, x̂₀ − factor · ∇G: (1 − ᾱ_t) / √ᾱ_t with "eq15", √(1 − ᾱ_t) with "eq14"."""
    return (1 - alpha_bar) / alpha_bar.sqrt() if _is_equation_15(update) else (1 - alpha_bar).sqrt()


def _is_equation_15(update: str) -> bool:
    if update not in UPDATES:
        raise InputError(f"field.update = {quoted(update)}: known are {', '.join(UPDATES)}.")
    return update == "eq15"


def guide_epsilon(
    epsilon: torch.Tensor,
    gradient: torch.Tensor,
    alpha_bar: torch.Tensor | float,
    weight: float = 1.0,
    update: str = "eq15",
) -> torch.Tensor:
    """eq. 15: ε̃ = ε + w √(1 − ᾱ_t) ∇G, or eq. 14 with its η.

    Args:
        epsilon: (B, C, h, w) predicted noise.
        gradient: ∇G, the same shape.
        alpha_bar: ᾱ_t in 0..1, a number or one per picture (B,).
        weight: w; 1 is the paper's, 0 returns `epsilon` itself.
        update: which of the two, see `noise_factor`.
    """
    if weight == 0:
        return epsilon
    factor = weight * noise_factor(_as_tensor(alpha_bar), update)
    return (epsilon + limit_step(gradient, factor)).to(epsilon.dtype)


def guide_x0(
    x0: torch.Tensor,
    gradient: torch.Tensor,
    alpha_bar: torch.Tensor | float,
    weight: float = 1.0,
    limit: float = 0.0,
    distance: torch.Tensor | None = None,
    update: str = "eq15",
) -> torch.Tensor:
    """eq. 15 written on the clean estimate: x̂₀ − w σ √(1 − ᾱ_t) ∇G with σ = √((1 − ᾱ_t) / ᾱ_t).

    The same step as `guide_epsilon`, through x̂₀ = (y_t − √(1 − ᾱ_t) ε) / √ᾱ_t; it serves ε-, v- and
    flow-predicting models. Arguments as there, with `x0` (B, C, h, w) for ε and ᾱ_t above 0.

    Args:
        limit: above 0, a picture's step is shortened to at most so many times the root mean square of its x̂₀
            (**ours**); 0 is the equation as written. On x̂₀ the step grows with σ, which is over a hundred at the first
            step, where x̂₀ says least about the pose. A bound keeps the direction, leaves the small steps of the later
            sampling as they are, and keeps every model from being driven off its pictures.
        distance: G (B,), to normalise the gradient by (**ours**): x̂₀ − w √(1 − ᾱ_t) · G / ‖∇G‖² · ∇G. To first order
            that takes the share w √(1 − ᾱ_t) off G, whatever the latent's scale, the decoder, the estimator and the
            kind of prediction are (Polyak's step for a least value of 0). None is the equation as written.
        update: "eq14" is x̂₀ − w √(1 − ᾱ_t) ∇G instead, eqs. 13-14 with the paper's η, see `noise_factor`; without
            a meaning where `distance` is given.
    """
    if weight == 0:
        return x0
    alpha_bar = _as_tensor(alpha_bar)
    if distance is None:
        factor = -weight * clean_factor(alpha_bar, update)
    else:
        gradient, factor = _towards_zero(gradient, distance)
        factor = -weight * _each(1 - alpha_bar, factor).sqrt() * factor
    size = limit * _length(_work(x0)).flatten() if limit else None
    return (x0 + limit_step(gradient, factor, size)).to(x0.dtype)


def limit_step(
    direction: torch.Tensor, factor: torch.Tensor | float, size: torch.Tensor | float | None = None
) -> torch.Tensor:
    """factor · direction, shortened per picture to a root mean square of at most `size` (**ours**).

    Works in float32 or better and on the direction divided by its largest value, so that neither a gradient nor a
    factor that half precision cannot square, or cannot hold, makes the step infinite.

    Args:
        direction: (B, ...). factor: a number or one per picture (B,). size: the same, above 0; None is no bound.

    Returns:
        (B, ...) in float32, or float64 where `direction` is.
    """
    direction = _work(direction)
    factor = _each(_as_tensor(factor), direction)
    if size is None:
        return factor * direction
    peak = direction.abs().amax(tuple(range(1, direction.ndim)), keepdim=True)
    none = ~(peak > 0)
    unit = direction / peak.masked_fill(none, 1.0)
    own = _length(unit).masked_fill(none, 1.0)
    length = (factor.abs() * peak * own).masked_fill(none, 0.0).minimum(_each(_as_tensor(size), direction))
    return unit * (factor.sign() * length / own)


def _towards_zero(gradient: torch.Tensor, distance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """∇G divided by its largest value, and the factor (B,) by which that makes the step G / ‖∇G‖² · ∇G."""
    gradient = _work(gradient)
    peak = gradient.abs().amax(tuple(range(1, gradient.ndim)), keepdim=True)
    none = ~(peak > 0)
    unit = gradient / peak.masked_fill(none, 1.0)
    squared = unit.square().sum(tuple(range(1, gradient.ndim)))
    peak, none = peak.flatten(), none.flatten()
    factor = distance.to(gradient) / (peak.masked_fill(none, 1.0) * squared.masked_fill(none, 1.0))
    # A gradient that is next to nothing has no direction.
    return unit, factor.masked_fill(none | ~factor.isfinite(), 0.0)


def _work(value: torch.Tensor) -> torch.Tensor:
    """In float32 at least."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _length(value: torch.Tensor) -> torch.Tensor:
    """Root mean square of each picture, (B, 1, ...)."""
    return value.square().mean(tuple(range(1, value.ndim)), keepdim=True).sqrt()


def _as_tensor(value: torch.Tensor | float) -> torch.Tensor:
    return _work(value) if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


def _each(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A number () or one per picture (B,), broadcasting over `like`, in its dtype and on its device."""
    value = value.to(like.dtype).to(like.device)
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value
