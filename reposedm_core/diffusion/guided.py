"""The guided denoiser of section 3.4: classifier-free guidance (eq. 16) and the field's gradient (eq. 15)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_tensor
from ..config import FieldConfig
from ..errors import InputError
from ..field import PoseInteractionField, PoseTarget
from .context_cache import cached_context
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
        """The same condition for `count` pictures.

        Raises:
            InputError: it is for several pictures, and not for `count`.
        """
        if len(self.tokens) not in (1, count):
            raise InputError(f"condition: it is for {len(self.tokens)} pictures, and x has {count}; give one for all "
                             "or one a picture.")
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

    Raises:
        InputError: a strength that is no number, or a start or end outside 0..1.
    """

    field: PoseInteractionField
    target: PoseTarget
    decode: Callable[[Tensor], Tensor]
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    limit: float = 0.1

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise InputError(f"field strength = {self.strength}: must be a finite number.")
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"field {name} = {getattr(self, name)}: must be 0 (first step) to 1 (last).")

    @classmethod
    def configured(cls, config: FieldConfig, field: PoseInteractionField, target: PoseTarget,
                   decode: Callable[[Tensor], Tensor]) -> FieldGuidance:
        """Guidance with the sampling defaults of a model's `FieldConfig`, whose space must be the field's."""
        if field.space != config.space:
            raise InputError(f"field: it compares {field.space} and the configuration says {config.space!r}.")
        return cls(field, target, decode, config.strength, config.start, config.end, config.limit)

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
        if not math.isfinite(scale):
            raise InputError(f"guidance scale w_c = {scale}: must be a finite number.")
        self.denoiser, self.schedule, self.scale, self.field = denoiser, schedule, scale, field
        self.condition = condition
        self.null = Condition.null(denoiser, condition)
        self._told: tuple[int, Condition] | None = None

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """While it is open the context's keys and values are kept from step to step (the samplers open it)."""
        with cached_context(self.denoiser):
            yield

    def predict(self, z: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Prediction and variance logits of the bare network at y_t = z; t (B,) int64."""
        c = condition.repeated(len(z))
        return self.denoiser(z, t, c.pose, c.tokens, c.aligned, c.visibility, self.schedule.roots(t, z)[1])

    def _conditions(self, count: int) -> Condition:
        """What the network is told of `count` pictures: the condition and, where both passes run, the null one.

        Kept from step to step, so that the context stays one tensor.
        """
        if self._told is None or self._told[0] != count:
            told = self.condition.repeated(count)
            if self.scale != 1:
                pairs = zip(vars(told).values(), vars(self.null.repeated(count)).values(), strict=True)
                told = Condition(*(torch.cat(pair) for pair in pairs))
            self._told = count, told
        return self._told[1]

    def __call__(self, x: Tensor, sigma: Tensor) -> Denoised:
        """ŷ_0 and the variance logits at x = y_t / √ᾱ_t, (B, C, h, w), of noise levels σ (B,)."""
        sizes = check_tensor(x, "x", "B C h w", {"C": self.condition.pose.shape[1]})
        check_tensor(sigma, "sigma", "B", sizes)
        t = timestep_of(self.schedule, sigma)
        z = x / (sigma[:, None, None, None] ** 2 + 1) ** 0.5
        told = self._conditions(len(z))
        if self.scale == 1:
            prediction, variance = self.predict(z, t, told)
        else:
            predictions, variances = self.predict(torch.cat([z, z]), torch.cat([t, t]), told)
            conditional, unconditional = predictions.chunk(2)
            prediction = classifier_free(conditional, unconditional, self.scale)
            variance = None if variances is None else variances.chunk(2)[0]
        x0 = self.schedule.predict_x0(z, prediction, t)
        if self.field is not None and self.field.active(1 - (int(t[0]) + 1) / self.schedule.timesteps):
            weight = self.scale if self.scale > 0 else 1.0
            x0 = self.field(x0, self.schedule.at(self.schedule.alpha_bar, t, x).flatten(), weight)
        return Denoised(x0, variance)
