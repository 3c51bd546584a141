"""The pose interaction field over a pose estimator (section 3.3)."""

from .field import PoseInteractionField, heatmap_mask, masked_distance
from .selection import chosen_joints, chosen_people, joints_target, pose_target
from .target import PoseTarget

__all__ = [
    "PoseInteractionField",
    "PoseTarget",
    "chosen_joints",
    "chosen_people",
    "heatmap_mask",
    "joints_target",
    "masked_distance",
    "pose_target",
]
