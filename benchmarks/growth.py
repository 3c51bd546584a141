"""How the cost of each part of the shipped preset grows with the size of the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from models import Bench, alignment, decoding, guidance, random_condition, shipped
from table import GROWTH, Row

SIZES = ((128, 96), (256, 192), (512, 384))


def rows(bench: Bench) -> Iterator[Row]:
    """Aligner, denoiser pass, decoding and the field's gradient at every size over the smallest, and the exponent."""
    pipeline = shipped(bench.device)
    sizes = SIZES[:2] if bench.quick else SIZES
    names = [f"{h}×{w}" for h, w in sizes]
    for part in ("aligner", "denoiser pass", "decoding", "field's gradient"):
        timings = bench.compare(
            f"{part} at {len(sizes)} sizes",
            {name: run_of(part, pipeline, *size) for name, size in zip(names, sizes, strict=True)},
        )
        for name in names[1:]:
            value, spread = timings.ratio(name, names[0])
            yield Row(
                GROWTH,
                f"{pipeline.config.name}: {part}, {name} / {names[0]}",
                value,
                spread=spread,
                milliseconds={side: timings.milliseconds()[side] for side in (name, names[0])},
            )
        pixels = math.prod(sizes[-1]) / math.prod(sizes[0])
        what = f"{pipeline.config.name}: {part}, exponent of the number of pixels"
        yield Row(GROWTH, what, math.log(value) / math.log(pixels), unit="")


def run_of(part: str, pipeline, height: int, width: int):
    """A function that runs one part at one size."""
    if part == "aligner":
        return alignment(pipeline, height, width)
    if part == "decoding":
        return decoding(pipeline, height, width)
    condition = random_condition(pipeline, height, width)
    if part == "denoiser pass":
        # Opening the step's cache for four sizes at once would mix them: the bare pass is timed.
        t, sigma = torch.full((1,), 500, device=pipeline.device), torch.ones(1, 1, 1, 1, device=pipeline.device)
        z, c = torch.randn_like(condition.pose), condition
        return torch.no_grad()(lambda: pipeline.denoiser(z, t, c.pose, c.tokens, c.aligned, c.visibility, sigma))
    latent = torch.randn_like(condition.pose)
    field = guidance(pipeline, height, width)
    return lambda: field(latent, 0.5)
