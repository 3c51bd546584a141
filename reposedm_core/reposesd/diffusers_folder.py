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
from ..config import AutoencoderConfig, DenoiserConfig, ModelConfig, from_dict, to_dict
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
"""Names of a network's weights, the first that is there counts."""
TEXT_LAYERS = 23
"""Of Stable Diffusion 2.1's text encoder: OpenCLIP's ViT-H without its last layer, which is not read."""
FIXED = {
    "use_linear_projection": (True, False),
    "transformer_layers_per_block": (1, 1),
    "class_embed_type": (None, None),
    "addition_embed_type": (None, None),
}
"""What the U-Net's configuration must say, and what diffusers takes where it says nothing."""


def read_folder(path: Path, preset: ModelConfig = PRESETS["sd21"]) -> dict[str, Tensor]:
    """Weights of a folder under the names of LDM's layout, values untouched, on the CPU.

    Args:
        path: of the folder; unet must be there, vae and text_encoder may be missing.
        preset: what the folder does not say.

    Returns:
        U-Net, VAE and text encoder under `PREFIXES`, and the empty `v_pred` where the scheduler says v-prediction.

    Raises:
        InputError: a part cannot be read, or is not Stable Diffusion 2.1's.
    """
    config = folder_config(path, preset)
    parts = {"denoiser": unet_to_ldm(_weights(path, "unet"), config.denoiser)}
    if (path / "vae").is_dir():
        parts["autoencoder"] = vae_to_ldm(_weights(path, "vae"), config.autoencoder)
    if (path / "text_encoder").is_dir():
        layers = _read(path, "text_encoder").get("num_hidden_layers")
        if layers != TEXT_LAYERS:
            raise InputError(
                f"checkpoint: the text encoder of {path.name} has {quoted(layers)} layers; Stable "
                f"Diffusion 2.1's has {TEXT_LAYERS}. Other versions do not fit."
            )
        weights = _weights(path, "text_encoder")
        try:
            parts["text"] = text_to_ldm(weights)
        except (LookupError, RuntimeError, ValueError) as error:  # names or shapes that no text encoder has
            raise InputError(
                f"checkpoint: text_encoder of {path.name} holds no text encoder of Stable Diffusion "
                f"({shortened(repr(error))}); download the folder again."
            ) from error
    state = {PREFIXES[part] + key: value for part, weights in parts.items() for key, value in weights.items()}
    return state | ({V_PREDICTION: empty(0)} if config.schedule.prediction == "v_prediction" else {})


def folder_config(path: Path, preset: ModelConfig = PRESETS["sd21"]) -> ModelConfig:
    """Sizes and kind of prediction of a folder, read off its JSON files; `preset` says the rest.

    Raises:
        InputError: a JSON file is missing or cannot be read, or the U-Net or VAE is not Stable Diffusion 2.1's.
    """
    kind = preset.schedule.prediction
    if (path / "scheduler").is_dir():
        kind = _read(path, "scheduler", "scheduler_config.json").get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise InputError(f"checkpoint: {path.name} predicts {quoted(kind)}; expected epsilon or v_prediction.")
    return replace(
        preset,
        denoiser=_denoiser(path, preset.denoiser),
        autoencoder=_autoencoder(path, preset.autoencoder),
        schedule=replace(preset.schedule, prediction=kind),
    )


def _denoiser(path: Path, preset: DenoiserConfig) -> DenoiserConfig:
    found = _read(path, "unet")
    try:
        widths = tuple(found["block_out_channels"])
        # Under either name diffusers keeps the number of heads.
        heads = found.get("num_attention_heads") or found.get("attention_head_dim", 8)
        heads = heads if isinstance(heads, list) else [heads] * len(widths)
        dims = {width / count for width, count in zip(widths, heads, strict=True)}
        other = [name for name, (wanted, default) in FIXED.items() if found.get(name, default) != wanted]
        if dims != {HEADS_DIM} or other:
            raise InputError(
                f"checkpoint: the U-Net of {path.name} is not Stable Diffusion 2.1's (attention heads "
                f"{quoted(heads)} for channels {quoted(widths)}"
                + "".join(f", {name} = {quoted(found.get(name))}" for name in other)
                + "); use Load Diffusion Model or ComfyUI's Diffusers Loader for other versions."
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
        return from_dict(DenoiserConfig, {**to_dict(preset), **sizes}, f"checkpoint: unet/config.json of {path.name}")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"checkpoint: unet/config.json of {path.name} describes no U-Net of diffusers "
            f"({shortened(repr(error))}); save the folder again."
        ) from error


def _autoencoder(path: Path, preset: AutoencoderConfig) -> AutoencoderConfig:
    if not (path / "vae").is_dir():
        return preset
    found = _read(path, "vae")
    scaling = found.get("scaling_factor", preset.scaling)
    if scaling != preset.scaling:
        raise InputError(
            f"checkpoint: the VAE of {path.name} scales its latents by {quoted(scaling)}; Stable "
            f"Diffusion 2.1's by {preset.scaling}. Other versions do not fit."
        )
    widths = found.get("block_out_channels", preset.widths)
    return from_dict(
        AutoencoderConfig, {**to_dict(preset), "widths": widths}, f"checkpoint: vae/config.json of {path.name}"
    )


def _read(path: Path, part: str, file: str = "config.json") -> dict[str, Any]:
    return read_json(
        path / part / file, f"checkpoint: {part}/{file} of {path.name}", "choose a folder as diffusers saves it"
    )


def _weights(path: Path, part: str) -> Mapping[str, Tensor]:
    found = next((file for name in WEIGHTS if (file := path / part / name).is_file()), None)
    if found is None:
        raise InputError(
            f"checkpoint: no weights in the folder {part} of {path.name}; expected {WEIGHTS[0]} or the like."
        )
    try:
        return read_weights(found)
    except InputError as error:
        raise InputError(f"checkpoint: {part} of {path.name}: {error}") from error
