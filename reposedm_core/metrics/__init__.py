"""Measures of poses in numpy: PCK, object keypoint similarity, and the cosine of CAP."""

from .joints import head_sizes, joint_distances, joint_error, pck, pck_measures, torso_sizes
from .similarity import object_keypoint_similarity, pose_cosine

__all__ = ["head_sizes", "joint_distances", "joint_error", "object_keypoint_similarity", "pck", "pck_measures",
           "pose_cosine", "torso_sizes"]
