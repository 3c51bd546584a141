"""Keys and values of the fixed context, computed once per picture instead of once per step.

The context (section 3.2: F_S^N as tokens; eq. 17: the prompt) does not change while a picture is sampled, so neither
do the projections that each cross-attention makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def version_of(tensor: Tensor) -> int | None:
    """How often `tensor` was written to; None where torch does not count (inference tensors)."""
    return None if tensor.is_inference() else tensor._version


class Remembered:
    """`forward` of a projection that keeps what it made of the last few contexts.

    A context is known while it is the same tensor and torch has counted no writing to it. Others are compared by value,
    but on a CPU only: elsewhere that would make the host wait for longer than projecting takes. Where somebody may want
    a gradient, or autocast changes the precision, nothing is kept.
    """

    def __init__(self, projection: nn.Module, capacity: int):
        self.project, self.capacity = projection.forward, capacity
        self.known: list[tuple[Tensor, int | None, Tensor | None, Tensor]] = []
        """Contexts as they came, their versions, what was in them (on a CPU), and what was made of them."""

    def __call__(self, context: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu" if context.is_meta else context.device.type):
            return self.project(context)
        version = version_of(context)
        for seen, was, values, made in self.known:
            if (seen is context and was == version is not None) or (values is not None and _equal(values, context)):
                return made
        made, values = self.project(context), context.clone() if context.is_cpu else None
        self.known = [*self.known, (context, version, values, made)][-self.capacity :]
        return made


def _equal(a: Tensor, b: Tensor) -> bool:
    return b.is_cpu and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


@contextmanager
def cached_context(network: nn.Module, capacity: int = 4) -> Iterator[list[nn.Module]]:
    """While it is open, `network` projects each context once; results are bit-identical to those without it.

    Whatever ends it frees the memory. One within another, or of another thread, leaves the first one's work alone.
    Weights must not change meanwhile.

    Args:
        network: a `Denoiser`, or anything with diffusers' UNet2DConditionModel in it; without one nothing happens.
        capacity: contexts kept. A host short of memory runs condition and null condition by turns; both are kept.

    Returns:
        the projections that remember.
    """
    from diffusers.models import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

    projections: list[nn.Module] = [
        projection
        for unet in network.modules()
        if isinstance(unet, UNet2DConditionModel)
        for layer in unet.modules()
        if isinstance(layer, Attention) and layer.is_cross_attention
        for projection in (layer.to_k, layer.to_v)
        if "forward" not in vars(projection)
    ]
    for projection in projections:
        projection.forward = Remembered(projection, capacity)
    try:
        yield projections
    finally:
        for projection in projections:
            del projection.forward


def sampling_of(model: Any, x: Tensor, levels: Sequence[Tensor]) -> AbstractContextManager:
    """The context in which a sampler calls `model`: its `sampling` where it has one (see `GuidedModel.sampling`)."""
    return model.sampling(x, levels) if hasattr(model, "sampling") else nullcontext()
