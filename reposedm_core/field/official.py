"""Public HigherHRNet checkpoints: official (`pose_higher_hrnet_w32_512.pth`) and mmpose 0.x key layouts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from ..checkpoint import read_weights
from ..errors import InputError
from .estimator import HigherHRNet

HEADS = ("final_layers.", "deconv_layers.")


def from_official(key: str) -> str:
    """Name in `HigherHRNet` of a key of an official, data-parallel (`module.`) or mmpose 0.x checkpoint.

    The official layout is flat and mmpose splits it into `backbone.` and `keypoint_head.`; ours keeps timm's
    trunk, whose inner names are the official ones, under `trunk.` and the heads beside it.
    """
    key = key.removeprefix("module.")
    if key.startswith("keypoint_head."):
        return key.removeprefix("keypoint_head.")
    if key.startswith(HEADS):
        return key
    return "trunk." + key.removeprefix("backbone.")


def load_official(
    estimator: HigherHRNet, source: str | os.PathLike | Mapping[str, torch.Tensor]
) -> HigherHRNet:
    """Load a public HigherHRNet checkpoint into `estimator`, strictly, and return it.

    Args:
        estimator: of the checkpoint's width, e.g. `HigherHRNet(ESTIMATORS["w32"])`.
        source: a .pth file (read with weights_only=True), a .safetensors file, or a state dict. A training
            checkpoint that nests its weights under "state_dict" is accepted.

    Raises:
        InputError: no readable file, or keys or shapes that do not match; the message names them.
    """
    given = isinstance(source, Mapping)
    name, state = ("the given state dict", source) if given else (Path(source).name, read_weights(source))
    if isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            f"Pose estimator weights, {name}: not a state dict of tensors; give a HigherHRNet file."
        )
    renamed = {from_official(key): (key, value) for key, value in state.items()}
    own = estimator.state_dict()
    problems = [
        ("missing", [key for key in own if key not in renamed]),
        ("unexpected", [key for new, (key, _) in renamed.items() if new not in own]),
        (
            "of another shape",
            [
                f"{key} {list(value.shape)} instead of {list(own[new].shape)}"
                for new, (key, value) in renamed.items()
                if new in own and value.shape != own[new].shape
            ],
        ),
    ]
    found = [f"{len(keys)} {what} ({_some(keys)})" for what, keys in problems if keys]
    if found:
        raise InputError(
            f"Pose estimator weights, {name}: not those of a HigherHRNet-W{estimator.config.channels[0]}: "
            f"keys {'; '.join(found)}. Choose the width that the file was trained with."
        )
    estimator.load_state_dict({new: value for new, (_, value) in renamed.items()})
    return estimator


def _some(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (", …" if len(keys) > most else "")
