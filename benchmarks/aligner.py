"""The aligner against one denoiser step, and the proof that it is out of the sampling loop."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from models import PAPER, POSE, SOURCE, Bench, alignment, random_condition, sampling_step, shipped, size_of
from table import ALIGNER, GROWTH, Row
from timing import counted

from reposedm_core import RePoseDMPipeline


def rows(bench: Bench) -> Iterator[Row]:
    """Cost of all N iterations and how it grows with N, shipped preset and paper; calls in a whole run."""
    mini = shipped(bench.device)
    yield from cost(bench, mini.config.name, mini, list(range(1, len(mini.config.aligner.kernels) + 1)))
    # An iteration of the paper's encodes the picture anew: all six take a minute a round on two cores.
    yield from cost(bench, PAPER, bench.paper(), list(range(1, 7)) if bench.full else [1, 3, 6])
    yield calls(bench, mini)


def cost(bench: Bench, name: str, pipeline: RePoseDMPipeline, counts: list[int]) -> Iterator[Row]:
    """N iterations, and N among `counts`, over one sampling step with the preset's w_c."""
    size = size_of(pipeline)
    what = f"{name}, {size[0]}×{size[1]}"
    align = alignment(pipeline, *size)
    total = len(pipeline.config.aligner.kernels)
    with sampling_step(pipeline, random_condition(pipeline, *size)) as step:
        sides = {"step": step, **{f"N = {n}": lambda n=n: align(n) for n in counts}}
        timings = bench.compare(f"aligner, {what}", sides)
    value, spread = timings.ratio(f"N = {total}", "step")
    warm = {side: timings.milliseconds()[side] for side in (f"N = {total}", "step")}
    yield Row(
        ALIGNER,
        f"{what}: N = {total} iterations / one denoiser step",
        value,
        budget=("≤", 1.0),
        spread=spread,
        milliseconds=warm,
        note=f"a step is one U-Net pass of 2 (w_c = {pipeline.config.guidance_scale:g})",
    )
    for n in counts[1:]:
        value, spread = timings.ratio(f"N = {n}", "N = 1")
        yield Row(GROWTH, f"{what}: aligner, N = {n} / N = 1", value, spread=spread)


@torch.no_grad()
def calls(bench: Bench, pipeline: RePoseDMPipeline) -> Row:
    """How often a whole run looks at the aligner, and whether any of it is between the steps."""
    bench.say("calls of the aligner in a run")
    inside: list[int] = []
    with counted([pipeline.aligner]) as seen:
        result = pipeline(SOURCE, POSE, callback=lambda *_: inside.append(len(seen)))
    late = len(seen) - inside[0]
    return Row(
        ALIGNER,
        f"calls of the aligner a picture, {len(inside)} steps",
        float(len(seen)) / len(result.image),
        unit="calls",
        budget=("≤", 1.0),
        note=f"{late} after the first step",
    )
