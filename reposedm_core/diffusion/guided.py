"""The guided denoiser of section 3.4: classifier-free guidance (eq. 16) and the field's gradient (eq. 15)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import Watch, check_tensor
from ..config import FieldConfig
from ..errors import InputError
from ..field import PoseInteractionField, PoseTarget
from .context_cache import cached_context, version_of
from .denoiser import Denoiser, MakesContext
from .guidance import classifier_free, guide_x0
from .sampler import Denoised, timestep_of
from .schedule import DiffusionSchedule


@dataclass
class Condition:
    """The denoiser's conditioning: pose latent, context tokens, aligned latent and its visibility (see `Denoiser`)."""

    pose: Tensor
    tokens: Tensor
    aligned: Tensor
    visibility: Tensor

    @staticmethod
    def of(
        denoiser: MakesContext,
        pose: Tensor,
        source: Tensor,
        aligned: Tensor,
        visibility: Tensor,
        drop: Tensor | None = None,
    ) -> Condition:
        """Condition from latents (B, C, h, w); B1 reads the unaligned source. `drop`: see `Conditioner.context`."""
        texture = aligned
        if denoiser.config.texture == "source":
            texture, visibility = source, torch.ones_like(visibility)
        return Condition(pose, denoiser.context(texture, visibility, drop), aligned, visibility)

    @staticmethod
    def null(denoiser: MakesContext, like: Condition) -> Condition:
        """The joint null condition P, I_S = ∅: null tokens and zeros."""
        return Condition(
            torch.zeros_like(like.pose),
            denoiser.null_context(*like.tokens.shape[:2]).to(like.tokens),
            torch.zeros_like(like.aligned),
            torch.zeros_like(like.visibility),
        )


@dataclass
class _Run:
    """Of a sampling: the field as its steps compute it, has a step been checked, and what was noted since."""

    field: PoseInteractionField
    checked: bool = False
    watch: Watch = dataclass_field(default_factory=Watch)


@dataclass
class FieldGuidance:
    """Gradient guidance by the pose interaction field.

    Attributes:
        field, target: the field and the pose to reach.
        decode: latent → pictures in [-1, 1], differentiable.
        strength: w of eq. 15's gradient; 0 is exactly neutral.
        start, end: the share of the sampling in which it acts, 0 (first step) to 1 (last), as fractions of t.
        every: it acts in one of so many of those steps, counted back from the last of them, which no other follows.
        limit: largest step, relative to the root mean square of ŷ_0 (**ours**, see `guide_x0`); 0 is eq. 15 as written.
        normalise: a step is to take the share `strength` · √(1 − ᾱ_t) off the distance (**ours**, see `guide_x0`), so
            that one strength means the same on every model and at every w_c.
        update: "eq15" or "eq14", see `FieldConfig.update`.
        chunk: pictures that go through decoder and estimator together, see `PoseInteractionField.gradient`.

    Raises:
        InputError: a strength that is no number, a start or end outside 0..1, a limit below 0, or every below 1.
    """

    field: PoseInteractionField
    target: PoseTarget
    decode: Callable[[Tensor], Tensor]
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    limit: float = 0.1
    normalise: bool = False
    chunk: int | None = None
    update: str = "eq15"
    every: int = 1
    _run: _Run | None = dataclass_field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise InputError(f"field strength = {self.strength}: must be a finite number.")
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"field {name} = {getattr(self, name)}: must be 0 (first step) to 1 (last).")
        if not 0 <= self.limit < math.inf:
            raise InputError(f"field limit = {self.limit}: must be a share of the estimate, or 0 for no bound.")
        if self.every < 1:
            raise InputError(f"field every = {self.every}: must be 1, each step, or more.")

    @classmethod
    def configured(
        cls, config: FieldConfig, field: PoseInteractionField, target: PoseTarget, decode: Callable[[Tensor], Tensor]
    ) -> FieldGuidance:
        """Guidance with the sampling defaults of a model's `FieldConfig`, whose space must be the field's."""
        if field.space != config.space:
            raise InputError(f"field: it compares {field.space} and the configuration says {config.space!r}.")
        window = config.strength, config.start, config.end, config.limit
        return cls(field, target, decode, *window, update=config.update, every=config.every)

    @property
    def watch(self) -> Watch | None:
        """In which a step of a run notes what is not finite; None where it is to check everything at once."""
        return self._run.watch if self._run is not None and self._run.checked else None

    def active(self, fraction: float, timesteps: int = 1000) -> bool:
        """Does it act where this share of the `timesteps` lies behind?"""
        return self.strength != 0 and in_window(fraction, self.start, self.end, timesteps)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """A run: its first guided step checks everything, those after it only note what is not finite.

        The estimator's weights must not change meanwhile.

        Raises:
            InputError: when it is closed, where the gradient of a later step was not finite.
        """
        previous, self._run = self._run, _Run(self.field.folded())
        try:
            yield
            self._run.watch.report()
        finally:
            self._run = previous

    def __call__(self, x0: Tensor, alpha_bar: Tensor | float, weight: float = 1.0) -> Tensor:
        """ŷ_0 moved down the field's gradient.

        Args:
            x0: (B, C, h, w). alpha_bar: ᾱ_t, a number or (B,).
            weight: w_c of eq. 16; 0 hands back `x0` itself and decodes nothing, below 0 moves away from the pose. With
                `normalise` only its sign counts: a share of the distance is whole.
        """
        if self.strength == 0 or weight == 0:
            return x0
        if self.normalise:
            weight = math.copysign(1.0, weight)
        field = self.field if self._run is None else self._run.field
        gradient, distance = field.gradient(x0, self.decode, self.target, self.chunk, self.watch)
        if self._run is not None:
            self._run.checked = True
        return guide_x0(
            x0,
            gradient,
            alpha_bar,
            self.strength * weight,
            self.limit,
            distance if self.normalise else None,
            self.update,
        )


