"""Attention over a neighbourhood N(x) of the token grid (eq. 5)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checks import check_tensor
from ..errors import InputError
from . import flex_windows
from .windows import Tiles, dense_mask, window_mask


def neighbourhood_attention(query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int], kernel: int) -> Tensor:
    """softmax(Qᵀ K / √d) V of every cell over the k×k cells around it; cells outside the grid are left out.

    Memory is O(h·w·k²) for a window; k = 0, and a window that covers the grid from everywhere, are plain attention. In
    training on CUDA torch's flex_attention computes it where that works and pays (`flex_windows.suits`).

    Args:
        query, key, value: (B, heads, h·w, d) on one grid, any floating dtype.
        size: (h, w).
        kernel: odd window side k; 0 attends to the whole grid.

    Returns:
        (B, heads, h·w, d).

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or an even or negative kernel.
    """
    sizes = check_tensor(query, "query", "B heads N d")
    check_tensor(key, "key", "B heads N d", sizes, like=query)
    check_tensor(value, "value", "B heads N d", sizes, like=query)
    height, width = size
    if height * width != sizes["N"]:
        raise InputError(
            f"query has shape {tuple(query.shape)}; expected {height} × {width} = {height * width} tokens "
            f"for size = {tuple(size)}."
        )
    check_kernel(kernel, "kernel")
    if kernel == 0 or (kernel >= 2 * height - 1 and kernel >= 2 * width - 1):
        return F.scaled_dot_product_attention(query, key, value)
    if flex_windows.suits(query, size, kernel):
        return flex_windows.attend(query, key, value, size, kernel)
    if height * width <= 8 * kernel * kernel:  # a small grid: masked dense attention is no more than O(h·w·k²)
        return F.scaled_dot_product_attention(query, key, value, dense_mask(height, width, kernel, query.device))
    return tiled_attention(query, key, value, size, kernel)


def tiled_attention(query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int], kernel: int) -> Tensor:
    """As `neighbourhood_attention` with a window, on the tiles of `windows.py`; nothing is checked."""
    (batch, heads), (height, width) = query.shape[:2], size
    tiles = Tiles(batch, height, width, kernel // 2)

    def grid(tokens: Tensor) -> Tensor:
        return rearrange(tokens, "b a (h w) d -> b h w (a d)", h=height)

    def split(rows: Tensor) -> Tensor:
        return rearrange(rows, "s n (a d) -> s a n d", a=heads)

    attended = F.scaled_dot_product_attention(
        split(tiles.queries(grid(query))),
        split(tiles.keys(grid(key))),
        split(tiles.keys(grid(value))),
        window_mask(tiles, query.device),
    )
    joined = tiles.join(rearrange(attended, "s a n d -> s n (a d)"))
    return rearrange(joined, "b h w (a d) -> b a (h w) d", a=heads)


def check_kernel(kernel: int, name: str) -> None:
    """Raise an `InputError` unless `kernel` is 0 or a positive odd number."""
    if kernel < 0 or (kernel and kernel % 2 == 0):
        raise InputError(f"{name} = {kernel}: expected an odd window side, or 0 for the whole grid.")


class NeighbourhoodAttention(nn.Module):
    """Pre-norm residual attention and feed-forward block (Fig. 1): tokens (B, h·w, D) attend to `source` tokens."""

    def __init__(self, dim: int, heads: int, kernel: int, operations=nn):
        super().__init__()
        self.heads, self.kernel = heads, kernel
        self.norm, self.norm_source = operations.LayerNorm(dim), operations.LayerNorm(dim)
        self.query = operations.Linear(dim, dim)
        self.key_value = operations.Linear(dim, 2 * dim)
        self.out = operations.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            operations.LayerNorm(dim), operations.Linear(dim, 2 * dim), nn.GELU(), operations.Linear(2 * dim, dim)
        )

    def forward(self, tokens: Tensor, source: Tensor, size: tuple[int, int]) -> Tensor:
        """tokens, source (B, h·w, D), size (h, w) → (B, h·w, D)."""
        key, value = self.key_value(self.norm_source(source)).chunk(2, -1)
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.query(self.norm(tokens)), key, value)
        )
        attended = neighbourhood_attention(q, k, v, size, self.kernel)
        tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
        return tokens + self.feed_forward(tokens)
