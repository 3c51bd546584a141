"""Pose estimators: the paper's HigherHRNet, ViTPose, OpenPose, their public weights, and people's joints."""

from .grouping import predict_people
from .hrnet import HigherHRNet, is_somebody, merge_heatmaps, predict_pose
from .official import read_official
from .protocol import EstimatorOutput, PoseEstimator, PoseMaps
from .vitpose import VitPose, load_vitpose

__all__ = [
    "EstimatorOutput",
    "HigherHRNet",
    "PoseEstimator",
    "PoseMaps",
    "VitPose",
    "is_somebody",
    "load_vitpose",
    "merge_heatmaps",
    "predict_people",
    "predict_pose",
    "read_official",
]
