"""Self-describing checkpoints: safetensors with the configuration and the model card as JSON in the metadata."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from .errors import InputError

KEY = "reposedm"
"""Metadata key under which the header lies."""
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, LookupError, AssertionError, AttributeError, TypeError,
              struct.error, UnpicklingError, SafetensorError)
"""What torch's and safetensors' readers raise on bytes that are no weights, or were once."""


def save_model(path: str | os.PathLike, modules: dict[str, nn.Module], config: dict[str, Any],
               card: dict[str, Any] | None = None, dtype: torch.dtype = torch.float16) -> None:
    """Write `modules` into one safetensors file, keys prefixed by their names, atomically.

    Args:
        path: file to write; a kill at any moment leaves the previous one whole.
        modules: e.g. {"autoencoder": …, "aligner": …, "estimator": …, "denoiser": …}.
        config: JSON form of the `ModelConfig` (or of the one part that the file holds).
        card: what the weights were made of and their measured numbers (free JSON).
        dtype: floating tensors are stored in it.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    state = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            state[f"{name}.{key}"] = value
    save_weights(path, state, {"kind": "reposedm", "parts": sorted(modules), "config": config, "card": card or {}},
                 dtype)


def save_weights(path: str | os.PathLike, state: Mapping[str, torch.Tensor], header: dict[str, Any],
                 dtype: torch.dtype) -> None:
    """Write weights under their own names and a JSON header into one safetensors file, atomically; see `save_model`."""
    path, own = Path(path), {}
    for key, value in state.items():
        value = value.detach().to("cpu", copy=True).contiguous()
        own[key] = value.to(dtype) if value.is_floating_point() else value
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        save_file(own, temporary, metadata={KEY: json.dumps(header), "format": "pt"})
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)      # safetensors writes files that only their owner may read
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} could not be written ({error}); a file of before is whole. Make room, or choose "
                         "another place, and run the same command again.") from error


def read_header(path: str | os.PathLike, kind: str = "reposedm") -> dict[str, Any]:
    """Header of a checkpoint: {"kind", "parts", "config", "card"}; reads no weights. `kind` is the one expected.

    Raises:
        InputError: the file is missing, is no safetensors file or is a checkpoint of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Checkpoint {path.name}: no such file ({path}). Put RePoseDM files in models/reposedm.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"Checkpoint {path.name}: not a readable safetensors file ({error}). "
                         "Download it again, or export it with training/train.py.") from error
    try:
        header = json.loads(metadata[KEY])
        if header["kind"] != kind or not isinstance(header["config"], dict):
            raise KeyError("kind")
        header["parts"] = list(header["parts"])
    except (KeyError, TypeError, json.JSONDecodeError):
        raise InputError(f"Checkpoint {path.name} is not a RePoseDM model: it carries no RePoseDM header. "
                         "Stable Diffusion and HumanSD files go into RePoseSD Loader or Load Checkpoint.") from None
    return header


def load_parts(path: str | os.PathLike) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Weights of each part in float32, keyed by part then by key, and the header."""
    header = read_header(path)
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in header["parts"]}
    with safe_open(path, framework="pt") as file:
        for key in sorted(file.keys()):
            name, _, rest = key.partition(".")
            value = file.get_tensor(key)
            parts.setdefault(name, {})[rest] = value.float() if value.is_floating_point() else value
    return parts, header


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """State dict of somebody else's .safetensors, .ckpt, .pth, .pt or .bin file, on the CPU, as it lies in the file.

    Pickles are read with `weights_only=True`: nothing in them is executed. The inner "state_dict" of a training
    checkpoint is taken; what is no tensor is left out.

    Raises:
        InputError: no such file, unreadable, or no named tensors in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Weights {path.name}: no such file ({path}).")
    try:
        if path.suffix.lower() == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"Weights {path.name}: not a readable weights file ({reason}). Download it again; a file that "
                         "holds more than weights must be converted to safetensors first.") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)
               } if isinstance(state, dict) else {}
    if not tensors:
        raise InputError(f"Weights {path.name}: it holds no named weights; choose another file.")
    return tensors


def load_into(module: nn.Module, state: dict[str, torch.Tensor], what: str) -> None:
    """Strict `load_state_dict`: a mismatch names the keys and shapes in one `InputError`."""
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [f"{k}: file {tuple(state[k].shape)}, network {tuple(own[k].shape)}"
              for k in sorted(set(own) & set(state)) if own[k].shape != state[k].shape]
    if missing or extra or shapes:
        def few(items: list[str]) -> str:
            return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
        problems = [f"{label}: {few(items)}" for label, items in
                    (("missing", missing), ("unexpected", extra), ("of another shape", shapes)) if items]
        raise InputError(f"{what} does not fit the network its header describes; " + "; ".join(problems) + ".")
    module.load_state_dict(state)
