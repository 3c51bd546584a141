from __future__ import annotations

import numpy as np
import pytest
import torch

from reposedm_core.alignment.warp import identity_map
from reposedm_core.errors import InputError
from training.metrics.temporal import warp_error


def moving(count: int = 4, step: int = 3) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Noise that moves to the right by whole pixels, its exact correspondence, and where both frames show it."""
    wide = torch.rand(3, 24, 60, generator=torch.Generator().manual_seed(0))
    frames = torch.stack([wide[..., 20 - step * t : 52 - step * t] for t in range(count)])
    here = identity_map(24, 32, dtype=torch.float32)[0].movedim(0, -1)
    flow = (here - torch.tensor([2 * step / 32, 0.0])).expand(count - 1, -1, -1, -1).numpy().copy()
    seen = np.zeros((count - 1, 24, 32), bool)
    seen[..., step:] = True
    return frames, flow, seen


def test_what_moves_and_stays_the_same_has_none() -> None:
    frames, flow, seen = moving()
    assert warp_error(frames, flow, seen) < 1e-4
    assert warp_error(frames, np.zeros_like(flow) + flow[..., ::-1, ::-1, :], seen) > 20
    assert warp_error(frames[:1].expand(4, -1, -1, -1), flow, seen) > 20, "a still picture of somebody who moves"


def test_it_is_the_change_in_percent_where_it_counts() -> None:
    frames, flow, seen = moving()
    brighter = frames * 0.5 + torch.tensor([0.0, 0.02, 0.04, 0.06])[:, None, None, None]
    assert warp_error(brighter, flow, seen) == pytest.approx(2.0, rel=1e-3)
    spoilt = brighter.clone()
    spoilt[2, :, :12] = 0
    below = seen.copy()
    below[:, :12] = False
    assert warp_error(spoilt, flow, below) == pytest.approx(2.0, rel=1e-3)
    assert warp_error(spoilt, flow, seen) > 5
    assert np.isnan(warp_error(frames, flow, np.zeros_like(seen)))


def test_shapes_that_do_not_fit() -> None:
    frames, flow, seen = moving()
    with pytest.raises(InputError, match=r"flow \(2, 24, 32, 2\) and seen \(3, 24, 32\) do not fit frames"):
        warp_error(frames, flow[:2], seen)
