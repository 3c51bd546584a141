"""How sure a mean is."""

from __future__ import annotations

import math

import numpy as np

ROUNDS, LEVEL = 2000, 0.95
"""Of the resampling: how often, and the share of the results that an interval holds."""


def interval(
    values: np.ndarray, groups: np.ndarray, base: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `values` and its bootstrap percentile interval: (mean, low, high).

    Whole groups are drawn with replacement: pairs of one person are not independent of each other.

    Args:
        values: (n,); NaN is left out.
        groups: (n,), e.g. the identity of each pair.
        base: (n,), with which it is the mean of `values` by that of `base` instead, of the same pairs.

    Returns:
        low and high are NaN where there are fewer than two groups; all three where there is no value.
    """
    base = np.ones(len(values)) if base is None else base
    keep = np.isfinite(values) & np.isfinite(base)
    if not base[keep].any():
        return math.nan, math.nan, math.nan
    _, index = np.unique(groups[keep], return_inverse=True)
    sums, bases = np.bincount(index, values[keep]), np.bincount(index, base[keep])
    mean = float(values[keep].sum() / base[keep].sum())
    if len(sums) < 2:
        return mean, math.nan, math.nan
    drawn = resampled(len(sums), seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean, *percentiles((drawn @ sums) / (drawn @ bases))


def interval_of_runs(values: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean over several trainings and its bootstrap percentile interval: (mean, low, high).

    Whole groups and whole trainings are drawn with replacement, each for itself, so that the luck of a training is in
    the interval. Of one training there is none to draw, and of two or three the interval is still too narrow.

    Args:
        values: (r, n) of r trainings; what is NaN in any of them is left out of all.
        groups: (n,), see `interval`.

    Returns:
        As `interval`.
    """
    keep = np.isfinite(values).all(0)
    if not keep.any():
        return math.nan, math.nan, math.nan
    _, index = np.unique(groups[keep], return_inverse=True)
    sums, counts = np.stack([np.bincount(index, run) for run in values[:, keep]]), np.bincount(index)
    mean = float(values[:, keep].mean())
    if len(counts) < 2:
        return mean, math.nan, math.nan
    drawn, runs = resampled(len(counts), seed), resampled(len(values), seed + 1)
    return mean, *percentiles((runs * (drawn @ sums.T) / (drawn @ counts)[:, None]).mean(1))


def resampled(groups: int, seed: int = 0) -> np.ndarray:
    """How often each of so many groups is drawn, (ROUNDS, groups), when as many are drawn with replacement."""
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), ROUNDS)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The ends of the middle `LEVEL` of values; what is not finite is left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
