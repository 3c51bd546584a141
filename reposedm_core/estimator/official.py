"""Public HigherHRNet checkpoints: official (`pose_higher_hrnet_w32_512.pth`) and mmpose's key layouts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ..checkpoint import read_weights
from ..config import EstimatorConfig
from ..errors import InputError
from ..fitting import filled
from .hrnet import HigherHRNet

HEADS = ("final_layers.", "deconv_layers.")
MMPOSE_HEADS = ("keypoint_head.", "head.")
"""What mmpose 0.x and mmpose 1.x put before the names of the head."""


def from_official(key: str) -> str:
    """Name in `HigherHRNet` of a key of an official, data-parallel (`module.`) or mmpose checkpoint.

    The official layout is flat and mmpose splits it into `backbone.` and `keypoint_head.` (1.x: `head.`); ours keeps
    timm's trunk, whose inner names are the official ones, under `trunk.` and the heads beside it.
    """
    key = key.removeprefix("module.")
    for head in MMPOSE_HEADS:
        if key.startswith(head):
            return key.removeprefix(head)
    if key.startswith(HEADS):
        return key
    return "trunk." + key.removeprefix("backbone.")


def config_of(state: Mapping[str, torch.Tensor], udp: bool = False, name: str = "the state dict") -> EstimatorConfig:
    """Sizes of the HigherHRNet whose weights these are, read off their names and shapes.

    Args:
        state: in any layout that `read_official` takes.
        udp: what no weight tells: whether the network was trained with UDP.
        name: of the file, for the message.

    Raises:
        InputError: they are not those of a HigherHRNet of 17 joints with a tag each.
    """
    shapes = {from_official(key): tuple(value.shape) for key, value in state.items()}

    def problem(what: str) -> InputError:
        return InputError(
            f"Pose estimator weights, {name}: {what}; choose a HigherHRNet for COCO's 17 joints, the "
            "official one or mmpose's."
        )

    def count(pattern: str) -> int:
        """How many different numbers stand where the pattern has its group."""
        return len(_numbers(shapes, pattern))

    needed = {"trunk.conv1.weight": 4, "trunk.layer1.0.conv1.weight": 4, "final_layers.0.weight": 4}
    if any(len(shapes.get(key, ())) != axes for key, axes in needed.items()):
        raise problem("these are not the weights of a HigherHRNet")
    if len(shapes.get("final_layers.1.weight", ())) != 4:
        raise problem("it has heat maps of one resolution, as a plain HRNet")
    stages = range(2, 2 + count(r"trunk\.stage(\d+)\."))
    last = stages[-1] if stages else 1
    branches = [
        shapes.get(f"trunk.stage{last}.0.branches.{b}.0.conv1.weight", (0,))[0]
        for b in range(count(rf"trunk\.stage{last}\.0\.branches\.(\d+)\."))
    ]
    joints, deconv = shapes["final_layers.1.weight"][:2]
    if joints != 17 or shapes["final_layers.0.weight"][0] != 2 * joints:
        raise problem(f"it has {joints} joints and {shapes['final_layers.0.weight'][0] - joints} tags")
    try:
        return EstimatorConfig(
            joints=joints,
            stem=shapes["trunk.conv1.weight"][0],
            bottleneck=shapes["trunk.layer1.0.conv1.weight"][0],
            bottlenecks=count(r"trunk\.layer1\.(\d+)\."),
            channels=tuple(branches),
            modules=tuple(count(rf"trunk\.stage{stage}\.(\d+)\.") for stage in stages),
            blocks=count(rf"trunk\.stage{last}\.0\.branches\.0\.(\d+)\."),
            deconv_channels=deconv,
            deconv_blocks=count(r"deconv_layers\.0\.(\d+)\.") - 1,
            sigma=2.0,
            udp=udp,
        )
    except InputError as error:
        raise problem(f"no HigherHRNet has such sizes ({str(error).rstrip('.')})") from None


def read_official(
    path: str | os.PathLike, udp: bool | None = None, state: Mapping[str, torch.Tensor] | None = None
) -> HigherHRNet:
    """A HigherHRNet of the width that the file has, with its weights, in eval mode, without gradients.

    Args:
        path: a .pth file (read with weights_only=True; a training checkpoint that nests its weights under "state_dict"
            too) or a .safetensors file, in the official layout or mmpose's.
        udp: was it trained with UDP? None: if its name says so, as those of mmpose's files do.
        state: what is in the file, where that was read already.

    Raises:
        InputError: no readable file, other sizes (`config_of`), or keys or shapes that do not match; it names them.
    """
    name, state = Path(path).name, read_weights(path) if state is None else state
    config = config_of(state, "udp" in name.lower() if udp is None else udp, name)
    names = {from_official(key): key for key in state}
    weights = {new: state[key] for new, key in names.items()}
    return filled(lambda: HigherHRNet(config), weights, f"Pose estimator weights, {name}", names)


def _numbers(keys: Iterable[str], pattern: str) -> set[int]:
    """The numbers in place of the pattern's group; those that no layer has are none."""
    return {int(found[1]) for key in keys if (found := re.match(pattern, key)) and len(found[1]) < 9}
