"""The pose field in ComfyUI's sampling: what a run knows before its first step, and what happens in each.

No step makes the host wait for the device: noise levels are read before the run, what is not finite is noted and
reported after it. The first guided step alone is checked at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.model_management as management
import comfy.model_sampling
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor, nn

from ...reposedm_core import PRESETS, InputError
from ...reposedm_core.diffusion.guidance import alpha_bar_of
from ...reposedm_core.diffusion.guided import FieldGuidance
from ...reposedm_core.field import PoseInteractionField, PoseTarget, pose_target
from ...reposedm_core.field.field import CHUNK_PIXELS, field_picture
from ...reposedm_core.pose import Pose
from ...reposedm_core.presets import SHIPPED_PRESET
from .decoding import Decoder, out_of_memory
from .field_presets import SAYS
from .poses import poses_in_turn
from .sockets import BATCH_INDEX, FIELD, FIELD_STRENGTH

RUNS = "reposedm_field_runs"
"""Key in the transformer options of a sampling under which its `Run` lies for every `Guidance` of the model."""

ONCE = frozenset(
    f"sample_{name}"
    for name in ("euler", "euler_ancestral", "lms", "dpmpp_2m", "ddpm", "lcm", "ipndm", "deis", "res_multistep")
) | {"learned_ancestral"}
"""The host's samplers, and ours, that ask the model once per step, at the step's own noise level."""

NOT_FINITE = (
    "vae: the picture that it decodes in a guided step is not finite. Start ComfyUI with --bf16-vae or --fp32-vae, or "
    "choose the decoder taesd."
)


@dataclass(frozen=True)
class Settings:
    """Inputs of the node, as they are needed in a step.

    `people` None is everybody; `unit` is what strength 1 stands for, that of RePoseDM KSampler, too.
    """

    strength: float
    limit: float = PRESETS[SHIPPED_PRESET].field.limit
    normalise: bool = False
    every: int = 1
    share: float = 1.0
    people: tuple[int, ...] | None = (0,)
    unit: float = 1.0
    update: str = "eq15"


class FieldNetworks(nn.Module):
    """What the gradient passes through, in one patcher: the field's estimator, and the VAE as the decoder."""

    def __init__(self, field: PoseInteractionField, vae: nn.Module):
        super().__init__()
        self.field, self.vae = field, vae
        self.requires_grad_(False)  # or the graph would keep what only gradients of weights need


@dataclass
class Run:
    """One sampling, or one step of a sampler that goes past the host's.

    Attributes:
        window: noise levels between which guidance acts, from the first, inclusive, down to the last.
        levels: σ of the steps; None where they are not known.
        once: the sampler asks the model once per step, at its level.
        asked: how often it has.
        guide, wanted: the guidance and what it is for, from the first guided step on.
        open: what ends with the run; None for one step.
    """

    window: tuple[float, float]
    levels: list[float] | None
    once: bool = False
    asked: int = 0
    guide: FieldGuidance | None = None
    wanted: tuple | None = None
    open: ExitStack | None = None

    def level(self, sigma: Tensor) -> float:
        """σ of this evaluation, known from the sampler where that steps from level to level, else read."""
        if self.once and self.levels and 0 < self.asked <= len(self.levels):
            return self.levels[self.asked - 1]
        return float(sigma[0])


