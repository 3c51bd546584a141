"""Attention over a neighbourhood (eq. 5) against a per-pixel loop."""

import pytest
import torch

from reposedm_core.alignment.attention import NeighbourhoodAttention, neighbourhood_attention


def loop(q, k, v, size, kernel):
    height, width = size
    reach = kernel // 2
    out = torch.zeros_like(q)
    for y in range(height):
        for x in range(width):
            near = [j * width + i for j in range(max(0, y - reach), min(height, y + reach + 1))
                    for i in range(max(0, x - reach), min(width, x + reach + 1))]
            here = y * width + x
            weights = (q[:, :, here : here + 1] @ k[:, :, near].transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            out[:, :, here] = (weights @ v[:, :, near])[:, :, 0]
    return out


@pytest.mark.parametrize(("size", "kernel"), [((12, 11), 3), ((4, 5), 3), ((13, 12), 5)])
def test_window_equals_the_loop(size, kernel):
    """The sizes cover both ways of computing it: masked and gathered."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, size[0] * size[1], 4, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(neighbourhood_attention(q, k, v, size, kernel), loop(q, k, v, size, kernel))


def test_global_attends_to_everything():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 12, 4, dtype=torch.float64) for _ in range(3))
    expected = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
    torch.testing.assert_close(neighbourhood_attention(q, k, v, (3, 4), 0), expected)


def test_window_does_not_see_beyond_itself():
    torch.manual_seed(0)
    block = NeighbourhoodAttention(8, 2, 3)
    tokens, source = torch.randn(1, 49, 8), torch.randn(1, 49, 8)
    before = block(tokens, source, (7, 7))
    source[:, 0] += 10
    after = block(tokens, source, (7, 7))
    changed = (before != after).any(-1)[0].reshape(7, 7)
    assert changed[:2, :2].all()
    assert not changed[2:].any() and not changed[:, 2:].any()
