"""Local correlation (eq. 6) and windowed attention (eq. 5): their memory, and both against the direct per-offset loop,
alone and in a training step of the paper's aligner."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
import torch.nn.functional as F
from models import PAPER, Bench, size_of
from table import OPERATORS, Row
from timing import peak_bytes
from torch import Tensor

from reposedm_core.alignment import attention as attention_module
from reposedm_core.alignment import mapformer as mapformer_module
from reposedm_core.alignment.attention import neighbourhood_attention
from reposedm_core.alignment.correlation import local_correlation

DIM, HEADS = 96, 4
# grid h × w, side k of the window: the paper's preset at 256×176 and 512×352, and `mini`
CORRELATIONS = ((64, 44, 9), (64, 44, 17), (32, 22, 9), (32, 24, 9))
ATTENTIONS = ((64, 44, 9), (64, 44, 5), (32, 22, 9), (16, 12, 9))
MEMORIES = ((32, 22, 9), (32, 22, 17))
QUADRUPLED = 5.0
"""Most that the peak may grow with four times the cells: 4 is O(h·w), 16 is O((h·w)²)."""


def correlation_loop(target: Tensor, source: Tensor, radius: int) -> Tensor:
    """Eq. 6 as it reads: for every offset, the source moved by it times the target, summed over the channels."""
    _, c, h, w = target.shape
    padded, side = F.pad(source, (radius,) * 4), 2 * radius + 1
    planes = [(target * padded[:, :, dy : dy + h, dx : dx + w]).sum(1) for dy in range(side) for dx in range(side)]
    return F.relu(torch.stack(planes, 1) * c**-0.5)


def attention_loop(query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int], kernel: int) -> Tensor:
    """Eq. 5 as it reads: the logits of every offset, their softmax, and the sum of the values moved by each."""
    h, w = size
    reach, d = kernel // 2, query.shape[-1]
    grids = [F.pad(t.unflatten(2, size), (0, 0, *(reach,) * 4)) for t in (key, value)]
    inside = F.pad(torch.ones(h, w, dtype=torch.bool, device=query.device), (reach,) * 4)
    offsets = [(slice(dy, dy + h), slice(dx, dx + w)) for dy in range(kernel) for dx in range(kernel)]
    grid = query.unflatten(2, size)
    logits = [
        (grid * grids[0][:, :, y, x]).sum(-1).mul(d**-0.5).masked_fill(~inside[y, x], float("-inf")) for y, x in offsets
    ]
    weights = torch.stack(logits, -1).softmax(-1)
    out = torch.zeros_like(grid)
    for i, (y, x) in enumerate(offsets):
        out += weights[..., i, None] * grids[1][:, :, y, x]
    return out.flatten(2, 3)


def correlation(bench: Bench, h: int, w: int, k: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Ours and the loop, on a grid of one picture."""
    target, source = bench.random(2, 1, DIM, h, w)
    return (lambda: local_correlation(target, source, k // 2)), (lambda: correlation_loop(target, source, k // 2))


def attention(bench: Bench, h: int, w: int, k: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Ours and the loop, on the tokens of one picture."""
    q, key, v = bench.random(3, 1, HEADS, h * w, DIM // HEADS)
    return (lambda: neighbourhood_attention(q, key, v, (h, w), k)), (lambda: attention_loop(q, key, v, (h, w), k))


def rows(bench: Bench) -> Iterator[Row]:
    """Speed against the loop and memory, then the training step that they are for."""
    with torch.no_grad():
        yield from alone(bench)
    yield from training_step(bench)


def training_step(bench: Bench) -> Iterator[Row]:
    """The paper's aligner there and back, its latents given: with the operators, with the loops, and with neither."""
    pipeline = bench.paper()
    height, width = size_of(pipeline)
    aligner = copy.deepcopy(pipeline.aligner).train().requires_grad_(True)
    source, skeleton = bench.random(2, 1, 3, height, width).clamp(-1, 1)
    channels, stride = pipeline.config.autoencoder.channels, pipeline.autoencoder.stride

    def encode(picture: Tensor) -> Tensor:
        return F.avg_pool2d(picture, stride).repeat(1, 2, 1, 1)[:, :channels]

    def step() -> Tensor:
        aligner.zero_grad(set_to_none=True)
        found = aligner(source, skeleton, encode=encode)
        sum(map_.square().mean() for map_ in found.maps).backward()
        return found.maps[-1].detach()

    def other(attend: Callable, correlate: Callable) -> Tensor:
        """With other functions in place of ours; attention to the whole grid, which is torch's, stays."""

        def attention(q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int], kernel: int) -> Tensor:
            return attend(q, k, v, size, kernel) if kernel else neighbourhood_attention(q, k, v, size, 0)

        with (
            patch.object(attention_module, "neighbourhood_attention", attention),
            patch.object(mapformer_module, "local_correlation", correlate),
        ):
            return step()

    def nothing(target: Tensor, source: Tensor, radius: int) -> Tensor:
        return (target + source)[:, :1].expand(-1, (2 * radius + 1) ** 2, -1, -1)

    what = f"{PAPER}: training step of the aligner alone"
    check(what, step(), other(attention_loop, correlation_loop))
    sides = {
        "ours": step,
        "loops": lambda: other(attention_loop, correlation_loop),
        "neither": lambda: other(lambda q, k, v, *_: q + k + v, nothing),
    }
    timings = bench.compare(what, sides)
    value, spread = timings.ratio("loops", "ours")
    milliseconds = timings.milliseconds()
    yield Row(
        OPERATORS,
        f"{what}: faster than with the loops",
        value,
        budget=("≥", 1.0),
        spread=spread,
        milliseconds=milliseconds,
    )
    value, (low, high) = timings.ratio("neither", "ours")
    yield Row(
        OPERATORS,
        f"{what}: share of its time in the two operators",
        1 - value,
        unit="",
        spread=(1 - high, 1 - low),
        note="what is saved where they are left out",
    )


def alone(bench: Bench) -> Iterator[Row]:
    """Each of them on random values."""
    for name, make, sizes in (("correlation", correlation, CORRELATIONS), ("attention", attention, ATTENTIONS)):
        # Before anything of this size ran, so that what is remembered between calls (masks) counts too.
        for h, w, k in MEMORIES[:1] if bench.quick else MEMORIES:
            if name == "correlation" or k < 17:
                yield from memory(bench, name, make, h, w, k)
        for h, w, k in sizes[2:3] if bench.quick else sizes:
            what = f"{name}, {h}×{w} cells, k = {k}"
            ours, loop = make(bench, h, w, k)
            check(what, ours(), loop())
            timings = bench.compare(what, {"loop": loop, "ours": ours})
            value, spread = timings.ratio("loop", "ours")
            yield Row(
                OPERATORS,
                f"{what}: faster than the loop",
                value,
                spread=spread,
                milliseconds=timings.milliseconds(),
            )


def check(what: str, ours: Tensor, loop: Tensor) -> None:
    """A comparison of two things that differ would mean nothing."""
    if not torch.allclose(ours, loop, rtol=1e-4, atol=1e-4):
        raise RuntimeError(f"{what}: the operator and the loop disagree by {(ours - loop).abs().max():.2g}.")


def memory(bench: Bench, name: str, make: Callable, h: int, w: int, k: int) -> Iterator[Row]:
    """Peak of one call, per value of the plain k² windows, and how it grows with four times the cells."""
    what = f"{name}, k = {k}"
    bench.say(f"memory of {what}")
    small, large = (peak_bytes(make(bench, s * h, s * w, k)[0], bench.device) for s in (1, 2))
    windows = 4 * h * w * k * k * DIM * 4
    yield Row(
        OPERATORS,
        f"{what}: peak memory, {2 * h}×{2 * w} / {h}×{w} cells",
        large / small,
        budget=("≤", QUADRUPLED),
        note=f"O(h·w) is 4 ×, O((h·w)²) 16 ×; {small / 2**20:.2f} MiB and {large / 2**20:.2f} MiB",
    )
    yield Row(
        OPERATORS,
        f"{what}: peak memory / gathered windows, {2 * h}×{2 * w} cells",
        large / windows,
        budget=("≤", 1.0),
        note="h·w·k²·D values would be 1 ×",
    )
