"""The encoder E of section 3.1 and its decoder: Stable Diffusion's, or the small one of `mini`.

`KLAutoencoder` is the paper's: Stable Diffusion's variational autoencoder, whose public weights load unchanged.

`Autoencoder` is `mini`'s (**ours**): a linear encoder fitted in closed form and a small learned decoder. The encoder
projects each `stride`×`stride` patch on the leading principal components of training patches. Latents are therefore
linear in the picture: an error of colour costs in the latent what it costs in the picture, and fitting takes seconds.
The decoder adds to the linear inverse what the components lost.

Both have `encode`, `decode`, `decode_linear`, `stride`, `channels` and `config`; the small one has
`decode_for_field` and `field_stride`, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checkpoint import read_weights
from ..checks import check_precision, check_tensor
from ..config import AutoencoderConfig
from ..errors import InputError
from ..fitting import filled
from .checkpointing import checkpointed
from .ldm_layout import converted

OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of the attention layers in diffusers' files of 2022 and 2023, and today's."""


def build_autoencoder(config: AutoencoderConfig, operations=nn) -> Autoencoder | KLAutoencoder:
    """The autoencoder that `config.kind` names, with random weights."""
    return Autoencoder(config, operations) if config.kind == "pca" else KLAutoencoder(config)


def patches_of(images: Tensor, stride: int) -> Tensor:
    """(B, 3, H, W) → (B, H/stride, W/stride, 3·stride²)."""
    return rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=stride, q=stride)


