"""How sure a mean is."""

from __future__ import annotations

import math

import numpy as np


def interval(values: np.ndarray, groups: np.ndarray, seed: int = 0, rounds: int = 2000,
             level: float = 0.95) -> tuple[float, float, float]:
    """Mean of `values` and its bootstrap percentile interval: (mean, low, high).

    Whole groups are drawn with replacement: pairs of one person are not independent of each other.

    Args:
        values: (n,); NaN is left out.
        groups: (n,), e.g. the identity of each pair.
        seed, rounds: of the resampling.

    Returns:
        low and high are NaN where there are fewer than two groups; all three where there is no value.
    """
    keep = np.isfinite(values)
    if not keep.any():
        return math.nan, math.nan, math.nan
    values = values[keep]
    _, index = np.unique(groups[keep], return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    if len(counts) < 2:
        return float(values.mean()), math.nan, math.nan
    drawn = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), rounds)
    low, high = np.quantile((drawn @ sums) / (drawn @ counts), [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)
