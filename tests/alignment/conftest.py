"""Pictures for the aligners, a look into their layers, and the memory of an operator, counted without a clock."""

import pytest
import torch
import torch.nn.functional as F

from reposedm_core.alignment.windows import dense_mask, window_mask
from tests.fixtures.allocations import Allocations


def pictures(height=32, width=24, batch=1):
    """Source and skeleton."""
    generator = torch.Generator().manual_seed(1)
    return [
        F.interpolate(torch.rand(batch, 3, 8, 6, generator=generator) * 2 - 1, (height, width), mode="bilinear")
        for _ in range(2)
    ]


def spied(modules, action):
    """From now on, `action(arguments, result)` at every call of one of `modules`."""
    for module in modules:
        module.register_forward_hook(lambda _, given, result: action(given, result))


@pytest.fixture
def memory():
    """f → (bytes of the largest tensor that f() makes, bytes that it saves for its backward pass)."""

    def measure(function):
        window_mask.cache_clear()  # what is remembered must be counted, too
        dense_mask.cache_clear()
        saved = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with Allocations() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            kept = function()
        assert kept is not None
        return seen.largest, sum(saved.values())

    return measure


@pytest.fixture
def close():
    """Compare a result of half precision with that of float32: (fp16 or bf16 value, expected, dtype)."""

    def compare(value, expected, dtype, scale=1.0):
        tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype] * scale
        torch.testing.assert_close(value.float(), expected, rtol=tolerance, atol=tolerance)

    return compare
