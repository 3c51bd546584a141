"""Equation 6, correlation of target and source: against per-pixel loops, its gradient, precision and memory."""

import math

import pytest
import torch
import torch.nn.functional as F

from reposedm_core import InputError
from reposedm_core.alignment.correlation import global_match, local_correlation
from reposedm_core.alignment.mapformer import PoseMappingAggregator
from reposedm_core.alignment.warp import identity_map

HALVES = (torch.float16, torch.bfloat16)


def features(*sizes, batch=2, channels=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def loop(target, source, radius):
    """relu(target(x)ᵀ source(x + r) / √C), cell by cell and offset by offset."""
    b, c, h, w = target.shape
    out = torch.zeros(b, (2 * radius + 1) ** 2, h, w, dtype=target.dtype)
    for y in range(h):
        for x in range(w):
            offsets = ((ry, rx) for ry in range(-radius, radius + 1) for rx in range(-radius, radius + 1))
            for k, (ry, rx) in enumerate(offsets):
                if 0 <= y + ry < h and 0 <= x + rx < w:
                    dot = (target[:, :, y, x] * source[:, :, y + ry, x + rx]).sum(1) / c**0.5
                    out[:, k, y, x] = dot.clamp(min=0)
    return out


@pytest.mark.parametrize(
    ("size", "radius"),
    [((5, 7), 2), ((6, 3), 4), ((1, 1), 1), ((4, 4), 0), ((3, 26), 1), ((7, 13), 3), ((2, 5), 6), ((1, 25), 2)],
)
def test_local_correlation_equals_the_loop(size, radius):
    """Odd and even sizes, one tile and several, windows larger than the grid."""
    target, source = features(size, size)
    torch.testing.assert_close(local_correlation(target, source, radius), loop(target, source, radius))


@pytest.mark.parametrize(("size", "radius"), [((4, 3), 2), ((2, 14), 1)])
def test_local_correlation_gradient(size, radius):
    inputs = [t.requires_grad_() for t in features(size, size, batch=1, channels=2)]
    assert torch.autograd.gradcheck(lambda a, b: local_correlation(a, b, radius), inputs)


@pytest.mark.parametrize("dtype", HALVES)
def test_local_correlation_in_half_precision(close, dtype):
    target, source = features((7, 13), (7, 13), channels=32, dtype=dtype)
    out = local_correlation(target, source, 3)
    assert out.dtype == dtype
    close(out, local_correlation(target.float(), source.float(), 3), dtype)


def test_local_correlation_of_a_batch_is_that_of_its_pictures():
    target, source = features((7, 26), (7, 26), batch=3)
    together = local_correlation(target, source, 2)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], local_correlation(target[i : i + 1], source[i : i + 1], 2))


@pytest.mark.parametrize("radius", [1, 4, 8])
def test_memory_is_linear_in_the_cells(memory, radius):
    used = []
    for size in ((32, 24), (64, 48)):
        inputs = [t.requires_grad_() for t in features(size, size, batch=1, channels=8, dtype=torch.float32)]
        used.append(memory(lambda inputs=inputs: local_correlation(*inputs, radius)))
    for small, large in zip(*used, strict=True):
        assert 3 < large / small < 4.5, "four times the cells: 4 is O(h·w), 16 is O((h·w)²)"


def test_memory_grows_with_the_window(memory):
    """The result has h·w·k² numbers; no tensor has many more, and none as many as the pairs of cells."""
    cells = 64 * 48
    for radius in (1, 2, 4, 8):
        inputs = [t.requires_grad_() for t in features((64, 48), (64, 48), batch=1, channels=2, dtype=torch.float32)]
        largest, saved = memory(lambda radius=radius, inputs=inputs: local_correlation(*inputs, radius))
        k = 2 * radius + 1
        assert cells * k**2 <= largest / 4 < 8 * cells * k**2
        assert largest / 4 < cells**2 / 3 and saved / 4 < cells**2 / 3


