"""A sampling map drawn as colours, to look at: the usual picture of an optical flow."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import check_tensor
from .warp import identity_map, resize_map


def flow_colours(sampling: Tensor, height: int, width: int, longest: float | None = None) -> Tensor:
    """Where each pixel's colour was fetched from: hue is the direction, saturation the distance, white is "from here".

    Red is from the right, a quarter of the wheel on (yellow-green) from below, cyan from the left, violet from above.

    Args:
        sampling: φ, (B, 2, h, w), see `alignment.warp`.
        height, width: H and W of the pictures, in whose pixels distances are measured.
        longest: the distance in pixels that is drawn in full colour, as all beyond it is; None is the longest of the
            batch, at least one pixel.

    Returns:
        (B, 3, H, W) in 0..1.

    Raises:
        InputError: not a map.
    """
    check_tensor(sampling, "sampling", "B 2 h w", finite=True)
    here = identity_map(height, width, sampling.device, sampling.dtype)
    # A normalised coordinate runs over 2 for the whole side.
    x, y = (
        (resize_map(sampling, height, width) - here) * sampling.new_tensor([width / 2, height / 2])[:, None, None]
    ).unbind(1)
    distance = torch.hypot(x, y)
    if longest is None:
        longest = max(1.0, float(distance.max()))
    from kornia.color import hsv_to_rgb

    saturation = (distance / longest).clamp(max=1)
    hue = torch.atan2(y, x) % (2 * torch.pi)
    return hsv_to_rgb(torch.stack([hue, saturation, torch.ones_like(hue)], 1))
