"""What gradient guidance adds to a step, and to a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from models import PAPER, Bench, guidance, random_condition, sampling_step, shipped, size_of
from table import GUIDANCE, Row

from reposedm_core import PRESETS, ModelConfig, RePoseDMPipeline, summary
from reposedm_core.diffusion.guided import FieldGuidance, GuidedDenoiser, in_window
from reposedm_core.diffusion.losses import training_loss
from reposedm_core.diffusion.sampler import initial_latent, sample_ddim, simple_sigmas, timestep_of
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.presets import ESTIMATORS
from training.stages.field_loss import FieldTerm


def rows(bench: Bench) -> Iterator[Row]:
    """A step and a run of the shipped preset, a step of the paper's preset."""
    mini = shipped(bench.device)
    yield step_row(bench, mini.config.name, mini, 1.5)
    yield run_row(bench, mini.config.name, mini)
    step = step_row(bench, PAPER, bench.paper(), 2.7)
    yield step
    yield scheduled(PAPER, bench.paper(), step.value, "the measured step's", None)
    yield trained(bench)
    yield from counted_rows()


def step_row(bench: Bench, name: str, pipeline: RePoseDMPipeline, budget: float) -> Row:
    """One step with the field over the same step without it."""
    size = size_of(pipeline)
    what, field = f"{name}, {size[0]}×{size[1]}", replace(guidance(pipeline, *size), start=0.0, end=1.0)
    with sampling_step(pipeline, random_condition(pipeline, *size)) as step, field.sampling():
        timings = bench.compare(f"guided step, {what}", {"guided": lambda: step(field), "unguided": step})
    value, spread = timings.ratio("guided", "unguided")
    return Row(
        GUIDANCE,
        f"{what}: guided step / unguided step",
        value,
        budget=("≤", budget),
        spread=spread,
        milliseconds=timings.milliseconds(),
        note=f"w_c = {pipeline.config.guidance_scale:g}, space {field.field.space}",
    )


def run_row(bench: Bench, name: str, pipeline: RePoseDMPipeline) -> Row:
    """All steps of a run with the preset's schedule of guided steps over the same run without any."""
    size, steps, scale = size_of(pipeline), pipeline.config.steps, pipeline.config.guidance_scale
    what, field = f"{name}, {size[0]}×{size[1]}", guidance(pipeline, *size)
    condition = random_condition(pipeline, *size)
    sigmas = simple_sigmas(pipeline.schedule, steps).to(pipeline.device)
    noise = initial_latent(torch.randn_like(condition.pose), sigmas[0])

    def run(field: FieldGuidance | None) -> None:
        sample_ddim(GuidedDenoiser(pipeline.denoiser, pipeline.schedule, condition, scale, field), noise, sigmas)

    timings = bench.compare(f"guided run, {what}", {"guided": lambda: run(field), "unguided": lambda: run(None)})
    value, spread = timings.ratio("guided", "unguided")
    return Row(
        GUIDANCE,
        f"{what}: run of {steps} steps, default schedule of guided steps",
        value,
        budget=("≤", 1.2),
        spread=spread,
        milliseconds=timings.milliseconds(),
        note=schedule(field.start, field.end),
    )


