"""Equation 5 by flex_attention: its uncompiled form against tiles, there and back, and when it is chosen.

Compiled it is for CUDA; what is marked `cuda` runs where there is one."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

from reposedm_core.alignment import flex_windows
from reposedm_core.alignment.attention import neighbourhood_attention, tiled_attention

GRIDS = [((13, 25), 3), ((32, 22), 5), ((40, 30), 9), ((9, 70), 3), ((70, 9), 5)]
"""Several blocks, not full ones at the end, rows shorter and longer than a window is high."""
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is remembered of other tests, and torch's uncompiled form may give gradients on a CPU.

    Torch refuses those because its compiled form has none there; the uncompiled one is the same on all devices.
    """
    monkeypatch.setattr(flex_module, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex_windows, "_kernels", set())
    flex_windows.works.cache_clear()
    torch.compiler.reset()
    yield
    flex_windows.works.cache_clear()
    torch.compiler.reset()


def given(size, *, dtype=torch.float64, batch=2, heads=2, dim=16, device="cpu"):
    """q, k, v and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    shape = batch, heads, size[0] * size[1], dim
    q, k, v, g = (torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(4))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), g


def warnings(caplog):
    """Ours; torch's compiler writes into the log, too."""
    return [record.getMessage() for record in caplog.records if record.name == flex_windows.__name__]


def there_and_back(out, q, k, v, g):
    return [out, *torch.autograd.grad(out, (q, k, v), g)]


@pytest.mark.parametrize(("size", "kernel"), GRIDS)
def test_equals_the_tiles_there_and_back(size, kernel):
    q, k, v, g = given(size)
    found = there_and_back(flex_windows.attend(q, k, v, size, kernel, flex_attention), q, k, v, g)
    wanted = there_and_back(tiled_attention(q, k, v, size, kernel), q, k, v, g)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("size", "kernel"), GRIDS)
def test_blocks_hold_all_windows_and_no_block_besides(size, kernel):
    """The blocks that are looked at are those in which torch's own construction finds a pair."""
    mask = flex_windows.blocks(*size, kernel // 2, torch.device("cpu"))
    cells = size[0] * size[1]
    plain = flex_module.create_block_mask(mask.mask_mod, None, None, cells, cells, device="cpu", BLOCK_SIZE=128)
    ours, needed = mask.to_dense()[0, 0].bool(), plain.to_dense()[0, 0].bool()
    assert bool((ours | ~needed).all()), "a window would be cut off"
    # Whole rows are taken, which may touch one block more at either end.
    assert bool(((ours & ~needed).sum(-1) <= 2).all())


def test_it_is_chosen_for_training_on_large_grids_alone():
    assert flex_windows.skips_half((64, 44), 9) and flex_windows.skips_half((32, 22), 5)
    assert not flex_windows.skips_half((32, 22), 9) and not flex_windows.skips_half((16, 12), 3)
    q, *_ = given((64, 44), dtype=torch.float32, batch=1, heads=1, dim=1)
    assert not flex_windows.suits(q, (64, 44), 9), "on a CPU tiles are faster"


def test_attention_hands_over_what_suits(monkeypatch):
    """With the choice made for it, the one function that everything calls gives the same by the other way."""
    size, kernel = (32, 22), 5
    q, k, v, g = given(size)
    wanted = there_and_back(neighbourhood_attention(q, k, v, size, kernel), q, k, v, g)
    calls = []

    def spy(*args, **options):
        calls.append(args)
        return flex_attention(*args, **options)

    monkeypatch.setattr(flex_windows, "suits", lambda query, *_: query.requires_grad)
    monkeypatch.setattr(flex_windows, "compiled", lambda: spy)
    torch.testing.assert_close(there_and_back(neighbourhood_attention(q, k, v, size, kernel), q, k, v, g), wanted)
    assert len(calls) == 1
    neighbourhood_attention(q.detach(), k, v, size, kernel)
    assert len(calls) == 1, "without a gradient tiles do it"


@pytest.mark.parametrize("dtype", flex_windows.DTYPES)
def test_a_kernel_that_works_is_said_to(monkeypatch, caplog, dtype):
    monkeypatch.setattr(flex_windows, "compiled", lambda: flex_attention)
    assert flex_windows.works(torch.device("cpu"), dtype, 24) and not warnings(caplog)


def raises(*_, **__):
    raise RuntimeError("no compiler\nand a long trace")


def is_wrong(q, k, v, block_mask):
    return flex_attention(q, k, v, block_mask=block_mask) + 0.1 * v


@pytest.mark.parametrize(("kernel", "said"), [(raises, "tiles: no compiler"), (is_wrong, "it is off by")])
def test_a_kernel_that_does_not_work_is_left_alone_and_said_once(monkeypatch, caplog, kernel, said):
    monkeypatch.setattr(flex_windows, "compiled", lambda: kernel)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not flex_windows.works(torch.device("cpu"), torch.float32, 24)
    (warning,) = warnings(caplog)
    assert said in warning and "long trace" not in warning


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_trial_may_be_within_a_checkpoint(monkeypatch, reentrant):
    """There nothing is kept for the way back: the trial's own way back must not begin that of the whole."""
    monkeypatch.setattr(flex_windows, "compiled", lambda: flex_attention)
    calls = []

    def block(x):
        calls.append(flex_windows.works(torch.device("cpu"), torch.float32, 24))
        return x.sin().sin()

    x = torch.ones(3, requires_grad=True)
    out = checkpoint(block, x, use_reentrant=reentrant)
    assert calls == [True]
    (gradient,) = torch.autograd.grad(out.sum(), x) if not reentrant else (out.sum().backward(), x.grad)[1:]
    torch.testing.assert_close(gradient, x.detach().sin().cos() * x.detach().cos())
    assert calls == [True, True]


def test_trying_leaves_the_random_numbers_alone(monkeypatch):
    monkeypatch.setattr(flex_windows, "compiled", lambda: flex_attention)
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    flex_windows.works(torch.device("cpu"), torch.float32, 24)
    assert torch.equal(torch.rand(3), wanted)


def test_there_are_no_more_kernels_than_torch_compiles():
    assert all(flex_windows._room(number) for number in range(flex_windows.MOST))
    assert not flex_windows._room("one more") and flex_windows._room(0)


@pytest.mark.cuda
@CUDA
@pytest.mark.parametrize("dtype", flex_windows.DTYPES)
@pytest.mark.parametrize(("size", "kernel"), [((64, 44), 9), ((32, 22), 5)])
def test_on_a_gpu_training_uses_it_and_gives_what_tiles_give(monkeypatch, size, kernel, dtype):
    calls, attend = [], flex_windows.attend
    monkeypatch.setattr(flex_windows, "attend", lambda *args: calls.append(args[4]) or attend(*args))
    q, k, v, g = given(size, dtype=dtype, dim=24, device="cuda")
    out = checkpoint(neighbourhood_attention, q, k, v, size, kernel, use_reentrant=False)  # as the presets train
    found = there_and_back(out, q, k, v, g)
    assert calls[-2:] == [kernel] * 2, "the kernel works here"
    wanted = there_and_back(tiled_attention(q, k, v, size, kernel), q, k, v, g)
    close = flex_windows.CLOSE[dtype]
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)
