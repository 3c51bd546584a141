"""Recurrent pose alignment (section 3.2 of the paper)."""

from torch import nn

from ..config import AlignerConfig
from .matching_aligner import MatchingPoseAligner, Start, start_from
from .recurrent import Alignment, RecurrentPoseAligner
from .warp import _identity
from .windows import dense_mask, window_mask

__all__ = [
    "Alignment",
    "MatchingPoseAligner",
    "RecurrentPoseAligner",
    "Start",
    "build_aligner",
    "clear_caches",
    "start_from",
]


def build_aligner(config: AlignerConfig, operations=nn) -> RecurrentPoseAligner | MatchingPoseAligner:
    """The aligner of a configuration, by its kind, with fresh weights."""
    if config.kind == "matching":
        return MatchingPoseAligner(config, operations)
    return RecurrentPoseAligner(config, operations)


def clear_caches() -> None:
    """Let go of the grids and masks that are kept between calls, on whatever device; the next call makes them anew."""
    for kept in (_identity, dense_mask, window_mask):
        kept.cache_clear()
