"""Attention over a neighbourhood N(x) of the token grid (eq. 5)."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@lru_cache(maxsize=32)
def _window_mask(height: int, width: int, kernel: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x, reach = y.flatten(), x.flatten(), kernel // 2
    return ((y[:, None] - y).abs() <= reach) & ((x[:, None] - x).abs() <= reach)


def _gather(tokens: Tensor, height: int, width: int, kernel: int) -> Tensor:
    """(B·heads, d, h·w) → (B·heads, h·w, k², d): the window around every cell, zero outside."""
    grid = tokens.reshape(*tokens.shape[:2], height, width)
    windows = F.unfold(grid, kernel, padding=kernel // 2)
    return rearrange(windows, "b (d k) n -> b n k d", k=kernel * kernel)


def neighbourhood_attention(query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int], kernel: int) -> Tensor:
    """Scaled dot-product attention of every cell to the k×k cells around it; cells outside the grid are left out.

    Args:
        query, key, value: (B, heads, h·w, d) on one grid.
        size: (h, w).
        kernel: odd window side k; 0 attends to the whole grid.

    Returns:
        (B, heads, h·w, d).
    """
    height, width = size
    if kernel == 0 or (kernel >= 2 * height - 1 and kernel >= 2 * width - 1):
        return F.scaled_dot_product_attention(query, key, value)
    if height * width <= 4 * kernel * kernel:      # a small grid: masked dense attention costs less than gathering
        mask = _window_mask(height, width, kernel).to(query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    b, heads, n, d = query.shape
    flat = [rearrange(t, "b a n d -> (b a) d n") for t in (key, value)]
    keys, values = (_gather(t, height, width, kernel) for t in flat)
    inside = _gather(torch.ones(1, 1, n, device=query.device, dtype=query.dtype), height, width, kernel)[..., 0] > 0
    logits = torch.einsum("bnd,bnkd->bnk", query.reshape(b * heads, n, d), keys) * d**-0.5
    weights = logits.masked_fill(~inside, float("-inf")).softmax(-1)
    return torch.einsum("bnk,bnkd->bnd", weights, values).reshape(b, heads, n, d)


class NeighbourhoodAttention(nn.Module):
    """Pre-norm residual attention and feed-forward block (Fig. 1): tokens (B, h·w, D) attend to `source` tokens."""

    def __init__(self, dim: int, heads: int, kernel: int, operations=nn):
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.norm, self.norm_source = operations.LayerNorm(dim), operations.LayerNorm(dim)
        self.query = operations.Linear(dim, dim)
        self.key_value = operations.Linear(dim, 2 * dim)
        self.out = operations.Linear(dim, dim)
        self.feed_forward = nn.Sequential(operations.LayerNorm(dim), operations.Linear(dim, 2 * dim), nn.GELU(),
                                          operations.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, source: Tensor, size: tuple[int, int]) -> Tensor:
        key, value = self.key_value(self.norm_source(source)).chunk(2, -1)
        q, k, v = (rearrange(t, "b n (a d) -> b a n d", a=self.heads)
                   for t in (self.query(self.norm(tokens)), key, value))
        attended = neighbourhood_attention(q, k, v, size, self.kernel)
        tokens = tokens + self.out(rearrange(attended, "b a n d -> b n (a d)"))
        return tokens + self.feed_forward(tokens)
