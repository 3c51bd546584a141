"""Measures of poses in numpy: PCK, object keypoint similarity, and the cosine of CAP."""

from .joints import head_sizes, joint_distances, joint_error, pck, pck_measures, torso_sizes
from .people import PoseAccuracy, match_by_oks, pose_accuracy, to_wanted
from .similarity import object_keypoint_similarity, pose_cosine

__all__ = [
    "PoseAccuracy",
    "head_sizes",
    "joint_distances",
    "joint_error",
    "match_by_oks",
    "object_keypoint_similarity",
    "pck",
    "pck_measures",
    "pose_accuracy",
    "pose_cosine",
    "to_wanted",
    "torso_sizes",
]
