"""Checks of gpu_check.py of what compilers write: the denoiser in sampling, and windowed attention in training."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from gpu_checks import TOLERANCE, Checks, Lines
from torch import Tensor

from reposedm_core.alignment import flex_windows
from reposedm_core.alignment.attention import tiled_attention


@torch.no_grad()
def compiling(checks: Checks, deadline: float) -> Lines:
    """A pass of the denoiser as in sampling, compiled against eager (a dry run: one of them)."""
    if not (checks.whole and checks.compiles):
        return
    for name in ("mini-256", "deepfashion-256x176")[: 1 if checks.tiny else 2]:
        config = checks.config(name)
        network, use = checks.networks(name).denoiser.to(checks.device), checks.uses(config)["denoiser"]
        for weight in network.parameters():  # its read-out begins with zeros
            weight.add_(0.02 * torch.randn_like(weight))
        for dtype in (torch.float32, torch.bfloat16)[: 1 if checks.tiny else 2]:
            kind = str(dtype).removeprefix("torch.")
            if time.monotonic() > deadline:
                yield f"  {name} {kind}: left out, the time is over", True
                continue
            network, given = network.to(dtype), checks.inputs(config, dtype, checks.device)
            torch.compiler.reset()
            torch._dynamo.utils.counters.clear()
            called = torch.compile(network, dynamic=False, backend=checks.backend)
            begun = time.perf_counter()
            found, wanted = use(called, given).float(), use(network, given).float()
            took = time.perf_counter() - begun
            off = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
            quick, eager = (checks.seconds(partial(use, which, given), 5) for which in (called, network))
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            checks.ratios[f"compiled / eager, a pass of the denoiser in sampling, {name}, {kind}"] = quick / eager
            good = np.isfinite(off) and off <= TOLERANCE[kind] and graphs == 1
            yield f"  {name:22s} {kind:9s} {off:.1e}, {graphs} graph(s) in {took:.0f} s", bool(good)


def windows(checks: Checks, deadline: float) -> Lines:
    """Windowed attention by flex_attention against tiles, there and back (a dry run: there, uncompiled)."""
    size, heads, dim = ((64, 44), 4, 24) if not checks.tiny else ((24, 24), 2, 8)
    real, plain = checks.device.type == "cuda", None
    if not real:
        from torch.nn.attention.flex_attention import flex_attention as plain
    for kernel in (9, 3) if not checks.tiny else (3,):
        for dtype in (torch.float32, torch.bfloat16):
            name = f"  {size[0]}×{size[1]} cells, k = {kernel}, {str(dtype).removeprefix('torch.')}"
            if time.monotonic() > deadline:
                yield f"{name}: left out, the time is over", True
                continue
            if real and not flex_windows.works(checks.device, dtype, dim):
                yield f"{name}: flex_attention does not work here (see the warning), tiles do its work", True
                continue
            generator = torch.Generator().manual_seed(0)
            shape = 2, heads, size[0] * size[1], dim
            given = [torch.randn(shape, generator=generator).to(checks.device, dtype) for _ in range(4)]

            def by(attend: Callable, given=given, kernel=kernel) -> list[Tensor]:
                if not real:
                    return [attend(*given[:3], size, kernel)]
                q, k, v = (t.detach().requires_grad_() for t in given[:3])
                out = attend(q, k, v, size, kernel)
                return [out.detach(), *torch.autograd.grad(out, (q, k, v), given[3])]

            sides = (lambda *a: flex_windows.attend(*a, plain)), tiled_attention
            found, wanted = ([t.float() for t in by(side)] for side in sides)
            off = max(
                float((a - b).square().mean().sqrt() / b.square().mean().sqrt())
                for a, b in zip(found, wanted, strict=True)
            )
            if real:
                flex, tiles = (checks.seconds(lambda side=side: by(side), 10) for side in sides)
                checks.ratios[f"flex_attention / tiles, there and back,{name[1:]}"] = flex / tiles
            good = np.isfinite(off) and off <= TOLERANCE[str(dtype).removeprefix("torch.")]
            yield f"{name}: differs from tiles by {off:.1e}", bool(good)
    torch.compiler.reset()  # what compiles later counts its kernels anew
