"""Attention over windows (eq. 5) as torch's flex_attention: a kernel, compiled for a GPU, that skips blocks of keys.

Rows of the grid lie one behind the other, so that the windows of 128 queries lie in one run of keys. Whole blocks of
128 keys outside it are neither read nor multiplied, in the others a mask is computed on the way; no mask, logits or
padded copies are kept. Compiling takes longer than many pictures: it is for training alone. Correlation (eq. 6) wants
the logits themselves, which such a kernel never gives away: it stays on tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .windows import dense_mask

BLOCK = 128
"""Queries, and keys, of a block."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PROBE, PROBE_KERNEL = (24, 24), 3
"""Grid and window that a kernel is tried on: several blocks, the last one not full, and some that are skipped."""
CLOSE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Most that it may differ by from plain masked attention, of values and gradients near 1."""
MOST = 7
"""Kernels, trials included. Torch compiles a function anew eight times; after that it runs it without any kernel, which
keeps the logits of all pairs of cells."""

_kernels: set[tuple] = set()


def suits(query: Tensor, size: tuple[int, int], kernel: int) -> bool:
    """Is attention with these queries (B, heads, h·w, d) to be computed here?

    On CUDA, where a gradient is wanted, where at most half of the keys are looked at, and where the kernel works.
    """
    wanted = query.is_cuda and query.dtype in DTYPES and torch.is_grad_enabled() and query.requires_grad
    if not wanted or torch.compiler.is_compiling() or not skips_half(size, kernel):
        return False
    return works(query.device, query.dtype, query.shape[-1]) and _room(
        query.device, query.dtype, query.shape, size, kernel
    )


def _room(*kernel: Any) -> bool:
    """Is this kernel one of the first `MOST`?"""
    if kernel not in _kernels and len(_kernels) >= MOST:
        return False
    _kernels.add(kernel)
    return True


def skips_half(size: tuple[int, int], kernel: int) -> bool:
    """Are at least half of the keys outside the blocks that a block of queries looks at?"""
    height, width = size
    return 2 * (2 * BLOCK + (kernel - 1) * width) <= height * width


def attend(
    query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int], kernel: int, call: Callable | None = None
) -> Tensor:
    """As `neighbourhood_attention` with a window; `call` computes it, by default flex_attention compiled."""
    return (call or compiled())(query, key, value, block_mask=blocks(*size, kernel // 2, query.device))


@cache
def compiled() -> Callable:
    """flex_attention, compiled once for each size."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=32)
def blocks(height: int, width: int, reach: int, device: torch.device) -> Any:
    """The `BlockMask` of a grid's windows: for every block of queries the blocks of keys that its windows touch.

    It has (h·w / 128)² numbers, where torch's own construction looks at all (h·w)² pairs.
    """
    from torch.nn.attention.flex_attention import BlockMask

    cells = height * width
    with torch.inference_mode(False):  # what is remembered must also serve a training step
        start = torch.arange(0, cells, BLOCK)
        top = (start // width - reach).clamp(min=0)
        bottom = ((start + BLOCK - 1).clamp(max=cells - 1) // width + reach).clamp(max=height - 1)
        first, last = top * width // BLOCK, ((bottom + 1) * width - 1) // BLOCK
        # Behind those that count lies what is never read, but must be a block's number.
        order = (first[:, None] + torch.arange(len(start))) % len(start)
        counts, order = ((t[None, None].to(device, torch.int32)) for t in (last - first + 1, order))

        def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            rows, columns = query // width - key // width, query % width - key % width
            return (rows.abs() <= reach) & (columns.abs() <= reach)

        return BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=BLOCK, mask_mod=near, seq_lengths=(cells, cells))


@cache
def works(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Does the kernel compile here, and give what plain masked attention gives, there and back?

    It needs Triton, a C compiler and a recent torch; what it raises without them is not said to be of one kind. Where
    it does not work, a warning says so once.
    """
    if not _room(device, dtype, dim):
        return False
    generator = torch.Generator().manual_seed(0)
    shape = 1, 1, PROBE[0] * PROBE[1], dim
    given = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4)]
    try:
        # What a checkpoint around it does with tensors that are kept is none of the trial's.
        plain = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        with torch.inference_mode(False), torch.enable_grad(), plain:
            q, k, v = (t.requires_grad_() for t in given[:3])
            ways = (
                attend(q, k, v, PROBE, PROBE_KERNEL),
                F.scaled_dot_product_attention(q, k, v, dense_mask(*PROBE, PROBE_KERNEL, device)),
            )
            found, wanted = ([out, *torch.autograd.grad(out, (q, k, v), given[3])] for out in ways)
        off = max(float((a - b).detach().abs().max()) for a, b in zip(found, wanted, strict=True))
        if off <= CLOSE[dtype]:
            return True
        reason = f"it is off by {off:.2g}"
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    logging.getLogger(__name__).warning(
        "flex_attention does not work here in %s, windows are computed in tiles: %s", dtype, reason
    )
    return False
