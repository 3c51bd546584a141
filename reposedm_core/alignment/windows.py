"""Tiles of queries against the cells around them: the common part of eq. 5 and eq. 6.

A grid is cut into bands of T columns and those into tiles of S rows. A tile is compared with the (S + k - 1) ×
(T + k - 1) cells that hold all its windows. Stacking the padded bands of all pictures below each other makes those
cells a *view*: row S·i of the stack begins the block of tile i. Nothing is gathered k² times, one batched product does
it all, and the memory is O(h·w·(S + k)·(T + k)), which is O(h·w·k²) for bounded S and T. Tiles between two bands are
computed and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

WIDEST = 12
"""Most columns T: enough for an efficient product, few enough that few columns are outside every window."""
HIGHEST = 4
"""Most rows S, of which there are no more than the window reaches: each further one reads the keys' rows less often and
multiplies more of them that are outside the window."""


@dataclass(frozen=True)
class Tiles:
    """How grids (B, h, w, C) are cut for windows of side k = 2·reach + 1."""

    batch: int
    height: int
    width: int
    reach: int

    @property
    def columns(self) -> int:
        """Column bands of a picture."""
        return -(-self.width // WIDEST)

    @property
    def wide(self) -> int:
        """T, columns of a tile."""
        return -(-self.width // self.columns)

    @property
    def high(self) -> int:
        """S, rows of a tile."""
        return max(1, min(self.reach, HIGHEST))

    @property
    def span(self) -> int:
        """T + k - 1, columns of a block of keys."""
        return self.wide + 2 * self.reach

    @property
    def block(self) -> int:
        """S + k - 1, rows of a block of keys."""
        return self.high + 2 * self.reach

    @property
    def rows(self) -> int:
        """Tiles of a padded band, those that begin in the padding included."""
        return -(-self.height // self.high) - (-2 * self.reach // self.high)

    @property
    def count(self) -> int:
        """Tiles of the whole stack, those between two bands included."""
        return self.batch * self.columns * self.rows + -2 * self.reach // self.high

    def queries(self, grid: Tensor) -> Tensor:
        """(B, h, w, C) → (count, S·T, C)."""
        extra = self.columns * self.wide - self.width
        grid = F.pad(grid, (0, 0, 0, extra, 0, self.rows * self.high - self.height))
        grid = grid.unflatten(2, (self.columns, self.wide)).transpose(1, 2)
        return grid.reshape(-1, self.high * self.wide, grid.shape[-1])[: self.count]

    def keys(self, grid: Tensor) -> Tensor:
        """(B, h, w, C) → (count, (S + k - 1)·(T + k - 1), C), zero outside the grid; a view of one padded copy."""
        extra, below = self.columns * self.wide - self.width, self.rows * self.high - self.height - self.reach
        grid = F.pad(grid, (0, 0, self.reach, self.reach + extra, self.reach, below))
        if self.columns > 1:
            grid = grid.unfold(2, self.span, self.wide).permute(0, 2, 1, 4, 3)
        stack = grid.reshape(-1, self.span, grid.shape[-1])
        return stack.unfold(0, self.block, self.high).permute(0, 3, 1, 2).flatten(1, 2)

    def join(self, tiles: Tensor) -> Tensor:
        """(count, S·T, C) → (B, h, w, C): the inverse of `queries`."""
        whole = self.batch * self.columns * self.rows
        tiles = F.pad(tiles, (0, 0, 0, 0, 0, whole - self.count)).unflatten(0, (self.batch, self.columns, self.rows))
        bands = tiles.unflatten(3, (self.high, self.wide)).flatten(2, 3)[:, :, : self.height]
        return bands.transpose(1, 2).flatten(2, 3)[:, :, : self.width]


@lru_cache(maxsize=32)
def window_mask(tiles: Tiles, device: torch.device) -> Tensor:
    """(count, 1, S·T, (S + k - 1)·(T + k - 1)): is the key inside the query's window, and inside the grid?

    Queries outside the grid keep their window, so that no row of a softmax is empty.
    """
    with torch.inference_mode(False):  # what is remembered must also serve a training step

        def near(count: int, step: int, size: int) -> Tensor:
            """Along one axis: (count, step, step + k - 1)."""
            start = step * torch.arange(count)[:, None, None]
            query, key = start + torch.arange(step)[:, None], start - tiles.reach + torch.arange(step + 2 * tiles.reach)
            return ((query - key).abs() <= tiles.reach) & (((key >= 0) & (key < size)) | (query >= size))

        row, column = near(tiles.rows, tiles.high, tiles.height), near(tiles.columns, tiles.wide, tiles.width)
        mask = row[None, :, :, None, :, None] & column[:, None, None, :, None, :]  # columns, rows, S, T, keys' both
        mask = mask.flatten(4).flatten(2, 3).expand(tiles.batch, -1, -1, -1, -1).flatten(0, 2)
        return mask[: tiles.count, None].to(device)


@lru_cache(maxsize=32)
def dense_mask(height: int, width: int, kernel: int, device: torch.device) -> Tensor:
    """(h·w, h·w): is the key inside the query's window of side `kernel`?"""
    with torch.inference_mode(False):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        y, x, reach = y.flatten(), x.flatten(), kernel // 2
        return (((y[:, None] - y).abs() <= reach) & ((x[:, None] - x).abs() <= reach)).to(device)