def matched(target, source, sharpness):
    """Expected position, cell by cell: softmax of the cosines, and the mean over the source cells' centres."""
    b, _, h, w = target.shape
    rows, columns = source.shape[-2:]
    sampling, match = torch.zeros(b, 2, h, w, dtype=target.dtype), torch.zeros(b, 1, h, w, dtype=target.dtype)
    for n in range(b):
        for y in range(h):
            for x in range(w):
                cosines = [
                    float(F.cosine_similarity(target[n, :, y, x], source[n, :, j, i], dim=0))
                    for j in range(rows)
                    for i in range(columns)
                ]
                weights = [math.exp(sharpness * cosine) for cosine in cosines]
                total = sum(weights)
                for index, weight in enumerate(weights):
                    j, i = divmod(index, columns)
                    sampling[n, 0, y, x] += weight / total * ((i + 0.5) * 2 / columns - 1)
                    sampling[n, 1, y, x] += weight / total * ((j + 0.5) * 2 / rows - 1)
                match[n, 0, y, x] = max(weights) / total
    return sampling, match


@pytest.mark.parametrize(("size", "other"), [((3, 4), (3, 4)), ((5, 3), (2, 4)), ((1, 1), (4, 1))])
def test_global_match_equals_the_loop(size, other):
    target, source = features(size, other)
    for found, expected in zip(global_match(target, source, 3.0), matched(target, source, 3.0), strict=True):
        torch.testing.assert_close(found, expected)


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


def test_global_match_gradient():
    target, source = (t.requires_grad_() for t in features((2, 3), (2, 2), batch=1, channels=3))
    sharpness = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(global_match, (target, source, sharpness))


@pytest.mark.parametrize("dtype", HALVES)
def test_global_match_in_half_precision(close, dtype):
    target, source = features((6, 8), (6, 8), channels=32, dtype=dtype)
    sampling, match = global_match(target, source, 10.0)
    assert sampling.dtype == torch.float32 and match.dtype == dtype
    for found, expected in zip((sampling, match), global_match(target.float(), source.float(), 10.0), strict=True):
        close(found, expected, dtype)


@pytest.mark.parametrize("radius", [None, 1])
def test_aggregator_gradient(radius):
    """Correlation, both convolutions, the max-pool and the read-out as one."""
    torch.manual_seed(0)
    aggregator = PoseMappingAggregator(2, radius, (3, 3)).double()
    torch.nn.init.normal_(aggregator.read.weight)
    target, source = features((3, 4), (3, 4), batch=1, channels=2)
    sampling = identity_map(3, 4, dtype=torch.float64) + 0.013
    visibility = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (target, source, sampling, visibility)]
    assert torch.autograd.gradcheck(aggregator, inputs)


def test_aggregator_pools_over_neighbours():
    """ΔF sees 3 cells to every side through the convolutions and the read-out, and one more by the pool."""
    torch.manual_seed(0)
    aggregator = PoseMappingAggregator(2, 1, (8, 8)).double()
    torch.nn.init.normal_(aggregator.read.weight)
    sampling, visibility = identity_map(13, 13, dtype=torch.float64), torch.zeros(1, 1, 13, 13, dtype=torch.float64)
    target, source = features((13, 13), (13, 13), batch=1, channels=2)
    before = aggregator(target, source, sampling, visibility)[1]
    target[..., 6, 6] += 100
    changed = (aggregator(target, source, sampling, visibility)[1] != before).any(1)[0].nonzero() - 6
    assert changed.abs().max() == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, b: (a[0], b, 1), r"target has shape \(5, 4, 3\); expected 4 axes"),
        (lambda a, b: (a[:0], b, 1), r"target has shape \(0, 5, 4, 3\): axis B .* is empty"),
        (lambda a, b: (a, b[..., 1:], 1), r"source has shape \(2, 5, 4, 2\).* w = 3"),
        (lambda a, b: (a, b[:1], 1), r"source has shape \(1, 5, 4, 3\).* B = 2"),
        (lambda a, b: (a, b.half(), 1), r"source has shape .*float16 .*expected torch.float64"),
        (lambda a, b: (a.int(), b, 1), r"target has shape .* dtype torch.int32; expected one of float16"),
        (lambda a, b: (a, b, -1), "radius = -1: expected 0 or more"),
    ],
)
def test_bad_input_is_named(change, words):
    target, source, radius = change(*features((4, 3), (4, 3)))
    with pytest.raises(InputError, match=words):
        local_correlation(target, source, radius)
    if radius == 1 and "w = 3" not in words:  # the source of a global match may have another size
        with pytest.raises(InputError, match=words):
            global_match(target, source, 1.0)
