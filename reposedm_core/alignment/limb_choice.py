"""The map where limbs meet: each fine cell chooses among the match and the limbs' own transforms (**ours**).

At the edge of an arm before the body two surfaces share a cell of the match, and a mean of their places lies on
neither. Here every cell of half its size takes shares of whole maps: the match, the map so far, and the transform of
each limb.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mapformer import joined
from .skeleton_map import LIMBS
from .warp import sample

FIRST = -3.0
"""Logit, before training, of every map but the match's."""
NEAR = 1 / 32
"""Picture heights: two maps that are so far apart agree by half."""


def coarse_map(fine: Tensor) -> Tensor:
    """A map at half its resolution, (B, 2, 2h, 2w) → (B, 2, h, w): of four places the one nearest to their mean.

    A mean across an edge would lie on neither surface.
    """
    b, _, height, width = fine.shape
    four = F.pixel_unshuffle(fine, 2).view(b, 2, 4, height // 2, width // 2)
    best = (four - four.mean(2, keepdim=True)).square().sum(1, keepdim=True).argmin(2, keepdim=True)
    return four.gather(2, best.expand(-1, 2, -1, -1, -1))[:, :, 0]


class LimbChoice(nn.Module):
    """Shares of the candidates, a residual, and what it adds to the visibility and person logits.

    It sees at 1/2 of the picture: the target's skeleton, source and skeleton warped by the match and by the map so
    far, how near each limb is and how far its transform agrees with the match, and what the match was read from.

    Args:
        features: channels of what the match was read from. width: channels of its own.
    """

    def __init__(self, features: int, width: int, operations=nn):
        super().__init__()
        limbs = len(LIMBS)
        self.features = operations.Conv2d(features, width, 1)
        self.first = operations.Conv2d(width + 12 + 12 + 2 * limbs + 2, width, 3, padding=1)
        self.second = nn.ModuleList(operations.Conv2d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.third = nn.ModuleList(operations.Conv2d(width, width, 3, padding=1) for _ in self.second)
        self.read = operations.Conv2d(width, 2 + limbs + 4, 3, padding=1)
        for layer in (*self.third, self.read):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.read.bias[1 : 2 + limbs] = FIRST

    def forward(
        self,
        matched: Tensor,
        logits: Tensor,
        features: Tensor,
        previous: Tensor,
        limbs: Tensor,
        near: Tensor,
        pictures: Tensor,
        skeleton: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All at 1/2 of the picture but features, at 1/4, and the pictures.

        Args:
            matched: the match's map (B, 2, h, w). logits: visibility and person (B, 2, h, w).
            features: (B, *, h/2, w/2).
            previous: φⁿ (B, 2, h, w). limbs, near: of `limb_maps`. pictures: source and its skeleton (B, 6, 2h, 2w).
            skeleton: the target's (B, 3, 2h, 2w).

        Returns:
            the map, logits, the candidates (B, 2 + L, 2, h, w) and the logarithms of their shares (B, 2 + L, h, w).
        """
        h, w = matched.shape[-2:]
        dtype = features.dtype
        small = F.avg_pool2d(pictures, 2)
        height = matched.new_tensor([w / (2 * h), 0.5])[:, None, None]
        agree = 1 / (1 + ((limbs - matched[:, None]) * (height / NEAR)).square().sum(2))
        parts = (
            F.interpolate(self.features(features), scale_factor=2, mode="nearest"),
            F.pixel_unshuffle(skeleton, 2),
            sample(small, matched),
            sample(small, previous),
            near,
            agree * (near > 0),
            logits,
        )
        x = self.first(joined(*(t.to(dtype) for t in parts)))
        for second, third in zip(self.second, self.third, strict=True):
            x = x + third(F.silu(second(F.silu(x))))
        out = self.read(F.silu(x)).to(matched.dtype)
        count = 2 + len(LIMBS)
        candidates = torch.cat([matched[:, None], previous[:, None], limbs], 1)
        absent = torch.cat([near.new_zeros(len(near), 2, h, w), torch.where(near > 0, 0.0, -1e4)], 1)
        log = (out[:, :count] + absent).log_softmax(1)
        found = (candidates * log.exp()[:, :, None]).sum(1) + 0.05 * out[:, count : count + 2]
        return found, logits + out[:, count + 2 :], candidates, log
