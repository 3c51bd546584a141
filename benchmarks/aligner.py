"""The aligner against one denoiser step, and the proof that it is out of the sampling loop.

The paper's preset is counted: its encodings are 94 % of it, and what they cost does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from models import (
    PAPER,
    POSE,
    SOURCE,
    Bench,
    alignment,
    random_condition,
    random_pipeline,
    sampling_step,
    shipped,
    size_of,
)
from table import ALIGNER, GROWTH, Row
from timing import counted

from reposedm_core import PRESETS, RePoseDMPipeline, summary
from reposedm_core.presets import with_inner


def rows(bench: Bench) -> Iterator[Row]:
    """Cost of all N iterations, of the preset that the budget is of, and with its growth of the shipped one and the
    paper's; calls in a whole run."""
    mini = shipped(bench.device)
    yield from cost(bench, "mini", random_pipeline(PRESETS["mini"], bench.device), [])
    yield from cost(bench, mini.config.name, mini, list(range(1, len(mini.config.aligner.kernels) + 1)), None)
    yield from counted_rows()
    if bench.full:  # a minute a round on two cores
        yield from cost(bench, PAPER, bench.paper(), [1, 3, 6], None)
    yield calls(bench, mini)


def counted_rows() -> Iterator[Row]:
    """The paper's aligner with what it encodes, over a step of two passes, in floating-point operations."""
    config = PRESETS[PAPER]
    step = 2 * summary.cost(config, "denoiser").flops
    exact = with_inner(config, "exact")
    once = summary.cost(exact, "encodings").flops / (len(config.aligner.kernels) + 2)
    for inner, budgets in (("tiny", (7.0, 3.2)), ("exact", (None, None)), ("latent", (None, None))):
        changed = with_inner(config, inner)
        whole = sum(summary.cost(changed, part).flops for part in ("aligner", "encodings"))
        what = f"{PAPER}, {inner}: N = {len(config.aligner.kernels)} iterations / a step of two passes, counted"
        for name, value, budget in (("", whole, budgets[0]), (", less the last encoding", whole - once, budgets[1])):
            note = f"{value / 1e9:.0f} and {step / 1e9:.0f} GFLOP"
            yield Row(ALIGNER, what + name, value / step, budget=budget and ("≤", budget), note=note)


def cost(
    bench: Bench,
    name: str,
    pipeline: RePoseDMPipeline,
    counts: list[int],
    budget: tuple[str, float] | None = ("≤", 1.0),
) -> Iterator[Row]:
    """N iterations, and N among `counts`, over one sampling step with the preset's w_c."""
    size = size_of(pipeline)
    what = f"{name}, {size[0]}×{size[1]}"
    align = alignment(pipeline, *size)
    total = len(pipeline.config.aligner.kernels)
    with sampling_step(pipeline, random_condition(pipeline, *size)) as step:
        sides = {"step": step, **{f"N = {n}": lambda n=n: align(n) for n in sorted({*counts, total})}}
        timings = bench.compare(f"aligner, {what}", sides)
    value, spread = timings.ratio(f"N = {total}", "step")
    warm = {side: timings.milliseconds()[side] for side in (f"N = {total}", "step")}
    yield Row(
        ALIGNER,
        f"{what}: N = {total} iterations / one denoiser step",
        value,
        budget=budget,
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
