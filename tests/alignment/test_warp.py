"""Sampling maps (equations 7-9): identity, translation, rotation, composition against warping in sequence."""

import math

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.alignment.warp import compose, identity_map, resize_map, sample, warp


def shifted(x, y, height, width):
    """The map that samples x, y pixels further right and down, float64."""
    shift = torch.tensor([2 * x / width, 2 * y / height], dtype=torch.float64).view(1, 2, 1, 1)
    return identity_map(height, width, dtype=torch.float64) + shift


def turned(degrees, side):
    """The map that samples turned about the centre, float64, (1, 2, side, side)."""
    grid = identity_map(side, side, dtype=torch.float64)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.stack([c * grid[:, 0] - s * grid[:, 1], s * grid[:, 0] + c * grid[:, 1]], 1)


def bent(at, phase, size=0.06):
    """A map in closed form that bends gently: position (B, 2, h, w) → position."""
    return at + size * torch.stack([torch.sin(3 * at[:, 1] + phase), torch.sin(2 * at[:, 0] - phase)], 1)


def smooth_map(side, phase):
    """`bent` at every cell, float64, (1, 2, side, side)."""
    return bent(identity_map(side, side, dtype=torch.float64), phase)


def test_identity_is_exact():
    image = torch.rand(2, 3, 16, 12)
    torch.testing.assert_close(warp(image, identity_map(4, 3).expand(2, -1, -1, -1)), image, rtol=0, atol=1e-6)


def test_resizing_keeps_the_identity():
    torch.testing.assert_close(resize_map(identity_map(5, 7), 20, 21), identity_map(20, 21), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("x", "y"), [(3, -2), (-4, 0), (0, 5)])
def test_translation_by_whole_pixels_is_exact(x, y):
    image = torch.rand(1, 3, 16, 18, dtype=torch.float64)
    moved = warp(image, shifted(x, y, 16, 18))
    rows = (torch.arange(16) + y).clamp(0, 15)  # the border is repeated outside
    columns = (torch.arange(18) + x).clamp(0, 17)
    torch.testing.assert_close(moved, image[:, :, rows][..., columns], rtol=0, atol=1e-12)


def test_composing_with_the_identity_changes_nothing():
    sampling = smooth_map(24, 0)
    torch.testing.assert_close(compose(sampling, torch.zeros_like(sampling)), sampling, rtol=0, atol=1e-12)
    grid = identity_map(24, 24, dtype=torch.float64)
    torch.testing.assert_close(compose(grid, sampling - grid), sampling, rtol=0, atol=1e-12)


def test_composed_translations_add_up_and_equal_warping_twice():
    """W(W(I; φ); ψ) = W(I; φ∘ψ), exactly, also where ψ leaves the frame."""
    image = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    first, second, grid = shifted(2, 1, 24, 24), shifted(-4, 3, 24, 24), identity_map(24, 24, dtype=torch.float64)
    both = compose(first, second - grid)
    torch.testing.assert_close(both, shifted(-2, 4, 24, 24), rtol=0, atol=1e-12)
    twice = sample(sample(image, first), second)
    torch.testing.assert_close(sample(image, both)[..., 6:-6, 6:-6], twice[..., 6:-6, 6:-6], rtol=0, atol=1e-12)


def test_composed_rotations_add_up():
    """Bilinear interpolation of an affine map is exact inside the frame."""
    grid = identity_map(32, 32, dtype=torch.float64)
    both = compose(turned(20, 32), turned(-50, 32) - grid)
    inside = (turned(-50, 32).abs().amax(1, keepdim=True) < 1 - 1 / 32).expand_as(both)
    assert inside.double().mean() > 0.8
    torch.testing.assert_close(both[inside], turned(-30, 32)[inside], rtol=0, atol=1e-12)


