"""Measures shared by training and evaluation.

A measure of single pictures gives one number a picture, (n,) float64, NaN where it does not apply.
"""

from __future__ import annotations

import math

import numpy as np

MOST_DECIBELS = 100.0
"""PSNR of identical pictures, which would be infinite; the next best 8-bit picture of 96×128 has 94 dB."""


def joint_distances(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance in pixels of every joint, (n, 17), NaN where the joint is not visible.

    Args:
        predicted: (n, 17, 3), x, y in pixels and score.
        truth: (n, 17, 3), x, y in pixels and 0 outside the frame, 1 occluded, 2 visible.
    """
    distance = np.linalg.norm(predicted[..., :2].astype(np.float64) - truth[..., :2], axis=-1)
    return np.where(truth[..., 2] == 2, distance, np.nan)


def pck(predicted: np.ndarray, truth: np.ndarray, distance: float) -> float:
    """Percentage of correct keypoints (0..1) over all pictures: visible joints found within `distance` pixels.

    Args:
        predicted, truth: as in `joint_distances`.
        distance: tolerance in pixels, e.g. 0.05·H.
    """
    distances = joint_distances(predicted, truth)
    return float((distances <= distance).sum() / max(1, np.isfinite(distances).sum()))


def joint_error(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in pixels over the visible joints of all pictures (arrays as in `joint_distances`)."""
    return mean_or_nan(joint_distances(predicted, truth).ravel())


def psnr(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, at most `MOST_DECIBELS`; uint8 (n, H, W, 3) twice → (n,)."""
    error = np.square(_unit(pictures) - _unit(truth)).mean((1, 2, 3))
    return -10 * np.log10(np.maximum(error, 10 ** (-MOST_DECIBELS / 10)))


def ssim(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al., 2004): Gaussian window of σ 1.5, on 0..1; uint8 (n, H, W, 3) twice → (n,)."""
    from skimage.metrics import structural_similarity

    return np.array([structural_similarity(a, b, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
                                           use_sample_covariance=False)
                     for a, b in zip(_unit(pictures), _unit(truth), strict=True)])


def foreground_l1(pictures: np.ndarray, truth: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean absolute difference (0..1) inside the masks (n, H, W) of the true pictures; → (n,)."""
    difference = np.abs(_unit(pictures) - _unit(truth)).mean(-1)
    return _means_inside(difference[..., None], masks > 0, 1)[:, 0]


def colour_difference(pictures: np.ndarray, truth: np.ndarray, region: np.ndarray, least: int = 1) -> np.ndarray:
    """CIE76 ΔE between the mean CIELAB colours of two pictures in one region; → (n,).

    Args:
        pictures, truth: uint8 sRGB (n, H, W, 3).
        region: (n, H, W) bool, where the true picture shows the region.
        least: pixels a region must have to count.
    """
    from skimage.color import rgb2lab

    means = [_means_inside(rgb2lab(_unit(p)), region, least) for p in (pictures, truth)]
    return np.linalg.norm(means[0] - means[1], axis=-1)


def mean_or_nan(values: np.ndarray) -> float:
    """Mean of the numbers among `values`; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


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


def _unit(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float64) / 255


def _means_inside(values: np.ndarray, region: np.ndarray, least: int) -> np.ndarray:
    """Means (n, C) of values (n, H, W, C) inside regions (n, H, W) bool; NaN where one has under `least` pixels."""
    count = region.sum((1, 2))
    total = (values * region[..., None]).sum((1, 2))
    return np.where((count >= max(1, least))[:, None], total / np.maximum(count, 1)[:, None], np.nan)
