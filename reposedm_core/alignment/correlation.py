"""Local and global correlation of target and source features (eq. 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def local_correlation(target: Tensor, source: Tensor, radius: int) -> Tensor:
    """C(x, r) = ReLU(F_T(x)ᵀ F_S(x + r) / √C) for ‖r‖∞ ≤ R; zero where x + r lies outside.

    Args:
        target, source: features (B, C, h, w).
        radius: R in cells.

    Returns:
        (B, (2R+1)², h, w), offsets in row-major order (r_y outer, r_x inner). Memory is O(h·w·(2R+1)²).
    """
    _, c, h, w = target.shape
    side, width = 2 * radius + 1, w + 2 * radius
    padded = F.pad(source, (radius,) * 4).movedim(1, -1)                      # b, h + 2R, width, c
    query = target.movedim(1, -1) * c**-0.5                                   # b, h, w, c
    rows = []
    for dy in range(side):
        products = query @ padded[:, dy:dy + h].transpose(-1, -2)             # b, h, w, width: a whole row at once
        # Cell x wants columns x … x + 2R: padding the flattened rows by w shifts each row by its own x.
        skewed = F.pad(products.flatten(2), (0, w)).unflatten(2, (w, width + 1))
        rows.append(skewed[..., :side])
    return F.relu(torch.cat(rows, -1)).movedim(-1, 1)


def global_match(target: Tensor, source: Tensor, sharpness: Tensor | float) -> tuple[Tensor, Tensor]:
    """Correlation with every source cell, read out as the expected position (soft arg-max, **ours**).

    Args:
        target: (B, C, h, w); source: (B, C, h', w'); both are normalised to unit length here.
        sharpness: factor before the softmax.

    Returns:
        the sampling map (B, 2, h, w), and the largest match probability (B, 1, h, w).
    """
    from .warp import identity_map

    b, _, h, w = target.shape
    query = F.normalize(target.flatten(2), dim=1) * sharpness
    key = F.normalize(source.flatten(2), dim=1)
    probability = torch.einsum("bcn,bcm->bnm", query, key).softmax(-1)
    grid = identity_map(*source.shape[-2:], device=source.device, dtype=source.dtype)[0].flatten(1)
    sampling = torch.einsum("bnm,cm->bcn", probability, grid).reshape(b, 2, h, w)
    return sampling, probability.amax(-1).reshape(b, 1, h, w)
