"""MapFormer and the Pose Mapping Aggregator: one iteration of the alignment (eq. 5-6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..letterbox import size_of
from .attention import NeighbourhoodAttention
from .correlation import global_match, local_correlation
from .warp import identity_map, sample


class MapFormer(nn.Module):
    """Self-attention on the source and cross-attention pose ← source over N(x) (eq. 5), at 1/8 of the picture.

    Args:
        channels: d of finer features at 1/4; the results F'_T and F'_S are then at 1/4, where the fine features and
            the attended coarse ones meet (**ours**). None: there are none, and F' is what the paper's Fig. 1 shows,
            the attended tokens after residual, feed-forward and layer norm.
        dim: D. heads: attention heads.
        kernel: window side of N(x), 0 for the whole grid.
        blocks: self- and cross-attention blocks.
    """

    def __init__(self, channels: int | None, dim: int, heads: int, kernel: int, blocks: int, operations=nn):
        super().__init__()

        def attention() -> nn.ModuleList:
            return nn.ModuleList(NeighbourhoodAttention(dim, heads, kernel, operations) for _ in range(blocks))

        self.fine = channels is not None
        self.self_attention, self.cross_attention = attention(), attention()
        if channels is not None:
            self.merge_source = operations.Conv2d(channels + dim, channels, 1)
            self.merge_pose = operations.Conv2d(channels + dim, channels, 1)
        else:
            self.norm_source, self.norm_pose = operations.LayerNorm(dim), operations.LayerNorm(dim)

    def forward(
        self, pose: tuple[Tensor, ...], source: tuple[Tensor, ...], position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features of pose and source, finest first and 1/8 last, and position (1, D, h, w).

        Returns:
            F'_T and F'_S (B, d, H/4, W/4) or (B, D, H/8, W/8), and the attended pose features at 1/8.
        """
        size = size_of(source[-1])
        tokens_s, tokens_t = (_tokens(features[-1] + position) for features in (source, pose))
        for block in self.self_attention:
            tokens_s = block(tokens_s, tokens_s, size)
        for block in self.cross_attention:
            tokens_t = block(tokens_t, tokens_s, size)
        coarse = _grid(tokens_t, size)
        if not self.fine:
            return _grid(self.norm_pose(tokens_t), size), _grid(self.norm_source(tokens_s), size), coarse

        def merge(layer: nn.Module, fine: Tensor, coarse: Tensor) -> Tensor:
            return layer(joined(fine, F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")))

        target = merge(self.merge_pose, pose[0], coarse)
        return target, merge(self.merge_source, source[0], _grid(tokens_s, size)), coarse


def _tokens(features: Tensor) -> Tensor:
    """(B, D, h, w) → (B, h·w, D)."""
    return features.movedim(1, -1).flatten(1, 2)


def _grid(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h·w, D) → (B, D, h, w)."""
    return tokens.unflatten(1, size).movedim(-1, 1)


def joined(*features: Tensor) -> Tensor:
    """Features (B, *, h, w) on one channel axis, channels innermost in memory: pooling on a CPU is far faster so."""
    return torch.cat([f.movedim(1, -1) for f in features], -1).movedim(-1, 1)


class PoseMappingAggregator(nn.Module):
    """Correlation → ΔF and a visibility logit (eq. 6): two convolutions and one max-pool, then a linear read-out.

    The max-pool has stride 1: ΔF is dense, and beside a cell's own answer the read-out sees the strongest one of its
    3×3 neighbours. The paper gives neither the pool's place nor its stride (**ours**). The convolutions also see the
    features, the displacement so far and the visibility (**ours**).

    Args:
        channels: of F'_T and F'_S.
        radius: R of the local correlation. None correlates with the whole source and starts from the expected match.
        widths: channels of the two convolutions.
        pool: with radius None, the source is correlated at 1/pool of its resolution.
    """

    def __init__(self, channels: int, radius: int | None, widths: tuple[int, int], pool: int = 1, operations=nn):
        super().__init__()
        self.radius, self.pool = radius, pool
        matches = 1 if radius is None else (2 * radius + 1) ** 2
        if radius is None:
            self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.first = operations.Conv2d(matches + 2 * channels + 3, widths[0], 3, padding=1)
        self.second = operations.Conv2d(widths[0], widths[1], 3, padding=1)
        self.read = operations.Conv2d(2 * widths[1], 3, 3, padding=1)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(
        self, target: Tensor, source: Tensor, sampling: Tensor, visibility: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features F'_T, F'_S (B, d, h, w), φⁿ and its visibility logit → (φ to compose on, ΔF, visibility logit)."""
        if self.radius is None:
            coarse = F.avg_pool2d(source, self.pool) if self.pool > 1 else source
            matched, match = global_match(target, coarse, self.sharpness)
            sampling = matched.to(sampling.dtype)
            source = sample(source, sampling)
        else:
            match = local_correlation(target, source, self.radius)
        grid = identity_map(*size_of(target), device=sampling.device, dtype=sampling.dtype)
        x = joined(match, target, source, (sampling - grid).to(target.dtype), visibility.to(target.dtype))
        x = F.silu(self.second(F.silu(self.first(x))))
        out = self.read(joined(x, F.max_pool2d(x, 3, stride=1, padding=1)))
        return sampling, 0.1 * out[:, :2].to(sampling.dtype), visibility + out[:, 2:]
