"""Poses: skeletons, their file formats, pictures and heat maps, and what artists do with them."""

from __future__ import annotations

from .draw import STYLES, draw_joints, draw_pose
from .edit import FLIPS, edit_joint, edit_people, has_person
from .heatmaps import decode_heatmaps, render_heatmaps
from .interpolate import EASINGS, MATCHES, METHODS, fill_empty, interpolate_poses
from .keypoints import Pose, check_in_frame, coco_to_openpose, fit_to_frame, openpose_to_coco
from .overlay import draw_comparison
from .parsing import (
    agreed,
    is_pose_file,
    load_pose_file,
    load_pose_text,
    one_pose,
    parse_keypoints,
    pose_files,
    to_keypoints,
)
from .people import ORDERS, broadcast_frames, match_people, select_people, who_is_who
from .retarget import ANCHORS, retarget_pose
from .smooth import smooth_poses

__all__ = [
    "ANCHORS",
    "EASINGS",
    "FLIPS",
    "MATCHES",
    "METHODS",
    "ORDERS",
    "STYLES",
    "Pose",
    "agreed",
    "broadcast_frames",
    "check_in_frame",
    "coco_to_openpose",
    "decode_heatmaps",
    "draw_comparison",
    "draw_joints",
    "draw_pose",
    "edit_joint",
    "edit_people",
    "fill_empty",
    "fit_to_frame",
    "has_person",
    "interpolate_poses",
    "is_pose_file",
    "load_pose_file",
    "load_pose_text",
    "match_people",
    "one_pose",
    "openpose_to_coco",
    "parse_keypoints",
    "pose_files",
    "render_heatmaps",
    "retarget_pose",
    "select_people",
    "smooth_poses",
    "to_keypoints",
    "who_is_who",
]
