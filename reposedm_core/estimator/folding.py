"""Batch norms folded into convolutions: a frozen HigherHRNet that computes the same with fewer passes over memory."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .hrnet import HigherHRNet
from .protocol import PoseEstimator

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


def folded(estimator: PoseEstimator) -> PoseEstimator:
    """The network to compute a run with: a HigherHRNet's folded copy where that pays, else the estimator itself.

    It pays on a CPU; a GPU's batch norms cost little, and its memory more. In half precision a folded weight would be
    rounded once more. The copy costs the memory of the weights twice, and knows nothing of what they become.
    """
    floats = [t for t in (*estimator.parameters(), *estimator.buffers()) if t.is_floating_point()]
    if not isinstance(estimator, HigherHRNet) or any(not t.is_cpu or t.dtype not in PRECISE for t in floats):
        return estimator
    with torch.inference_mode(False), torch.no_grad():
        return fold_batch_norms(estimator).to(memory_format=torch.channels_last)
