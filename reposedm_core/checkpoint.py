"""Self-describing checkpoints: safetensors with the configuration and the model card as JSON in the metadata."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from .errors import InputError, quoted, shortened
from .files import reason, replacing
from .fitting import is_plain, load_into

__all__ = [
    "KEY",
    "UNREADABLE",
    "has_header",
    "load_into",
    "load_parts",
    "read_header",
    "read_weights",
    "save_model",
    "save_weights",
]

KEY = "reposedm"
"""Metadata key under which the header lies."""
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    TypeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    UnpicklingError,
    SafetensorError,
)
"""What torch's and safetensors' readers raise on bytes that are no weights, or were once."""
UNPACKED = 20
"""How many times its own size a zipped file may hold: torch packs nothing, and real weights give little."""


def save_model(
    path: str | os.PathLike,
    modules: dict[str, nn.Module],
    config: dict[str, Any],
    card: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
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
    save_weights(
        path, state, {"kind": "reposedm", "parts": sorted(modules), "config": config, "card": card or {}}, dtype
    )


def save_weights(
    path: str | os.PathLike, state: Mapping[str, torch.Tensor], header: dict[str, Any], dtype: torch.dtype
) -> None:
    """Write weights under their own names and a JSON header into one safetensors file, atomically; see `save_model`."""
    own = {}
    for key, value in state.items():
        value = value.detach().to("cpu", copy=True).contiguous()
        own[key] = value.to(dtype) if value.is_floating_point() else value
    with replacing(Path(path)) as fresh:
        try:
            save_file(own, fresh, metadata={KEY: json.dumps(header), "format": "pt"})
        except SafetensorError as error:
            raise OSError(reason(error)) from error
        umask = os.umask(0)
        os.umask(umask)
        fresh.chmod(0o666 & ~umask)  # safetensors writes files that only their owner may read


def read_header(path: str | os.PathLike, kind: str = "reposedm") -> dict[str, Any]:
    """Header of a checkpoint: {"kind", "parts", "config", "card"}; reads no weights. `kind` is the one expected.

    Raises:
        InputError: the file is missing, is no safetensors file or is a checkpoint of another kind.
    """
    path = Path(path)
    name = shortened(path.name)
    if not path.is_file():
        raise InputError(f"Checkpoint {name}: no such file ({path}). Put RePoseDM files in models/reposedm.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"Checkpoint {name}: not a readable safetensors file ({reason(error)}). "
            "Download it again, or export it with training/train.py."
        ) from error
    if KEY not in metadata:
        raise InputError(
            f"Checkpoint {name} is not a RePoseDM model: it carries no RePoseDM header. "
            "Stable Diffusion and HumanSD files go into RePoseSD Loader or Load Checkpoint."
        )
    try:
        header = json.loads(metadata[KEY])
        if not isinstance(header, dict):
            raise ValueError("it is no JSON object")
        found, parts = header.get("kind"), header.get("parts")
        if not isinstance(header.get("config"), dict):
            raise ValueError("it has no configuration")
        if not isinstance(header.setdefault("card", {}), dict):
            raise ValueError("its card is no object")
        if not (isinstance(parts, list) and all(isinstance(part, str) for part in parts)):
            raise ValueError(f"its parts are {quoted(parts)}, which is no list of names")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"Checkpoint {name}: its RePoseDM header is damaged ({reason(error)}). Download it again, or "
            "export it with training/train.py."
        ) from None
    if found != kind:
        raise InputError(
            f"Checkpoint {name} is of kind {quoted(found)}, expected {kind!r}: RePoseDM's files go into "
            "RePoseDM Loader, RePoseSD's into RePoseSD Loader."
        )
    return header


def has_header(path: str | os.PathLike) -> bool:
    """Does the file carry a header of ours, of whatever kind and in whatever state? False for what cannot be opened."""
    try:
        with safe_open(path, framework="pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_parts(
    path: str | os.PathLike, only: Collection[str] | None = None
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Weights of each part in float32, keyed by part then by key, and the header; `only`: of these parts alone.

    Raises:
        InputError: what `read_header` says, or weights that cannot be read.
    """
    header = read_header(path)
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in header["parts"] if only is None or name in only}
    try:
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                name, _, rest = key.partition(".")
                if only is None or name in only:
                    parts.setdefault(name, {})[rest] = _in_float32(file.get_tensor(key))
    except UNREADABLE as error:
        raise InputError(
            f"Checkpoint {shortened(Path(path).name)}: its weights cannot be read ({reason(error)}). Download it again."
        ) from error
    return parts, header


def _in_float32(value: torch.Tensor) -> torch.Tensor:
    """Floating numbers in float32; others as they are."""
    return value.float() if value.is_floating_point() else value


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """State dict of somebody else's .safetensors, .ckpt, .pth, .pt or .bin file, on the CPU, as it lies in the file.

    Pickles are read with `weights_only=True`: nothing in them is executed. The inner "state_dict" of a training
    checkpoint, or an only one, is taken; what is no tensor is left out.

    Raises:
        InputError: no such file, unreadable, no named tensors in it, or tensors that are not plain numbers.
    """
    path = Path(path)
    name = shortened(path.name)
    if not path.is_file():
        raise InputError(f"Weights {name}: no such file ({path}).")
    try:
        if path.suffix.lower() == ".safetensors":
            state = load_file(path)
        else:
            _check_zip(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise InputError(
            f"Weights {name}: not a readable weights file ({reason(error)}). Download it again; a file "
            "that holds more than weights must be converted to safetensors first."
        ) from error
    if isinstance(state, dict):
        inner = state.get("state_dict") or (next(iter(state.values())) if len(state) == 1 else None)
        state = inner if isinstance(inner, dict) else state
    tensors = (
        {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
        if isinstance(state, dict)
        else {}
    )
    if not tensors:
        raise InputError(f"Weights {name}: it holds no named weights; choose another file.")
    for key, value in tensors.items():
        if not is_plain(value):
            raise InputError(
                f"Weights {name}: {shortened(key)} is no plain tensor ({value.dtype}, {value.layout}, on "
                f"{value.device}); choose a file whose weights are whole and not packed."
            )
    return tensors


def _check_zip(path: Path) -> None:
    """Raise a `ValueError` where a zipped file would unpack to many times its size, as no weights do."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
        if unpacked > UNPACKED * path.stat().st_size:
            raise ValueError(
                f"it would unpack to {unpacked / 2**20:.0f} MiB, {unpacked // path.stat().st_size} times its size"
            )