PATCH = 8
"""Side of the patches that the linear encoder reads, in pixels of the picture that it has averaged to."""


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

    mean: Tensor
    basis: Tensor
    scale: Tensor
    field_stride = PATCH
    """Pixels a cell has in what `decode_for_field` makes, each way."""

    def __init__(self, config: AutoencoderConfig, operations=nn):
        super().__init__()
        self.config, self.stride, self.channels = config, config.stride, config.channels
        self.shrink, size = config.stride // PATCH, 3 * PATCH**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(config.channels, size))
        self.register_buffer("scale", torch.ones(config.channels))
        half, quarter, eighth = config.widths
        self.decoder = nn.Sequential(
            operations.Conv2d(config.channels, eighth, 3, padding=1),
            ResidualBlock(eighth, operations),
            ResidualBlock(eighth, operations),
            operations.Conv2d(eighth, quarter * 4, 1),
            nn.PixelShuffle(2),
            ResidualBlock(quarter, operations),
            operations.Conv2d(quarter, half * 4, 1),
            nn.PixelShuffle(2),
            ResidualBlock(half, operations),
            nn.SiLU(),
            operations.Conv2d(half, 12 * self.shrink**2, 3, padding=1),
            nn.PixelShuffle(2 * self.shrink),
        )
        # On a CPU it takes a fifth less this way, there and back.
        self.decoder.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1].

        Raises:
            InputError: not such a picture, H or W no multiple of the stride, or another dtype than the weights'.
        """
        check_tensor(images, "images", "B 3 H W", multiples={"H": self.stride, "W": self.stride})
        check_precision(images, "images", self.decoder[0], self.basis)
        z = (self.patches(images) - self.mean) @ self.basis.T / self.scale
        return z.movedim(-1, 1)

    def patches(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) as the patches that the encoder reads, (B, h, w, 3·8²)."""
        return patches_of(F.avg_pool2d(images, self.shrink) if self.shrink > 1 else images, PATCH)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The linear inverse of `encode`: a blurred-by-components picture (B, 3, H, W), nearly free of cost.

        Raises:
            InputError: what `decode` raises.
        """
        picture = self.decode_for_field(latents)
        if self.shrink == 1:
            return picture
        return F.interpolate(picture, scale_factor=self.shrink, mode="bilinear", align_corners=False)

    def decode_for_field(self, latents: Tensor) -> Tensor:
        """The linear inverse at the size of the patches, (B, 3, 8h, 8w): what a pose interaction field looks at.

        Joints follow its gradient as they follow that of `decode`, at no cost to speak of ("What guidance costs" in
        training/README.md).

        Raises:
            InputError: what `decode` raises.
        """
        check_tensor(latents, "latents", "B C h w", {"C": self.channels})
        check_precision(latents, "latents", self.decoder[0], self.basis)
        patches = (latents.movedim(1, -1) * self.scale) @ self.basis + self.mean
        return rearrange(patches, "b h w (c p q) -> b c (h p) (w q)", p=PATCH, q=PATCH)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1] (not clamped), of latents (B, C, h, w).

        Raises:
            InputError: not such latents, or another dtype than the weights'.
        """
        return self.decode_linear(latents) + self.decoder(latents)

    @torch.no_grad()
    def fit(self, patches: Tensor) -> Tensor:
        """Set mean, basis and scale from patches (n, 3·8²); returns the share of variance each component keeps.

        scale_i = k · std_i**whitening with one k that makes the latent's average variance 1.
        """
        mean = patches.mean(0)
        centred = (patches - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        values, vectors = values.flip(0), vectors.flip(1)
        basis = vectors[:, : self.channels].T
        basis = basis * basis.sum(1, keepdim=True).sign()  # eigenvectors have no sign of their own
        std = values[: self.channels].clamp(min=1e-12).sqrt()
        scale = std**self.config.whitening
        scale = scale * (std / scale).square().mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(scale)
        return (values / values.sum())[: self.channels]


class KLAutoencoder(nn.Module):
    """Stable Diffusion's autoencoder over diffusers' AutoencoderKL: pictures ↔ scaled latents (B, C, H/8, W/8).

    `encode` is deterministic: the mean of the posterior times `config.scaling`, which brings latents to about unit
    variance. Its layers are diffusers' own; a host that swaps classes of layers does so after construction.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        with torch.device("cpu"):  # see `fitting.filled`
            from diffusers.models import AutoencoderKL

        stages = len(config.widths)
        self.config, self.stride, self.channels = config, config.stride, config.channels
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            block_out_channels=config.widths,
            layers_per_block=2,
            latent_channels=config.channels,
            norm_num_groups=min(32, *config.widths),
            scaling_factor=config.scaling,
        )

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1].

        Raises:
            InputError: not such a picture, H or W no multiple of the stride, or another dtype than the weights'.
        """
        check_tensor(images, "images", "B 3 H W", multiples={"H": self.stride, "W": self.stride})
        first = self.vae.encoder.conv_in
        check_precision(images, "images", first, first.weight)
        return self.vae.encode(images, return_dict=False)[0].mode() * self.config.scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1] (not clamped), of latents (B, C, h, w); lets gradients through.

        Of large pictures they come with activations computed again, see `checkpointing`.

        Raises:
            InputError: not such latents, or another dtype than the weights'.
        """
        check_tensor(latents, "latents", "B C h w", {"C": self.channels})
        first = self.vae.decoder.conv_in
        check_precision(latents, "latents", first, first.weight)
        pixels = math.prod(latents.shape[-2:]) * self.stride**2
        wanted = torch.is_grad_enabled() and latents.requires_grad
        with checkpointed(self.vae.decoder, pixels if wanted else 0):
            return self.vae.decode(latents / self.config.scaling, return_dict=False)[0]

    @torch.no_grad()
    def decode_linear(self, latents: Tensor) -> Tensor:
        """A flat preview (B, 3, H, W): the decoder's first-order expansion at grey, one colour a cell.

        Costs 2C + 1 decodes of 64×64 pixels, whatever the size; takes no part in training.
        """
        unit = torch.eye(self.channels).to(latents)
        probes = torch.cat([unit, -unit, torch.zeros_like(unit[:1])])[:, :, None, None].expand(-1, -1, 8, 8)
        up, down, black = self.decode(probes).mean((2, 3)).split([self.channels, self.channels, 1])
        colour = torch.einsum("bchw,cd->bdhw", latents, (up - down) / 2) + black[..., None, None]
        return F.interpolate(colour, scale_factor=self.stride, mode="nearest")


def kl_weights(state: Mapping[str, Tensor], config: AutoencoderConfig) -> dict[str, Tensor]:
    """Public weights of a Stable Diffusion autoencoder under the names of `KLAutoencoder`, values untouched.

    Args:
        state: diffusers' layout (old or new names of the attention), or LDM's, alone or inside a whole checkpoint
            (`first_stage_model.…`); other parts of it are passed over.
        config: of the autoencoder; only its number of stages matters.

    Raises:
        InputError: there is no such autoencoder in it.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    prefixes = [prefix for prefix in ("first_stage_model.", "vae.", "") if prefix + "decoder.conv_in.weight" in state]
    if not prefixes:
        raise InputError(
            "autoencoder: no Stable Diffusion VAE among these weights (no decoder.conv_in.weight); choose "
            "a VAE file or a whole Stable Diffusion checkpoint."
        )
    prefix = prefixes[0]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not any(key.startswith("encoder.down_blocks.") for key in own):
        stages = len(config.widths)
        # The converter squeezes 1×1 convolutions of the attention, in a dictionary of its own.
        own = converted(
            convert_ldm_vae_checkpoint,
            {f"first_stage_model.{key}": value for key, value in own.items()},
            {"down_block_types": ("",) * stages, "up_block_types": ("",) * stages},
        )
    renamed = {}
    for key, value in own.items():
        for old, new in OLD_ATTENTION.items():
            key = key.replace(old, new) if ".attentions." in key else key
        # Files of that age keep the attention's layers as 1×1 convolutions.
        flat = ".attentions." in key and value.ndim == 4
        renamed[f"vae.{key}"] = value[:, :, 0, 0] if flat else value
    return renamed


def load_autoencoder(path: str | os.PathLike, config: AutoencoderConfig) -> KLAutoencoder:
    """A `KLAutoencoder` in float32 with the public weights of a file (see `kl_weights`, `checkpoint.read_weights`).

    Raises:
        InputError: unreadable, no VAE in it, or one of other sizes.
    """
    return filled(
        lambda: KLAutoencoder(config), kl_weights(read_weights(path), config), f"{os.path.basename(path)}: autoencoder"
    )
