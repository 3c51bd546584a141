"""Sampling maps: identity, resizing, warping and composition (eq. 7-9).

A sampling map φ has shape (B, 2, h, w); φ[:, 0] is x and φ[:, 1] is y, normalised as in `grid_sample` with
`align_corners=False`: -1 and 1 are the outer edges of the first and last pixel. `warp(I, φ)(x) = I(φ(x))`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_tensor


@lru_cache(maxsize=32)
def _identity(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is remembered must also serve a training step
        # In float64 on the CPU first: not every accelerator has it.
        y = (torch.arange(height, dtype=torch.float64) + 0.5) * (2 / height) - 1
        x = (torch.arange(width, dtype=torch.float64) + 0.5) * (2 / width) - 1
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]
        return grid.to(dtype).to(device)


def identity_map(height: int, width: int, device=None, dtype=None) -> Tensor:
    """The map that samples every cell at its own centre, shape (1, 2, height, width)."""
    return _identity(height, width, torch.device(device or "cpu"), dtype or torch.get_default_dtype()).clone()


def resize_map(sampling: Tensor, height: int, width: int) -> Tensor:
    """φ at another resolution. The displacement φ - identity is what is interpolated, so the identity stays exact."""
    h, w = sampling.shape[-2:]
    if (h, w) == (height, width):
        return sampling
    like = sampling.device, sampling.dtype
    shift = F.interpolate(sampling - _identity(h, w, *like), size=(height, width), mode="bilinear", align_corners=False)
    return _identity(height, width, *like) + shift


def sample(values: Tensor, sampling: Tensor) -> Tensor:
    """values(φ(x)): bilinear, (B, C, H, W) at a map (B, 2, h, w) → (B, C, h, w); the border is repeated outside.

    The map may be of a wider dtype than the values, which keep theirs: half precision is too coarse for positions.
    """
    wide = torch.promote_types(values.dtype, sampling.dtype)
    sampled = F.grid_sample(
        values.to(wide), sampling.to(wide).movedim(1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.to(values.dtype)


def warp(image: Tensor, sampling: Tensor) -> Tensor:
    """W(I; φ) of eq. 9 at the picture's own resolution: (B, C, H, W) and φ (B, 2, h, w) → (B, C, H, W).

    Raises:
        InputError: shapes or dtypes that do not fit.
    """
    sizes = check_tensor(image, "image", "B C H W")
    check_tensor(sampling, "sampling", "B 2 h w", sizes)
    return sample(image, resize_map(sampling, *image.shape[-2:]))


def compose(sampling: Tensor, offset: Tensor) -> Tensor:
    """φⁿ⁺¹(x) = φⁿ(x + ΔF(x)), eq. 7-8 read as composition.

    Args:
        sampling: φⁿ, (B, 2, h, w).
        offset: ΔF in normalised units, same shape and dtype.

    Raises:
        InputError: shapes, dtypes or devices that do not fit.
    """
    check_tensor(offset, "offset", "B 2 h w", check_tensor(sampling, "sampling", "B 2 h w"), like=sampling)
    grid = _identity(*sampling.shape[-2:], sampling.device, sampling.dtype)
    moved = grid + offset
    # Interpolate the displacement, not the map: outside the border the map then still goes on moving with ΔF.
    return moved + sample(sampling - grid, moved)
