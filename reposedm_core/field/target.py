"""The pose to reach, as the pose interaction field compares it: heat maps, and where the target says anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError
from ..estimator.hrnet import merge_heatmaps
from ..estimator.protocol import HeatmapConfig
from ..letterbox import size_of
from ..pose.heatmaps import cells_to_pixels, render_heatmaps


@dataclass(frozen=True)
class PoseTarget:
    """The pose to reach. A batch of 1 serves any batch of pictures.

    Attributes:
        heatmaps: (B, K, h, w) at the finest resolution of the estimator's, all resolutions merged; in float32 at least.
        known: (B, K, 1, 1) or (B, K, h, w), 1 where the target says where the joint is, 0 where it is silent.
        features: (B, F, h', w') trunk features of the target picture, or None where there is no picture.
    """

    heatmaps: Tensor
    known: Tensor
    features: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> PoseTarget:
        """The same target with `function` applied to each tensor (to move, clone or index it)."""
        features = None if self.features is None else function(self.features)
        return PoseTarget(function(self.heatmaps), function(self.known), features)

    def part(self, start: int, end: int) -> PoseTarget:
        """The target of the pictures `start` to `end` of a batch."""
        return self if len(self.heatmaps) == 1 else self.map(lambda t: t[start:end])


def render_target(joints: Tensor, config: HeatmapConfig, height: int, width: int) -> PoseTarget:
    """What an estimator that is right would see of these people.

    Args:
        joints: (B, P, K, 3) float x, y in pixels, score; see `PoseInteractionField.target_from_joints`.
        config: the estimator's.
        height, width: of the pictures, multiples of the largest stride.

    Raises:
        InputError: another shape, a size that does not fit, or a joint whose score is above 0 and whose place is NaN.
    """
    check_tensor(joints, "joints", "B P K 3", {"K": config.joints})
    stride = max(config.strides)
    if height < 1 or width < 1 or height % stride or width % stride:
        raise InputError(f"height, width = {height}, {width}: must be positive multiples of {stride}.")
    present = joints[..., 2] > 0
    lost = (present & ~joints[..., :2].isfinite().all(-1)).nonzero()
    if len(lost):
        picture, person, joint = lost[0].tolist()
        raise InputError(
            f"joints: joint {joint} of person {person} in picture {picture} has a score above 0 and no "
            "finite x and y; give it a place, or score 0 where it is unknown."
        )
    maps = []
    for stride in config.strides:
        each = (render_heatmaps(p, height, width, config.sigma, stride, config.udp) for p in joints.unbind(1))
        total = next(each)
        for heat in each:
            total = torch.maximum(total, heat)
        maps.append(total)
    heatmaps = merge_heatmaps(*maps, udp=config.udp)
    if joints.shape[1] == 1:
        return PoseTarget(heatmaps, present[:, 0, :, None, None].to(heatmaps))
    return PoseTarget(heatmaps, known_cells(joints, *size_of(heatmaps), config.strides[-1], config.udp))


def known_cells(joints: Tensor, rows: int, columns: int, stride: int, udp: bool = False) -> Tensor:
    """Where a target of several people says anything of each joint (**ours**).

    A cell is the business of the person whose known joint is nearest to it, and a joint is compared there where that
    person's is known. For one person that is the whole picture, or none of it.

    Args:
        joints: (B, P, K, 3). A person none of whose joints is known has no cell.
        rows, columns, stride, udp: of the heat maps.

    Returns:
        (B, K, rows, columns) of 0 and 1.
    """
    y, x = (
        cells_to_pixels(torch.arange(size, device=joints.device, dtype=joints.dtype), size, stride, udp)
        for size in (rows, columns)
    )
    nearest = joints.new_full((len(joints), 1, rows, columns), torch.inf)
    known = joints.new_zeros(len(joints), joints.shape[2], rows, columns)
    for person in joints.unbind(1):  # one by one: thirty people at once would take a hundred megabytes per picture
        present = person[..., 2, None, None] > 0
        apart = (y[:, None] - person[..., 1, None, None]) ** 2 + (x - person[..., 0, None, None]) ** 2
        apart = apart.masked_fill(~present, torch.inf).amin(1, keepdim=True)
        known = torch.where(apart < nearest, present.to(known), known)
        nearest = torch.minimum(nearest, apart)
    return known
