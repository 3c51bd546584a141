"""Sampling maps: identity, resizing, warping and composition (eq. 7-9).

A sampling map φ has shape (B, 2, h, w); φ[:, 0] is x and φ[:, 1] is y, normalised as in `grid_sample` with
`align_corners=False`: -1 and 1 are the outer edges of the first and last pixel. `warp(I, φ)(x) = I(φ(x))`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_map(height: int, width: int, device=None, dtype=None) -> Tensor:
    """The map that samples every cell at its own centre, shape (1, 2, height, width)."""
    # In float64 on the CPU first: not every accelerator has it.
    y = (torch.arange(height, dtype=torch.float64) + 0.5) * (2 / height) - 1
    x = (torch.arange(width, dtype=torch.float64) + 0.5) * (2 / width) - 1
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]
    return grid.to(dtype or torch.get_default_dtype()).to(device)


def resize_map(sampling: Tensor, height: int, width: int) -> Tensor:
    """φ at another resolution. The displacement φ - identity is what is interpolated, so the identity stays exact."""
    h, w = sampling.shape[-2:]
    if (h, w) == (height, width):
        return sampling
    like = {"device": sampling.device, "dtype": sampling.dtype}
    shift = F.interpolate(sampling - identity_map(h, w, **like), size=(height, width), mode="bilinear",
                          align_corners=False)
    return identity_map(height, width, **like) + shift


def sample(values: Tensor, sampling: Tensor) -> Tensor:
    """values(φ(x)): bilinear, (B, C, H, W) at a map (B, 2, h, w) → (B, C, h, w); the border is repeated outside."""
    return F.grid_sample(values, sampling.movedim(1, -1), mode="bilinear", padding_mode="border", align_corners=False)


def warp(image: Tensor, sampling: Tensor) -> Tensor:
    """W(I; φ) of eq. 9 at the picture's own resolution: (B, C, H, W) and φ (B, 2, h, w) → (B, C, H, W)."""
    return sample(image, resize_map(sampling, *image.shape[-2:]))


def compose(sampling: Tensor, offset: Tensor) -> Tensor:
    """φⁿ⁺¹(x) = φⁿ(x + ΔF(x)), eq. 7-8 read as composition.

    Args:
        sampling: φⁿ, (B, 2, h, w).
        offset: ΔF in normalised units, same shape.
    """
    h, w = sampling.shape[-2:]
    grid = identity_map(h, w, device=sampling.device, dtype=sampling.dtype)
    moved = grid + offset
    # Interpolate the displacement, not the map: outside the border the map then still goes on moving with ΔF.
    return moved + sample(sampling - grid, moved)
