"""Matching biased towards a map that is already known, and the read-out at twice the resolution (**ours**)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..letterbox import size_of
from .mapformer import joined
from .warp import compose, identity_map, sample

NEIGHBOURS = 9
FINER = 2
"""How many times finer than the cells the read-out is."""


def biased_match(
    query: Tensor, key: Tensor, sharpness: Tensor, start: Tensor, precision: Tensor, aspect: float
) -> tuple[Tensor, Tensor]:
    """Match every target cell with every source cell, near the place that is already known first.

    logits(x, y) = s·⟨q(x), k(y)⟩ - ½ p(x) |y - φ(x)|², with q and k of unit length and distances in picture heights.

    Args:
        query: (B, C, h, w) of the target; key: (B, C, h', w') of the source.
        sharpness: s. start: φ, (B, 2, h, w). precision: p = 1/σ², (B, 1, h, w); 0 where nothing is known.
        aspect: width of the picture by its height.

    Returns:
        log-probabilities (B, h·w, h'·w') and the expected place (B, 2, h, w), both float32 or wider.
    """
    b, _, h, w = query.shape
    q, k = (F.normalize(t.movedim(1, -1).flatten(1, 2), dim=-1) for t in (query, key))
    logits = torch.bmm(q * sharpness.to(q.dtype), k.transpose(1, 2))
    with torch.autocast("cpu" if query.is_meta else query.device.type, enabled=False):
        grid = identity_map(*size_of(key), device=key.device, dtype=start.dtype)[0].flatten(1)  # 2, h'·w'
        height = start.new_tensor([aspect / 2, 0.5])[:, None]  # heights in a unit of a map
        place, there, weight = start.flatten(2) * height, grid * height, precision.flatten(2).to(start.dtype)
        # The square is multiplied out: |φ|² is the same for all y, so a softmax does not see it.
        terms = torch.cat([place * weight, -0.5 * weight], 1).transpose(1, 2)  # B, h·w, 3
        near = torch.matmul(terms, torch.cat([there, there.square().sum(0, keepdim=True)]))
        log = (logits.to(start.dtype) + near).log_softmax(-1)
        return log, (log.exp() @ grid.T).transpose(1, 2).reshape(b, 2, h, w)


def finer(values: Tensor, weights: Tensor) -> Tensor:
    """Convex upsampling: each finer cell is a weighted mean of the 3×3 cells around the one that it lies in.

    Args:
        values: (B, C, h, w). weights: logits (B, 9·4, h, w), the nine neighbours outermost.

    Returns:
        (B, C, 2h, 2w) in the values' dtype.
    """
    b, c, h, w = values.shape
    share = weights.unflatten(1, (NEIGHBOURS, FINER**2)).to(values.dtype).softmax(1)
    around = F.unfold(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3).view(b, c, NEIGHBOURS, 1, h, w)
    return F.pixel_shuffle((around * share[:, None]).sum(2).flatten(1, 2), FINER)


class BiasedMatch(nn.Module):
    """One iteration's map: a match biased towards φⁿ, ΔF beside it (eq. 6-8), visibility and person logits.

    Two convolutions and a max-pool as in `PoseMappingAggregator`; they see the match's certainty, both features, the
    displacement, and the logits so far.

    Args:
        channels: of the features. widths: of the two convolutions.
    """

    def __init__(self, channels: int, widths: tuple[int, int], operations=nn):
        super().__init__()
        self.query, self.key = operations.Conv2d(channels, channels, 1), operations.Conv2d(channels, channels, 1)
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.log_sigma = nn.Parameter(torch.tensor(0.0625).log())  # 8 pixels of 128
        self.trust = operations.Conv2d(channels, 1, 1)
        self.first = operations.Conv2d(2 * channels + 5, widths[0], 3, padding=1)
        self.second = operations.Conv2d(widths[0], widths[1], 3, padding=1)
        self.read = operations.Conv2d(2 * widths[1], 4, 3, padding=1)
        self.detail = operations.Conv2d(2 * widths[1], (NEIGHBOURS + 4) * FINER**2, 1)
        for layer in (self.trust, self.read, self.detail):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        line = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])  # bilinear: shares of the three along an axis
        share = torch.einsum("ai,bj->ijab", line, line).reshape(-1).clamp(min=0.01)
        with torch.no_grad():
            self.detail.bias[: len(share)] = share.log()

    def forward(
        self, target: Tensor, source: Tensor, start: Tensor, known: Tensor, logits: Tensor, aspect: float
    ) -> tuple[Tensor, ...]:
        """Features F'_T (B, d, h, w) and F'_S (B, d, h', w'), φⁿ, where it is to be trusted (B, 1, h, w) in 0..1, and
        visibility and person logits so far (B, 2, h, w).

        Returns:
            φⁿ⁺¹ and its logits at the cells, the same at half the cells' size, the match's log-probabilities, and
            what they were read from (B, 2·widths[1], h, w).
        """
        sigma = (self.log_sigma.float() + self.trust(target).float()).clamp(-6, 3)
        precision = (-2 * sigma).exp() * known
        log, matched = biased_match(self.query(target), self.key(source), self.sharpness, start, precision, aspect)
        certain = log.amax(-1).exp().reshape(known.shape)
        grid = identity_map(*size_of(target), device=start.device, dtype=start.dtype)
        shown = sample(source, matched)
        x = joined(*(t.to(target.dtype) for t in (certain, target, shown, matched - grid, logits)))
        x = F.silu(self.second(F.silu(self.first(x))))
        x = joined(x, F.max_pool2d(x, 3, stride=1, padding=1))
        out = self.read(x).float()
        offset, logits = 0.1 * out[:, :2].to(start.dtype), logits + out[:, 2:]
        sampling = compose(matched, offset)  # eq. 7-8
        detail = self.detail(x).float()
        weights, residual = detail[:, : NEIGHBOURS * FINER**2], detail[:, NEIGHBOURS * FINER**2 :]
        residual = F.pixel_shuffle(residual, FINER)
        upper = finer(torch.cat([sampling - grid, logits.to(start.dtype)], 1), weights)
        fine_grid = identity_map(*size_of(upper), device=start.device, dtype=start.dtype)
        fine = fine_grid + upper[:, :2] + 0.02 * residual[:, :2].to(start.dtype)
        return sampling, logits, fine, upper[:, 2:] + residual[:, 2:], log, x
