"""Local and global correlation of target and source features (eq. 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError
from ..letterbox import size_of
from .warp import identity_map
from .windows import Tiles


def local_correlation(target: Tensor, source: Tensor, radius: int) -> Tensor:
    """C(x, r) = ReLU(F_T(x)ᵀ F_S(x + r) / √C) for ‖r‖∞ ≤ R; zero where x + r lies outside (the √C is **ours**).

    Args:
        target, source: features (B, C, h, w) of one dtype.
        radius: R in cells, 0 or more.

    Returns:
        (B, (2R+1)², h, w), offsets in row-major order (r_y outer, r_x inner). Memory is O(h·w·(2R+1)²).

    Raises:
        InputError: shapes, dtypes or devices that do not fit, or a negative radius.
    """
    sizes = check_tensor(target, "target", "B C h w")
    check_tensor(source, "source", "B C h w", sizes, like=target)
    if radius < 0:
        raise InputError(f"radius = {radius}: expected 0 or more cells.")
    b, c, h, w = target.shape
    tiles, side = Tiles(b, h, w, radius), 2 * radius + 1
    query = tiles.queries(target.movedim(1, -1) * c**-0.5)
    products = torch.bmm(query, tiles.keys(source.movedim(1, -1)).transpose(1, 2))  # tiles, S·T, keys
    # Cell (y, x) of a tile wants rows y … y + 2R and columns x … x + 2R of its keys: one step of y or x also moves on
    # by one row or column of them. The strides skip the tiles between two bands, too.
    keys = tiles.block * tiles.span
    tile = tiles.high * tiles.wide * keys
    band = tiles.rows * tile
    windows = products.as_strided(
        (b, -(-h // tiles.high), tiles.high, tiles.columns, tiles.wide, side, side),
        (tiles.columns * band, tile, tiles.wide * keys + tiles.span, band, keys + 1, tiles.span, 1),
    )
    windows = windows.reshape(b, -1, tiles.columns * tiles.wide, side * side)
    return windows[:, :h, :w].relu_().movedim(-1, 1)


def global_match(target: Tensor, source: Tensor, sharpness: Tensor | float) -> tuple[Tensor, Tensor]:
    """Correlation with every source cell, read out as the expected position (soft arg-max, **ours**).

    Args:
        target: (B, C, h, w); source: (B, C, h', w'); both are normalised to unit length here.
        sharpness: factor before the softmax.

    Returns:
        the sampling map (B, 2, h, w), float32 for features of half precision, and the largest match probability
        (B, 1, h, w) in the features' dtype.
    """
    sizes = check_tensor(target, "target", "B C h w")
    check_tensor(source, "source", "B C h' w'", sizes, like=target)
    b, _, h, w = target.shape
    query, key = (F.normalize(t.movedim(1, -1).flatten(1, 2), dim=-1) for t in (target, source))
    logits = torch.bmm(query * sharpness, key.transpose(1, 2))
    # Positions need more than the 8 bits of bfloat16, also where autocast would choose it.
    with torch.autocast("cpu" if target.is_meta else target.device.type, enabled=False):
        probability = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        grid = identity_map(*size_of(source), device=source.device, dtype=probability.dtype)[0].flatten(1)
        sampling = (probability @ grid.T).transpose(1, 2).reshape(b, 2, h, w)
    return sampling, probability.amax(-1).to(target.dtype).reshape(b, 1, h, w)
