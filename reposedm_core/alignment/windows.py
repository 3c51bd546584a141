"""Rows of queries against the rows of cells around them: the common part of eq. 5 and eq. 6.

A grid is cut into column tiles, and a strip of T cells of one row is compared with the k × (T + k - 1) cells that
hold all their windows. Stacking the padded tiles of all pictures below each other makes those cells a *view*: row y of
the stack begins the block of rows y … y + k - 1. Nothing is gathered k² times, one batched product does it all, and the
memory is O(h·w·k·(T + k)), which is O(h·w·k²) for a bounded T. The rows between two pictures are computed and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 12
"""Widest strip T: long enough for an efficient product, short enough that few columns are outside every window."""


@dataclass(frozen=True)
class Strips:
    """How grids (B, h, w, C) are cut for windows of side k = 2·reach + 1."""

    batch: int
    height: int
    width: int
    reach: int

    @property
    def tiles(self) -> int:
        """Column tiles of a picture."""
        return -(-self.width // TILE)

    @property
    def strip(self) -> int:
        """T, cells of a strip."""
        return -(-self.width // self.tiles)

    @property
    def span(self) -> int:
        """T + k - 1, columns of a block of keys."""
        return self.strip + 2 * self.reach

    @property
    def rows(self) -> int:
        """Rows of a padded tile, h + k - 1."""
        return self.height + 2 * self.reach

    @property
    def count(self) -> int:
        """Strips of the whole stack, those between two tiles included."""
        return self.batch * self.tiles * self.rows - 2 * self.reach

    def queries(self, grid: Tensor) -> Tensor:
        """(B, h, w, C) → (count, T, C)."""
        extra = self.tiles * self.strip - self.width
        grid = F.pad(grid, (0, 0, 0, extra, 0, 2 * self.reach)).unflatten(2, (self.tiles, self.strip))
        return grid.transpose(1, 2).reshape(-1, self.strip, grid.shape[-1])[: self.count]

    def keys(self, grid: Tensor) -> Tensor:
        """(B, h, w, C) → (count, k·(T + k - 1), C), zero outside the grid; a view of one padded copy."""
        extra = self.tiles * self.strip - self.width
        grid = F.pad(grid, (0, 0, self.reach, self.reach + extra, self.reach, self.reach))
        if self.tiles > 1:
            grid = grid.unfold(2, self.span, self.strip).permute(0, 2, 1, 4, 3)
        stack = grid.reshape(-1, self.span, grid.shape[-1])
        return stack.unfold(0, 2 * self.reach + 1, 1).permute(0, 3, 1, 2).flatten(1, 2)

    def join(self, strips: Tensor) -> Tensor:
        """(count, T, C) → (B, h, w, C): the inverse of `queries`."""
        strips = F.pad(strips, (0, 0, 0, 0, 0, 2 * self.reach)).unflatten(0, (self.batch, self.tiles, self.rows))
        grid = strips[:, :, : self.height].transpose(1, 2).flatten(2, 3)
        return grid[:, :, : self.width]


@lru_cache(maxsize=32)
def window_mask(strips: Strips, device: torch.device) -> Tensor:
    """(count, 1, T, k·(T + k - 1)): is the key inside the query's window, and inside the grid?

    Queries outside the grid keep their window, so that no row of a softmax is empty.
    """
    with torch.inference_mode(False):  # what is remembered must also serve a training step
        height, width, reach = strips.height, strips.width, strips.reach
        key_y = torch.arange(height)[:, None] - reach + torch.arange(2 * reach + 1)
        row = F.pad((key_y >= 0) & (key_y < height), (0, 0, 0, 2 * reach), value=True)
        start = torch.arange(strips.tiles)[:, None, None] * strips.strip
        x = start + torch.arange(strips.strip)[:, None]
        key_x = start - reach + torch.arange(strips.span)
        column = ((x - key_x).abs() <= reach) & (((key_x >= 0) & (key_x < width)) | (x >= width))
        mask = row[None, :, None, :, None] & column[:, None, :, None, :]  # tiles, rows, T, k, span
        mask = mask.flatten(3).expand(strips.batch, -1, -1, -1, -1).flatten(0, 2)
        return mask[: strips.count, None].to(device)


@lru_cache(maxsize=32)
def dense_mask(height: int, width: int, kernel: int, device: torch.device) -> Tensor:
    """(h·w, h·w): is the key inside the query's window of side `kernel`?"""
    with torch.inference_mode(False):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        y, x, reach = y.flatten(), x.flatten(), kernel // 2
        return (((y[:, None] - y).abs() <= reach) & ((x[:, None] - x).abs() <= reach)).to(device)
