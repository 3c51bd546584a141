"""The state of a stage on disk: written whole or not at all, and read with an eye to what has changed since."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import nn

from reposedm_core.checkpoint import UNREADABLE
from reposedm_core.errors import InputError
from reposedm_core.files import reason, replacing


class _Recorder:
    """A file whose first failed write is kept: torch's writer reports it only as an error of its own."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_atomically(state: dict, path: Path, shared: bool = False) -> None:
    """Write `state` so that a kill at any byte, or a power cut, leaves the previous file whole.

    `shared`: other runs may write the same file at the same time; each first writes one of its own.

    Raises:
        InputError: the disk is full or cannot be written; the previous file is whole.
    """
    with replacing(path, shared, durable=True) as fresh, open(fresh, "wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save(state, cast(IO[bytes], recorder))
        except RuntimeError as error:
            raise recorder.error or error from error


def read_state(path: Path) -> dict[str, Any] | None:
    """The state at `path`, on the CPU; None where there is none.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"network", "average", "optimiser", "step", "log"} <= set(state):
            raise KeyError("it is no state of a stage")
        return state
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({reason(error)}): delete it or give resume=false to train this stage "
            "anew, or put a copy of it back."
        ) from error


def checksum(*values: np.ndarray | torch.Tensor | nn.Module | bytes) -> int:
    """A number that changes when any weight, array or byte does."""
    total = 0
    for value in values:
        parts = value.state_dict().values() if isinstance(value, nn.Module) else [value]
        for part in parts:
            if isinstance(part, torch.Tensor):
                part = part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            total = zlib.crc32(part if isinstance(part, bytes) else np.ascontiguousarray(part).data, total)
    return total


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a run that goes on does differently from the one that made the state: "lr: 0.001 → 0.002"."""
    names = sorted(set(before) | set(now))
    return [
        f"{name}: {before.get(name, 'nothing')} → {now.get(name, 'nothing')}"
        for name in names
        if before.get(name) != now.get(name)
    ]
