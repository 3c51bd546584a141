"""Recurrent pose alignment (section 3.2 of the paper)."""

from .recurrent import Alignment, RecurrentPoseAligner

__all__ = ["Alignment", "RecurrentPoseAligner"]
