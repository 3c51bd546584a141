"""Local and global correlation (eq. 6) against plain loops."""

import torch
import torch.nn.functional as F

from reposedm_core.alignment.correlation import global_match, local_correlation


def loop(target, source, radius):
    b, c, h, w = target.shape
    out = torch.zeros(b, (2 * radius + 1) ** 2, h, w, dtype=target.dtype)
    for y in range(h):
        for x in range(w):
            k = 0
            for ry in range(-radius, radius + 1):
                for rx in range(-radius, radius + 1):
                    if 0 <= y + ry < h and 0 <= x + rx < w:
                        dot = (target[:, :, y, x] * source[:, :, y + ry, x + rx]).sum(1) / c**0.5
                        out[:, k, y, x] = dot.clamp(min=0)
                    k += 1
    return out


def test_local_correlation_equals_the_loop():
    torch.manual_seed(0)
    for height, width, radius in ((5, 7, 2), (6, 3, 4), (1, 1, 1)):
        a, b = (torch.randn(2, 5, height, width, dtype=torch.float64) for _ in range(2))
        torch.testing.assert_close(local_correlation(a, b, radius), loop(a, b, radius))


def test_local_correlation_gradient():
    torch.manual_seed(0)
    a, b = (torch.randn(1, 3, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: local_correlation(x, y, 2), (a, b))


def test_global_match_finds_a_permutation():
    """Features that are the same up to moving cells around: the expected position is the cell they came from."""
    torch.manual_seed(0)
    source = F.normalize(torch.randn(1, 64, 4, 6), dim=1)
    order = torch.randperm(24)
    target = source.flatten(2)[..., order].reshape(1, 64, 4, 6)
    sampling, match = global_match(target, source, 200.0)
    x = (order % 6 + 0.5) / 3 - 1
    torch.testing.assert_close(sampling[0, 0].flatten(), x, rtol=0, atol=1e-4)
    assert match.min() > 0.99
