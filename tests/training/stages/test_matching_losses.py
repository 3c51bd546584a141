"""What the aligner of kind "matching" is trained with: each loss against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reposedm_core.alignment.warp import identity_map
from training.data.groups import FAR, Moves, draw_moves
from training.stages.matching_losses import bending_loss, coarse_truth, matching_loss, moved_surface, surface_loss


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_matching_loss_equals_the_loop():
    """-log p of the four cells around the true place, weighed as bilinear interpolation weighs them."""
    h, w = 4, 3
    log, seen = drawn(2, h * w, h * w).log_softmax(-1), (drawn(2, 1, h, w, seed=1) > 0).float()
    truth = 0.6 * drawn(2, 2, h, w, seed=2)  # some beyond the centres of the border's cells
    means = []
    for n in range(2):
        values = []
        for y in range(h):
            for x in range(w):
                if not seen[n, 0, y, x]:
                    continue
                column = min(max((float(truth[n, 0, y, x]) + 1) * w / 2 - 0.5, 0), w - 1.001)
                row = min(max((float(truth[n, 1, y, x]) + 1) * h / 2 - 0.5, 0), h - 1.001)
                value = 0.0
                for j in (math.floor(row), math.floor(row) + 1):
                    for i in (math.floor(column), math.floor(column) + 1):
                        share = (1 - abs(row - j)) * (1 - abs(column - i))
                        value -= share * float(log[n, y * w + x, j * w + i])
                values.append(value)
        means.append(sum(values) / len(values))
    assert float(matching_loss(log, truth, seen)) == pytest.approx(sum(means) / 2, rel=1e-5)
    assert matching_loss(log, truth, 0 * seen) == 0


def test_the_bending_loss_equals_the_loop_and_leaps_between_limbs_cost_nothing():
    found, truth = (0.05 * drawn(2, 2, 5, 4, seed=n) for n in (0, 1))
    truth[..., 2:] += 1.0  # another limb
    seen, unit = (drawn(2, 1, 5, 4, seed=2) > -0.5).float(), torch.tensor([48.0, 64.0])[:, None, None]
    expected = 0.0
    for dy, dx in ((0, 1), (1, 0)):
        for n in range(2):
            values = []
            for y in range(5 - dy):
                for x in range(4 - dx):
                    true, step = (m[n, :, y + dy, x + dx] - m[n, :, y, x] for m in (truth, found))
                    if seen[n, 0, y, x] and seen[n, 0, y + dy, x + dx] and true.abs().max() < FAR:
                        values.append(float(((step - true) * unit[:, 0, 0]).abs().sum()))
            expected += sum(values) / max(1, len(values)) / 2
    assert float(bending_loss(found, truth, seen, unit)) == pytest.approx(expected, rel=1e-5)
    assert bending_loss(truth + 0.3, truth, seen, unit) < 1e-4 < bending_loss(found, truth, seen, unit)


def test_the_coarse_truth_is_the_mean_of_what_is_visible():
    flow, visible = drawn(2, 2, 6, 4), torch.randint(0, 3, (2, 1, 6, 4), generator=torch.Generator().manual_seed(1))
    place, shown = coarse_truth(flow, visible, 3, 2)
    for n in range(2):
        for y in range(3):
            for x in range(2):
                rows, columns = slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2)
                seen = visible[n, 0, rows, columns] == 2
                assert bool(shown[n, 0, y, x]) == bool(seen.sum() >= 2)
                if seen.any():
                    torch.testing.assert_close(place[n, :, y, x], flow[n, :, rows, columns][:, seen].mean(-1))


def test_the_surface_loss_is_the_distance_on_the_person():
    truth = drawn(2, 3, 4, 4)
    truth[:, :, :2] = 0
    assert float(surface_loss(truth, truth)) == pytest.approx(0.01)
    off = truth + torch.tensor([0.0, 0.3, 0.4]).view(3, 1, 1)
    assert float(surface_loss(off, truth)) == pytest.approx(0.5, rel=1e-3)
    off[:, :, :2] += 9
    assert float(surface_loss(off, truth)) == pytest.approx(0.5, rel=1e-3), "off the person anything will do"


def test_a_surface_moves_with_its_picture_and_a_mirrored_left_is_a_right():
    x, y = identity_map(16, 12)[0]
    surface = torch.stack([x, torch.full_like(x, 0.7), y]).repeat(2, 1, 1, 1)
    flips = np.array([False, True])
    moves = draw_moves([np.random.default_rng(n) for n in range(2)], flips, 0.75, 0.1, 5.0, 0.05)
    moved = moved_surface(surface, moves, 16, 12)
    back = moves.inverse().grid(16, 12)
    inside = back.abs().amax(1) < 0.9
    for n, sign in enumerate((1, -1)):
        assert (moved[n, 0] - sign * back[n, 0])[inside[n]].abs().max() <= 1 / 12 + 1e-5, "of the nearest cell"
        assert (moved[n, 2] - back[n, 1])[inside[n]].abs().max() <= 1 / 16 + 1e-5
    assert (moved[:, 1][inside] == 0.7).all()
    away = Moves(np.eye(2, dtype=np.float32)[None], np.array([[3.0, 0]], np.float32), np.array([False]))
    assert not moved_surface(surface[:1], away, 16, 12).any()
