"""MapFormer and the Pose Mapping Aggregator: one iteration of the alignment (eq. 5-6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import NeighbourhoodAttention
from .correlation import global_match, local_correlation
from .warp import identity_map, sample


class NormResidual(nn.Module):
    """Group norm and two 3×3 convolutions on a residual branch."""

    def __init__(self, channels: int, operations=nn):
        super().__init__()
        self.norm = operations.GroupNorm(8, channels)
        self.first = operations.Conv2d(channels, channels, 3, padding=1)
        self.second = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.second(F.silu(self.first(F.silu(self.norm(x)))))


class Encoder(nn.Module):
    """Picture (B, 3, H, W) → features at 1/4 (B, d, H/4, W/4) and 1/8 (B, D, H/8, W/8)."""

    def __init__(self, channels: int, dim: int, operations=nn):
        super().__init__()
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), operations.Conv2d(12, 32, 3, padding=1), nn.SiLU(),
                                  operations.Conv2d(32, channels, 4, stride=2, padding=1))
        self.quarter = nn.Sequential(NormResidual(channels, operations), NormResidual(channels, operations))
        self.down = operations.Conv2d(channels, dim, 4, stride=2, padding=1)
        self.eighth = nn.Sequential(NormResidual(dim, operations), NormResidual(dim, operations))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        quarter = self.quarter(self.stem(image))
        return quarter, self.eighth(self.down(quarter))


class MapFormer(nn.Module):
    """Self-attention on the source and cross-attention pose ← source over N(x) (eq. 5), at 1/8 of the picture.

    Returns features F'_T and F'_S at 1/4, where the fine features and the attended coarse ones meet.
    """

    def __init__(self, channels: int, dim: int, heads: int, kernel: int, blocks: int, operations=nn):
        super().__init__()
        def attention() -> nn.ModuleList:
            return nn.ModuleList(NeighbourhoodAttention(dim, heads, kernel, operations) for _ in range(blocks))

        self.self_attention, self.cross_attention = attention(), attention()
        self.merge_source = operations.Conv2d(channels + dim, channels, 1)
        self.merge_pose = operations.Conv2d(channels + dim, channels, 1)

    def forward(self, pose: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor],
                position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pyramids (1/4, 1/8) of pose and source, position (1, D, h, w) → F'_T, F'_S (B, d, H/4, W/4), new pose 1/8."""
        size = tuple(source[1].shape[-2:])
        tokens_s = rearrange(source[1] + position, "b d h w -> b (h w) d")
        tokens_t = rearrange(pose[1] + position, "b d h w -> b (h w) d")
        for block in self.self_attention:
            tokens_s = block(tokens_s, tokens_s, size)
        for block in self.cross_attention:
            tokens_t = block(tokens_t, tokens_s, size)
        coarse_s, coarse_t = (rearrange(t, "b (h w) d -> b d h w", h=size[0]) for t in (tokens_s, tokens_t))

        def merge(layer: nn.Module, fine: Tensor, coarse: Tensor) -> Tensor:
            return layer(torch.cat([fine, F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")], 1))

        return merge(self.merge_pose, pose[0], coarse_t), merge(self.merge_source, source[0], coarse_s), coarse_t


class PoseMappingAggregator(nn.Module):
    """Correlation → ΔF and a visibility logit (eq. 6): two convolutions and one max-pool, then a linear read-out.

    The first iteration (`radius` None) correlates with the whole source and starts from the expected match.
    """

    def __init__(self, channels: int, radius: int | None, operations=nn):
        super().__init__()
        self.radius = radius
        matches = 1 if radius is None else (2 * radius + 1) ** 2
        width = 64 if radius is None else 96
        self.sharpness = nn.Parameter(torch.tensor(10.0)) if radius is None else None
        self.first = operations.Conv2d(matches + 2 * channels + 3, width, 3, padding=1)
        self.second = operations.Conv2d(width, 64, 3, padding=1)
        self.read = operations.Conv2d(128, 3, 3, padding=1)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, target: Tensor, source: Tensor, sampling: Tensor,
                visibility: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features F'_T, F'_S (B, d, h, w), φⁿ and its visibility logit → (φ to compose on, ΔF, visibility logit)."""
        h, w = target.shape[-2:]
        if self.radius is None:
            sampling, match = global_match(target, F.avg_pool2d(source, 2), self.sharpness)
            source = sample(source, sampling)
        else:
            match = local_correlation(target, source, self.radius)
        grid = identity_map(h, w, device=target.device, dtype=target.dtype)
        x = torch.cat([match, target, source, sampling - grid, visibility], 1)
        x = F.silu(self.second(F.silu(self.first(x))))
        # The pool looks at the neighbourhood's strongest answer, beside the cell's own.
        out = self.read(torch.cat([x, F.max_pool2d(x, 3, stride=1, padding=1)], 1))
        return sampling, 0.1 * out[:, :2], visibility + out[:, 2:]
