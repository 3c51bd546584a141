"""What people's answers tell: shares with Wilson's interval, and how far raters agree."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from training.metrics.statistics import LEVEL


def wilson(hits: int, asked: int) -> tuple[float, float, float]:
    """Share of `hits` among `asked` answers and its Wilson score interval: (share, low, high), each 0..1.

    The interval takes answers as independent; those of one rater, or of one picture, are so only in part. All three are
    NaN where nothing was asked.
    """
    if not 0 <= hits <= asked:
        raise ValueError(f"{hits} of {asked} answers")
    if asked == 0:
        return math.nan, math.nan, math.nan
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = hits / asked
    middle = (share + z**2 / (2 * asked)) / (1 + z**2 / asked)
    half = z / (1 + z**2 / asked) * math.sqrt(share * (1 - share) / asked + z**2 / (4 * asked**2))
    # the ends are 0 and 1 at the shares 0 and 1, where rounding must not say otherwise
    return share, 0.0 if hits == 0 else middle - half, 1.0 if hits == asked else middle + half


def fleiss_kappa(counts: np.ndarray) -> float:
    """Fleiss' κ of raters who put items into categories: 1 full agreement, 0 that of chance.

    Args:
        counts: (items, categories), how many raters put an item there. Where items have different numbers of raters,
            each item's agreement is that of its own raters; items of fewer than two are left out.

    Returns:
        NaN where no item has two raters, or all answers are one category, where chance explains everything.
    """
    counts = np.asarray(counts, np.float64)
    raters = counts.sum(1)
    counts, raters = counts[raters > 1], raters[raters > 1]
    if not len(counts):
        return math.nan
    observed = float(((counts * (counts - 1)).sum(1) / (raters * (raters - 1))).mean())
    shares = counts.sum(0) / counts.sum()
    expected = float((shares**2).sum())
    return math.nan if expected >= 1 else (observed - expected) / (1 - expected)
