"""Sampling maps: identity, translation and composition (eq. 7-9)."""

import torch

from reposedm_core.alignment.warp import compose, identity_map, resize_map, sample, warp


def test_identity_is_exact():
    image = torch.rand(2, 3, 16, 12)
    torch.testing.assert_close(warp(image, identity_map(4, 3).expand(2, -1, -1, -1)), image, rtol=0, atol=1e-6)


def test_resizing_keeps_the_identity():
    torch.testing.assert_close(resize_map(identity_map(5, 7), 20, 21), identity_map(20, 21), rtol=0, atol=1e-6)


def test_translation_by_whole_pixels_is_exact():
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    shift = torch.tensor([2 * 3 / 16, -2 * 2 / 16], dtype=torch.float64).view(1, 2, 1, 1)
    moved = warp(image, identity_map(16, 16, dtype=torch.float64) + shift)
    torch.testing.assert_close(moved[..., 2:, :13], image[..., :-2, 3:], rtol=0, atol=1e-9)


def test_composition_equals_warping_twice():
    """W(W(I; φ); ψ) = W(I; φ∘ψ): exact for translations, and inside the frame."""
    image = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    grid = identity_map(24, 24, dtype=torch.float64)
    first = torch.tensor([2 * 2 / 24, 2 * 1 / 24], dtype=torch.float64).view(1, 2, 1, 1)
    second = torch.tensor([-2 * 4 / 24, 2 * 3 / 24], dtype=torch.float64).view(1, 2, 1, 1)
    twice = sample(sample(image, grid + first), grid + second)
    once = sample(image, compose(grid + first, second.expand(1, 2, 24, 24)))
    torch.testing.assert_close(once[..., 6:-6, 6:-6], twice[..., 6:-6, 6:-6], rtol=0, atol=1e-9)


def test_composition_reads_the_first_map_where_the_offset_points():
    """φ(x + ΔF(x)), not φ(x) + ΔF(x): they differ where φ bends."""
    grid = identity_map(1, 64, dtype=torch.float64)
    bent = grid.clone()
    bent[:, 0] = grid[:, 0] ** 3
    offset = torch.zeros_like(grid)
    offset[:, 0] = 0.25
    expected = (grid[:, 0] + 0.25) ** 3
    inside = slice(0, 50)
    torch.testing.assert_close(compose(bent, offset)[:, 0, :, inside], expected[..., inside], rtol=0, atol=2e-3)
