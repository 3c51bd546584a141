"""Several processes as one: how they are joined, and batch statistics over all of them."""

from __future__ import annotations

import datetime
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from reposedm_core.errors import InputError

PATIENCE = datetime.timedelta(hours=24)
"""The others wait so long for the first process, which alone makes the caches."""


def open_accelerator(cpu: bool, trackers: list[str], out: Path, unused: bool = True) -> Accelerator:
    """Join the processes that `accelerate launch` started, or be the only one.

    Args:
        cpu: stay on the CPU though there be a GPU.
        trackers: by accelerate's names; "none" is nothing.
        out: folder of a tracker's files.
        unused: see `Stage.unused`.

    Raises:
        InputError: a tracker that is not installed.
    """
    wanted = [name for name in trackers if name != "none"]
    missing = sorted(set(wanted) - {str(getattr(name, "value", name)) for name in get_available_trackers()})
    handlers = [
        InitProcessGroupKwargs(timeout=PATIENCE),
        # Buffers are the same everywhere already: batch norm's come from the global batch.
        DistributedDataParallelKwargs(
            broadcast_buffers=False, find_unused_parameters=unused, gradient_as_bucket_view=True
        ),
    ]
    if missing:
        raise InputError(f"tracker: {', '.join(missing)} is not installed: pip install it, or choose another.")
    # Precision, accumulation and compilation are a stage's settings: what `accelerate config` said must not mix in.
    return Accelerator(
        cpu=cpu,
        log_with=wanted or None,
        project_dir=str(out),
        kwargs_handlers=handlers,
        mixed_precision="no",
        dynamo_backend="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the examples of all processes (torch's SyncBatchNorm needs a GPU).

    Every process must hold as many examples as the others. In eval mode, or in one process, it is batch norm.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        wide = x.float()
        # Sums of the squares about this process's mean would not add up; two passes lose no digits.
        mean = all_reduce(wide.mean((0, 2, 3))) / dist.get_world_size()
        centred = wide - mean[:, None, None]
        variance = all_reduce(centred.square().mean((0, 2, 3))) / dist.get_world_size()
        with torch.no_grad():
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var), self.momentum)
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def use_global_batch_norm(module: nn.Module) -> None:
    """Replace every batch norm in `module` by a `GlobalBatchNorm2d` of the same weights and names."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            new = GlobalBatchNorm2d(child.num_features, child.eps, child.momentum).to(child.weight)
            new.load_state_dict(child.state_dict())
            setattr(module, name, new.train(child.training))
        else:
            use_global_batch_norm(child)


def mean_over_processes(values: Tensor, accelerator: Accelerator) -> Tensor:
    """(n,) averaged over the processes, the same in each."""
    return accelerator.reduce(values, "mean") if accelerator.num_processes > 1 else values
