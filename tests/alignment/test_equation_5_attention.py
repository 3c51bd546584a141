"""Equation 5, attention over the neighbourhood N(x): against a per-pixel loop, its gradient, precision and memory."""

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.alignment import attention
from reposedm_core.alignment.attention import NeighbourhoodAttention, neighbourhood_attention

HALVES = (torch.float16, torch.bfloat16)
STRIPS = [((12, 11), 3), ((13, 25), 3), ((26, 12), 5), ((3, 70), 5), ((9, 1), 1), ((2, 37), 3)]
"""Grids, odd and even, one tile and several, higher and lower than the window, that are large for their window."""
MASKED = [((4, 5), 3), ((5, 8), 5), ((7, 3), 9), ((3, 30), 9), ((2, 2), 1)]
"""Grids that are small for it; some lie in the window in one direction."""
WHOLE = [((3, 4), 0), ((1, 1), 0), ((4, 3), 7), ((5, 2), 31), ((1, 1), 3), ((30, 25), 0)]
"""No window, or one that holds the grid around every cell."""


def tokens(size, *, batch=2, heads=2, channels=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = batch, heads, size[0] * size[1], channels
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def loop(q, k, v, size, kernel):
    """softmax(qᵀ k / √d) v, cell by cell over the cells at most kernel // 2 away (0: over all)."""
    height, width = size
    reach = kernel // 2 if kernel else max(size)
    out = torch.zeros_like(q)
    for y in range(height):
        for x in range(width):
            near = [
                j * width + i
                for j in range(max(0, y - reach), min(height, y + reach + 1))
                for i in range(max(0, x - reach), min(width, x + reach + 1))
            ]
            here = y * width + x
            weights = (q[:, :, here : here + 1] @ k[:, :, near].transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            out[:, :, here] = (weights @ v[:, :, near])[:, :, 0]
    return out


@pytest.fixture
def ways(monkeypatch):
    """Filled with how windows are computed from now on."""
    seen = []
    for name, mask in (("window_mask", attention.window_mask), ("dense_mask", attention.dense_mask)):

        def spy(*args, name=name, function=mask):
            seen.append(name)
            return function(*args)

        monkeypatch.setattr(attention, name, spy)
    return seen


@pytest.mark.parametrize(
    ("size", "kernel", "way"),
    [
        (*case, way)
        for cases, way in ((STRIPS, ["window_mask"]), (MASKED, ["dense_mask"]), (WHOLE, []))
        for case in cases
    ],
)
def test_equals_the_loop(ways, size, kernel, way):
    q, k, v = tokens(size)
    torch.testing.assert_close(neighbourhood_attention(q, k, v, size, kernel), loop(q, k, v, size, kernel))
    assert ways == way


@pytest.mark.parametrize(("size", "kernel"), [((5, 15), 3), ((3, 4), 3), ((2, 3), 0)])
def test_gradient(size, kernel):
    """The first has two tiles of strips."""
    inputs = [t.requires_grad_() for t in tokens(size, batch=1, heads=1, channels=1)]
    assert torch.autograd.gradcheck(lambda q, k, v: neighbourhood_attention(q, k, v, size, kernel), inputs)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("size", "kernel"), [((13, 25), 3), ((6, 8), 5), ((6, 8), 0)])
def test_half_precision(close, size, kernel, dtype):
    inputs = tokens(size, channels=16, dtype=dtype)
    out = neighbourhood_attention(*inputs, size, kernel)
    assert out.dtype == dtype
    close(out, neighbourhood_attention(*(t.float() for t in inputs), size, kernel), dtype)


@pytest.mark.parametrize(("size", "kernel"), [((13, 25), 3), ((6, 8), 5), ((6, 8), 0)])
def test_a_batch_is_its_pictures_alone(size, kernel):
    """Tiles of all pictures lie in one stack: none may see its neighbour's."""
    inputs = tokens(size, batch=3)
    together = neighbourhood_attention(*inputs, size, kernel)
    for i in range(3):
        alone = neighbourhood_attention(*(t[i : i + 1] for t in inputs), size, kernel)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_memory_is_linear_in_the_cells(memory, kernel):
    used = []
    for size in ((32, 24), (64, 48)):
        inputs = [t.requires_grad_() for t in tokens(size, batch=1, dtype=torch.float32)]
        used.append(memory(lambda inputs=inputs, size=size: neighbourhood_attention(*inputs, size, kernel)))
    for small, large in zip(*used, strict=True):
        assert 3 < large / small < 4.5, "four times the cells: 4 is O(h·w), 16 is O((h·w)²)"


def test_memory_grows_with_the_window_at_most(memory):
    """No tensor has more than a few times h·w·k² numbers, nor as many as the pairs of cells."""
    size = (64, 48)
    cells = size[0] * size[1]
    for kernel in (3, 5, 9, 13):
        inputs = [t.requires_grad_() for t in tokens(size, batch=1, heads=1, dtype=torch.float32)]
        largest, saved = memory(lambda kernel=kernel, inputs=inputs: neighbourhood_attention(*inputs, size, kernel))
        numbers = max(largest, saved) / 4
        assert numbers < 8 * cells * kernel**2
        assert numbers < cells**2 / 4


def test_global_attention_keeps_no_pairs(memory):
    """torch's own kernel for the whole grid: O(h·w), too."""
    inputs = [t.requires_grad_() for t in tokens((64, 48), batch=1, heads=1, dtype=torch.float32)]
    largest, saved = memory(lambda: neighbourhood_attention(*inputs, (64, 48), 0))
    assert max(largest, saved) / 4 < 10 * inputs[0].numel()


def test_block_does_not_see_beyond_its_window():
    torch.manual_seed(0)
    block = NeighbourhoodAttention(8, 2, 3)
    queries, source = torch.randn(1, 49, 8), torch.randn(1, 49, 8)
    before = block(queries, source, (7, 7))
    source[:, 0] += 10 * torch.randn(8)
    changed = (before != block(queries, source, (7, 7))).any(-1)[0].reshape(7, 7)
    assert changed[:2, :2].all()
    assert not changed[2:].any() and not changed[:, 2:].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: (q[0], k, v, (4, 3), 3), r"query has shape \(2, 12, 4\); expected 4 axes"),
        (lambda q, k, v: (q[:0], k, v, (4, 3), 3), r"query has shape \(0, 2, 12, 4\): axis B .* is empty"),
        (lambda q, k, v: (q, k[:1], v, (4, 3), 3), r"key has shape \(1, 2, 12, 4\).* B = 2"),
        (lambda q, k, v: (q, k, v[:, :, 1:], (4, 3), 3), r"value has shape \(2, 2, 11, 4\).* N = 12"),
        (lambda q, k, v: (q, k, v.float(), (4, 3), 3), r"value has shape .*float32 .*expected torch.float64"),
        (lambda q, k, v: (q.long(), k, v, (4, 3), 3), r"query has shape .* dtype torch.int64; expected one of float16"),
        (lambda q, k, v: (q, k, v, (4, 4), 3), r"query has shape .*expected 4 × 4 = 16 tokens"),
        (lambda q, k, v: (q, k, v, (4, 3), 4), "kernel = 4: expected an odd window side"),
        (lambda q, k, v: (q, k, v, (4, 3), -1), "kernel = -1: expected an odd window side"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(InputError, match=words):
        neighbourhood_attention(*change(*tokens((4, 3))))
