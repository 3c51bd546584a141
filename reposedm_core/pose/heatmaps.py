"""Joints to Gaussian heat maps and back.

Coordinates are pixels of the full picture with pixel centres at +0.5, so cell (i, j) of a map of stride s
is centred on the picture position ((j + 0.5) s, (i + 0.5) s) and no half-cell shift is lost on the way.
"""

from __future__ import annotations

import torch

from ..errors import InputError


def render_heatmaps(
    joints: torch.Tensor, height: int, width: int, sigma: float = 2.0, stride: int = 4
) -> torch.Tensor:
    """One Gaussian of height 1 a joint, centred on the joint's exact (sub-cell) position.

    Args:
        joints: (B, K, 3) x, y in pixels of the height x width picture, and a score; a score of 0 (or less)
            means absent and gives an empty map. Any positive score gives the same height of 1.
        height, width: of the picture, both divisible by `stride`.
        sigma: standard deviation in heat-map cells (HigherHRNet uses 2).
        stride: picture pixels a cell.

    Returns:
        (B, K, height / stride, width / stride) in 0..1, on the device of `joints`, differentiable in x and y.

    Raises:
        InputError: a shape that is not (B, K, 3), or a size not divisible by the stride.
    """
    if joints.ndim != 3 or joints.shape[-1] != 3:
        raise InputError(f"The joints have shape {tuple(joints.shape)}: heat maps need (batch, joints, 3).")
    if height % stride or width % stride:
        raise InputError(f"The picture size {width}x{height} is not divisible by the stride {stride}.")
    joints = joints if joints.is_floating_point() else joints.float()
    present = (joints[..., 2] > 0) & joints[..., :2].isfinite().all(-1)
    # An absent joint may hold any number, NaN included: it must not reach the exponential.
    centre = torch.where(present[..., None], joints[..., :2], 0) / stride
    columns = torch.arange(width // stride, device=joints.device, dtype=joints.dtype) + 0.5
    rows = torch.arange(height // stride, device=joints.device, dtype=joints.dtype) + 0.5
    # A Gaussian is separable: two short profiles instead of one exponential a cell.
    along_x = torch.exp(-((columns - centre[..., 0:1]) ** 2) / (2 * sigma**2))
    along_y = torch.exp(-((rows - centre[..., 1:2]) ** 2) / (2 * sigma**2)) * present[..., None]
    return along_y[..., :, None] * along_x[..., None, :]


def decode_heatmaps(heatmaps: torch.Tensor, stride: int = 4) -> torch.Tensor:
    """The position of the highest cell of every map, refined below a cell: one person a picture.

    The refinement fits a parabola to the logarithm of the peak and its two neighbours on each axis, which
    is exact for a Gaussian. On the border of the map, where a neighbour is missing, that axis is not refined.

    Args:
        heatmaps: (B, K, h, w); values at or below 0, and NaN, count as empty.
        stride: picture pixels a cell.

    Returns:
        (B, K, 3) float32: x, y in picture pixels and the peak's value as score; all 0 where a map is empty.
    """
    if heatmaps.ndim != 4:
        raise InputError(
            f"The heat maps have shape {tuple(heatmaps.shape)}: (batch, joints, h, w) is needed."
        )
    maps = torch.nan_to_num(heatmaps.detach().float()).clamp(min=0)
    rows, columns = maps.shape[-2:]
    score, index = maps.flatten(2).max(-1)
    y, x = index // columns, index % columns
    logs = maps.clamp(min=1e-6).log().flatten(2)

    def offset(position: torch.Tensor, size: int, step: int) -> torch.Tensor:
        before = logs.gather(-1, (index - step).clamp(min=0)[..., None])[..., 0]
        after = logs.gather(-1, (index + step).clamp(max=rows * columns - 1)[..., None])[..., 0]
        bend = 2 * logs.gather(-1, index[..., None])[..., 0] - before - after
        inside = (position > 0) & (position < size - 1) & (bend > 1e-6)
        # Within half a cell, because the middle of the three is the highest.
        shift = 0.5 * (after - before) / torch.where(inside, bend, 1.0)
        return torch.where(inside, shift, 0.0)

    x = (x + 0.5 + offset(x, columns, 1)) * stride
    y = (y + 0.5 + offset(y, rows, columns)) * stride
    return torch.stack([x, y, score], -1) * (score > 0)[..., None]
