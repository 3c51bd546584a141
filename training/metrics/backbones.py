"""Where the weights of other people's networks lie on this machine. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from reposedm_core.checkpoint import read_weights
from reposedm_core.errors import InputError

FILES = {
    "alexnet": "alexnet-owt-7be5be79.pth",
    "inception": "inception_v3_google-0cc3c7bd.pth",
    "fid": "weights-inception-2015-12-05-6726825d.pth",
}
"""torchvision's ImageNet weights by network, and those of FID's own Inception: the names under which torch.hub keeps
them."""
TORCHVISION = "https://download.pytorch.org/models/"
ADDRESSES = {"fid": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"}
"""Of those that are not torchvision's."""


def places(folder: str | Path | None = None) -> list[Path]:
    """Folders that are looked into: the given one alone, or torch.hub's cache."""
    return [Path(folder)] if folder else [Path(torch.hub.get_dir()) / "checkpoints"]


def find(network: str, folder: str | Path | None = None) -> Path | None:
    """File of `FILES[network]`, or None where it is not on this machine."""
    return next((path for place in places(folder) if (path := place / FILES[network]).is_file()), None)


def load(network: str, folder: str | Path | None = None) -> Mapping[str, Tensor]:
    """State dict of a torchvision network, read with weights_only=True.

    Raises:
        InputError: the file is not there, or unreadable.
    """
    path = find(network, folder)
    if path is None:
        raise InputError(
            f"The weights {FILES[network]} are in none of {', '.join(map(str, places(folder)))}: put the "
            f"file there ({ADDRESSES.get(network, TORCHVISION)}{FILES[network]}), or give its folder with --backbones."
        )
    return read_weights(path)
