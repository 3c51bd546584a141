"""What an operator holds in memory, counted without a clock or a profiler."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reposedm_core.alignment.windows import dense_mask, window_mask


class Allocations(TorchDispatchMode):
    """Bytes of the largest storage that any operation returned; views of one storage count once, as what they are."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return out


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
