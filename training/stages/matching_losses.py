"""What stage `aligner` of kind "matching" is trained on: losses of maps and matches at the cells that are visible."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.groups import FAR, Moves
from training.stages.aligner import mean_where

SHARP = 1.5
"""Pixels of 128: a candidate that is so far off counts half, see `choice_loss`."""


def matching_loss(log: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """-Σ w log p over the four source cells around the true place, w bilinear, at the visible target cells.

    Args:
        log: log-probabilities (B, h·w, h·w). truth: exact places (B, 2, h, w). seen: (B, 1, h, w), 1 where visible.
    """
    h, w = truth.shape[-2:]
    x = ((truth[:, 0] + 1) * w / 2 - 0.5).clamp(0, w - 1.001).flatten(1)
    y = ((truth[:, 1] + 1) * h / 2 - 0.5).clamp(0, h - 1.001).flatten(1)
    column, row = x.floor(), y.floor()
    right, down = x - column, y - row
    first = (row * w + column).long()
    corners = torch.stack([first, first + 1, first + w, first + w + 1], -1)
    share = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], -1)
    value = -(log.gather(-1, corners) * share).sum(-1)
    return mean_where(value.unflatten(1, (h, w))[:, None], seen)


def bending_loss(found: Tensor, truth: Tensor, seen: Tensor, unit: Tensor) -> Tensor:
    """How much the steps of a map from cell to cell differ from the true ones, in pixels: errors that bend patterns.

    Only between neighbours that are both visible and show one surface, see `FAR`.

    Args:
        found, truth: (B, 2, h, w). seen: (B, 1, h, w), 1 where visible. unit: (2, 1, 1), pixels in a unit of a map.
    """
    total = found.new_zeros(())
    for axis in (-1, -2):
        count = found.shape[axis] - 1
        step, true = (m.narrow(axis, 1, count) - m.narrow(axis, 0, count) for m in (found, truth))
        both = seen.narrow(axis, 1, count) * seen.narrow(axis, 0, count)
        both = both * (true.abs().amax(1, keepdim=True) < FAR).to(both)
        total = total + mean_where(((step - true) * unit).abs().sum(1, keepdim=True), both)
    return total


def choice_loss(candidates: Tensor, shares: Tensor, truth: Tensor, seen: Tensor, unit: Tensor) -> Tensor:
    """-log Σ_k p_k / (1 + (e_k / SHARP)²) at the visible cells: shares go to the candidates that are right.

    Args:
        candidates: (B, K, 2, h, w). shares: log p (B, K, h, w). truth: (B, 2, h, w).
        seen: (B, 1, h, w), 1 where visible.
        unit: (2, 1, 1), pixels in a unit of a map.
    """
    off = ((candidates - truth[:, None]) * (unit / SHARP)).square().sum(2)
    return mean_where(-torch.logsumexp(shares - torch.log1p(off), 1, keepdim=True), seen)


def coarse_truth(flow: Tensor, visible: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The mean place of a larger cell's visible parts (B, 2, height, width), and whether half of it or more is so."""
    seen = (visible == 2).to(flow.dtype)
    if flow.shape[-2:] == (height, width):
        return flow * seen, seen
    share = F.adaptive_avg_pool2d(seen, (height, width))
    return F.adaptive_avg_pool2d(flow * seen, (height, width)) / share.clamp(min=1e-6), (share >= 0.5).to(flow.dtype)


def moved_surface(surface: Tensor, moves: Moves, height: int, width: int) -> Tensor:
    """Rest positions (n, 3, h, w), zero off the person, under the moves at (height, width), by the nearest cell."""
    grid = moves.inverse().grid(height, width).movedim(1, -1)
    turned = F.grid_sample(surface.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    mirror = torch.from_numpy(np.where(moves.flip, -1.0, 1.0).astype(np.float32))[:, None, None]
    return torch.cat([turned[:, :1] * mirror[:, None], turned[:, 1:]], 1)


def surface_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Mean distance of rest positions in rest units, on the person."""
    on = (truth.abs().sum(1, keepdim=True) > 0).float()
    return mean_where(((found - truth).square().sum(1, keepdim=True) + 1e-4).sqrt(), on)
