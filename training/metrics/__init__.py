"""Measures shared by training and evaluation.

A measure of single pictures gives one number per picture, (n,) float64, NaN where it does not apply.
"""

from reposedm_core.metrics import pck, pck_measures

from .pictures import background_difference, colour_measures, foreground_l1, psnr, sharpness, ssim_51, ssim_256
from .statistics import interval

__all__ = [
    "background_difference",
    "colour_measures",
    "foreground_l1",
    "interval",
    "pck",
    "pck_measures",
    "psnr",
    "sharpness",
    "ssim_51",
    "ssim_256",
]
