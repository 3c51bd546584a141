"""Batch norms folded into convolutions: a frozen HigherHRNet that computes the same with fewer passes over memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .hrnet import HigherHRNet

PLAIN = (nn.Conv2d, nn.ConvTranspose2d)
PRECISE = (torch.float32, torch.float64)


def fold_batch_norms(network: HigherHRNet) -> HigherHRNet:
    """A frozen copy in eval mode in which each batch norm after a plain convolution is part of that convolution.

    In eval mode a batch norm is affine, so that the copy computes the same up to rounding. A host's own layers
    (`operations`) may change a weight when they are called; they and their batch norms stay as they are.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(network.modules()):
        children = dict(module.named_children())
        # Neighbours in a sequence; timm's residual blocks and its stem name theirs by number.
        pairs = pairwise(children) if isinstance(module, nn.Sequential) else [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
        for first, second in pairs:
            convolution, norm = children.get(first), children.get(second)
            if isinstance(convolution, PLAIN) and type(convolution) in PLAIN and type(norm) is nn.BatchNorm2d:
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                setattr(module, first, fuse_conv_bn_eval(convolution, norm, transpose=transposed))
                setattr(module, second, nn.Identity())
    return network


class FoldedCopy:
    """The folded copy of one estimator, made when it is first asked for and again when a weight has another value.

    It costs the memory of the weights twice, and is no submodule of anything: it has no part in a state dict or in
    moving its owner.
    """

    def __init__(self) -> None:
        self._seen: list[Tensor] = []
        self._network: HigherHRNet | None = None
        self._holders, self._lock = 0, threading.Lock()

    def __reduce__(self) -> tuple:
        return FoldedCopy, ()  # the copy of an owner begins afresh

    @contextmanager
    def held(self, estimator: nn.Module) -> Iterator[None]:
        """While it is open the copy is not compared with the weights again: a fourteenth of a gradient of `mini`."""
        self.of(estimator)
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1

    def of(self, estimator: nn.Module) -> nn.Module:
        """The network to compute with: a HigherHRNet's folded copy where that pays, else the estimator itself.

        It pays on a CPU; a GPU's batch norms cost little, and its memory more. In half precision a folded weight
        would be rounded once more.
        """
        if not isinstance(estimator, HigherHRNet):
            return estimator
        if self._holders and self._network is not None:
            return self._network
        tensors = _floats(estimator)
        if self._network is not None and self._network.config == estimator.config and self._fresh(tensors):
            return self._network
        if any(not t.is_cpu or t.dtype not in PRECISE for t in tensors):
            self._seen, self._network = [], None
            return estimator
        with torch.inference_mode(False), torch.no_grad():
            self._seen = [t.detach().clone() for t in tensors]
            self._network = fold_batch_norms(estimator).to(memory_format=torch.channels_last)
        return self._network

    def _fresh(self, tensors: list[Tensor]) -> bool:
        # By value: an identity or a version counter stays the same through `.data`, `to` and loading by a host.
        return len(tensors) == len(self._seen) and all(
            a.is_cpu and a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(tensors, self._seen, strict=True)
        )


def _floats(network: nn.Module) -> list[Tensor]:
    """Weights and statistics. `parameters()` and `buffers()` spell every name too, which takes five times as long."""
    found: list[Tensor | None] = []
    waiting: list[nn.Module | None] = [network]
    while waiting:
        module = waiting.pop()
        if module is not None:
            found += (*module._parameters.values(), *module._buffers.values())
            waiting += module._modules.values()
    return [t for t in found if t is not None and t.is_floating_point()]
