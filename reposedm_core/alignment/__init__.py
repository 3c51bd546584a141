"""Recurrent pose alignment (section 3.2 of the paper)."""

from .recurrent import Alignment, RecurrentPoseAligner
from .warp import _identity
from .windows import dense_mask, window_mask

__all__ = ["Alignment", "RecurrentPoseAligner", "forget"]


def forget() -> None:
    """Let go of the grids and masks that are kept between calls, on whatever device; the next call makes them anew."""
    for kept in (_identity, dense_mask, window_mask):
        kept.cache_clear()