def in_window(fraction: float, start: float, end: float, timesteps: int) -> bool:
    """Is start ≤ fraction < end, counted in whole timesteps?

    In floating point a step at 1/10 of the sampling may lie before a start of 0.1, and one at 666/1000 does lie before
    2/3, though it is step 20 of 30.
    """
    passed, first, last = (math.floor(share * timesteps + 1e-6) for share in (fraction, start, end))
    return first <= passed < last


class GuidedModel(ABC):
    """`model(x, σ)` for the samplers: both passes of eq. 16 in one batch, then the field's gradient with weight w_c.

    A kind of network is a subclass: `conditions` and `predict`. `condition`, `scale` and `field` may be replaced, or
    the condition's tensors written to, at any time.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: DiffusionSchedule,
        condition: Any,
        scale: float = 1.0,
        field: FieldGuidance | None = None,
    ):
        """
        Args:
            condition: a dataclass of tensors, for one picture or one each; `pose`, E(P), is one of them.
            scale: w_c of eq. 16; 1 skips the unconditional pass. The field's gradient is weighted by it as well: 0 is
                the unconditional network alone, with no field.

        Raises:
            InputError: a scale that is no number.
        """
        if not math.isfinite(scale):
            raise InputError(f"guidance scale w_c = {scale}: must be a finite number.")
        self.denoiser, self.schedule, self.condition = denoiser, schedule, condition
        self.scale, self.field = scale, field
        self._kept: tuple[tuple, list[Tensor], list[Tensor]] | None = None
        self._run: list[int] = []  # the timesteps of the run's steps, in their order
        self._steps: dict[Tensor, int] = {}  # σ of a step, the very tensor → the timestep of its first picture

    @abstractmethod
    def conditions(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The conditioning of `predict` in the conditional and in the unconditional pass, (1 or B, …) each."""

    @abstractmethod
    def predict(self, z: Tensor, t: Tensor, *conditional: Tensor) -> tuple[Tensor, Tensor | None]:
        """Prediction and variance logits of the bare network at y_t = z; t (B,) int64."""

    @contextmanager
    def sampling(self, x: Tensor, levels: Sequence[Tensor]) -> Iterator[None]:
        """While it is open the context's keys and values are kept from step to step, and so is the field's estimator.

        The samplers open it. Weights must not change meanwhile. Calls with one of `levels` are steps: what has to be
        known of the level was read here, nothing is checked again, and no step makes the host wait for the device.

        Args:
            x: like the x of all steps. levels: σ of all steps, each (B,), of which one value counts.

        Raises:
            InputError: what a call raises; at the end of the run, what `FieldGuidance.sampling` raises.
        """
        self._check(x, levels[0])
        firsts = timestep_of(self.schedule, torch.stack([sigma[0] for sigma in levels])).tolist()
        known = dict(zip(levels, firsts, strict=True))
        self._steps |= known
        previous, self._run = self._run, firsts
        try:
            with cached_context(self.denoiser), self.field.sampling() if self.field else nullcontext():
                yield
        finally:
            self._run = previous
            for sigma in known:
                self._steps.pop(sigma, None)

    def _conditioning(self, count: int) -> list[Tensor]:
        """The conditioning of `count` pictures, kept from step to step so that the context stays one tensor."""
        given = list(vars(self.condition).values())
        versions = [version_of(value) for value in given]
        key = (count, self.scale == 1, versions)
        kept = self._kept if None not in versions else None
        if kept is None or key != kept[0] or any(a is not b for a, b in zip(given, kept[1], strict=True)):
            conditional, unconditional = ([_repeated(value, count) for value in values] for values in self.conditions())
            if self.scale != 1:
                conditional = [torch.cat(pair) for pair in zip(conditional, unconditional, strict=True)]
            kept = self._kept = key, given, conditional
        return kept[2]

    def __call__(self, x: Tensor, sigma: Tensor) -> Denoised:
        """ŷ_0 and the variance logits at x = y_t / √ᾱ_t, (B, C, h, w), of noise levels σ (B,).

        Of half precision is only what the network sees; its dtype is that of `x`.

        Raises:
            InputError: a shape or dtype that does not fit the condition or the network.
        """
        if sigma not in self._steps:
            self._check(x, sigma)
        work = torch.promote_types(x.dtype, torch.float32)
        t = timestep_of(self.schedule, sigma)
        z = x.to(work) / (sigma.to(work)[:, None, None, None] ** 2 + 1) ** 0.5
        conditional = self._conditioning(len(x))
        passes = 1 if self.scale == 1 else 2
        prediction, variance = self.predict(z.to(x.dtype).repeat(passes, 1, 1, 1), t.repeat(passes), *conditional)
        if passes == 2:
            with_condition, without = prediction.to(work).chunk(2)
            prediction = classifier_free(with_condition, without, self.scale)
            variance = None if variance is None else variance.chunk(2)[0]
        x0 = self.schedule.tweedie(z, prediction.to(work), t).to(x.dtype)
        if self.field is not None and self._guides(self.field, sigma, t):
            x0 = self.field(x0, self.schedule.each(self.schedule.alpha_bar, t), self.scale)
        return Denoised(x0, variance)

    def _guides(self, field: FieldGuidance, sigma: Tensor, t: Tensor) -> bool:
        """Does the field act at this level, which is that of t?"""
        first, total = self._steps[sigma] if sigma in self._steps else int(t[0]), self.schedule.timesteps

        def active(step: int) -> bool:
            return field.active((total - 1 - step) / total, total)

        if field.every == 1 or not self._run or not active(first):
            return active(first)
        # An evaluation in the middle of a step, of samplers of higher order, belongs to it.
        return sum(step < first and active(step) for step in self._run) % field.every == 0

    def _check(self, x: Tensor, sigma: Tensor) -> None:
        sizes = check_tensor(x, "x", "B C h w", {"C": self.condition.pose.shape[1]})
        check_tensor(self.condition.pose, "condition.pose", "P C h w", sizes)
        check_tensor(sigma, "sigma", "B", sizes)


def _repeated(value: Tensor, count: int) -> Tensor:
    if len(value) not in (1, count):
        raise InputError(
            f"condition: it is for {len(value)} pictures, and x has {count}; give one for all or one per picture."
        )
    return value.expand(count, *value.shape[1:]) if len(value) == 1 else value


class GuidedDenoiser(GuidedModel):
    """`model(x, σ)` for the samplers, see `GuidedModel`; the joint null condition is `Condition.null`."""

    denoiser: Denoiser
    condition: Condition

    def conditions(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The condition and the null condition, as `Denoiser` takes them."""
        given, null = self.condition, Condition.null(self.denoiser, self.condition)
        return (
            (given.pose, given.tokens, given.aligned, given.visibility),
            (null.pose, null.tokens, null.aligned, null.visibility),
        )

    def predict(self, z: Tensor, t: Tensor, *conditional: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `GuidedModel.predict`."""
        return self.denoiser(z, t, *conditional, self.schedule.roots(t, z)[1])
