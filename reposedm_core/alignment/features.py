"""Where the aligner's features come from: a small encoder of its own, or the autoencoder's latents (eq. 9)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NormResidual(nn.Module):
    """Group norm and two 3×3 convolutions on a residual branch."""

    def __init__(self, channels: int, operations=nn):
        super().__init__()
        self.norm = operations.GroupNorm(8, channels)
        self.first = operations.Conv2d(channels, channels, 3, padding=1)
        self.second = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = _convolved(self.first, F.silu(self.norm(x)))
        return torch.add(x, _convolved(self.second, F.silu(hidden)), alpha=0.5)


def _convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), a 3×3 convolution with a border of zeros.

    On a CPU torch keeps one picture of 20480 values or fewer from oneDNN, whose convolution is nearly twice as fast.
    Where a few rows of zeros below, as the border is made of, bring it past that, they are added and cut off again.
    """
    batch, channels, height, width = x.shape
    if x.device.type != "cpu" or batch > 1:
        return layer(x)
    extra = 20480 // (channels * width) + 1 - height
    if not 0 < extra <= height // 4:
        return layer(x)
    return layer(F.pad(x, (0, 0, 0, extra)))[:, :, :height]


class Encoder(nn.Module):
    """Picture (B, 3, H, W) → features at 1/4 (B, d, H/4, W/4) and 1/8 (B, D, H/8, W/8) (**ours**).

    `inputs`: channels of what is read, 3, or more where other pictures lie behind the first.
    """

    def __init__(self, channels: int, dim: int, operations=nn, inputs: int = 3):
        super().__init__()
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2),
            operations.Conv2d(4 * inputs, 32, 3, padding=1),
            nn.SiLU(),
            operations.Conv2d(32, channels, 4, stride=2, padding=1),
        )
        self.quarter = nn.Sequential(NormResidual(channels, operations), NormResidual(channels, operations))
        self.down = operations.Conv2d(channels, dim, 4, stride=2, padding=1)
        self.eighth = nn.Sequential(NormResidual(dim, operations), NormResidual(dim, operations))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        unshuffle, *stem = self.stem
        x = unshuffle(image)
        if x.device.type == "cpu":  # tokens, pooling and convolutions of a small picture are faster that way there
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in stem:
            x = layer(x)
        quarter = self.quarter(x)
        return quarter, self.eighth(self.down(quarter))


class LatentEncoder(nn.Module):
    """Latent E(picture) (B, C, H/8, W/8) → features of D channels at its own cells (1/8): one 3×3 convolution."""

    def __init__(self, latent_channels: int, dim: int, operations=nn):
        super().__init__()
        self.embed = operations.Conv2d(latent_channels, dim, 3, padding=1)

    def forward(self, latent: Tensor) -> tuple[Tensor]:
        return (self.embed(latent),)
