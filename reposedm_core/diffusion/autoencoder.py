"""The `mini` autoencoder: a linear encoder fitted in closed form and a small learned decoder (**ours**).

The encoder E projects each `stride`×`stride` patch on the leading principal components of training patches.
Latents are therefore linear in the picture: an error of colour costs in the latent what it costs in the picture,
and fitting takes seconds. The decoder adds to the linear inverse what the components lost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import AutoencoderConfig
from ..errors import InputError


def patches_of(images: Tensor, stride: int) -> Tensor:
    """(B, 3, H, W) → (B, H/stride, W/stride, 3·stride²)."""
    return rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=stride, q=stride)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions without normalisation; starts as the identity."""

    def __init__(self, channels: int, operations=nn):
        super().__init__()
        self.first = operations.Conv2d(channels, channels, 3, padding=1)
        self.second = operations.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Autoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] ↔ latents (B, C, H/stride, W/stride) of about unit variance overall."""

    def __init__(self, config: AutoencoderConfig, operations=nn):
        super().__init__()
        if config.stride != 8:
            raise InputError(f"autoencoder.stride = {config.stride}: the decoder upsamples by exactly 8.")
        self.config, self.stride, self.channels = config, config.stride, config.channels
        size = 3 * config.stride**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(config.channels, size))
        self.register_buffer("scale", torch.ones(config.channels))
        half, quarter, eighth = config.widths
        self.decoder = nn.Sequential(
            operations.Conv2d(config.channels, eighth, 3, padding=1), ResidualBlock(eighth, operations),
            ResidualBlock(eighth, operations),
            operations.Conv2d(eighth, quarter * 4, 1), nn.PixelShuffle(2), ResidualBlock(quarter, operations),
            operations.Conv2d(quarter, half * 4, 1), nn.PixelShuffle(2), ResidualBlock(half, operations),
            nn.SiLU(), operations.Conv2d(half, 12, 3, padding=1), nn.PixelShuffle(2))

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1].

        Raises:
            InputError: H or W is not a multiple of the stride.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[-2] % self.stride or images.shape[-1] % self.stride:
            raise InputError(f"Picture of shape {tuple(images.shape)}: expected (batch, 3, height, width) with height "
                             f"and width divisible by {self.stride}; resize or crop it first.")
        z = (patches_of(images, self.stride) - self.mean) @ self.basis.T / self.scale
        return z.movedim(-1, 1)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The linear inverse of `encode`: a blurred-by-components picture (B, 3, H, W), nearly free of cost."""
        patches = (latents.movedim(1, -1) * self.scale) @ self.basis + self.mean
        return rearrange(patches, "b h w (c p q) -> b c (h p) (w q)", p=self.stride, q=self.stride)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1] (not clamped), of latents (B, C, h, w)."""
        return self.decode_linear(latents) + self.decoder(latents)

    @torch.no_grad()
    def fit(self, patches: Tensor) -> Tensor:
        """Set mean, basis and scale from patches (n, 3·stride²); returns the share of variance each component keeps.

        scale_i = k · std_i**whitening with one k that makes the latent's average variance 1.
        """
        mean = patches.mean(0)
        centred = (patches - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        values, vectors = values.flip(0), vectors.flip(1)
        basis = vectors[:, : self.channels].T
        basis = basis * basis.sum(1, keepdim=True).sign()          # eigenvectors have no sign of their own
        std = values[: self.channels].clamp(min=1e-12).sqrt()
        scale = std**self.config.whitening
        scale = scale * (std / scale).square().mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(scale)
        return (values / values.sum())[: self.channels]
