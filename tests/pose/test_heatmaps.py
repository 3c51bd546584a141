from __future__ import annotations

import math

import pytest
import torch

from reposedm_core.errors import InputError
from reposedm_core.pose import decode_heatmaps, render_heatmaps


def _random_joints(batch: int, height: int, width: int, margin: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height]) - 2 * margin
    xy = torch.rand(batch, 17, 2, generator=generator) * size + margin
    return torch.cat([xy, torch.ones(batch, 17, 1)], -1)


def test_matches_a_plain_loop() -> None:
    joints = _random_joints(1, 32, 24, margin=0)
    heat = render_heatmaps(joints, 32, 24, sigma=1.5, stride=4)
    assert heat.shape == (1, 17, 8, 6)
    for k, (x, y, _) in enumerate(joints[0].tolist()):
        for i in range(8):
            for j in range(6):
                squared = (j + 0.5 - x / 4) ** 2 + (i + 0.5 - y / 4) ** 2
                assert heat[0, k, i, j].item() == pytest.approx(math.exp(-squared / (2 * 1.5**2)), abs=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_decoding_inverts_rendering_below_a_cell(stride: int) -> None:
    joints = _random_joints(4, 128, 96, margin=2 * stride)
    decoded = decode_heatmaps(render_heatmaps(joints, 128, 96, 2.0, stride), stride)
    assert decoded.shape == (4, 17, 3) and decoded.dtype == torch.float32
    torch.testing.assert_close(decoded[..., :2], joints[..., :2], atol=1e-3, rtol=0)
    assert (decoded[..., 2] > math.exp(-0.25 / 4) - 1e-6).all() and (decoded[..., 2] <= 1).all()


def test_peak_of_one_at_a_cell_centre() -> None:
    heat = render_heatmaps(torch.tensor([[[10.0, 6.0, 0.3]]]), 16, 16, 2.0, 4)
    assert heat[0, 0, 1, 2] == 1 and heat.max() == 1  # whatever the score


def test_absent_joints_are_empty_both_ways() -> None:
    joints = torch.tensor([[[5.0, 5.0, 0.0], [math.nan, 5.0, 1.0], [5.0, 5.0, -1.0], [5.0, 5.0, 1.0]]])
    heat = render_heatmaps(joints, 16, 16, 2.0, 4)
    assert heat.isfinite().all() and not heat[0, :3].any() and heat[0, 3].any()
    decoded = decode_heatmaps(heat, 4)
    assert not decoded[0, :3].any() and decoded[0, 3, 2] > 0


def test_decoding_survives_noise_borders_and_nan() -> None:
    heat = torch.full((1, 3, 4, 5), -1.0)
    heat[0, 0, 0, 4] = 0.5  # a corner: no neighbour on either axis
    heat[0, 1, 2, 2] = math.nan
    heat[0, 2, 1] = 0.25  # a plateau
    decoded = decode_heatmaps(heat, 4)
    torch.testing.assert_close(decoded[0, 0], torch.tensor([18.0, 2.0, 0.5]))
    assert not decoded[0, 1].any()
    torch.testing.assert_close(decoded[0, 2, 1:], torch.tensor([6.0, 0.25]))
    assert decoded.isfinite().all()


def test_offsets_are_at_most_half_a_cell() -> None:
    heat = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    refined = decode_heatmaps(heat, 1)[..., :2]
    index = heat.flatten(2).argmax(-1)
    cell = torch.stack([index % 7, index // 7], -1) + 0.5
    assert ((refined - cell).abs() <= 0.5).all() and (refined != cell).any()


def test_batch_consistency_and_half_precision() -> None:
    joints = _random_joints(3, 64, 48, margin=8)
    heat = render_heatmaps(joints, 64, 48)
    for i in range(3):
        assert torch.equal(heat[i : i + 1], render_heatmaps(joints[i : i + 1], 64, 48))
    assert decode_heatmaps(heat.half()).dtype == torch.float32
    torch.testing.assert_close(decode_heatmaps(heat.half()), decode_heatmaps(heat), atol=0.05, rtol=0)


def test_gradcheck() -> None:
    joints = _random_joints(1, 16, 16, margin=2)[:, :3].double()
    joints[0, 2, 2] = 0
    xy = joints[..., :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: render_heatmaps(torch.cat([p, joints[..., 2:]], -1), 16, 16, 1.0, 4), (xy,)
    )


def test_exceptions() -> None:
    with pytest.raises(InputError, match="divisible by the stride 4"):
        render_heatmaps(torch.zeros(1, 17, 3), 30, 24)
    with pytest.raises(InputError, match="batch, joints, 3"):
        render_heatmaps(torch.zeros(17, 3), 32, 24)
    with pytest.raises(InputError, match="batch, joints, h, w"):
        decode_heatmaps(torch.zeros(17, 8, 8))
