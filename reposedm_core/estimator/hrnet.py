"""HigherHRNet: heat maps of the joints, associative tags and trunk features of a picture.

Cheng et al., "HigherHRNet: Scale-Aware Representation Learning for Bottom-Up Human Pose Estimation",
CVPR 2020. The trunk is timm's HighResolutionNet, the heads are here; `official.py` reads the public weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import check_tensor, keeps_precision
from ..config import EstimatorConfig
from ..pose.heatmaps import decode_heatmaps
from ..pose.skeleton import COCO_FLIP
from .protocol import EstimatorOutput, PoseEstimator

if TYPE_CHECKING:
    from timm.models.hrnet import HighResolutionNet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SOMEBODY = 0.35
"""Least score of a person's surest joints; the shipped estimator gives 0.31 and less in plain and shaded pictures."""


def enlarge(maps: torch.Tensor, size: Sequence[int], udp: bool = False) -> torch.Tensor:
    """Maps (B, K, h, w) at another size, bilinearly; positions in the picture are kept.

    With `udp` first and last cells stay on one another, as in UDP's resizing; else cell edges do.
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=udp)


def merge_heatmaps(*maps: torch.Tensor, udp: bool = False) -> torch.Tensor:
    """Mean over resolutions, HigherHRNet's multi-resolution aggregation; positions in the picture are kept.

    Args:
        maps: (B, K, H/s, W/s) each, the finest last; the others are enlarged to it.
        udp: the maps follow UDP's rule.

    Returns:
        (B, K, h, w) of the finest.
    """
    *coarse, finest = maps
    total = finest
    for part in coarse:
        total = total + enlarge(part, finest.shape[-2:], udp)
    return total / len(maps)


class HigherHRNet(PoseEstimator):
    """Bottom-up pose estimator: trunk at 1/4 of the picture, one transposed convolution up to 1/2.

    Args:
        config: sizes; `ESTIMATORS` has "mini", "w32" and "w48".
        device, dtype: of the weights.
        operations: namespace of the convolution layers (torch.nn, or a host's look-alike that casts).

    Calling it maps (B, 3, H, W) in [-1, 1] to an `EstimatorOutput`. H and W are multiples of 4; inside they
    are filled up with the mean colour to whole cells of the coarsest branch, and the outputs are cropped. A network
    trained with UDP is read by UDP's rule for the cropped maps, which is off by up to 3 pixels times the share that
    was filled up, at the far edge: give it whole cells (multiples of 32 pixels for the official ones).
    """

    config: EstimatorConfig

    def __init__(
        self,
        config: EstimatorConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.config = config = config or EstimatorConfig()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.trunk = _build_trunk(config, **place)
        trunk_channels, joints, wide = config.channels[0], config.joints, config.deconv_channels
        self.final_layers = nn.ModuleList(
            [
                operations.Conv2d(trunk_channels, 2 * joints, 1, **place),
                operations.Conv2d(wide, joints, 1, **place),
            ]
        )
        enlarge = nn.Sequential(
            operations.ConvTranspose2d(trunk_channels + 2 * joints, wide, 4, stride=2, padding=1, bias=False, **place),
            nn.BatchNorm2d(wide, **place),
            nn.ReLU(inplace=True),
        )
        blocks = [nn.Sequential(_basic_block(wide, **place)) for _ in range(config.deconv_blocks)]
        self.deconv_layers = nn.ModuleList([nn.Sequential(enlarge, *blocks)])
        if operations is not nn:
            _adopt_operations(self, operations)

    def trunk_features(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised (B, 3, H, W), whole cells of the coarsest branch, to (B, F, H/4, W/4): P_φ of eq. 11."""
        trunk = self.trunk
        x = trunk.act1(trunk.bn1(trunk.conv1(x)))
        x = trunk.act2(trunk.bn2(trunk.conv2(x)))
        branches = [trunk.layer1(x)]
        for stage in range(2, len(self.config.channels) + 1):
            transition = getattr(trunk, f"transition{stage - 1}")
            # A branch that exists passes on (or changes width, after stage 1); a new one grows from the last.
            branches = [enter(branches[min(i, len(branches) - 1)]) for i, enter in enumerate(transition)]
            branches = getattr(trunk, f"stage{stage}")(branches)
        return branches[0]

    def forward(self, x: torch.Tensor) -> EstimatorOutput:
        """See the class.

        Raises:
            InputError: a picture that is not (B, 3, H, W) of floats, H and W multiples of 4, or of another dtype or
                device than the weights of plain layers.
        """
        check_tensor(x, "picture", "B 3 H W", multiples={"H": 4, "W": 4})
        if keeps_precision(self.trunk.conv1, x):
            check_tensor(x, "picture", "B 3 H W", like=self.trunk.conv1.weight)
        height, width = x.shape[-2:]
        if self.config.normalise == "imagenet":
            x = normalise_imagenet(x)
        cell = 2 ** (len(self.config.channels) + 1)
        if height % cell or width % cell:
            x = F.pad(x, (0, -width % cell, 0, -height % cell))
        features = self.trunk_features(x)
        coarse = self.final_layers[0](features)
        fine = self.final_layers[1](self.deconv_layers[0](torch.cat([features, coarse], 1)))
        features, coarse = (t[..., : height // 4, : width // 4] for t in (features, coarse))
        joints = self.config.joints
        return EstimatorOutput(coarse[:, :joints], coarse[:, joints:], fine[..., : height // 2, : width // 2], features)


def normalise_imagenet(
    x: torch.Tensor,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1] to zero mean and unit deviation over ImageNet, or over another set."""
    scale, shift = _constants(mean, std, x.device, x.dtype)
    return x * scale + shift


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    """Factor and summand of ((x + 1) / 2 − mean) / std, (3, 1, 1) each; brought to the device once: it would make the
    host wait in every guided step."""
    with torch.inference_mode(False):
        scale = [0.5 / deviation for deviation in std]
        shift = [(0.5 - centre) / deviation for centre, deviation in zip(mean, std, strict=True)]
        return tuple(torch.tensor(value, device=device, dtype=dtype).view(3, 1, 1) for value in (scale, shift))


@torch.no_grad()
def predict_pose(
    estimator: PoseEstimator, images: torch.Tensor, threshold: float = 0.1, flip: bool = True
) -> torch.Tensor:
    """The joints of the one person in each picture; `predict_people` finds several.

    Args:
        estimator: in eval mode; its configuration says how its maps are read.
        images: (B, 3, H, W) in [-1, 1].
        threshold: joints whose peak in the merged heat maps is lower are absent.
        flip: average the heat maps with those of the mirrored pictures, as HigherHRNet's authors test: twice the cost,
            fewer sides taken for each other. Only for COCO's 17 joints.

    Returns:
        (B, K, 3) float32: x, y in pixels (pixel centres at +0.5), score; all zero for an absent joint.
    """
    config = estimator.config
    heatmaps = merge_heatmaps(*estimator(images).heatmaps, udp=config.udp)
    if flip and config.joints == len(COCO_FLIP):
        mirrored = merge_heatmaps(*estimator(images.flip(-1)).heatmaps, udp=config.udp)
        heatmaps = (heatmaps + mirrored.flip(-1)[:, list(COCO_FLIP)]) / 2
    joints = decode_heatmaps(heatmaps, config.strides[-1], config.udp)
    return joints * (joints[..., 2:] >= threshold)


def is_somebody(joints: torch.Tensor) -> torch.Tensor:
    """Is anybody there? An estimator for one person finds joints in an empty picture, too, none of which it is sure of.

    Args:
        joints: (B, K, 3) of `predict_pose`.

    Returns:
        (B,) of bool: the mean score of the three surest joints is `SOMEBODY` or more. A head alone has five.
    """
    return joints[..., 2].topk(3).values.mean(-1) >= SOMEBODY


def _build_trunk(config: EstimatorConfig, device: Any = None, dtype: Any = None) -> HighResolutionNet:
    """timm's HighResolutionNet without what HigherHRNet lacks: its head and the last coarse outputs."""
    with torch.device("cpu"):  # see `fitting.filled`
        from timm.models.hrnet import HighResolutionNet

    def stage(branches: int, modules: int) -> dict[str, Any]:
        return {
            "num_modules": modules,
            "num_branches": branches,
            "block_type": "BASIC",
            "num_blocks": (config.blocks,) * branches,
            "num_channels": config.channels[:branches],
            "fuse_method": "SUM",
        }

    branches = len(config.channels)
    layout: dict[str, Any] = {
        "stem_width": config.stem,
        "stage1": {
            "num_modules": 1,
            "num_branches": 1,
            "block_type": "BOTTLENECK",
            "num_blocks": (config.bottlenecks,),
            "num_channels": (config.bottleneck,),
            "fuse_method": "SUM",
        },
    }
    for number in (2, 3, 4):
        here = number <= branches
        layout[f"stage{number}"] = stage(min(number, branches), config.modules[number - 2] if here else 0)
    trunk = HighResolutionNet(layout, head="", device=device, dtype=dtype)
    for number in range(branches + 1, 5):
        delattr(trunk, f"transition{number - 1}")
        delattr(trunk, f"stage{number}")
    # Only the finest branch of the last module is used, and the official weights hold nothing else.
    last = getattr(trunk, f"stage{branches}")[-1]
    last.fuse_layers = last.fuse_layers[:1]
    return trunk


def _basic_block(channels: int, device: Any = None, dtype: Any = None) -> nn.Module:
    with torch.device("cpu"):
        from timm.models.resnet import BasicBlock

    return BasicBlock(channels, channels, device=device, dtype=dtype)


def _adopt_operations(module: nn.Module, operations: Any) -> None:
    """Rebuild every plain convolution of timm's in `module` with `operations.Conv2d`, weights kept."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d:
            weight = child.weight
            new = operations.Conv2d(
                child.in_channels, child.out_channels, child.kernel_size, stride=child.stride,
                padding=child.padding, bias=child.bias is not None, device=weight.device, dtype=weight.dtype,
            )  # fmt: skip
            new.load_state_dict(child.state_dict())
            setattr(module, name, new)
        else:
            _adopt_operations(child, operations)