def counted_rows() -> Iterator[Row]:
    """The paper's guided step, run and training example in floating-point operations, as the preset has them and with
    other estimators and sizes."""
    config = PRESETS[PAPER]
    passes = 2 * summary.cost(config, "denoiser").flops
    for name, estimator in ((name, ESTIMATORS[name]) for name in ("w48", "w32")):
        for size in (1.0, 0.5):
            changed = replace(config, estimator=estimator, field=replace(config.field, size=size))
            seen, decoded = (size**2 * summary.cost(changed, part).flops for part in ("estimator", "inner decode"))
            # Through both there and back; in training the skeleton is looked at as well, in sampling once per run.
            field, own = 2 * (seen + decoded), changed == config
            what = f"{PAPER}, HigherHRNet-{name.upper()}" + ("" if size == 1 else f" at {size:g} of the size")
            limit = ("≤", 2.7) if own else None
            note = f"{field / 1e9:.0f} and {passes / 1e9:.0f} GFLOP" + ("; the preset's" if own else "")
            yield Row(
                GUIDANCE, f"{what}: guided step / unguided step, counted", 1 + field / passes, budget=limit, note=note
            )
            if own:
                yield scheduled(PAPER, RunOf(config), 1 + field / passes, "the counted step's")
            # A pass and its gradients, of weights and inputs, are three passes.
            value, limit = 1 + (field + seen) / (1.5 * passes), ("≤", 2.4) if own else None
            yield Row(GUIDANCE, f"{what}: training example with the field / without, counted", value, budget=limit)


def trained(bench: Bench) -> Row:
    """A training example of the paper's preset, forwards and backwards, with the field in the loss over without."""
    pipeline = bench.paper()
    config, denoiser, schedule = pipeline.config, copy.deepcopy(pipeline.denoiser), pipeline.schedule
    condition = random_condition(pipeline, *size_of(pipeline))
    x0, noise, t = bench.random(*condition.pose.shape), torch.randn_like(condition.pose), torch.full((1,), 500)
    t, drop = t.to(bench.device), torch.zeros(1, dtype=torch.bool, device=bench.device)
    z, joints = schedule.add_noise(x0, noise, t), torch.rand(1, 17, 3, device=bench.device) * config.width
    term = FieldTerm(config, pipeline.estimator, pipeline.tiny, *size_of(pipeline), bench.device)
    denoiser.train().requires_grad_(True)
    told = condition.pose, condition.tokens, condition.aligned, condition.visibility, schedule.roots(t, z)[1]

    def example(field: bool) -> None:
        denoiser.zero_grad(set_to_none=True)
        prediction, variance = denoiser(z, t, *told)
        gradient = term(joints, x0, z, noise, prediction, t, drop)[0] if field else None
        values = training_loss(schedule, x0, noise, z, t, prediction, variance, 1.0, gradient, 1.0, 0.1)
        values["loss"].backward()

    sides = {"with": lambda: example(True), "without": lambda: example(False)}
    timings = bench.compare(f"training example, {PAPER}", sides)
    value, spread = timings.ratio("with", "without")
    return Row(
        GUIDANCE,
        f"{PAPER}: training example with the field / without",
        value,
        budget=("≤", 2.4),
        spread=spread,
        milliseconds=timings.milliseconds(),
    )


@dataclass
class RunOf:
    """What `scheduled` needs to know of a model."""

    config: ModelConfig

    @property
    def schedule(self) -> DiffusionSchedule:
        """Of its noise."""
        return DiffusionSchedule(self.config.schedule)


def scheduled(
    name: str,
    pipeline: RePoseDMPipeline | RunOf,
    step: float,
    whose: str,
    budget: tuple[str, float] | None = ("≤", 1.6),
) -> Row:
    """The same for a run that is too long to measure: a step's ratio on the share of steps that are guided."""
    field, steps = pipeline.config.field, pipeline.config.steps
    total = pipeline.schedule.timesteps
    levels = timestep_of(pipeline.schedule, simple_sigmas(pipeline.schedule, steps)[:-1])
    guided = sum(in_window((total - 1 - int(t)) / total, field.start, field.end, total) for t in levels)
    share = -(-guided // field.every) / steps
    return Row(
        GUIDANCE,
        f"{name}: run of {steps} steps, default schedule of guided steps, {whose}",
        1 + share * (step - 1),
        budget=budget,
        note=f"{schedule(field.start, field.end)}; {whose} ratio on {share:.0%} of the steps",
    )


def schedule(start: float, end: float) -> str:
    """Which steps are guided, in words."""
    return f"guided from {start:g} to {end:g} of the run"
