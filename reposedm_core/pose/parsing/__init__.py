"""Poses as files and as data, in any of the formats that tools write (`formats.FORMATS`), to `Pose` and back.

What is written: pixels, 18/70/21/21 points, zeros for what is absent, and feet and ids where there are any.
"""

from __future__ import annotations

from .bodies import BODIES
from .canvas import agreed
from .files import is_pose_file, pose_files
from .formats import FORMATS
from .reader import load_pose_file, load_pose_text, one_pose, parse_keypoints
from .writer import to_keypoints

__all__ = [
    "BODIES",
    "FORMATS",
    "agreed",
    "is_pose_file",
    "load_pose_file",
    "load_pose_text",
    "one_pose",
    "parse_keypoints",
    "pose_files",
    "to_keypoints",
]
