"""Recurrent pose alignment (eq. 5-9): warp the source towards the target pose, look again, refine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AlignerConfig
from ..errors import InputError
from .mapformer import Encoder, MapFormer, PoseMappingAggregator
from .warp import compose, identity_map, warp


@dataclass
class Alignment:
    """What the aligner found.

    Attributes:
        maps: φ¹ … φᴺ, each (B, 2, H/4, W/4), see `alignment.warp`.
        visibility: logits per iteration, (B, 1, H/4, W/4): is this target cell a part of the body seen in the source?
        image: W(I_S; φᴺ), (B, 3, H, W) in [-1, 1].
    """

    maps: list[Tensor]
    visibility: list[Tensor]
    image: Tensor


class RecurrentPoseAligner(nn.Module):
    """N iterations of MapFormer and Pose Mapping Aggregator, the picture being warped and re-encoded in each."""

    def __init__(self, config: AlignerConfig, operations=nn):
        super().__init__()
        self.config = config
        d, dim = config.channels, config.dim
        self.source_encoder = Encoder(d, dim, operations)
        self.pose_encoder = Encoder(d, dim, operations)
        self.position = nn.Parameter(0.02 * torch.randn(1, dim, config.height // 8, config.width // 8))
        self.mapformers = nn.ModuleList(
            MapFormer(d, dim, config.heads, kernel, 2 if i == 0 else 1, operations)
            for i, kernel in enumerate(config.kernels))
        self.aggregators = nn.ModuleList(
            PoseMappingAggregator(d, None if i == 0 else config.radius, operations)
            for i in range(len(config.kernels)))

    def forward(self, source: Tensor, pose_image: Tensor, iterations: int | None = None) -> Alignment:
        """Align `source` to the skeleton drawn in `pose_image`.

        Args:
            source, pose_image: (B, 3, H, W) in [-1, 1]; H and W divisible by 8.
            iterations: N, at most the number the network was made with (default: all).

        Raises:
            InputError: sizes differ or are not divisible by 8, or N is out of range.
        """
        if source.shape != pose_image.shape or source.ndim != 4 or source.shape[-2] % 8 or source.shape[-1] % 8:
            raise InputError(f"Aligner: source {tuple(source.shape)} and pose picture {tuple(pose_image.shape)} must "
                             "have one shape (batch, 3, height, width), height and width divisible by 8.")
        count = len(self.mapformers) if iterations is None else iterations
        if not 1 <= count <= len(self.mapformers):
            raise InputError(f"Aligner: iterations = {count}; this network has 1 to {len(self.mapformers)}.")
        batch, _, height, width = source.shape
        h, w = height // 4, width // 4
        position = self.position
        if position.shape[-2:] != (height // 8, width // 8):
            position = F.interpolate(position, size=(height // 8, width // 8), mode="bilinear", align_corners=False)
        pose = self.pose_encoder(pose_image)
        sampling = identity_map(h, w, device=source.device, dtype=source.dtype).expand(batch, -1, -1, -1)
        visibility = source.new_zeros(batch, 1, h, w)
        maps, logits = [], []
        image = source
        for mapformer, aggregator in zip(self.mapformers[:count], self.aggregators[:count], strict=True):
            target, features, coarse = mapformer(pose, self.source_encoder(image), position)   # eq. 5
            base, offset, visibility = aggregator(target, features, sampling, visibility)      # eq. 6
            sampling = compose(base, offset)                                                    # eq. 7-8
            maps.append(sampling)
            logits.append(visibility)
            image = warp(source, sampling)                                                      # eq. 9
            pose = (pose[0], coarse)
        return Alignment(maps, logits, image)

    @staticmethod
    def latent_visibility(alignment: Alignment, stride: int) -> Tensor:
        """Probability (B, 1, H/stride, W/stride) that a latent cell shows what the source shows."""
        height, width = alignment.image.shape[-2:]
        return F.adaptive_avg_pool2d(alignment.visibility[-1].sigmoid(), (height // stride, width // stride))
