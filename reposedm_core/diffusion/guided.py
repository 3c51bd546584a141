"""The guided denoiser of section 3.4: classifier-free guidance (eq. 16) and the field's gradient (eq. 15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..field import PoseInteractionField, PoseTarget
from .denoiser import Conditioner, Denoiser
from .guidance import classifier_free, guide_x0, limit_step
from .sampler import Denoised, timestep_of
from .schedule import DiffusionSchedule


@dataclass
class Condition:
    """What the denoiser is told: pose latent, context tokens, aligned latent and its visibility (see `Denoiser`)."""

    pose: Tensor
    tokens: Tensor
    aligned: Tensor
    visibility: Tensor

    @staticmethod
    def of(denoiser: Conditioner, pose: Tensor, source: Tensor, aligned: Tensor, visibility: Tensor,
           drop: Tensor | None = None) -> Condition:
        """Condition from latents (B, C, h, w); B1 reads the unaligned source. `drop`: see `Conditioner.context`."""
        texture = aligned
        if denoiser.config.texture == "source":
            texture, visibility = source, torch.ones_like(visibility)
        return Condition(pose, denoiser.context(texture, visibility, drop), aligned, visibility)

    @staticmethod
    def null(denoiser: Conditioner, like: Condition) -> Condition:
        """The joint null condition P, I_S = ∅: null tokens and zeros."""
        return Condition(torch.zeros_like(like.pose), denoiser.null_context(*like.tokens.shape[:2]).to(like.tokens),
                         torch.zeros_like(like.aligned), torch.zeros_like(like.visibility))

    def repeated(self, count: int) -> Condition:
        """The same condition for `count` pictures."""
        return Condition(*(t.expand(count, *t.shape[1:]) if len(t) == 1 else t
                           for t in (self.pose, self.tokens, self.aligned, self.visibility)))


@dataclass
class FieldGuidance:
    """Gradient guidance by the pose interaction field.

    Attributes:
        field, target: the field and the pose to reach.
        decode: latent → pictures in [-1, 1], differentiable.
        strength: w of eq. 15's gradient; 0 is exactly neutral.
        start, end: the share of the sampling in which it acts, 0 (first step) to 1 (last), as fractions of t.
        limit: largest step, relative to the root mean square of ŷ_0 (see `limit_step`).
    """

    field: PoseInteractionField
    target: PoseTarget
    decode: Callable[[Tensor], Tensor]
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    limit: float = 0.1

    def active(self, fraction: float) -> bool:
        """Does it act at this share of the sampling?"""
        return self.strength != 0 and self.start <= fraction < self.end

    def __call__(self, x0: Tensor, alpha_bar: Tensor | float, weight: float = 1.0) -> Tensor:
        """ŷ_0 moved down the field's gradient; alpha_bar is ᾱ_t, a number or (B,)."""
        if self.strength == 0 or weight == 0:
            return x0
        gradient, _ = self.field.gradient(x0, self.decode, self.target)
        return limit_step(x0, guide_x0(x0, gradient, alpha_bar, self.strength * weight), self.limit)


class GuidedDenoiser:
    """`model(x, σ)` for the samplers: both passes of eq. 16 in one batch, then the field's gradient."""

    def __init__(self, denoiser: Denoiser, schedule: DiffusionSchedule, condition: Condition, scale: float = 1.0,
                 field: FieldGuidance | None = None):
        """`scale` is w_c of eq. 16; 1 skips the unconditional pass."""
        self.denoiser, self.schedule, self.scale, self.field = denoiser, schedule, scale, field
        self.condition = condition
        self.null = Condition.null(denoiser, condition)

    def predict(self, z: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Prediction and variance logits of the bare network at y_t = z; t (B,) int64."""
        alpha_bar = self.schedule.at(self.schedule.alpha_bar, t, z)
        c = condition.repeated(len(z))
        return self.denoiser(z, t, c.pose, c.tokens, c.aligned, c.visibility, (1 - alpha_bar).sqrt())

    def __call__(self, x: Tensor, sigma: Tensor) -> Denoised:
        t = timestep_of(self.schedule, sigma)
        z = x / (sigma[:, None, None, None] ** 2 + 1) ** 0.5
        if self.scale == 1:
            prediction, variance = self.predict(z, t, self.condition)
        else:
            conditions = (vars(c.repeated(len(z))).values() for c in (self.condition, self.null))
            both = Condition(*(torch.cat(pair) for pair in zip(*conditions, strict=True)))
            predictions, variances = self.predict(torch.cat([z, z]), torch.cat([t, t]), both)
            conditional, unconditional = predictions.chunk(2)
            prediction = classifier_free(conditional, unconditional, self.scale)
            variance = variances.chunk(2)[0]
        x0 = self.schedule.predict_x0(z, prediction, t)
        if self.field is not None and self.field.active(1 - (int(t[0]) + 1) / self.schedule.timesteps):
            weight = self.scale if self.scale > 0 else 1.0
            x0 = self.field(x0, self.schedule.at(self.schedule.alpha_bar, t, x).flatten(), weight)
        return Denoised(x0, variance)
