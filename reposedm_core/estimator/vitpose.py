"""ViTPose as a pose estimator of the field: heat maps of one person, without tags.

Xu et al., "ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation", NeurIPS 2022; the network is that
of transformers. It reads a picture of one person and of one size, and was trained with UDP.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError, quoted
from ..files import read_json, reason
from ..fitting import check_finite
from .hrnet import IMAGENET_MEAN, IMAGENET_STD, normalise_imagenet
from .protocol import PoseEstimator

if TYPE_CHECKING:
    from transformers import VitPoseForPoseEstimation

JOINTS = 17
COCO_EXPERT = 0
"""ViTPose+ has an expert for each of its data sets; the first is COCO's."""
RANGES = {
    "image_size": (1, 4096),
    "patch_size": (1, 256),
    "num_channels": (1, 16),
    "hidden_size": (1, 16384),
    "num_hidden_layers": (1, 128),
    "num_attention_heads": (1, 1024),
    "mlp_ratio": (1, 64),
    "num_experts": (1, 64),
    "part_features": (0, 16384),
    "scale_factor": (1, 64),
}
"""What the sizes in config.json may be; the largest public one has 32 layers of 1280."""


@dataclass(frozen=True)
class VitPoseSizes:
    """How its heat maps are read (`protocol.HeatmapConfig`), and the size of its pictures."""

    height: int = 256
    width: int = 192
    strides: tuple[int, ...] = (4,)
    joints: int = JOINTS
    sigma: float = 2.0
    udp: bool = True

    @property
    def picture_size(self) -> tuple[int, int]:
        """See `protocol.picture_size`."""
        return self.height, self.width


class VitPoseMaps(NamedTuple):
    """Heat maps ((B, 17, H/4, W/4),), the transformer's features (B, F, H/16, W/16), and no tags."""

    heatmaps: tuple[Tensor, ...]
    features: Tensor
    tags: None = None


