"""Stable Diffusion 2.1 as a folder of diffusers: unet, vae, text_encoder and scheduler, each with its config.json.

`read_folder` gives it the names of one file in LDM's layout, so that whoever reads such a file reads a folder as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, empty

from ..checkpoint import read_weights
from ..config import AutoencoderConfig, DenoiserConfig, ModelConfig, ScheduleConfig, from_dict, to_dict
from ..diffusion.ldm_layout import PREFIXES, text_to_ldm, unet_to_ldm, vae_to_ldm
from ..errors import InputError, quoted, shortened
from ..files import read_json
from ..presets import PRESETS
from .network import HEADS_DIM, V_PREDICTION

MARK = Path("unet", "config.json")
"""The file that tells a folder of diffusers from others."""
WEIGHTS = tuple(
    f"{stem}{kind}.{ending}"
    for ending in ("safetensors", "bin")
    for kind in ("", ".fp16")
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model")
)
"""Names of a network's weights, the first that is there counts: no pickle is opened where there are safetensors."""
TEXT_LAYERS = 23
"""Of Stable Diffusion 2.1's text encoder: OpenCLIP's ViT-H without its last layer, which is not read."""
FIXED = {
    "use_linear_projection": (True, False),
    "transformer_layers_per_block": (1, 1),
    "class_embed_type": (None, None),
    "addition_embed_type": (None, None),
}
"""What the U-Net's configuration must say, and what diffusers takes where it says nothing."""


