"""A clip's correspondence is exact, its camera and light stand still, and it is the same clip every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("anny", reason="the synthetic people need anny")

from reposedm_core.errors import InputError
from training.metrics.temporal import warp_error
from training.synthetic.body import load_body
from training.synthetic.clip import BETWEEN, movement, render_clip


@pytest.fixture(scope="module")
def clip():
    return render_clip(load_body(), 1, 50, movement("dance_a", 3, 4), 20, 128, 96)


def test_shapes_and_repetition(clip):
    assert clip.pictures.shape == (4, 128, 96, 3) and clip.source.shape == (128, 96, 3)
    assert clip.poses.shape == (4, 18, 3) and clip.source_pose.shape == (18, 3)
    assert clip.flow.shape == (3, 128, 96, 2) and clip.seen.shape == (3, 128, 96)
    again = render_clip(load_body(), 1, 50, movement("dance_a", 3, 2), 20, 128, 96)
    assert again.pictures.shape[0] == 2 and not np.array_equal(clip.pictures[0], clip.pictures[3])


def test_the_surface_keeps_its_colour_and_the_background_its_place(clip):
    frames = torch.from_numpy(clip.pictures).movedim(-1, 1).float() / 255
    assert 0.05 < clip.seen.mean() < 0.3
    assert warp_error(frames, clip.flow, clip.seen) < 2.5, "shading and sampling alone"
    still = np.stack(np.meshgrid(*((np.arange(n) + 0.5) * 2 / n - 1 for n in (96, 128))), -1)
    still = np.broadcast_to(still, clip.flow.shape).astype(np.float32)
    assert warp_error(frames, still, clip.seen) > 1.5 * warp_error(frames, clip.flow, clip.seen)
    everybody = (np.abs(np.diff(clip.pictures.astype(int), axis=0)).max(-1) > 0).any(0)
    assert np.array_equal(clip.pictures[0][~everybody], clip.pictures[-1][~everybody])
    assert 0.05 < everybody.mean() < 0.5


def test_joints_go_with_the_surface():
    """At a joint that is seen, the correspondence leads to about where that joint was, which lies below the surface."""
    clip = render_clip(load_body(), 1, 50, movement("kick", 2, 4), 0, 128, 96)
    off, moved = [], []
    for number in range(3):
        for (x, y, score), before in zip(clip.poses[number + 1], clip.poses[number, :, :2], strict=True):
            row, column = int(y), int(x)
            if score == 2 and clip.seen[number, row, column] and np.linalg.norm((x, y) - before) > 1:
                off.append(np.linalg.norm((clip.flow[number, row, column] + 1) / 2 * (96, 128) - before))
                moved.append(np.linalg.norm((x, y) - before))
    assert len(off) >= 5 and np.median(off) < 0.4 * np.median(moved)


def test_movement_goes_through_the_kept_frames_and_has_an_end():
    through = movement("walk", 0, 2 * BETWEEN + 1)
    half = movement("walk", 1, BETWEEN + 1)
    np.testing.assert_allclose(through[BETWEEN:], half, atol=1e-6)
    assert np.abs(np.diff(through, axis=0)).max() < 0.6
    with pytest.raises(InputError, match="motion: there is no clip moonwalk; choose backflip, "):
        movement("moonwalk", 0, 4)
    with pytest.raises(InputError, match=r"motion: walk has .* frames from there"):
        movement("walk", 0, 4000)
