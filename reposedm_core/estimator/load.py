"""A pose estimator from whatever holds one: a RePoseDM file, a public HigherHRNet, a ViTPose folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..checkpoint import has_header, load_parts, read_header
from ..config import EstimatorConfig, ModelConfig, from_dict
from ..errors import InputError, shortened
from ..fitting import filled
from .hrnet import HigherHRNet
from .official import read_official
from .vitpose import load_vitpose

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""Names of files end in one of these."""


class Estimator(NamedTuple):
    """A network of the protocol, in eval mode, and what to show it.

    Attributes:
        network: an `estimator.PoseEstimator`.
        height, width: of the pictures it was trained at (of a RePoseDM file `ModelConfig.network_size`).
        several: it tells several people in a picture apart (`estimator.predict_people`); else it sees one.
        fixed: it takes pictures of that size alone.
    """

    network: nn.Module
    height: int
    width: int
    several: bool
    fixed: bool = False


def load_estimator(path: str | os.PathLike, udp: bool | None = None) -> Estimator:
    """The pose estimator in a file or folder, on the CPU in float32.

    Args:
        path: a RePoseDM checkpoint, whole or of the estimator alone; an official or mmpose's HigherHRNet
            (`estimator.official`), whose name may say the size it was trained at (512 otherwise); or a ViTPose's
            folder.
        udp: of a HigherHRNet, see `estimator.read_official`.

    Raises:
        InputError: nothing there, no pose estimator, or none for COCO's 17 joints.
    """
    path = Path(path)
    if path.is_dir():
        network = load_vitpose(path)
        return Estimator(network, network.config.height, network.config.width, several=False, fixed=True)
    if path.suffix.lower() == ".safetensors" and has_header(path):
        return _load_own(path)
    return Estimator(read_official(path, udp), *size_in_name(path.stem), several=True)


def size_in_name(name: str, default: int = 512) -> tuple[int, int]:
    """Height and width in the name of a public checkpoint: `w32_512`, `coco_640x640-a1b2`; else `default` twice."""
    for found in re.finditer(r"(?<![0-9A-Za-z])(\d{3,4})(?:x(\d{3,4}))?(?![0-9A-Za-z])", name):
        width, height = int(found[1]), int(found[2] or found[1])
        if not (width % 32 or height % 32):
            return height, width
    return default, default


def _load_own(path: Path) -> Estimator:
    header = read_header(path)
    if "estimator" not in header["parts"]:
        raise InputError(
            f"Checkpoint {path.name} holds {shortened(', '.join(header['parts']))} and no pose estimator; "
            "choose a whole RePoseDM model, or a file of its estimator."
        )
    if header["parts"] == ["estimator"] and "estimator" not in header["config"]:
        whole = ModelConfig(estimator=from_dict(EstimatorConfig, header["config"], path.name))
    else:
        whole = from_dict(ModelConfig, header["config"], path.name)
    parts, _ = load_parts(path, only=("estimator",))
    network = filled(lambda: HigherHRNet(whole.estimator), parts["estimator"], f"{path.name}: estimator")
    return Estimator(network, *whole.network_size, several=False)
