"""Batch norms folded into convolutions: a frozen HigherHRNet that computes the same with fewer passes over memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .hrnet import HigherHRNet
from .protocol import PoseEstimator

PLAIN = (nn.Conv2d, nn.ConvTranspose2d)
PRECISE = (torch.float32, torch.float64)
KEPT_BYTES = 2**26
"""Of a network of at most as many bytes the copy is kept: folding the shipped one takes as long as a denoising step,
folding HigherHRNet-W48 little beside a step of its own, and its memory counts."""


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


@dataclass(frozen=True)
class _Kept:
    """A folded copy, and what it was made of: the modules, and copies of their tensors."""

    modules: list[nn.Module]
    tensors: list[torch.Tensor]
    network: PoseEstimator

    def fits(self, modules: list[nn.Module], tensors: list[torch.Tensor]) -> bool:
        """Is all still as it was? Values are compared: hosts write to weights where no version counter sees it."""
        if len(modules) != len(self.modules) or len(tensors) != len(self.tensors):
            return False
        return all(a is b for a, b in zip(modules, self.modules, strict=True)) and all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(tensors, self.tensors, strict=True)
        )


_KEPT: WeakKeyDictionary[PoseEstimator, _Kept] = WeakKeyDictionary()


def folded(estimator: PoseEstimator) -> PoseEstimator:
    """The network to compute a run with: a HigherHRNet's folded copy where that pays, else the estimator itself.

    It pays on a CPU; a GPU's batch norms cost little, and its memory more. In half precision a folded weight would be
    rounded once more. The copy costs the memory of the weights twice, and knows nothing of what they become. A small
    network's is kept until the weights are others, and costs a third time the memory, to tell.
    """
    modules = list(estimator.modules())
    # One walk through the modules: three would cost a tenth of a guided step.
    held = (vars(module)[kind].values() for module in modules for kind in ("_parameters", "_buffers"))
    tensors = [t for values in held for t in values if t is not None and t.is_floating_point()]
    if not isinstance(estimator, HigherHRNet) or any(not t.is_cpu or t.dtype not in PRECISE for t in tensors):
        return estimator
    del modules[0]  # itself, which is not to be kept alive
    kept = _KEPT.get(estimator)
    if kept is not None and kept.fits(modules, tensors):
        return kept.network
    with torch.inference_mode(False), torch.no_grad():
        network = fold_batch_norms(estimator).to(memory_format=torch.channels_last)
        _KEPT.pop(estimator, None)
        if sum(t.nbytes for t in tensors) <= KEPT_BYTES:
            _KEPT[estimator] = _Kept(modules, [t.detach().clone() for t in tensors], network)
    return network