class Guidance:
    """Guidance of a model towards poses, as ComfyUI calls it; any number of runs."""

    def __init__(
        self,
        networks: FieldNetworks,
        decoding: Decoder,
        poses: list[Pose],
        native: tuple[int, int],
        settings: Settings,
        window: tuple[float, float],
    ):
        """
        Args:
            native: height and width that the estimator is shown. window: the part of the sampling, from 0 to 1.
        """
        self.networks, self.decoding, self.poses = networks, decoding, poses
        self.native, self.settings, self.window = native, settings, window
        self._targets: dict[tuple, PoseTarget] = {}

    def install(self, model: ModelPatcher) -> None:
        """Act in the samplings of `model`, behind all that is there already."""
        model.set_model_sampler_post_cfg_function(self.step)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, FIELD, self.run)
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, FIELD, self.ask)

    def run(
        self, executor: WrapperExecutor, guider: Any, sigmas: Tensor, extra_args: dict, *rest: Any, **options: Any
    ) -> Tensor:
        """Called around a whole sampling."""
        sampler = executor.class_obj
        once = getattr(getattr(sampler, "sampler_function", None), "__name__", "") in ONCE
        once = once and not getattr(sampler, "extra_options", {}).get("s_churn")  # which raises the levels
        end = ExitStack()
        run = Run(self._window(guider.inner_model), sigmas[:-1].tolist(), once, open=end)
        given = extra_args["model_options"]
        inner = given.get("transformer_options", {})
        inner = {**inner, RUNS: {**inner.get(RUNS, {}), self: run}}
        extra_args = {**extra_args, "model_options": {**given, "transformer_options": inner}}
        with end:
            return executor(guider, sigmas, extra_args, *rest, **options)

    def ask(
        self, executor: WrapperExecutor, x: Tensor, sigma: Tensor, model_options: dict, *rest: Any, **options: Any
    ) -> Tensor:
        """Called around every evaluation of the model."""
        run = model_options.get("transformer_options", {}).get(RUNS, {}).get(self)
        if run is not None:
            run.asked += 1
        return executor(x, sigma, model_options, *rest, **options)

    def step(self, args: dict) -> Tensor:
        """Called after each evaluation's classifier-free guidance: x̂₀ → x̂₀, guided in its part of the sampling."""
        management.throw_exception_if_processing_interrupted()
        x0, options = args["denoised"], args["model_options"].get("transformer_options", {})
        strength = options.get(FIELD_STRENGTH, self.settings.strength) * self.settings.unit
        if strength == 0:
            return x0
        run = options.get(RUNS, {}).get(self)
        if run is None:
            known = options.get("sample_sigmas")
            run = Run(self._window(args["model"]), None if known is None else known[:-1].tolist())
        (first, last), level = run.window, run.level(args["sigma"])
        if not last < level <= first or not is_guided_step(run.levels, level, last, self.settings.every):
            return x0
        if x0.ndim != 5:
            return self._guided(x0, args, run, strength)
        if x0.shape[2] != 1:
            raise InputError(
                f"latent: these are videos of {x0.shape[2]} frames; Pose Interaction Field Guidance is for pictures."
            )
        return self._guided(x0[:, :, 0], args, run, strength)[:, :, None]

    def _window(self, host: Any) -> tuple[float, float]:
        """The noise levels are those of the sampling, whatever node may have changed them behind this one."""
        first, last = (float(host.model_sampling.percent_to_sigma(percent)) for percent in self.window)
        return first, last

    def _guided(self, x0: Tensor, args: dict, run: Run, strength: float) -> Tensor:
        places = args["model_options"].get("transformer_options", {}).get(BATCH_INDEX)
        turn = poses_in_turn(len(self.poses), len(x0), places)
        if turn is None:
            raise InputError(
                f"pose: it has {len(self.poses)} frames and the latent {len(x0)} pictures; give one frame for "
                "all, or as many of both. RePoseDM KSampler finds the frames that belong to a part of a "
                "batch, other samplers do not."
            )
        size = tuple(side * self.decoding.stride for side in x0.shape[-2:])
        # eq. 16: w_c weighs the gradient as well, with a model whose file has a field
        weight = args["cond_scale"] if hasattr(args["model"], SAYS) else 1.0
        flow = isinstance(args["model"].model_sampling, comfy.model_sampling.CONST)
        try:
            wanted = size, (0,) if len(self.poses) == 1 else tuple(turn)
            if run.wanted != wanted or run.guide is None:
                run.wanted, run.guide = wanted, self._prepared(run, wanted, strength)
                if run.open is not None:
                    run.open.enter_context(run.guide.sampling())
            return run.guide(x0, alpha_bar_of(args["sigma"], flow), weight)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler, so that nothing refers to the frames that hold the memory. The host knows this
        # exception, and unloads its models.
        raise management.OOM_EXCEPTION(
            f"Pose Interaction Field Guidance ran out of memory at a picture of {size[1]} × {size[0]} pixels. Choose "
            "the decoder taesd, lower decode_size, or make a smaller picture; the model alone needs less."
        )

    def _prepared(self, run: Run, wanted: tuple, strength: float) -> FieldGuidance:
        size, turn = wanted
        if wanted not in self._targets:
            poses = [self.poses[i] for i in turn]
            found = pose_target(self.networks.field, poses, size, self.native, self.settings.people)
            self._targets.clear()
            # Between the runs it lies in main memory: what a run leaves on the device is the host's alone.
            self._targets[wanted] = found.map(lambda t: t.cpu())
        here = next(self.networks.field.estimator.parameters()).device
        return FieldGuidance(
            self.networks.field,
            self._targets[wanted].map(lambda t: t.to(here)),
            lambda latent: self._picture(latent, run),
            strength,
            limit=self.settings.limit,
            normalise=self.settings.normalise,
            update=self.settings.update,
            chunk=chunk_size(size, self.native, self.settings.share * self.decoding.seen / self.decoding.stride),
        )

    def _picture(self, latent: Tensor, run: Run) -> Tensor:
        def decode(cells: Tensor) -> Tensor:
            management.throw_exception_if_processing_interrupted()
            decoded = self.decoding.decode(cells)
            management.throw_exception_if_processing_interrupted()
            watch = None if run.guide is None else run.guide.watch
            if watch is not None:
                watch.note(decoded, NOT_FINITE)
            elif not decoded.isfinite().all():
                raise InputError(NOT_FINITE)
            return decoded

        return field_picture(decode, latent, self.settings.share, self.native)


def chunk_size(size: tuple[int, int], native: tuple[int, int], share: float) -> int:
    """How many pictures of that size go through decoder and estimator together."""
    return max(1, int(CHUNK_PIXELS // max(math.prod(size) * share**2, math.prod(native))))


def is_guided_step(levels: Sequence[float] | None, sigma: float, last: float, every: int) -> bool:
    """Is this step guided, where only one in `every` is, counted back from the last step above the noise `last`?

    Evaluations in the middle of a step, of samplers of higher order, belong to it. A sampler that does not tell its
    noise levels is guided in every step.
    """
    if every == 1 or levels is None:
        return True
    return sum(last < level < sigma * (1 - 1e-5) for level in levels) % every == 0
