"""Measures of pictures against other ones, mostly the true ones, uint8 sRGB (n, H, W, 3) twice → (n,) float64."""

from __future__ import annotations

import math

import numpy as np

from reposedm_core.errors import InputError

MOST_DECIBELS = 100.0
"""PSNR of identical pictures, which would be infinite; the next best 8-bit picture of 96×128 has 94 dB."""
WINDOW = 51
"""Side of the window of `ssim_51` in pixels."""
REGIONS = {"top": 3, "bottom": 4, "dress": 7}
"""Garments whose colour is judged, and their labels in garments.npy."""
RIGHT_COLOUR, LEAST_SHARE = 20.0, 0.005
"""Largest ΔE of a right colour, and the share of the picture that a garment must cover to be judged."""
LUMA = (0.299, 0.587, 0.114)
FINE = 0.25
"""Cycles per pixel above which detail is fine: half of the Nyquist frequency."""
EDGE, TAPER = 2.0, 6.0
"""Pixels of a garment's edge that do not count, and pixels after them over which it begins to count."""
AROUND = 8 / 256
"""Of the height: how far around the persons a picture may differ from the source."""


def psnr(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB (scikit-image, range 1), at most `MOST_DECIBELS`."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        found = [peak_signal_noise_ratio(b, a, data_range=1.0) for a, b in _units(pictures, truth)]
    return np.minimum(found, MOST_DECIBELS)


def ssim_51(pictures: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity as PIDM and CFLD report it as "SSIM": scikit-image on 0..1, uniform window of 51 pixels.

    Raises:
        InputError: pictures smaller than the window, of which it says nothing.
    """
    if min(truth.shape[1:3]) < WINDOW:
        raise InputError(
            f"SSIM with its window of {WINDOW} pixels cannot measure pictures of {truth.shape[2]}×"
            f"{truth.shape[1]}; use SSIM_256."
        )
    return _ssim(pictures, truth, win_size=WINDOW)


def ssim_256(pictures: np.ndarray, truth: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """Structural similarity (Wang et al., 2004), "SSIM_256": on 0..255, Gaussian window, population covariance.

    Args:
        sigma: deviation of the window in pixels: 1.2 in PIDM and PCDMs, 1.5 in CFLD and in Wang et al. PIDM's code
            takes the generated picture's own range in place of 255.
    """
    return _ssim(pictures, truth, gaussian_weights=True, sigma=sigma, use_sample_covariance=False)


def foreground_l1(pictures: np.ndarray, truth: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean absolute difference (0..1) inside the masks (n, H, W) of the true pictures."""
    difference = np.abs(_unit(pictures) - _unit(truth)).mean(-1)
    return _means_inside(difference[..., None], masks > 0, 1)[:, 0]


def colour_difference(pictures: np.ndarray, truth: np.ndarray, region: np.ndarray, least: int = 1) -> np.ndarray:
    """CIE76 ΔE between the mean CIELAB colours of two pictures in one region.

    Args:
        region: (n, H, W) bool, where the true picture shows the region.
        least: pixels a region must have to count.
    """
    from skimage.color import rgb2lab

    means = [_means_inside(rgb2lab(_unit(p)), region, least) for p in (pictures, truth)]
    return np.linalg.norm(means[0] - means[1], axis=-1)


def colour_measures(pictures: np.ndarray, truth: np.ndarray, garments: np.ndarray) -> dict[str, np.ndarray]:
    """ΔE averaged over a pair's judged garments, and 1 where the colours of all of them are right, else 0.

    Args:
        garments: (n, H, W) uint8 labels of the true pictures, see `REGIONS`.
    """
    least = math.ceil(LEAST_SHARE * garments[0].size)
    found = np.stack([colour_difference(pictures, truth, garments == label, least) for label in REGIONS.values()])
    judged = np.isfinite(found)
    count = judged.sum(0)
    mean = np.where(count > 0, np.where(judged, found, 0).sum(0) / np.maximum(count, 1), np.nan)
    right = (~judged | (found <= RIGHT_COLOUR)).all(0)
    return {"colour_right": np.where(count > 0, right, np.nan), "colour_difference": mean}


def sharpness(pictures: np.ndarray, truth: np.ndarray, garments: np.ndarray) -> np.ndarray:
    """Energy of the garments' fine detail by that of the true picture: 1 as sharp, below blurred, above too rough.

    Of the luminance of each garment (`REGIONS`, where the true picture shows it, eroded by `EDGE` pixels, its mean
    taken off, under a window that rises over `TAPER` pixels) the Fourier energy above `FINE`, summed over the garments.
    The noise of rounding to 8 bits is added to both once more: of a garment without detail it is all there is.

    Args:
        garments: (n, H, W) uint8 labels of the true pictures; NaN where none is judged or large enough.
    """
    from scipy.ndimage import distance_transform_edt

    least = math.ceil(LEAST_SHARE * garments[0].size)
    height, width = garments.shape[1:]
    fine = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) > FINE
    rounding = fine.mean() * sum(weight**2 for weight in LUMA) / 255**2 / 12
    found = np.full(len(truth), np.nan)
    for n, labels in enumerate(garments):
        light = [_unit(picture[n]) @ np.array(LUMA) for picture in (pictures, truth)]
        energies = np.zeros(2)
        for label in REGIONS.values():
            region = labels == label
            if region.sum() < least:
                continue
            inside = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]  # the picture's border is an edge, too
            window = 0.5 - 0.5 * np.cos(np.pi * np.clip((inside - EDGE) / TAPER, 0, 1))
            if window.any():
                flat = [(values - np.average(values, weights=window)) * window for values in light]
                energies += [np.square(np.abs(np.fft.fft2(values)[fine])).sum() / fine.size for values in flat]
                energies += rounding * np.square(window).sum()
        if energies.any():
            found[n] = energies[0] / energies[1]
    return found


def background_difference(
    pictures: np.ndarray, source: np.ndarray, masks: np.ndarray, source_masks: np.ndarray
) -> np.ndarray:
    """Largest difference of a channel (0..255) from the source outside of both persons, grown by `AROUND`.

    Args:
        masks, source_masks: (n, H, W), the persons of the true picture and of the source; NaN where they leave nothing.
    """
    from scipy.ndimage import maximum_filter

    side = 2 * max(1, round(AROUND * masks.shape[1])) + 1
    near = maximum_filter(np.maximum(masks, source_masks) > 0, size=(1, side, side))
    difference = np.abs(pictures.astype(np.int16) - source).max(-1)
    return np.where(near.all((1, 2)), np.nan, np.where(near, 0, difference).max((1, 2)).astype(np.float64))


def _ssim(pictures: np.ndarray, truth: np.ndarray, **options) -> np.ndarray:
    from skimage.metrics import structural_similarity

    return np.array(
        [structural_similarity(a, b, channel_axis=-1, data_range=1.0, **options) for a, b in _units(pictures, truth)]
    )


def _units(pictures: np.ndarray, truth: np.ndarray) -> zip:
    return zip(_unit(pictures), _unit(truth), strict=True)


def _unit(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float64) / 255


def _means_inside(values: np.ndarray, region: np.ndarray, least: int) -> np.ndarray:
    """Means (n, C) of values (n, H, W, C) inside regions (n, H, W) bool; NaN where one has under `least` pixels."""
    count = region.sum((1, 2))
    total = (values * region[..., None]).sum((1, 2))
    return np.where((count >= max(1, least))[:, None], total / np.maximum(count, 1)[:, None], np.nan)
