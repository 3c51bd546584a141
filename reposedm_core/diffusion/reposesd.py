"""RePoseSD (section 4.4, eq. 17): Stable Diffusion 2.1, told by a text, with the pose latent beside the noise latent.

Its U-Net is diffusers' UNet2DConditionModel with Stable Diffusion 2.1's options and 8 input channels, [z_t, E(P)].
Weights of HumanSD, which has the same input, load unchanged; those of Stable Diffusion itself grow four input channels
of zeros, so that training starts from a network that does exactly what Stable Diffusion does.

The text encoder is the host's: tokens are the hidden states of the prompt, (B, 77, 1024) for Stable Diffusion 2.1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import load_into, read_weights
from ..checks import check_tensor
from ..config import DenoiserConfig
from ..errors import InputError
from .denoiser import build_unet, check_inputs
from .guidance import guide_epsilon
from .guided import GuidedModel

PREFIXES = ("model.diffusion_model.", "unet.", "")
"""What stands before the U-Net's keys: in LDM's layout, in a file of several networks, in a file of its own."""


class RePoseSD(nn.Module):
    """ε_θ(z_t, t, c, P) of eq. 17, c being the text."""

    def __init__(self, config: DenoiserConfig):
        """Raises an `InputError` unless `config` describes a network that reads text."""
        super().__init__()
        if config.texture != "text" or config.channel_condition or config.learned_variance:
            raise InputError(f"RePoseSD: texture = {config.texture!r}, channel_condition = {config.channel_condition}, "
                             f"learned_variance = {config.learned_variance}; it needs texture = 'text' and neither of "
                             "the others, as preset sd21.")
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
    found = [(prefix, first) for prefix in PREFIXES for first in layouts if prefix + first in state]
    if not found:
        raise InputError("RePoseSD: no Stable Diffusion U-Net among these weights (neither input_blocks.0.0.weight nor "
                         "conv_in.weight); choose a Stable Diffusion or HumanSD checkpoint.")
    prefix, first = found[0]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    c, channels = config.latent_channels, own[first].shape[1]
    if channels not in (c, 2 * c):
        raise InputError(f"RePoseSD: the U-Net has {channels} input channels; expected {2 * c} (noise and pose latent, "
                         f"HumanSD) or {c} (Stable Diffusion). Inpainting models do not fit.")
    own[first] = grow_input(own[first], 2 * c)
    if layouts[first]:
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

        own = convert_ldm_unet_checkpoint({PREFIXES[0] + key: value for key, value in own.items()},
                                          {"layers_per_block": config.layers})
    return {f"unet.{key}": value for key, value in own.items()}


def load_reposesd(path: str | os.PathLike, config: DenoiserConfig) -> RePoseSD:
    """`RePoseSD` in float32 from a public file; `diffusion.autoencoder.load_autoencoder` reads the same file's VAE.

    Raises:
        InputError: unreadable, no such U-Net in it, or one of other sizes.
    """
    network = RePoseSD(config)
    load_into(network, unet_weights(read_weights(path), config), f"{os.path.basename(path)}: U-Net")
    return network.eval().requires_grad_(False)


def guided_loss(noise: Tensor, prediction: Tensor, gradient: Tensor, alpha_bar: Tensor | float,
                weight: float = 1.0) -> Tensor:
    """eq. 17, L_LDM = ‖ε − ε̃_θ‖² with ε̃_θ = ε_θ + w √(1 − ᾱ_t) ∇G of eq. 15, the mean over everything.

    Args:
        noise, prediction: ε and ε_θ, (B, C, h, w).
        gradient: ∇G, the same shape; no derivative is taken of it (**ours**: no second-order terms).
        alpha_bar: ᾱ_t, a number or one a picture (B,).
        weight: w; 0 is Stable Diffusion's own loss.
    """
    return F.mse_loss(guide_epsilon(prediction, gradient.detach(), alpha_bar, weight), noise)


@dataclass
class TextCondition:
    """What `RePoseSD` is told.

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
        told = self.condition
        check_tensor(told.tokens, "tokens", "B n D")
        check_tensor(told.null_tokens, "null_tokens", "B n D", {"n": told.tokens.shape[1], "D": told.tokens.shape[2]})
        return (told.pose, told.tokens), (torch.zeros_like(told.pose), told.null_tokens)

    def predict(self, z: Tensor, t: Tensor, pose: Tensor, tokens: Tensor) -> tuple[Tensor, None]:
        """See `GuidedModel.predict`."""
        return self.denoiser(z, t, pose, tokens), None
