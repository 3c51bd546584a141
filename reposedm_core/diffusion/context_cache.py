"""Keys and values of the fixed context, computed once a picture instead of once a step.

The context (section 3.2: F_S^N as tokens; eq. 17: the prompt) does not change while a picture is sampled, so neither
do the projections that each cross-attention makes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import is_autocast_available


def version_of(tensor: Tensor) -> int | None:
    """How often `tensor` was written to; None where torch does not count (inference tensors)."""
    return None if tensor.is_inference() else tensor._version


@dataclass
class _Entry:
    """One context, and what the projections made of it.

    Attributes:
        seen, version: the tensor that it came as, and how often that had been written to.
        values: what was in it, to compare with; None where comparing would make the host wait for a device.
    """

    seen: Tensor
    version: int | None
    values: Tensor | None
    autocast: tuple
    made: dict[nn.Module, Tensor] = field(default_factory=dict)

    def holds(self, context: Tensor, version: int | None) -> bool:
        """Is it of this context?"""
        if self.seen is context and self.version == version is not None:
            return True
        return self.values is not None and context.is_cpu and _equal(self.values, context)


@dataclass
class _Pass:
    """The context that one thread's pass of the U-Net was last given."""

    seen: Tensor
    version: int | None
    entry: _Entry


class ContextCache:
    """Projected contexts of one U-Net, the last few of them, while somebody uses it (see `cached_context`).

    Weights are taken not to change meanwhile. A context counts as known while it is the same tensor and torch has
    counted no writing to it. Others are compared by value, once per pass of the U-Net, but on a CPU only: elsewhere
    that would make the host wait for longer than projecting takes.
    """

    def __init__(self, unet: nn.Module):
        from diffusers.models.attention_processor import Attention

        self.layers = [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
        self.unet, self.users, self.capacity = unet, 0, 0
        self.entries: list[_Entry] = []
        self.passes: dict[int, _Pass] = {}  # by thread
        self._undo: list[Callable[[], None]] = []

    def open(self) -> None:
        """Stand between the layers and their processors."""
        self._undo = [self.unet.register_forward_pre_hook(lambda *_: self.begin()).remove]
        for layer in self.layers:
            processor = layer.processor
            layer._modules.pop("processor", None)  # where it has weights of its own it is a submodule
            layer.processor = CachedProcessor(processor, self)
            self._undo.append(lambda layer=layer, processor=processor: setattr(layer, "processor", processor))

    def close(self) -> None:
        """Put everything back and free the memory."""
        for undo in reversed(self._undo):
            undo()
        self.entries, self.passes, self._undo = [], {}, []

    def begin(self) -> None:
        """A new pass of the U-Net: its context is to be looked at again."""
        self.passes.pop(threading.get_ident(), None)

    def entry(self, context: Tensor) -> _Entry:
        """The entry of `context` (B, N, D), new and empty where it is not known."""
        now, version = self.passes.get(threading.get_ident()), version_of(context)
        if now is not None and now.seen is context and now.version == version:
            return now.entry
        kind, autocast = context.device.type, ()
        if is_autocast_available(kind):
            autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        found = next((e for e in self.entries if e.autocast == autocast and e.holds(context, version)), None)
        if found is None:
            values = context.detach().clone() if context.is_cpu else None
            found = _Entry(context, version, values, autocast)
            self.entries = [*self.entries, found][-self.capacity :]
        self.passes[threading.get_ident()] = _Pass(context, version, found)
        return found

    def project(self, projection: nn.Module, context: Tensor, given: Tensor) -> Tensor:
        """`projection(given)`, from the cache where `context` was projected before.

        Args:
            projection: "to_k" or "to_v" of a cross-attention.
            context: the context as the attention received it; given: what it hands its projection, the same or normed.
        """
        if torch.is_grad_enabled():  # somebody may want the gradient through it
            return projection(given)
        made = self.entry(context).made
        if projection not in made:
            made[projection] = projection(given)
        return made[projection]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


class _CachedLayer:
    """An attention layer as its processor sees it, its projections of the context going through the cache."""

    def __init__(self, layer: nn.Module, context: Tensor, cache: ContextCache):
        self._layer, self._context, self._cache = layer, context, cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def to_k(self, given: Tensor) -> Tensor:
        return self._cache.project(self._layer.to_k, self._context, given)

    def to_v(self, given: Tensor) -> Tensor:
        return self._cache.project(self._layer.to_v, self._context, given)


class CachedProcessor:
    """Attention processor of diffusers that lets another one do the work, with cached keys and values."""

    def __init__(self, inner: Any, cache: ContextCache):
        self.inner, self.cache = inner, cache

    @property
    def __call__(self) -> Callable[..., Tensor]:
        """The inner processor's call under its own signature: by that diffusers knows which arguments it takes."""

        @wraps(self.inner.__call__)
        def call(attn: nn.Module, *args: Any, encoder_hidden_states: Tensor | None = None, **options: Any) -> Tensor:
            if encoder_hidden_states is not None:
                attn = _CachedLayer(attn, encoder_hidden_states, self.cache)
            return self.inner(attn, *args, encoder_hidden_states=encoder_hidden_states, **options)

        return call


_OPEN: dict[nn.Module, ContextCache] = {}
_LOCK = threading.Lock()


@contextmanager
def _shared(unet: nn.Module, capacity: int) -> Iterator[ContextCache]:
    """The one cache of `unet`: opened by its first user, closed by its last, in whatever order they leave."""
    with _LOCK:
        if unet not in _OPEN:
            _OPEN[unet] = ContextCache(unet)
            _OPEN[unet].open()
        cache = _OPEN[unet]
        cache.users, cache.capacity = cache.users + 1, cache.capacity + capacity
    try:
        yield cache
    finally:
        with _LOCK:
            cache.users, cache.capacity = cache.users - 1, cache.capacity - capacity
            if not cache.users:
                del _OPEN[unet]
                cache.close()


@contextmanager
def cached_context(network: nn.Module, capacity: int = 4) -> Iterator[list[ContextCache]]:
    """While it is open, `network` projects each context once; results are bit-identical to those without it.

    Runs that overlap, of one thread or several, share a cache. With the last of them its memory is freed and the
    layers' own processors are put back, whatever ends it. Passes with gradients switched on go past it.
    Weights must not change meanwhile.

    Args:
        network: a `Denoiser`, or anything with diffusers' UNet2DConditionModel in it; without one nothing happens.
        capacity: contexts kept for this run. A host short of memory runs condition and null condition by turns; both
            are kept.

    Returns:
        one cache a U-Net.
    """
    from diffusers import UNet2DConditionModel

    with ExitStack() as stack:
        yield [
            stack.enter_context(_shared(module, capacity))
            for module in network.modules()
            if isinstance(module, UNet2DConditionModel)
        ]


def sampling_of(model: Any, x: Tensor, levels: Sequence[Tensor]) -> AbstractContextManager:
    """The context in which a sampler calls `model`: its `sampling` where it has one (see `GuidedModel.sampling`)."""
    return model.sampling(x, levels) if hasattr(model, "sampling") else nullcontext()