class VitPose(PoseEstimator):
    """A `transformers.VitPoseForPoseEstimation` that is called as the field calls estimators; differentiable.

    Args:
        network: of 17 joints.
        mean, std: of the pictures that it was trained on, in 0..1.

    Calling it maps (B, 3, H, W) in [-1, 1], of the size in `config`, to `VitPoseMaps`.
    """

    config: VitPoseSizes

    def __init__(
        self,
        network: VitPoseForPoseEstimation,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        backbone: Any = network.config.backbone_config
        height, width = _pair(backbone.image_size)
        down, across = _pair(backbone.patch_size)
        self.cells = height // down, width // across
        # The classic head enlarges by 4, the simple one by a factor of its own.
        enlarged = network.config.scale_factor if network.config.use_simple_decoder else 4
        self.config = VitPoseSizes(height, width, (height // (self.cells[0] * enlarged),))
        self.mean, self.std = tuple(mean), tuple(std)
        self.experts = backbone.num_experts > 1
        self.network = network

    def forward(self, x: Tensor) -> VitPoseMaps:
        """See the class.

        Raises:
            InputError: a picture of another shape or size.
        """
        check_tensor(x, "picture", f"B 3 {self.config.height} {self.config.width}")
        index = torch.full((len(x),), COCO_EXPERT, device=x.device) if self.experts else None
        tokens = self.network.backbone(normalise_imagenet(x, self.mean, self.std), dataset_index=index).feature_maps[-1]
        features = tokens.transpose(1, 2).unflatten(2, self.cells).contiguous()
        return VitPoseMaps((self.network.head(features),), features)


def is_vitpose(folder: str | os.PathLike) -> bool:
    """Is it a folder that `load_vitpose` is to try: with safetensors, and a config.json of a ViTPose or a damaged one?

    What is wrong with a damaged one is said by who loads it.
    """
    folder = Path(folder)
    try:
        described = _read(folder, "config.json").get("model_type") == "vitpose"
    except InputError:
        described = (folder / "config.json").is_file()
    return described and any(folder.glob("*.safetensors"))


def load_vitpose(folder: str | os.PathLike) -> VitPose:
    """A ViTPose from a folder as `save_pretrained` writes it: config.json and safetensors. Nothing is downloaded.

    A preprocessor_config.json beside them gives mean and deviation of its pictures; without one, ImageNet's count.

    Raises:
        InputError: transformers is missing or too old; no ViTPose of COCO's 17 joints; weights that do not fit, or are
            damaged.
    """
    try:
        from transformers import VitPoseConfig, VitPoseForPoseEstimation
    except ImportError as error:
        raise InputError("ViTPose needs transformers 4.50.3 or newer: pip install -U transformers.") from error
    folder = Path(folder)
    described = _described(folder)
    mean, std = _normalisation(folder)
    try:
        config = VitPoseConfig.from_dict({**described, "use_pretrained_backbone": False})
        with torch.device("meta"):
            need = sum(weight.numel() for weight in VitPoseForPoseEstimation(config).parameters())
        held = _numbers(folder)
        if need > 4 * held + 2**20:
            raise ValueError(f"config.json describes {need:,} weights, the files hold {held:,}")
        loaded: Any = VitPoseForPoseEstimation.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
        network, found = loaded
        estimator = VitPose(network, mean, std).eval().requires_grad_(False)
    except Exception as error:  # what it raises on a bad file is undocumented
        raise InputError(
            f"{folder.name}: not a readable ViTPose ({reason(error)}). Download config.json and "
            "model.safetensors again."
        ) from error
    lacking = [*sorted(found["missing_keys"]), *(str(key) for key in found.get("mismatched_keys", ()))]
    if lacking:
        raise InputError(
            f"{folder.name}: its weights do not fit its config.json, {len(lacking)} are missing or of "
            f"another shape ({', '.join(lacking[:3])}); download both files again."
        )
    if network.config.num_labels != JOINTS:
        raise InputError(
            f"{folder.name}: it has {network.config.num_labels} joints; choose a ViTPose for COCO's {JOINTS}."
        )
    check_finite(network.state_dict(), folder.name)
    return estimator


def _described(folder: Path) -> dict[str, Any]:
    """config.json of a whole ViTPose, of numbers that one can have."""
    described = _read(folder, "config.json")
    backbone = described.get("backbone_config")
    if described.get("model_type") != "vitpose" or not isinstance(backbone, dict):
        raise InputError(
            f"{folder.name}: its config.json describes no ViTPose; download all files of one into the folder."
        )
    # A backbone that is only named would be fetched from the network.
    if backbone.get("model_type", "vitpose_backbone") != "vitpose_backbone" or described.get("backbone"):
        raise InputError(
            f"{folder.name}: its config.json names a backbone that is not in the folder; use a ViTPose that is whole."
        )
    for name, (least, most) in RANGES.items():
        for value in (described.get(name, least), backbone.get(name, least)):
            for number in value if isinstance(value, list) and len(value) == 2 else (value,):
                if type(number) is not int or not least <= number <= most:
                    raise InputError(
                        f"{folder.name}: its config.json says {name} = {quoted(value)}: must be whole "
                        f"numbers of {least} to {most}; download it again."
                    )
    return described


def _normalisation(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of its pictures, three numbers each."""
    file = "preprocessor_config.json"
    seen = _read(folder, file) if (folder / file).is_file() else {}
    found = []
    for name, usual, least in (("image_mean", IMAGENET_MEAN, -1e3), ("image_std", IMAGENET_STD, 1e-3)):
        values = seen.get(name) or usual
        if not (
            isinstance(values, (list, tuple))
            and len(values) == 3
            and all(type(value) in (int, float) and least <= value <= 1e3 for value in values)
        ):
            raise InputError(
                f"{folder.name}: its {file} says {name} = {quoted(values)}: must be three numbers of "
                f"{least:g} to 1000; download it again."
            )
        found.append(values)
    return found[0], found[1]


def _numbers(folder: Path) -> int:
    """How many numbers the folder's safetensors hold, by their headers.

    Raises:
        ValueError: weights that are stored as whole numbers, which would be read as if they were counts.
    """
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118, it is no dict
                part = file.get_slice(key)
                if not part.get_dtype().startswith(("F", "BF")) and not key.endswith("num_batches_tracked"):
                    raise ValueError(f"{key} is stored as {part.get_dtype()}, no floating number")
                total += math.prod(part.get_shape())
    return total


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _read(folder: Path, file: str) -> dict[str, Any]:
    return read_json(folder / file, f"{folder.name}: its {file}")
