"""What gradient guidance adds to a step, and to a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from models import PAPER, Bench, guidance, random_condition, sampling_step, shipped, size_of
from table import GUIDANCE, Row

from reposedm_core import RePoseDMPipeline
from reposedm_core.diffusion.guided import FieldGuidance, GuidedDenoiser, in_window
from reposedm_core.diffusion.sampler import initial_latent, sample_ddim, simple_sigmas, timestep_of


def rows(bench: Bench) -> Iterator[Row]:
    """A step and a run of the shipped preset, a step of the paper's preset."""
    mini = shipped(bench.device)
    yield step_row(bench, mini.config.name, mini)
    yield run_row(bench, mini.config.name, mini)
    step = step_row(bench, PAPER, bench.paper())
    yield step
    yield scheduled(PAPER, bench.paper(), step)


def step_row(bench: Bench, name: str, pipeline: RePoseDMPipeline) -> Row:
    """One step with the field over the same step without it."""
    size = size_of(pipeline)
    what, field = f"{name}, {size[0]}×{size[1]}", replace(guidance(pipeline, *size), start=0.0, end=1.0)
    with sampling_step(pipeline, random_condition(pipeline, *size)) as step, field.sampling():
        timings = bench.compare(f"guided step, {what}", {"guided": lambda: step(field), "unguided": step})
    value, spread = timings.ratio("guided", "unguided")
    return Row(
        GUIDANCE,
        f"{what}: guided step / unguided step, own decoder",
        value,
        budget=("≤", 1.5),
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
        budget=("≤", 1.25),
        spread=spread,
        milliseconds=timings.milliseconds(),
        note=schedule(field.start, field.end),
    )


def scheduled(name: str, pipeline: RePoseDMPipeline, step: Row) -> Row:
    """The same for a run that is too long to measure: the step's ratio on the share of steps that are guided."""
    field, steps = pipeline.config.field, pipeline.config.steps
    total = pipeline.schedule.timesteps
    levels = timestep_of(pipeline.schedule, simple_sigmas(pipeline.schedule, steps)[:-1])
    share = sum(in_window((total - 1 - int(t)) / total, field.start, field.end, total) for t in levels) / steps
    return Row(
        GUIDANCE,
        f"{name}: run of {steps} steps, default schedule of guided steps",
        1 + share * (step.value - 1),
        budget=("≤", 1.25),
        note=f"{schedule(field.start, field.end)}; the step's ratio on {share:.0%} of the steps",
    )


def schedule(start: float, end: float) -> str:
    """Which steps are guided, in words."""
    return f"guided from {start:g} to {end:g} of the run"
