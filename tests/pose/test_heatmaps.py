from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reposedm_core.errors import InputError
from reposedm_core.pose.heatmaps import (
    cells_to_pixels,
    decode_heatmaps,
    pixels_to_cells,
    render_heatmaps,
    subcell_offset,
)


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
    for shape in ((17, 8, 8), (0, 17, 8, 8), (1, 17, 8, 0)):
        with pytest.raises(InputError, match=r"heatmaps has shape .* \(B, K, h, w\)"):
            decode_heatmaps(torch.zeros(shape))
    with pytest.raises(InputError, match=r"heatmaps has .* dtype torch\.int32"):
        decode_heatmaps(torch.zeros(1, 17, 8, 8, dtype=torch.int32))


# -- UDP's unbiased data processing


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_udp_maps_first_and_last_cell_to_first_and_last_pixel(stride: int) -> None:
    """x / (W − 1) = j / (w − 1) in UDP's coordinates, whose pixel centres are whole numbers."""
    cells = torch.arange(12.0)
    pixels = cells_to_pixels(cells, 12, stride, udp=True)
    torch.testing.assert_close((pixels - 0.5) / (12 * stride - 1), cells / 11)
    torch.testing.assert_close(pixels_to_cells(pixels, 12, stride, udp=True), cells)
    torch.testing.assert_close(pixels[[0, -1]], torch.tensor([0.5, 12 * stride - 0.5]))


@pytest.mark.parametrize("udp", [False, True])
def test_both_rules_are_equivariant_to_a_flip(udp: bool) -> None:
    """What UDP was made for: a mirrored picture has mirrored maps, joint for joint."""
    joints = _random_joints(1, 64, 48, margin=0)
    mirrored = joints.clone()
    mirrored[..., 0] = 48 - joints[..., 0]
    heat, other = (render_heatmaps(j, 64, 48, 2.0, 4, udp) for j in (joints, mirrored))
    torch.testing.assert_close(other, heat.flip(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_udp_decoding_inverts_udp_rendering(stride: int) -> None:
    joints = _random_joints(4, 128, 96, margin=2 * stride)
    heat = render_heatmaps(joints, 128, 96, 2.0, stride, udp=True)
    torch.testing.assert_close(decode_heatmaps(heat, stride, udp=True)[..., :2], joints[..., :2], atol=1e-3, rtol=0)
    if stride == 4:  # the other rule misses by up to stride / 2 - 0.5 pixels, at the borders
        assert (decode_heatmaps(heat, stride)[..., :2] - joints[..., :2]).abs().max() > 0.9


def _udp_refinement(heat: np.ndarray, x: int, y: int) -> np.ndarray:
    """UDP's refinement of one peak as its authors spell it: blur, logarithm, Hessian⁻¹ · gradient."""
    rows, columns = heat.shape
    blurred = np.zeros_like(heat)
    for i in range(rows):
        for j in range(columns):
            for di, a in ((-1, 0.25), (0, 0.5), (1, 0.25)):
                for dj, b in ((-1, 0.25), (0, 0.5), (1, 0.25)):
                    mirrored = tuple(
                        n if 0 <= n < size else 2 * (size - 1) - n if n >= size else -n
                        for n, size in ((i + di, rows), (j + dj, columns))
                    )
                    blurred[i, j] += a * b * heat[mirrored]
    log = np.pad(np.log(np.clip(blurred, 0.001, 50)), 1, mode="edge")
    x, y = x + 1, y + 1
    gradient = np.array([log[y, x + 1] - log[y, x - 1], log[y + 1, x] - log[y - 1, x]]) / 2
    dxx, dyy = log[y, x + 1] - 2 * log[y, x] + log[y, x - 1], log[y + 1, x] - 2 * log[y, x] + log[y - 1, x]
    dxy = (
        log[y + 1, x + 1]
        - log[y, x + 1]
        - log[y + 1, x]
        + 2 * log[y, x]
        - log[y, x - 1]
        - log[y - 1, x]
        + log[y - 1, x - 1]
    ) / 2
    return -np.linalg.inv(np.array([[dxx, dxy], [dxy, dyy]])) @ gradient


def test_udp_refinement_is_the_published_formula() -> None:
    joints = _random_joints(1, 40, 32, margin=0, seed=3)  # some peaks are on the border
    generator = torch.Generator().manual_seed(4)
    heat = render_heatmaps(joints, 40, 32, 2.0, 4) + 0.05 * torch.rand(1, 17, 10, 8, generator=generator)
    index = heat.flatten(2).argmax(-1)
    offset = subcell_offset(heat, index[..., None], udp=True)[0, :, 0]
    on_border = 0
    for k in range(17):
        y, x = divmod(int(index[0, k]), 8)
        on_border += x in (0, 7) or y in (0, 9)
        expected = _udp_refinement(heat[0, k].double().numpy(), x, y).clip(-1, 1)
        np.testing.assert_allclose(offset[k].numpy(), expected, atol=1e-4)
    assert 0 < on_border < 17 and offset.abs().max() > 0.1


def test_udp_refinement_stays_where_there_is_no_peak() -> None:
    heat = torch.full((1, 1, 3, 5), 0.25)
    torch.testing.assert_close(decode_heatmaps(heat, 4, udp=True)[0, 0], torch.tensor([0.5, 0.5, 0.25]))
    assert not decode_heatmaps(heat[..., :1, :1], 4, udp=True)[..., 2].sub(0.25).any()
