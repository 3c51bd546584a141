"""A pose estimator from whatever holds one: a RePoseDM file, a public HigherHRNet or OpenPose, a ViTPose folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..checkpoint import has_header, load_parts, read_header, read_weights
from ..config import EstimatorConfig, ModelConfig, from_dict
from ..errors import InputError, shortened
from ..fitting import filled
from ..presets import PRESETS
from .hrnet import HigherHRNet
from .official import read_official
from .openpose import is_openpose, read_openpose
from .protocol import PoseEstimator
from .vitpose import load_vitpose

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""Names of files end in one of these."""
PUBLIC = (512, 512)
"""Height and width at which most public HigherHRNet weights were trained."""
OPENPOSE = (384, 384)
"""Whole cells nearest to the 368 pixels at which OpenPose was trained."""


class Estimator(NamedTuple):
    """A network of the protocol, in eval mode, and what to show it.

    Attributes:
        network: an `estimator.PoseEstimator`.
        height, width: of the pictures it was trained at, or the usual ones where its file does not say.
        several: it tells several people in a picture apart (`estimator.predict_people`); else it sees one.
        fixed: it takes pictures of that size alone.
        size_known: the file says its size.
    """

    network: PoseEstimator
    height: int
    width: int
    several: bool
    fixed: bool = False
    size_known: bool = True


def load_estimator(path: str | os.PathLike, udp: bool | None = None) -> Estimator:
    """The pose estimator in a file or folder, on the CPU in float32.

    Args:
        path: a RePoseDM checkpoint, whole or of the estimator alone, whose card says the size; an official or mmpose's
            HigherHRNet (`estimator.official`), whose name may say it (512 otherwise); OpenPose's body network; or a
            ViTPose's folder.
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
    size, state = size_in_name(path.stem), read_weights(path)
    if is_openpose(state):
        return Estimator(read_openpose(path, state), *(size or OPENPOSE), several=False, size_known=size is not None)
    return Estimator(read_official(path, udp, state), *(size or PUBLIC), several=True, size_known=size is not None)


def size_in_name(name: str) -> tuple[int, int] | None:
    """Height and width in the name of a public checkpoint, if it says them: `w32_512`, `coco_640x640-a1b2`."""
    for found in re.finditer(r"(?<![0-9A-Za-z])(\d{3,4})(?:x(\d{3,4}))?(?![0-9A-Za-z])", name):
        width, height = int(found[1]), int(found[2] or found[1])
        if not (width % 32 or height % 32):
            return height, width
    return None


def _load_own(path: Path) -> Estimator:
    header = read_header(path)
    if "estimator" not in header["parts"]:
        raise InputError(
            f"Checkpoint {path.name} holds {shortened(', '.join(header['parts']))} and no pose estimator; "
            "choose a whole RePoseDM model, or a file of its estimator."
        )
    if header["parts"] == ["estimator"] and "estimator" not in header["config"]:
        config, size = from_dict(EstimatorConfig, header["config"], path.name), _size_in_card(header["card"])
    else:
        whole = from_dict(ModelConfig, header["config"], path.name)
        config, size = whole.estimator, whole.network_size
    parts, _ = load_parts(path, only=("estimator",))
    network = filled(lambda: HigherHRNet(config), parts["estimator"], f"{path.name}: estimator")
    return Estimator(network, *(size or ModelConfig().network_size), several=False, size_known=size is not None)


def _size_in_card(card: dict[str, Any]) -> tuple[int, int] | None:
    """The size at which an estimator alone was trained: that of its card's preset, if that was not changed."""
    settings, preset = card.get("settings"), card.get("preset")
    changed = settings.get("model") if isinstance(settings, dict) else None
    return PRESETS[preset].network_size if isinstance(preset, str) and preset in PRESETS and not changed else None
