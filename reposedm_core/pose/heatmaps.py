"""Joints to Gaussian heat maps and back.

Coordinates are pixels of the full picture with pixel centres at +0.5. There are two rules for where cells lie:

- plain: cell (i, j) of a map of stride s is centred on the picture position ((j + 0.5) s, (i + 0.5) s), so that no
  half-cell shift is lost on the way;
- UDP (Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for Human Pose Estimation",
  CVPR 2020): the first and the last cell lie on the centres of the first and the last pixel, so that
  x = 0.5 + j (W - 1) / (w - 1), in which UDP's own coordinates have pixel centres at whole numbers and no 0.5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError


def cells_to_pixels(cells: Tensor, size: int, stride: int, udp: bool = False) -> Tensor:
    """Positions along one axis, in cells counted from 0, to pixels (centres at +0.5).

    Args:
        cells: any shape, fractions allowed.
        size: w or h, cells along this axis; the picture has size * stride pixels.
        stride: picture pixels per cell.
        udp: by UDP's rule instead of the plain one.
    """
    if udp:
        return cells * ((size * stride - 1) / max(size - 1, 1)) + 0.5
    return (cells + 0.5) * stride


def pixels_to_cells(pixels: Tensor, size: int, stride: int, udp: bool = False) -> Tensor:
    """The inverse of `cells_to_pixels`."""
    if udp:
        return (pixels - 0.5) * (max(size - 1, 1) / (size * stride - 1))
    return pixels / stride - 0.5


def render_heatmaps(
    joints: Tensor, height: int, width: int, sigma: float = 2.0, stride: int = 4, udp: bool = False
) -> Tensor:
    """One Gaussian of height 1 a joint, centred on the joint's exact (sub-cell) position.

    Args:
        joints: (B, K, 3) x, y in pixels of the height x width picture, and a score; a score of 0 (or less)
            means absent and gives an empty map. Any positive score gives the same height of 1.
        height, width: of the picture, both divisible by `stride`.
        sigma: standard deviation in heat-map cells (HigherHRNet uses 2).
        stride: picture pixels per cell.
        udp: cells lie as UDP has them.

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
    centre = torch.where(present[..., None], joints[..., :2], 0)

    def profile(axis: int, size: int) -> Tensor:
        cells = torch.arange(size, device=joints.device, dtype=joints.dtype)
        middle = pixels_to_cells(centre[..., axis : axis + 1], size, stride, udp)
        return torch.exp(-((cells - middle) ** 2) / (2 * sigma**2))

    # A Gaussian is separable: two short profiles instead of one exponential a cell.
    along_x = profile(0, width // stride)
    along_y = profile(1, height // stride) * present[..., None]
    return along_y[..., :, None] * along_x[..., None, :]


def decode_heatmaps(heatmaps: Tensor, stride: int = 4, udp: bool = False) -> Tensor:
    """The position of the highest cell of every map, refined below a cell: one person a picture.

    Args:
        heatmaps: (B, K, h, w); values at or below 0, and NaN, count as empty.
        stride: picture pixels per cell.
        udp: the maps follow UDP's rule, see `subcell_offset`.

    Returns:
        (B, K, 3) float32: x, y in picture pixels and the peak's value as score; all 0 where a map is empty.
    """
    check_tensor(heatmaps, "heatmaps", "B K h w")
    maps = torch.nan_to_num(heatmaps.detach().float()).clamp(min=0)
    score, index = maps.flatten(2).max(-1)
    place = locate_peaks(maps, index[..., None], stride, udp)[..., 0, :]
    return torch.cat([place, score[..., None]], -1) * (score > 0)[..., None]


def locate_peaks(maps: Tensor, index: Tensor, stride: int, udp: bool = False) -> Tensor:
    """Cells of heat maps as refined picture positions.

    Args:
        maps: (B, K, h, w), 0 or more and finite.
        index: (B, K, N) int64, the cells as i · w + j.
        stride, udp: as in `decode_heatmaps`.

    Returns:
        (B, K, N, 2): x, y in pixels.
    """
    rows, columns = maps.shape[-2:]
    offset = subcell_offset(maps, index, udp)
    x = cells_to_pixels(index % columns + offset[..., 0], columns, stride, udp)
    y = cells_to_pixels(index // columns + offset[..., 1], rows, stride, udp)
    return torch.stack([x, y], -1)


def subcell_offset(maps: Tensor, index: Tensor, udp: bool = False) -> Tensor:
    """How far the top of a peak is from its cell, from the logarithm of the map around it.

    Plain maps: a parabola through the cell and its two neighbours on each axis, which is exact for a Gaussian.
    On the border of the map, where a neighbour is missing, that axis is not refined.

    UDP's: one Newton step of the second-order Taylor expansion in both axes at once (DARK, Zhang et al., CVPR 2020,
    as UDP uses it), on the map smoothed by [1, 2, 1] / 4; beyond the border the map continues with its edge.

    Args:
        maps: (B, K, h, w), 0 or more and finite. index: (B, K, N) int64 cells.

    Returns:
        (B, K, N, 2): x, y in cells; at most half a cell on each axis (plain), or one (UDP).
    """
    return _newton(maps, index) if udp else _parabolas(maps, index)


def _parabolas(maps: Tensor, index: Tensor) -> Tensor:
    rows, columns = maps.shape[-2:]
    logs = maps.clamp(min=1e-6).log().flatten(2)
    here = logs.gather(-1, index)

    def offset(position: Tensor, size: int, step: int) -> Tensor:
        before = logs.gather(-1, (index - step).clamp(min=0))
        after = logs.gather(-1, (index + step).clamp(max=rows * columns - 1))
        bend = 2 * here - before - after
        inside = (position > 0) & (position < size - 1) & (bend > 1e-6)
        # Within half a cell where the middle of the three is the highest.
        shift = (0.5 * (after - before) / torch.where(inside, bend, 1.0)).clamp(-0.5, 0.5)
        return torch.where(inside, shift, 0.0)

    return torch.stack([offset(index % columns, columns, 1), offset(index // columns, rows, columns)], -1)


def _newton(maps: Tensor, index: Tensor) -> Tensor:
    rows, columns = maps.shape[-2:]
    kernel = maps.new_tensor([0.25, 0.5, 0.25])
    flat = maps.reshape(-1, 1, rows, columns)
    # The border is mirrored about its own cell; a map of one cell has nothing to mirror.
    flat = F.pad(flat, (1, 1, 1, 1), mode="reflect" if min(rows, columns) > 1 else "replicate")
    smooth = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 3, 1)), kernel.view(1, 1, 1, 3))
    logs = F.pad(smooth.clamp(1e-3, 50).log(), (1, 1, 1, 1), mode="replicate").view(*maps.shape[:2], -1)
    wide = columns + 2
    padded = (index // columns + 1) * wide + index % columns + 1

    def at(dy: int, dx: int) -> Tensor:
        return logs.gather(-1, padded + dy * wide + dx)

    here, left, right, up, down = at(0, 0), at(0, -1), at(0, 1), at(-1, 0), at(1, 0)
    dx, dy = (right - left) / 2, (down - up) / 2
    dxx, dyy = right - 2 * here + left, down - 2 * here + up
    dxy = (at(1, 1) - right - down + 2 * here - left - up + at(-1, -1)) / 2
    determinant = dxx * dyy - dxy**2
    # Only a peak has a top to step to: a plateau or a saddle stays where it is.
    peak = (dxx < 0) & (determinant > 1e-9)
    safe = torch.where(peak, determinant, 1.0)
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / safe[..., None]
    return torch.where(peak[..., None], step, 0.0).clamp(-1, 1)
