"""Pose estimator (HigherHRNet) and the pose interaction field over it."""

from .config import ESTIMATORS, EstimatorConfig
from .estimator import HigherHRNet, merge_heatmaps, predict_pose
from .field import PoseInteractionField, heatmap_mask, masked_distance
from .grouping import predict_people
from .official import load_official
from .protocol import EstimatorOutput, PoseEstimator, PoseMaps
from .target import PoseTarget

__all__ = [
    "ESTIMATORS",
    "EstimatorConfig",
    "EstimatorOutput",
    "HigherHRNet",
    "PoseEstimator",
    "PoseInteractionField",
    "PoseMaps",
    "PoseTarget",
    "heatmap_mask",
    "load_official",
    "masked_distance",
    "merge_heatmaps",
    "predict_people",
    "predict_pose",
]