class DiffusersFolder:
    """A Stable Diffusion 2.1 as diffusers saves it; unet must be there, vae, text_encoder and scheduler may be missing.

    Args:
        path: of the folder.
        setting: what the user gave it by; messages begin with it.
    """

    def __init__(self, path: Path, setting: str = "checkpoint"):
        self.path, self.setting = path, setting

    def config(self, preset: ModelConfig = PRESETS["sd21"]) -> ModelConfig:
        """Sizes, noise levels and kind of prediction, read off its JSON files; `preset` says the rest.

        Raises:
            InputError: a JSON file is missing or cannot be read, or the U-Net or VAE is not Stable Diffusion 2.1's.
        """
        return replace(
            preset,
            denoiser=self._denoiser(preset.denoiser),
            autoencoder=self._autoencoder(preset.autoencoder),
            schedule=self._schedule(preset.schedule),
        )

    def settings(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """What a JSON file of one of the networks says; an `InputError` where it cannot be read."""
        return read_json(self.path / part / file, self._said(f"{part}/{file}"), "choose a folder as diffusers saves it")

    def weights(self, part: str) -> Mapping[str, Tensor]:
        """Weights of one of the networks, of the first of `WEIGHTS` that is there, under diffusers' names.

        Raises:
            InputError: there are none, or they cannot be read.
        """
        found = next((file for name in WEIGHTS if (file := self.path / part / name).is_file()), None)
        if found is None:
            raise self._wrong(
                f"no weights in the folder {part} of {self.path.name}; expected {WEIGHTS[0]} or the like."
            )
        try:
            return read_weights(found)
        except InputError as error:
            raise self._wrong(f"{part} of {self.path.name}: {error}") from error

    def _said(self, file: str) -> str:
        return f"{self.setting}: {file} of {self.path.name}"

    def _wrong(self, problem: str) -> InputError:
        return InputError(f"{self.setting}: {problem}")

    def _denoiser(self, preset: DenoiserConfig) -> DenoiserConfig:
        found = self.settings("unet")
        try:
            widths = tuple(found["block_out_channels"])
            # Under either name diffusers keeps the number of heads.
            heads = found.get("num_attention_heads") or found.get("attention_head_dim", 8)
            heads = heads if isinstance(heads, list) else [heads] * len(widths)
            dims = {width / count for width, count in zip(widths, heads, strict=True)}
            other = [name for name, (wanted, default) in FIXED.items() if found.get(name, default) != wanted]
            if dims != {HEADS_DIM} or other:
                raise self._wrong(
                    f"the U-Net of {self.path.name} is not Stable Diffusion 2.1's (attention heads "
                    f"{quoted(heads)} for channels {quoted(widths)}"
                    + "".join(f", {name} = {quoted(found.get(name))}" for name in other)
                    + "). Other versions do not fit; in ComfyUI use Load Diffusion Model or Diffusers Loader for them."
                )
            sizes = {
                "latent_channels": found["out_channels"],
                "block_channels": widths,
                "heads_dim": HEADS_DIM,
                "attention": ["CrossAttn" in kind for kind in found["down_block_types"]],
                "layers": found["layers_per_block"],
                "context_dim": found["cross_attention_dim"],
                "norm_groups": found["norm_num_groups"],
            }
            return from_dict(DenoiserConfig, {**to_dict(preset), **sizes}, self._said("unet/config.json"))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise self._wrong(
                f"unet/config.json of {self.path.name} describes no U-Net of diffusers "
                f"({shortened(repr(error))}); save the folder again."
            ) from error

    def _autoencoder(self, preset: AutoencoderConfig) -> AutoencoderConfig:
        if not (self.path / "vae").is_dir():
            return preset
        found = self.settings("vae")
        scaling = found.get("scaling_factor", preset.scaling)
        if scaling != preset.scaling:
            raise self._wrong(
                f"the VAE of {self.path.name} scales its latents by {quoted(scaling)}; Stable "
                f"Diffusion 2.1's by {preset.scaling}. Other versions do not fit."
            )
        sizes = {
            "channels": found.get("latent_channels", preset.channels),
            "widths": found.get("block_out_channels", preset.widths),
        }
        if isinstance(sizes["widths"], list):
            sizes["stride"] = 2 ** (len(sizes["widths"][:8]) - 1)
        config = from_dict(AutoencoderConfig, {**to_dict(preset), **sizes}, self._said("vae/config.json"))
        usual = min(32, *config.widths)
        if found.get("norm_num_groups", usual) != usual:
            raise self._wrong(
                f"the VAE of {self.path.name} has {quoted(found['norm_num_groups'])} groups in its norms; "
                f"Stable Diffusion's has {usual}. Other versions do not fit."
            )
        return config

    def _schedule(self, preset: ScheduleConfig) -> ScheduleConfig:
        """Of the folder's scheduler; without one the preset's."""
        if not (self.path / "scheduler").is_dir():
            return preset
        found = self.settings("scheduler", "scheduler_config.json")
        kind = found.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise self._wrong(f"{self.path.name} predicts {quoted(kind)}; expected epsilon or v_prediction.")
        levels = {
            "timesteps": found.get("num_train_timesteps", preset.timesteps),
            **{name: found.get(name, getattr(preset, name)) for name in ("beta_schedule", "beta_start", "beta_end")},
        }
        where = self._said("scheduler/scheduler_config.json")
        return from_dict(ScheduleConfig, {**to_dict(preset), **levels, "prediction": kind}, where)


def read_folder(path: Path, preset: ModelConfig = PRESETS["sd21"]) -> dict[str, Tensor]:
    """Weights of a folder under the names of LDM's layout, values untouched, on the CPU.

    Args:
        path: of the folder; see `DiffusersFolder`.
        preset: what the folder does not say.

    Returns:
        U-Net, VAE and text encoder under `PREFIXES`, and the empty `v_pred` where the scheduler says v-prediction.

    Raises:
        InputError: a part cannot be read, or is not Stable Diffusion 2.1's.
    """
    folder = DiffusersFolder(path)
    config = folder.config(preset)
    parts = {"denoiser": unet_to_ldm(folder.weights("unet"), config.denoiser)}
    if (path / "vae").is_dir():
        parts["autoencoder"] = vae_to_ldm(folder.weights("vae"), config.autoencoder)
    if (path / "text_encoder").is_dir():
        layers = folder.settings("text_encoder").get("num_hidden_layers")
        if layers != TEXT_LAYERS:
            raise InputError(
                f"checkpoint: the text encoder of {path.name} has {quoted(layers)} layers; Stable "
                f"Diffusion 2.1's has {TEXT_LAYERS}. Other versions do not fit."
            )
        weights = folder.weights("text_encoder")
        try:
            parts["text"] = text_to_ldm(weights)
        except (LookupError, RuntimeError, ValueError) as error:  # names or shapes that no text encoder has
            raise InputError(
                f"checkpoint: text_encoder of {path.name} holds no text encoder of Stable Diffusion "
                f"({shortened(repr(error))}); download the folder again."
            ) from error
    state = {PREFIXES[part] + key: value for part, weights in parts.items() for key, value in weights.items()}
    return state | ({V_PREDICTION: empty(0)} if config.schedule.prediction == "v_prediction" else {})
