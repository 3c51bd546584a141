"""RePoseSD (section 4.4, eq. 17): Stable Diffusion 2.1, text-conditioned, the pose latent beside the noise latent.

Its U-Net is diffusers' UNet2DConditionModel with Stable Diffusion 2.1's options and 8 input channels, [z_t, E(P)].
Weights of HumanSD, which has the same input, load unchanged; those of Stable Diffusion itself grow four input channels
of zeros, so that training starts from a network that does exactly what Stable Diffusion does.

The loss of eq. 17, ‖ε − ε̃_θ‖² with ε̃_θ of eq. 15, is `losses.training_loss` with a gradient and no L_vlb. The text
encoder is the host's: tokens are the hidden states of the prompt, (B, 77, 1024) for Stable Diffusion 2.1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import has_header, read_header, read_weights, save_weights
from ..checks import check_tensor
from ..config import DenoiserConfig, ModelConfig, from_dict, to_dict
from ..diffusion.autoencoder import KLAutoencoder
from ..diffusion.denoiser import build_unet, check_inputs
from ..diffusion.guided import GuidedModel
from ..diffusion.ldm_layout import PREFIXES, converted, text_to_ldm, unet_to_ldm, vae_to_ldm
from ..errors import InputError
from ..fitting import filled
from ..presets import PRESETS

UNET_PREFIXES = ("model.diffusion_model.", "unet.", "")
"""What stands before the U-Net's keys: in LDM's layout, in a file of several networks, in a file of its own."""
KIND = "reposesd"
"""Of the header of our own files."""
V_PREDICTION = "v_pred"
HEADS_DIM = 64
"""Channels of an attention head of Stable Diffusion 2.1."""


class RePoseSD(nn.Module):
    """ε_θ(z_t, t, c, P) of eq. 17, c being the text."""

    def __init__(self, config: DenoiserConfig):
        """Raises an `InputError` unless `config` describes a network that reads text."""
        super().__init__()
        if config.texture != "text" or config.channel_condition or config.learned_variance:
            raise InputError(
                f"RePoseSD: texture = {config.texture!r}, channel_condition = {config.channel_condition}, "
                f"learned_variance = {config.learned_variance}; it needs texture = 'text' and neither of "
                "the others, as preset sd21."
            )
        self.config = config
        self.unet = build_unet(config, 2 * config.latent_channels, config.latent_channels, use_linear_projection=True)

    def forward(self, z: Tensor, t: Tensor, pose_latent: Tensor, tokens: Tensor) -> Tensor:
        """Predicted noise (or v, where the weights predict it), (B, C, h, w).

        Args:
            z: z_t, (B, C, h, w), scaled as the autoencoder's latents are.
            t: timesteps 0..T-1, (B,).
            pose_latent: E(P), like z; zeros where there is no pose.
            tokens: hidden states of the prompt, (B, n, context_dim).

        Raises:
            InputError: a shape or dtype that does not fit the others, or a batch of 0. No value is looked at.
        """
        check_inputs(self.unet, self.config, z, t, pose_latent, tokens)
        return self.unet(torch.cat([z, pose_latent], 1), t, encoder_hidden_states=tokens, return_dict=False)[0]


def grow_input(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weight (out, n, k, k) with `channels` ≥ n inputs, the new ones zero: they change no output."""
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


def unet_weights(state: Mapping[str, Tensor], config: DenoiserConfig) -> dict[str, Tensor]:
    """Public weights of a Stable Diffusion U-Net under the names of `RePoseSD`.

    Args:
        state: LDM's layout (HumanSD, Stable Diffusion) or diffusers', with other networks in it or alone.
        config: of the network; its latent channels tell 8-channel weights, which are taken as they are, from 4-channel
            ones, whose first convolution grows (`grow_input`).

    Raises:
        InputError: no U-Net in it, or one with another number of input channels, such as an inpainting model.
    """
    layouts = {"input_blocks.0.0.weight": True, "conv_in.weight": False}
    found = [(prefix, first) for prefix in UNET_PREFIXES for first in layouts if prefix + first in state]
    if not found:
        raise InputError(
            "RePoseSD: no Stable Diffusion U-Net among these weights (neither input_blocks.0.0.weight nor "
            "conv_in.weight); choose a Stable Diffusion or HumanSD checkpoint."
        )
    prefix, first = found[0]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if own[first].ndim != 4:
        raise InputError(
            f"RePoseSD: the U-Net's first convolution has shape {tuple(own[first].shape)}; the file is "
            "damaged: download it again."
        )
    c, channels = config.latent_channels, own[first].shape[1]
    if channels not in (c, 2 * c):
        raise InputError(
            f"RePoseSD: the U-Net has {channels} input channels; expected {2 * c} (noise and pose latent, "
            f"HumanSD) or {c} (Stable Diffusion). Inpainting models do not fit."
        )
    own[first] = grow_input(own[first], 2 * c)
    if layouts[first]:
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        own = converted(
            convert_ldm_unet_checkpoint,
            {UNET_PREFIXES[0] + key: value for key, value in own.items()},
            {"layers_per_block": config.layers},
        )
    return {f"unet.{key}": value for key, value in own.items()}


