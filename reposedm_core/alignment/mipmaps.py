"""A picture read at places of its own by a map that may shrink it: what is shrunk is averaged, not skipped."""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..letterbox import size_of
from .warp import identity_map, sample

SHARP = 0.5
"""Of a halving: bilinear sampling itself bears so much shrinking before anything flickers."""
COARSEST = 8
"""Side in pixels below which no level is made."""


class Mipmaps:
    """A picture (B, C, H, W) and its halves, made when they are first needed."""

    def __init__(self, picture: Tensor):
        self.levels = [picture]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return size_of(self.levels[0])

    def level(self, number: int) -> Tensor:
        """The picture halved so often, odd sides rounded up; the coarsest there is beyond."""
        while len(self.levels) <= number and min(self.levels[-1].shape[-2:]) > COARSEST:
            size = [-(-side // 2) for side in self.levels[-1].shape[-2:]]
            self.levels.append(F.interpolate(self.levels[-1], size, mode="area"))
        return self.levels[min(number, len(self.levels) - 1)]

    def sample(self, places: Tensor, footprint: Tensor) -> Tensor:
        """The colours (B, C, h, w) at places (B, 2, h, w), see `alignment.warp`.

        Args:
            footprint: (B, 1, h, w), pixels of the picture from one place to the next; 1 or less is bilinear sampling of
                the picture itself, more mixes the two nearest halves.
        """
        level = (footprint.clamp(min=1e-6).log2() - SHARP).clamp(min=0)
        lowest, highest = (int(value) for value in (level.amin().floor(), level.amax().ceil()))
        if highest == 0:
            return sample(self.level(0), places)
        shares = ((number, (1 - (level - number).abs()).clamp(min=0)) for number in range(lowest, highest + 1))
        parts = (share * sample(self.level(number), places) for number, share in shares if share.any())
        return reduce(torch.add, parts)


def stretch(sampling: Tensor) -> Tensor:
    """How far apart a map takes what is side by side: (B, 4, h, w), dx/dx, dy/dx, dx/dy and dy/dy of φ (B, 2, h, w).

    The identity has 1, 0, 0, 1; differences are central, at the border one-sided.
    """
    height, width = sampling.shape[-2:]
    shift = sampling - identity_map(height, width, sampling.device, sampling.dtype)
    along, down = (
        torch.gradient(shift, spacing=2 / side, dim=dim)[0] if side > 1 else torch.zeros_like(shift)
        for side, dim in ((width, -1), (height, -2))
    )
    along[:, 0] += 1
    down[:, 1] += 1
    return torch.cat([along, down], 1)
