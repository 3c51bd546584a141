"""The denoiser ε_θ(y_t, t, P, I_S): a conditional U-Net with learned variance (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checks import check_precision, check_tensor
from ..config import DenoiserConfig
from ..errors import InputError, quoted
from .autoencoder import ResidualBlock

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel


def build_unet(config: DenoiserConfig, inputs: int, outputs: int, **options: Any) -> UNet2DConditionModel:
    """Diffusers' U-Net in the sizes of `config`; `options` are further ones of its class."""
    with torch.device("cpu"):  # see `fitting.filled`
        from diffusers.models import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=config.block_channels,
        layers_per_block=config.layers,
        cross_attention_dim=config.context_dim,
        attention_head_dim=tuple(n // config.heads_dim for n in config.block_channels),  # diffusers: heads
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attention)),
        norm_num_groups=config.norm_groups,
        **options,
    )


def check_inputs(
    unet: UNet2DConditionModel, config: DenoiserConfig, z: Tensor, t: Tensor, pose_latent: Tensor, tokens: Tensor
) -> tuple[dict[str, int], Tensor | None]:
    """Raise an `InputError` unless the arguments belong together and to the network; no value is looked at.

    Returns:
        the sizes B, C, h, w, and z where precisions are to be the same (see `check_precision`), else None.
    """
    sizes = check_tensor(z, "z", "B C h w", {"C": config.latent_channels})
    like = z if check_precision(z, "z", unet.conv_in, unet.conv_in.weight) else None
    check_tensor(pose_latent, "pose_latent", "B C h w", sizes, like=like)
    check_tensor(tokens, "tokens", "B N D", {"B": len(z), "D": config.context_dim}, like=like)
    if not isinstance(t, Tensor) or t.shape != (len(z),):
        raise InputError(
            f"t is {quoted(tuple(t.shape) if isinstance(t, Tensor) else t)}; expected a tensor of shape "
            f"({len(z)},), one timestep per picture."
        )
    return sizes, like


class TextureEncoder(nn.Module):
    """Latent picture features (B, C + 1, h, w) → context tokens (B, h·w, D): the keys of the U-Net's cross-attention.

    On the aligned latent it carries F_S^N; on the unaligned source it is B1's simple CNN encoder. With height 0 the
    tokens have no learned positions.
    """

    def __init__(self, channels: int, dim: int, height: int, width: int, operations=nn):
        super().__init__()
        self.body = nn.Sequential(
            operations.Conv2d(channels, dim, 3, padding=1),
            ResidualBlock(dim, operations),
            ResidualBlock(dim, operations),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, dim, height, width)) if height else None
        self.norm = operations.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        body = self.body(features)
        if self.position is not None:
            body = body + resized(self.position, features.shape[-2:])
        return self.norm(rearrange(body, "b d h w -> b (h w) d"))


def resized(position: Tensor, size: Sequence[int]) -> Tensor:
    """Learned positions (1, D, h, w) interpolated to another grid."""
    if tuple(position.shape[-2:]) == tuple(size):
        return position
    return F.interpolate(position, size=tuple(size), mode="bilinear", align_corners=False)


class MakesContext(Protocol):
    """What makes a condition's tokens: a `Conditioner`, or a `MixedPrecisionDenoiser` around one."""

    config: DenoiserConfig

    def context(self, latent: Tensor, visibility: Tensor, drop: Tensor | None = None) -> Tensor: ...

    def null_context(self, batch: int, count: int) -> Tensor: ...