def reposesd_config(path: str | os.PathLike, public: ModelConfig = PRESETS["sd21"]) -> ModelConfig:
    """Configuration of a checkpoint: what its header says, and `public` for files of others, which have none."""
    if not has_header(path):
        return public
    return from_dict(ModelConfig, read_header(path, KIND)["config"], os.path.basename(path))


def load_reposesd(path: str | os.PathLike, config: DenoiserConfig | None = None) -> RePoseSD:
    """`RePoseSD` in float32 from a checkpoint, public or of `save_reposesd`.

    `diffusion.autoencoder.load_autoencoder` reads the same file's VAE.

    Args:
        config: sizes of the network; those of `reposesd_config` where it is left out.

    Raises:
        InputError: unreadable, no such U-Net in it, or one of other sizes.
    """
    config = config or reposesd_config(path).denoiser
    return filled(
        lambda: RePoseSD(config), unet_weights(read_weights(path), config), f"{os.path.basename(path)}: U-Net"
    )


def save_reposesd(
    path: str | os.PathLike,
    network: RePoseSD,
    autoencoder: KLAutoencoder,
    text: Mapping[str, Tensor],
    config: ModelConfig,
    card: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one file in HumanSD's layout, which RePoseSD Loader reads, with the configuration in its header.

    A network that predicts v carries the mark that trainers of Stable Diffusion have for it, an empty `v_pred`.

    Args:
        text: state dict of transformers' CLIPTextModel, whose layers are all that the tokens go through; empty for a
            file without a text encoder.
        config: of the whole model; card: see `checkpoint.save_model`.
        dtype: floating weights are stored in it.

    Raises:
        InputError: heads of another size than Stable Diffusion 2.1's: the layout does not say it.
    """
    if config.denoiser.heads_dim != HEADS_DIM:
        raise InputError(
            f"{os.path.basename(path)}: the U-Net's heads have {config.denoiser.heads_dim} channels; "
            f"loaders of Stable Diffusion 2.1 take {HEADS_DIM}, so that the file would not work."
        )
    parts = {
        "denoiser": unet_to_ldm(network.unet.state_dict(), config.denoiser),
        "autoencoder": vae_to_ldm(autoencoder.vae.state_dict(), config.autoencoder),
    }
    if text:
        parts["text"] = text_to_ldm(text)
    state = {PREFIXES[part] + key: value for part, weights in parts.items() for key, value in weights.items()}
    if config.schedule.prediction == "v_prediction":
        state[V_PREDICTION] = torch.empty(0)
    header = {"kind": KIND, "parts": sorted(parts), "config": to_dict(config), "card": card or {}}
    save_weights(path, state, header, dtype)


@dataclass
class TextCondition:
    """The conditioning of `RePoseSD`.

    Attributes:
        pose: E(P), (B, C, h, w).
        tokens, null_tokens: hidden states of the prompt and of the empty (or negative) one, (B, n, D).
    """

    pose: Tensor
    tokens: Tensor
    null_tokens: Tensor


class GuidedRePoseSD(GuidedModel):
    """`model(x, σ)` for the samplers, see `GuidedModel`; the joint null condition is no text and no pose."""

    denoiser: RePoseSD
    condition: TextCondition

    def conditions(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Pose latent and tokens, and in place of both zeros and the null tokens."""
        given = self.condition
        check_tensor(given.tokens, "tokens", "B n D")
        check_tensor(
            given.null_tokens, "null_tokens", "B n D", {"n": given.tokens.shape[1], "D": given.tokens.shape[2]}
        )
        return (given.pose, given.tokens), (torch.zeros_like(given.pose), given.null_tokens)

    def predict(self, z: Tensor, t: Tensor, *conditional: Tensor) -> tuple[Tensor, None]:
        """See `GuidedModel.predict`; the conditioning is the pose and the prompt's tokens."""
        return self.denoiser(z, t, *conditional), None
