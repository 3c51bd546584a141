"""Stable Diffusion 2.1 as RePoseSD starts from it: a folder of diffusers, or one file in LDM's layout. All local."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reposedm_core.checkpoint import load_into, read_weights
from reposedm_core.config import AutoencoderConfig, DenoiserConfig, ModelConfig, ScheduleConfig
from reposedm_core.diffusion.autoencoder import KLAutoencoder, kl_weights
from reposedm_core.diffusion.ldm_layout import text_from_ldm
from reposedm_core.errors import InputError
from reposedm_core.reposesd.network import HEADS_DIM, reposesd_config, unet_weights
from training.stages.reposesd.text_encoder import TextEncoder, build_text_encoder

FILES = tuple(
    f"{stem}{kind}.{ending}"
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model")
    for kind in ("", ".fp16")
    for ending in ("safetensors", "bin")
)
"""Names of a network's weights in a folder of diffusers, the first that is there counts."""


class StableDiffusion:
    """The networks of a local Stable Diffusion 2.1, each read when it is asked for and not kept here.

    Args:
        path: folder with unet, vae, text_encoder, tokenizer and, if it is there, scheduler; or a file in LDM's layout,
            Stable Diffusion's, HumanSD's or one that this training exported.
        preset: what the folder does not say.
        tokenizer: folder of the tokenizer; a file needs it, as LDM's layout has none.

    Attributes:
        config: of the whole model, with the sizes and the schedule of `path`.

    Raises:
        InputError: neither of the two, or sizes that RePoseSD has not.
    """

    def __init__(self, path: str | Path, preset: ModelConfig, tokenizer: str = ""):
        self.path = Path(path)
        if not str(path) or not self.path.exists():
            raise InputError(
                f"reposesd.start = {str(path)!r}: give a local Stable Diffusion 2.1, a folder of "
                "diffusers (with unet, vae, text_encoder and tokenizer) or a checkpoint file; nothing is "
                "downloaded."
            )
        self.tokenizer = Path(tokenizer) if tokenizer else self.path / "tokenizer"
        if self.path.is_file():
            if not tokenizer:
                raise InputError(
                    f"reposesd.start = {self.path.name}: a checkpoint file holds no tokenizer; give the "
                    "folder of CLIP's as reposesd.tokenizer."
                )
            self.config = reposesd_config(self.path, preset)
        else:
            self.config = replace(
                preset,
                denoiser=self._denoiser(preset.denoiser),
                autoencoder=self._autoencoder(),
                schedule=self._schedule(preset.schedule),
            )
        if self.config.denoiser.heads_dim != HEADS_DIM:
            raise InputError(
                f"reposesd.start = {self.path}: attention heads of {self.config.denoiser.heads_dim} "
                f"channels; Stable Diffusion 2.1's have {HEADS_DIM}."
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
            return build_text_encoder(
                self._state("text_encoder"), self.path / "text_encoder" / "config.json", self.tokenizer
            )
        weights = text_from_ldm(self._state("text_encoder"))
        if not weights:
            raise InputError(f"reposesd.start = {self.path.name}: it holds no text encoder in OpenCLIP's layout.")
        return build_text_encoder(weights, None, self.tokenizer)

    def _state(self, part: str) -> Mapping[str, Tensor]:
        if self.path.is_file():
            return read_weights(self.path)
        found = next((file for name in FILES if (file := self.path / part / name).is_file()), None)
        if found is None:
            raise InputError(
                f"reposesd.start = {self.path}: no weights in its folder {part}; expected {FILES[0]} or the like."
            )
        return read_weights(found)

    # -- sizes

    def _read(self, part: str, file: str = "config.json") -> dict[str, Any]:
        path = self.path / part / file
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"reposesd.start = {self.path}: {part}/{file} cannot be read ({error}); give a folder as "
                "diffusers saves it."
            ) from error

    def _denoiser(self, preset: DenoiserConfig) -> DenoiserConfig:
        found = self._read("unet")
        widths = tuple(found["block_out_channels"])
        # Under either name diffusers keeps the number of heads.
        heads = found.get("num_attention_heads") or found.get("attention_head_dim", 8)
        heads = heads if isinstance(heads, list) else [heads] * len(widths)
        dims = {width // count for width, count in zip(widths, heads, strict=True)}
        if len(dims) > 1 or not found.get("use_linear_projection") or found["in_channels"] not in (4, 8):
            raise InputError(
                f"reposesd.start = {self.path}: its U-Net is not Stable Diffusion 2.1's (attention heads "
                f"{heads} for channels {widths}, {found['in_channels']} input channels, linear "
                f"projections: {bool(found.get('use_linear_projection'))}); other versions do not fit."
            )
        return replace(
            preset,
            latent_channels=found["out_channels"],
            block_channels=widths,
            heads_dim=dims.pop(),
            attention=tuple("CrossAttn" in kind for kind in found["down_block_types"]),
            layers=found["layers_per_block"],
            context_dim=found["cross_attention_dim"],
            norm_groups=found["norm_num_groups"],
        )

    def _autoencoder(self) -> AutoencoderConfig:
        found = self._read("vae")
        widths = tuple(found["block_out_channels"])
        if found.get("norm_num_groups", 32) != min(32, *widths):
            raise InputError(
                f"reposesd.start = {self.path}: its VAE has {found['norm_num_groups']} groups in its "
                f"norms; Stable Diffusion's has {min(32, *widths)}."
            )
        return AutoencoderConfig(
            "kl", found["latent_channels"], 2 ** (len(widths) - 1), widths, scaling=found.get("scaling_factor", 0.18215)
        )

    def _schedule(self, preset: ScheduleConfig) -> ScheduleConfig:
        """The noise levels and the kind of prediction that the folder's scheduler names; without one the preset's."""
        if not (self.path / "scheduler").is_dir():
            return preset
        found = self._read("scheduler", "scheduler_config.json")
        return ScheduleConfig(
            found["num_train_timesteps"],
            found["beta_schedule"],
            found["beta_start"],
            found["beta_end"],
            found.get("prediction_type", "epsilon"),
        )
