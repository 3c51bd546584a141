"""Stable Diffusion 2.1 as RePoseSD starts from it: a folder of diffusers, or one file in LDM's layout. All local."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from reposedm_core.checkpoint import load_into, read_weights
from reposedm_core.config import ModelConfig
from reposedm_core.diffusion.autoencoder import KLAutoencoder, kl_weights
from reposedm_core.diffusion.ldm_layout import text_from_ldm
from reposedm_core.errors import InputError, quoted
from reposedm_core.reposesd.diffusers_folder import DiffusersFolder
from reposedm_core.reposesd.network import HEADS_DIM, reposesd_config, unet_weights
from training.stages.reposesd.text_encoder import TextEncoder, build_text_encoder

SETTINGS = "reposesd.start", "reposesd.tokenizer"


class StableDiffusion:
    """The networks of a local Stable Diffusion 2.1, each read when it is asked for and not kept here.

    Args:
        path: folder with unet, vae, text_encoder, tokenizer and, if it is there, scheduler; or a file in LDM's layout,
            Stable Diffusion's, HumanSD's or one that this training exported.
        preset: what the folder does not say.
        tokenizer: folder of the tokenizer; a file needs it, as LDM's layout has none.
        settings: what messages call `path` and `tokenizer`.

    Attributes:
        config: of the whole model, with the sizes and the schedule of `path`.

    Raises:
        InputError: neither of the two, or sizes that RePoseSD has not.
    """

    def __init__(
        self, path: str | Path, preset: ModelConfig, tokenizer: str | Path = "", settings: tuple[str, str] = SETTINGS
    ):
        self.path, (self.setting, tokenizer_setting) = Path(path), settings
        if not str(path) or not self.path.exists():
            raise InputError(
                f"{self.setting} = {str(path)!r}: give a local Stable Diffusion 2.1, a folder of "
                "diffusers (with unet, vae, text_encoder and tokenizer) or a checkpoint file; nothing is "
                "downloaded."
            )
        self.tokenizer = Path(tokenizer) if tokenizer else self.path / "tokenizer"
        if self.path.is_file():
            if not tokenizer:
                raise InputError(
                    f"{self.setting} = {self.path.name}: a checkpoint file holds no tokenizer; give the "
                    f"folder of CLIP's as {tokenizer_setting}."
                )
            self.config = reposesd_config(self.path, preset)
            if self.config.denoiser.heads_dim != HEADS_DIM:
                raise InputError(
                    f"{self.setting} = {self.path}: attention heads of {self.config.denoiser.heads_dim} "
                    f"channels; Stable Diffusion 2.1's have {HEADS_DIM}."
                )
        else:
            self.folder = DiffusersFolder(self.path, self.setting)
            self.config = self.folder.config(preset)
            inputs, channels = self.folder.settings("unet").get("in_channels"), self.config.denoiser.latent_channels
            if inputs not in (channels, 2 * channels):
                raise InputError(
                    f"{self.setting} = {self.path}: its U-Net has {quoted(inputs)} input channels; expected "
                    f"{channels}, or {2 * channels} with the pose. Inpainting models do not fit."
                )

    # -- networks

    def unet(self) -> dict[str, Tensor]:
        """Weights for `RePoseSD`; four input channels have grown to eight (see `unet_weights`)."""
        return unet_weights(self._state("unet"), self.config.denoiser)

    def autoencoder(self) -> KLAutoencoder:
        """In float32, frozen."""
        network = KLAutoencoder(self.config.autoencoder)
        load_into(network, kl_weights(self._state("vae"), self.config.autoencoder), f"{self.path.name}: autoencoder")
        return network.eval().requires_grad_(False)

    def text_encoder(self) -> TextEncoder:
        """In float32, frozen."""
        if self.path.is_dir():
            sizes = self.folder.settings("text_encoder")
            return build_text_encoder(self._state("text_encoder"), sizes, self.tokenizer)
        weights = text_from_ldm(self._state("text_encoder"))
        if not weights:
            raise InputError(f"{self.setting} = {self.path.name}: it holds no text encoder in OpenCLIP's layout.")
        return build_text_encoder(weights, None, self.tokenizer)

    def _state(self, part: str) -> Mapping[str, Tensor]:
        return read_weights(self.path) if self.path.is_file() else self.folder.weights(part)