def test_composing_bent_maps_equals_warping_in_sequence():
    """Three of them, on a smooth picture in closed form. The composed map reads the picture once, so it errs less."""

    def picture(at):
        return torch.sin(3 * at[:, :1] + 2 * at[:, 1:]) + torch.cos(4 * at[:, 1:] - at[:, :1])

    side, inside = 64, (..., slice(10, -10), slice(10, -10))
    grid = identity_map(side, side, dtype=torch.float64)
    image, maps = picture(grid), [smooth_map(side, phase) for phase in range(3)]
    once, sequence = maps[0], sample(image, maps[0])
    for sampling in maps[1:]:
        once, sequence = compose(once, sampling - grid), sample(sequence, sampling)
    exact = bent(bent(bent(grid, 2), 1), 0)
    assert (exact - grid)[inside].abs().max() > 0.1, "they do bend"
    torch.testing.assert_close(once[inside], exact[inside], rtol=0, atol=2e-4)
    errors = [float((result - picture(exact))[inside].abs().max()) for result in (sample(image, once), sequence)]
    assert errors[0] < errors[1] < 0.01


def test_composition_reads_the_first_map_where_the_offset_points():
    """φ(x + ΔF(x)), not φ(x) + ΔF(x): they differ where φ bends."""
    grid = identity_map(1, 64, dtype=torch.float64)
    cubic = grid.clone()
    cubic[:, 0] = grid[:, 0] ** 3
    offset = torch.zeros_like(grid)
    offset[:, 0] = 0.25
    expected = (grid[:, 0] + 0.25) ** 3
    inside = slice(0, 50)
    torch.testing.assert_close(compose(cubic, offset)[:, 0, :, inside], expected[..., inside], rtol=0, atol=2e-3)


def test_gradients():
    """Positions lie off the pixels' centres, where bilinear sampling has a derivative."""
    torch.manual_seed(0)
    image = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    offset = 0.1 * torch.rand(2, 2, 5, 4, dtype=torch.float64) + 0.03
    sampling = (0.9 * identity_map(5, 4, dtype=torch.float64) + offset).requires_grad_()
    coarse = (0.9 * identity_map(3, 2, dtype=torch.float64) + offset[..., :3, :2]).requires_grad_()
    assert torch.autograd.gradcheck(sample, (image, sampling))
    assert torch.autograd.gradcheck(warp, (image, coarse))
    assert torch.autograd.gradcheck(compose, (sampling, offset.clone().requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(close, dtype):
    """Pictures of half precision at positions of float32; the map is never rounded."""
    image = torch.rand(1, 3, 32, 24).to(dtype)
    sampling = smooth_map(16, 0)[..., :12].float()
    out = warp(image, sampling)
    assert out.dtype == dtype
    close(out, warp(image.float(), sampling), dtype)


def test_a_batch_is_its_pictures_alone():
    image = torch.rand(3, 2, 16, 16, dtype=torch.float64)
    maps = torch.cat([smooth_map(16, seed) for seed in range(3)])
    warped, composed = warp(image, maps), compose(maps, 0.1 * maps)
    for i in range(3):
        own = maps[i : i + 1]
        torch.testing.assert_close(warped[i : i + 1], warp(image[i : i + 1], own))
        torch.testing.assert_close(composed[i : i + 1], compose(own, 0.1 * own))


IMAGE, MAP = torch.rand(2, 3, 8, 8), identity_map(4, 4).repeat(2, 1, 1, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: warp(IMAGE[0], MAP), r"image has shape \(3, 8, 8\); expected 4 axes"),
        (lambda: warp(IMAGE[:0], MAP), r"image has shape \(0, 3, 8, 8\): axis B .* is empty"),
        (lambda: warp(IMAGE, MAP[:1]), r"sampling has shape \(1, 2, 4, 4\).* B = 2"),
        (lambda: warp(IMAGE, MAP[:, :1]), r"sampling has shape \(2, 1, 4, 4\); expected \(B, 2, h, w\)"),
        (lambda: warp(IMAGE.byte(), MAP), r"image has shape .* dtype torch.uint8; expected one of float16"),
        (lambda: compose(MAP, MAP[..., 1:]), r"offset has shape \(2, 2, 4, 3\).* w = 4"),
        (lambda: compose(MAP, MAP.double()), r"offset has shape .*float64 .*expected torch.float32"),
        (lambda: compose(MAP.int(), MAP), r"sampling has shape .* dtype torch.int32"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
