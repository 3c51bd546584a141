"""The denoiser ε_θ(y_t, t, P, I_S): a conditional U-Net with learned variance (section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import DenoiserConfig
from .autoencoder import ResidualBlock


class TextureEncoder(nn.Module):
    """Latent picture features (B, C + 1, h, w) → context tokens (B, h·w, D): the keys of the U-Net's cross-attention.

    On the aligned latent it carries F_S^N; on the unaligned source it is B1's simple CNN encoder.
    """

    def __init__(self, channels: int, dim: int, height: int, width: int, operations=nn):
        super().__init__()
        self.body = nn.Sequential(operations.Conv2d(channels, dim, 3, padding=1), ResidualBlock(dim, operations),
                                  ResidualBlock(dim, operations))
        self.position = nn.Parameter(0.02 * torch.randn(1, dim, height, width))
        self.norm = operations.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        position = resized(self.position, features.shape[-2:])
        return self.norm(rearrange(self.body(features) + position, "b d h w -> b (h w) d"))


def resized(position: Tensor, size: tuple[int, int]) -> Tensor:
    """Learned positions (1, D, h, w) interpolated to another grid."""
    if tuple(position.shape[-2:]) == tuple(size):
        return position
    return F.interpolate(position, size=tuple(size), mode="bilinear", align_corners=False)


class Conditioner(nn.Module):
    """The part of a denoiser that reads the pictures: it makes the context tokens, once a picture.

    Its weights are the ones of the same names in `Denoiser`, so that it can be built and used without the U-Net.
    """

    def __init__(self, config: DenoiserConfig, operations=nn):
        super().__init__()
        self.config = config
        dim = config.context_dim
        self.texture = TextureEncoder(config.latent_channels + 1, dim, config.height, config.width, operations)
        self.null_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))

    def context(self, latent: Tensor, visibility: Tensor, drop: Tensor | None = None) -> Tensor:
        """Context tokens (B, h·w, D).

        Args:
            latent: F_S^N, the latent of the aligned picture ("aligned"), or of the source itself ("source").
            visibility: (B, 1, h, w) in 0..1; ones for "source".
            drop: (B,) bool, which examples get the learned null tokens (condition dropout).
        """
        tokens = self.texture(torch.cat([latent, visibility], 1))
        if drop is not None:
            tokens = torch.where(drop[:, None, None], self.null_token.to(tokens.dtype), tokens)
        return tokens

    def null_context(self, batch: int, count: int) -> Tensor:
        """Learned null tokens (B, count, D) of the joint null condition (P, I_S = ∅ in eq. 16)."""
        return self.null_token.expand(batch, count, -1)


class Denoiser(Conditioner):
    """Predicts v (or ε) and the variance logits from [z_t, E(P)], context tokens and, in `mini`, the aligned latent.

    The aligned latent also offers the network a first estimate of ŷ_0: a learned gate lets it through, scaled as
    ŷ_0 enters v. The U-Net then only has to say what is different.
    """

    def __init__(self, config: DenoiserConfig, operations=nn):
        super().__init__(config, operations)
        from diffusers import UNet2DConditionModel

        c, dim = config.latent_channels, config.context_dim
        aligned = c + 1 if config.channel_condition else 0
        self.position = nn.Parameter(torch.zeros(1, c, config.height, config.width))
        kinds = len(config.block_channels)
        self.unet = UNet2DConditionModel(
            sample_size=(config.height, config.width), in_channels=2 * c + aligned + c, out_channels=2 * c,
            block_out_channels=config.block_channels, layers_per_block=config.layers, cross_attention_dim=dim,
            attention_head_dim=tuple(n // config.heads_dim for n in config.block_channels),
            down_block_types=("CrossAttnDownBlock2D",) * kinds, up_block_types=("CrossAttnUpBlock2D",) * kinds,
            norm_num_groups=16)
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)
        self.gate = operations.Conv2d(2 * c + 1, c, 3, padding=1) if config.channel_condition else None

    def forward(self, z: Tensor, t: Tensor, pose_latent: Tensor, tokens: Tensor, aligned: Tensor,
                visibility: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and variance logits, each (B, C, h, w).

        Args:
            z: y_t, (B, C, h, w).
            t: timesteps 0..T-1, (B,), may be fractional.
            pose_latent: E(P), like z; zero when dropped.
            tokens: from `context` or `null_context`.
            aligned, visibility: (B, C, h, w), (B, 1, h, w); zero when dropped; unused without `channel_condition`.
            sigma: √(1-ᾱ_t), (B, 1, 1, 1).
        """
        position = resized(self.position, z.shape[-2:]).to(z).expand(len(z), -1, -1, -1)
        inputs = [z, pose_latent, position]
        if self.gate is not None:
            inputs += [aligned, visibility]
        out = self.unet(torch.cat(inputs, 1), t, encoder_hidden_states=tokens, return_dict=False)[0]
        prediction, variance = out.chunk(2, 1)
        if self.gate is not None:
            gate = self.gate(torch.cat([pose_latent, aligned, visibility], 1)).sigmoid()
            prediction = prediction - sigma * gate * aligned
        return prediction, variance
