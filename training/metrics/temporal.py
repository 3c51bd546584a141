"""Does a person look the same from frame to frame? Warp error by exact correspondence."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reposedm_core.checks import check_tensor
from reposedm_core.errors import InputError


def warp_error(frames: Tensor, flow: np.ndarray, seen: np.ndarray) -> float:
    """How much the colour of a point of the surface changes from one frame to the next, in % of the range.

    Args:
        frames: (T, 3, H, W) in 0..1. flow: (T - 1, H, W, 2), where what a frame but the first shows lies in the one
            before, as in `grid_sample`. seen: (T - 1, H, W) bool, the pixels that count.

    Returns:
        The mean absolute difference over pixels and channels; NaN where no pixel counts.

    Raises:
        InputError: shapes that do not fit.
    """
    sizes = check_tensor(frames, "frames", "T 3 H W")
    shape = (sizes["T"] - 1, sizes["H"], sizes["W"])
    if flow.shape != (*shape, 2) or seen.shape != shape:
        raise InputError(f"flow {flow.shape} and seen {seen.shape} do not fit frames {tuple(frames.shape)}.")
    before = F.grid_sample(
        frames[:-1], torch.from_numpy(flow).to(frames), mode="bilinear", padding_mode="border", align_corners=False
    )
    changed = (frames[1:] - before).abs().mean(1)[torch.from_numpy(seen)]
    return 100 * float(changed.mean()) if len(changed) else float("nan")
