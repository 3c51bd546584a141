"""Features of pictures and latents: sizes, and that small convolutions on a CPU are still convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reposedm_core.alignment.features import Encoder, LatentEncoder, _convolved


def test_encoders_give_features_at_their_strides():
    quarter, eighth = Encoder(16, 24)(torch.randn(2, 3, 48, 40))
    assert quarter.shape == (2, 16, 12, 10) and eighth.shape == (2, 24, 6, 5)
    assert [f.shape for f in LatentEncoder(4, 24)(torch.randn(2, 4, 6, 5))] == [(2, 24, 6, 5)]


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((1, 96, 16, 12), 18), ((1, 96, 16, 14), 16), ((1, 96, 17, 12), 18), ((1, 96, 4, 3), 4), ((2, 96, 16, 12), 16)],
)
def test_rows_added_to_a_small_picture_change_nothing(shape, rows):
    """Only where they bring one picture past 20480 values, and by a quarter of its rows at most."""
    torch.manual_seed(0)
    layer, given = nn.Conv2d(shape[1], 4, 3, padding=1).double(), []
    layer.register_forward_pre_hook(lambda _, values: given.append(values[0].shape[2]))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out, expected = _convolved(layer, x), F.conv2d(x, layer.weight, layer.bias, padding=1)
    assert given == [rows]
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    gradients = [
        torch.autograd.grad((result * weights).sum(), [x, layer.weight, layer.bias]) for result in (out, expected)
    ]
    torch.testing.assert_close(*gradients)