class Conditioner(nn.Module):
    """The part of a denoiser that reads the pictures: it makes the context tokens, once per picture.

    Its weights are the ones of the same names in `Denoiser`, so that it can be built and used without the U-Net.

    Raises:
        InputError: the configuration is that of the text-conditioned RePoseSD.
    """

    def __init__(self, config: DenoiserConfig, operations=nn):
        super().__init__()
        if config.texture == "text":
            raise InputError(
                "denoiser.texture = 'text': a text-conditioned U-Net is RePoseSD's "
                "(diffusion/reposesd.py); a Denoiser reads pictures, aligned or source."
            )
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
        sizes = check_tensor(latent, "latent", "B C h w", {"C": self.config.latent_channels})
        check_tensor(visibility, "visibility", "B 1 h w", sizes)
        if drop is not None and (drop.dtype != torch.bool or drop.shape != (len(latent),)):
            raise InputError(
                f"drop has shape {tuple(drop.shape)} and dtype {drop.dtype}; expected ({len(latent)},) bool."
            )
        tokens = self.texture(torch.cat([latent, visibility], 1))
        if drop is not None:
            tokens = torch.where(drop[:, None, None], self.null_token.to(tokens.dtype), tokens)
        return tokens

    def null_context(self, batch: int, count: int) -> Tensor:
        """Learned null tokens (B, count, D) of the joint null condition (P, I_S = ∅ in eq. 16)."""
        return self.null_token.expand(batch, count, -1)


class Denoiser(Conditioner):
    """Predicts v (or ε) and the variance logits from [z_t, E(P)], context tokens and, in `mini`, the aligned latent.

    With `residual` the aligned latent also offers the network a first estimate of ŷ_0: a learned gate lets it through,
    scaled as ŷ_0 enters v. The U-Net then only has to say what is different. Any latent size will do: where a
    resolution does not halve evenly the U-Net rounds up. Its middle block attends to the context whatever `attention`
    says.
    """

    def __init__(self, config: DenoiserConfig, operations=nn):
        super().__init__(config, operations)
        c = config.latent_channels
        aligned = c + 1 if config.channel_condition else 0
        self.position = nn.Parameter(torch.zeros(1, c, config.height, config.width)) if config.height else None
        self.unet = build_unet(
            config,
            2 * c + aligned + (c if config.height else 0),
            2 * c if config.learned_variance else c,
            sample_size=(config.height, config.width) if config.height else None,
        )
        for value in self.unet.conv_out.parameters():
            nn.init.zeros_(value)
        self.gate = operations.Conv2d(2 * c + 1, c, 3, padding=1) if aligned and config.residual else None

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        pose_latent: Tensor,
        tokens: Tensor,
        aligned: Tensor,
        visibility: Tensor,
        sigma: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction and variance logits, each (B, C, h, w); the logits are None without `learned_variance`.

        Args:
            z: y_t, (B, C, h, w).
            t: timesteps 0..T-1, (B,), may be fractional.
            pose_latent: E(P), like z; zero when dropped.
            tokens: (B, N, D) from `context` or `null_context`.
            aligned, visibility: (B, C, h, w), (B, 1, h, w); zero when dropped; unused without `channel_condition`.
            sigma: √(1-ᾱ_t), (B, 1, 1, 1); unused without `channel_condition`.

        Raises:
            InputError: a shape or dtype that does not fit the others, or a batch of 0. No value is looked at.
        """
        sizes, like = check_inputs(self.unet, self.config, z, t, pose_latent, tokens)
        if self.config.channel_condition:
            check_tensor(aligned, "aligned", "B C h w", sizes, like=like)
            check_tensor(visibility, "visibility", "B 1 h w", sizes, like=like)
            check_tensor(sigma, "sigma", "B 1 1 1", sizes, like=like)
        inputs = [z, pose_latent]
        if self.position is not None:
            inputs.append(resized(self.position, z.shape[-2:]).to(z).expand(len(z), -1, -1, -1))
        if self.config.channel_condition:
            inputs += [aligned, visibility]
        out = self.unet(torch.cat(inputs, 1), t, encoder_hidden_states=tokens, return_dict=False)[0]
        prediction, variance = out.chunk(2, 1) if self.config.learned_variance else (out, None)
        if self.gate is not None:
            gate = self.gate(torch.cat([pose_latent, aligned, visibility], 1)).sigmoid()
            prediction = prediction - sigma * gate * aligned
        return prediction, variance
