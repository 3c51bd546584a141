"""float32 or bfloat16: which one trains a stage quicker on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from training.engine.distributed import mean_over_processes

ROUNDS = 3
"""Steps of each precision that are timed; the best of them counts, for what else the machine does only slows."""


def compare_precisions(step: Callable[[bool], object], module: nn.Module, accelerator: Accelerator) -> dict[str, float]:
    """Time a few steps in both precisions by turns, after one of each that is not timed.

    Args:
        step: one forward and backward pass, in bfloat16 or not. It moves no weight.
        module: what `step` runs; its buffers, such as batch norm's statistics, are left as they were.

    Returns:
        {"float32": seconds per step, "bfloat16": likewise}, means over all processes, and so the same in each.
    """
    buffers = [buffer.clone() for buffer in module.buffers()]
    best = dict.fromkeys((False, True), float("inf"))
    for turn in range(ROUNDS + 1):
        for bf16 in best:
            _finish(accelerator.device)
            begun = time.perf_counter()
            step(bf16)
            _finish(accelerator.device)
            if turn:
                best[bf16] = min(best[bf16], time.perf_counter() - begun)
    for mine, before in zip(module.buffers(), buffers, strict=True):
        mine.copy_(before)
    seconds = torch.tensor(list(best.values()), device=accelerator.device)
    single, half = mean_over_processes(seconds, accelerator).tolist()
    return {"float32": single, "bfloat16": half}


def _finish(device: torch.device) -> None:
    if device.type != "cpu":  # its steps are only begun when Python goes on
        getattr(torch, device.type).synchronize()
