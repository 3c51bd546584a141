"""Keys and values of the fixed context: how often the cross-attentions make them in a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models import POSE, SOURCE, Bench, shipped
from table import CONTEXT, Row
from torch import nn


@contextmanager
def projected(projections: list[nn.Linear]) -> Iterator[list[int]]:
    """While it is open, every time that one of the projections computes something appends the batch's size.

    Calls that are answered from memory are none; hooks would see them.
    """
    batches, compute, wanted = [], nn.Linear.forward, set(projections)

    def forward(self, given):
        if self in wanted:
            batches.append(len(given))
        return compute(self, given)

    nn.Linear.forward = forward
    try:
        yield batches
    finally:
        nn.Linear.forward = compute


def rows(bench: Bench) -> Iterator[Row]:
    """Contexts that the average projection is given in a run, over those there are: one, and the null one with w_c."""
    pipeline = shipped(bench.device)
    projections = [
        module for name, module in pipeline.denoiser.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    for steps in (pipeline.config.steps, 4 * pipeline.config.steps):
        bench.say(f"projections of the context, {steps} steps")
        with projected(projections) as batches:
            pipeline(SOURCE, POSE, steps=steps)
        distinct = 1 if pipeline.config.guidance_scale == 1 else 2
        value = sum(batches) / (len(projections) * distinct)
        # None seen is no proof of thrift: somebody went past the layers.
        yield Row(
            CONTEXT,
            f"times a context is projected, {steps} steps",
            value or float("nan"),
            unit="calls",
            budget=("≤", 1.0),
            note=f"{len(projections)} projections, {distinct} contexts",
        )
