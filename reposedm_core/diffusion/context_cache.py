"""Keys and values of the fixed context, computed once a picture instead of once a step.

The context (section 3.2: F_S^N as tokens) does not change while a picture is sampled, so neither do the projections
that each cross-attention makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


def _version(tensor: Tensor) -> int | None:
    """How often `tensor` was written to; None where torch does not count (inference tensors)."""
    return None if tensor.is_inference() else tensor._version


@dataclass
class _Entry:
    """One context and what the layers made of it: {(layer, "to_k" or "to_v"): (output, weights it was made with)}."""

    seen: Tensor
    version: int | None
    copy: Tensor
    autocast: tuple
    made: dict[tuple[nn.Module, str], tuple[Tensor, list]] = field(default_factory=dict)


class ContextCache:
    """Projected contexts, the last few of them.

    A context is recognised by being the same unwritten tensor, or by equal values, shape and dtype, looked at once a
    pass of the U-Net. What a layer made is used again only with the weights it was made with.

    Args:
        capacity: contexts kept. A host short of memory runs condition and null condition by turns; both are kept.
    """

    def __init__(self, capacity: int = 4):
        self.capacity = capacity
        self.entries: list[_Entry] = []
        self.current: _Entry | None = None

    def begin(self) -> None:
        """A new pass of the U-Net: its context is to be looked at again."""
        self.current = None

    def clear(self) -> None:
        """Free everything."""
        self.entries, self.current = [], None

    def entry(self, context: Tensor) -> _Entry:
        """The entry of `context` (B, N, D), new and empty where it is not known."""
        if self.current is not None and self.current.seen is context:
            return self.current
        kind = context.device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        found = next((e for e in self.entries if e.autocast == autocast and _same(e, context)), None)
        if found is None:
            found = _Entry(context, _version(context), context.detach().clone(), autocast)
            self.entries = [*self.entries, found][-self.capacity:]
        found.seen, found.version = context, _version(context)
        self.current = found
        return found

    def project(self, layer: nn.Module, name: str, context: Tensor, given: Tensor) -> Tensor:
        """`layer.<name>(given)`, from the cache where `context` was projected before.

        Args:
            layer, name: a cross-attention and "to_k" or "to_v".
            context: the context as the attention received it; given: what it hands its projection, the same or normed.
        """
        projection = getattr(layer, name)
        if torch.is_grad_enabled():      # somebody may want the gradient through it
            return projection(given)
        made = self.entry(context).made
        weights = [(weight, _version(weight)) for weight in projection.parameters()]
        output, old = made.get((layer, name), (None, []))
        unchanged = len(old) == len(weights) and all(a is b and v == w for (a, v), (b, w) in zip(old, weights,
                                                                                                strict=True))
        if output is None or not unchanged:
            output = projection(given)
            made[layer, name] = output, weights
        return output


def _same(entry: _Entry, context: Tensor) -> bool:
    if entry.seen is context and entry.version is not None and entry.version == _version(context):
        return True
    copy = entry.copy
    return (copy.shape == context.shape and copy.dtype == context.dtype and copy.device == context.device
            and torch.equal(copy, context))


class _CachedLayer:
    """An attention layer as its processor sees it, its projections of the context going through the cache."""

    def __init__(self, layer: nn.Module, context: Tensor, cache: ContextCache):
        self._layer, self._context, self._cache = layer, context, cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def to_k(self, given: Tensor) -> Tensor:
        return self._cache.project(self._layer, "to_k", self._context, given)

    def to_v(self, given: Tensor) -> Tensor:
        return self._cache.project(self._layer, "to_v", self._context, given)


class CachedProcessor:
    """Attention processor of diffusers that lets another one do the work, with cached keys and values."""

    def __init__(self, inner: Any, cache: ContextCache):
        self.inner, self.cache = inner, cache

    def __call__(self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None, **options: Any) -> Tensor:
        if encoder_hidden_states is not None and not isinstance(attn, _CachedLayer):     # that of a cache in this one
            attn = _CachedLayer(attn, encoder_hidden_states, self.cache)
        return self.inner(attn, hidden_states, encoder_hidden_states=encoder_hidden_states,
                          attention_mask=attention_mask, temb=temb, **options)


@contextmanager
def cached_context(network: nn.Module, capacity: int = 4) -> Iterator[ContextCache]:
    """While it is open, `network` projects each context once; results are bit-identical to those without it.

    The cache starts empty, its memory is freed and the layers' own processors are put back at the end, whatever ends
    it. Passes with gradients switched on go past it.

    Args:
        network: a `Denoiser`, or anything with diffusers' UNet2DConditionModel in it; without one nothing happens.
        capacity: see `ContextCache`.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

    cache, hooks, before = ContextCache(capacity), [], []
    try:
        for module in network.modules():
            if isinstance(module, UNet2DConditionModel):
                hooks.append(module.register_forward_pre_hook(lambda *_: cache.begin()))
            elif isinstance(module, Attention) and module.is_cross_attention:
                before.append((module, module.processor))
                module._modules.pop("processor", None)      # where it has weights of its own it is a submodule
                module.processor = CachedProcessor(before[-1][1], cache)
        yield cache
    finally:
        for module, processor in before:
            module.processor = processor
        for hook in hooks:
            hook.remove()
        cache.clear()


def sampling_of(model: Any) -> AbstractContextManager:
    """The context in which a sampler calls `model`: its `sampling()` where it has one (see `GuidedDenoiser`)."""
    return model.sampling() if hasattr(model, "sampling") else nullcontext()
