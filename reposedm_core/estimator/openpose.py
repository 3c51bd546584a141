"""OpenPose's body network, as controlnet_aux has it, as a pose estimator of the field: heat maps without tags.

Cao et al., "OpenPose: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017. The part
affinity fields, which tell people apart, are not read here: it sees one person a picture, as ViTPose does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checks import check_tensor
from ..errors import InputError
from ..fitting import filled
from ..pose.skeleton import COCO17, OPENPOSE18
from .protocol import PoseEstimator

STRIDE = 8
FILE = "body_pose_model.pth"
"""Its usual name; it is in lllyasviel/Annotators on Hugging Face."""
LAST = "Mconv7_stage6_L2"
"""A name that the weights of no other estimator have."""
CHANNELS = [OPENPOSE18.index(joint) for joint in COCO17]
"""Of its heat maps, COCO's 17 joints; the neck and the background are left out."""


@dataclass(frozen=True)
class OpenPoseSizes:
    """How its heat maps are read (`protocol.HeatmapConfig`); it was trained on Gaussians of 7 pixels."""

    strides: tuple[int, ...] = (STRIDE,)
    joints: int = len(COCO17)
    sigma: float = 7 / STRIDE
    udp: bool = False


class OpenPoseMaps(NamedTuple):
    """Heat maps ((B, 17, H/8, W/8),), the features (B, 128, H/8, W/8) that all stages read, and no tags."""

    heatmaps: tuple[Tensor, ...]
    features: Tensor
    tags: None = None


class OpenPose(PoseEstimator):
    """Calling it maps (B, 3, H, W) in [-1, 1], sides divisible by 8, to `OpenPoseMaps`; differentiable."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("cpu"), warnings.catch_warnings():  # see `fitting.filled`
            warnings.simplefilter("ignore")  # of the many other detectors that are imported with it
            from controlnet_aux.open_pose.model import bodypose_model

        self.config = OpenPoseSizes()
        self.network = bodypose_model()
        for layer in self.network.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # or no gradient would pass

    def forward(self, x: Tensor) -> OpenPoseMaps:
        """See the class.

        Raises:
            InputError: a picture of another shape or size.
        """
        check_tensor(x, "picture", "B 3 H W", multiples={"H": STRIDE, "W": STRIDE})
        colours = (x.flip(1) + 1) * (127.5 / 256) - 0.5  # blue, green, red, as OpenCV reads files
        features = self.network.model0(colours)
        stage = features
        for number in range(1, 7):
            fields, maps = (getattr(self.network, f"model{number}_{branch}")(stage) for branch in (1, 2))
            stage = torch.cat([fields, maps, features], 1)
        return OpenPoseMaps((maps[:, CHANNELS],), features)


def is_openpose(state: Mapping[str, Tensor]) -> bool:
    """Are these the weights of OpenPose's body network, in Caffe's names or controlnet_aux's?"""
    return any(name.endswith(f"{LAST}.weight") for name in state)


def read_openpose(path: str | os.PathLike, state: Mapping[str, Tensor]) -> OpenPose:
    """The network with these weights, in eval mode, without gradients.

    Raises:
        InputError: controlnet_aux is missing, or keys or shapes that do not match; it names them.
    """
    try:
        with torch.device("meta"):
            names = OpenPose().state_dict()
    except ImportError as error:
        raise InputError(f"OpenPose needs controlnet_aux ({error}): pip install controlnet_aux.") from error
    known = {name.removeprefix("network."): name for name in names}  # model0.conv1_1.weight
    short = {name.partition(".")[2]: full for name, full in known.items()}  # conv1_1.weight, as in the public file
    renamed = {short.get(key) or known.get(key) or key: key for key in state}
    weights = {name: state[key] for name, key in renamed.items()}
    return filled(OpenPose, weights, f"Pose estimator weights, {Path(path).name}", renamed)
