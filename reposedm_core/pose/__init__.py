"""Poses: skeletons, their file formats, pictures and heat maps."""

from __future__ import annotations

from .draw import STYLES, draw_joints, draw_pose
from .heatmaps import decode_heatmaps, render_heatmaps
from .keypoints import Pose, coco_to_openpose, fit_to_frame, openpose_to_coco
from .parsing import load_pose_file, load_pose_text, one_pose, parse_keypoints, to_keypoints

__all__ = [
    "STYLES",
    "Pose",
    "coco_to_openpose",
    "decode_heatmaps",
    "draw_joints",
    "draw_pose",
    "fit_to_frame",
    "load_pose_file",
    "load_pose_text",
    "one_pose",
    "openpose_to_coco",
    "parse_keypoints",
    "render_heatmaps",
    "to_keypoints",
]
