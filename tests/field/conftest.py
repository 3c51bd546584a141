"""What the field's tests share: small random networks, latents and poses, as functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from reposedm_core.config import EstimatorConfig
from reposedm_core.estimator import HigherHRNet, merge_heatmaps
from reposedm_core.field import PoseInteractionField, PoseTarget

MICRO = EstimatorConfig(stem=4, bottleneck=2, channels=(4, 6), modules=(1,), blocks=1, deconv_channels=4)
SIZE = (32, 24)
every_space = pytest.mark.parametrize("space", ["heatmaps", "features"])


def _estimator(dtype: torch.dtype = torch.float32) -> HigherHRNet:
    """A random estimator that is above the mask's threshold in about half of every picture."""
    torch.manual_seed(0)
    net = HigherHRNet(MICRO, dtype=dtype).eval()
    with torch.no_grad():
        out = net(_decoder(dtype)(_latent(dtype=dtype)))
        shift = (0.15 - merge_heatmaps(out.heatmaps_quarter, out.heatmaps_half).sum(1).median()) / 17
        # Through the first head's biases the second sees a shift too: its own is set by what it then says.
        net.final_layers[0].bias[:17] += shift
        out = net(_decoder(dtype)(_latent(dtype=dtype)))
        left = (0.15 - merge_heatmaps(out.heatmaps_quarter, out.heatmaps_half).sum(1).median()) / 17
        net.final_layers[1].bias += 2 * left
    return net


def _decoder(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.ConvTranspose2d(4, 3, 8, stride=8, dtype=dtype), nn.Tanh())


def _joints(batch: int = 2) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.cat([torch.rand(batch, 17, 2) * 20 + 2, torch.ones(batch, 17, 1)], -1)


def _make_target(field: PoseInteractionField, batch: int = 2) -> PoseTarget:
    if field.space == "heatmaps":
        return field.target_from_joints(_joints(batch), *SIZE)
    torch.manual_seed(3)
    return field.target_from_image(torch.rand(batch, 3, *SIZE) * 2 - 1)


def _latent(batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randn(batch, 4, 4, 3, dtype=dtype)


def _check_slopes(
    field: PoseInteractionField,
    decode: nn.Module,
    z: torch.Tensor,
    target: PoseTarget,
    gradient: torch.Tensor,
    draws: int,
) -> None:
    """The gradient (B, C, h, w) of float64 against central differences of the distance along random directions."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(draws):
        direction, step = torch.randn(z.shape, generator=generator, dtype=z.dtype), 1e-7
        with torch.no_grad():
            ahead, behind = (field.distance(decode(z + s * direction), target) for s in (step, -step))
        slope = (gradient * direction).sum((1, 2, 3))
        torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-4, atol=1e-5)


@pytest.fixture
def check_slopes() -> Callable:
    return _check_slopes


@pytest.fixture
def estimator() -> Callable:
    return _estimator


@pytest.fixture
def decoder() -> Callable:
    return _decoder


@pytest.fixture
def latent() -> Callable:
    return _latent


@pytest.fixture
def joints() -> Callable:
    return _joints


@pytest.fixture
def make_target() -> Callable:
    return _make_target
