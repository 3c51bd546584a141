"""Pose estimator (HigherHRNet) and the pose interaction field over it."""

from .choice import chosen_joints, chosen_people, chosen_target
from .config import ESTIMATORS, EstimatorConfig
from .estimator import HigherHRNet, merge_heatmaps, predict_pose
from .field import PoseInteractionField, heatmap_mask, masked_distance
from .grouping import predict_people
from .official import load_official, read_official
from .protocol import EstimatorOutput, PoseEstimator, PoseMaps
from .target import PoseTarget
from .vitpose import VitPose, load_vitpose

__all__ = [
    "ESTIMATORS",
    "EstimatorConfig",
    "EstimatorOutput",
    "HigherHRNet",
    "PoseEstimator",
    "PoseInteractionField",
    "PoseMaps",
    "PoseTarget",
    "VitPose",
    "chosen_joints",
    "chosen_people",
    "chosen_target",
    "heatmap_mask",
    "load_official",
    "load_vitpose",
    "masked_distance",
    "merge_heatmaps",
    "predict_people",
    "predict_pose",
    "read_official",
]
