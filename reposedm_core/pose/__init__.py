"""Poses: skeletons, their file formats, pictures and heat maps."""

from __future__ import annotations

from .draw import draw_joints, draw_pose
from .heatmaps import decode_heatmaps, render_heatmaps

__all__ = ["decode_heatmaps", "draw_joints", "draw_pose", "render_heatmaps"]
