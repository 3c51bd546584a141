"""Pose estimators: the paper's HigherHRNet, ViTPose, their public weights, and joints of people from what they say."""

from .grouping import predict_people
from .hrnet import HigherHRNet, merge_heatmaps, predict_pose
from .official import read_official
from .protocol import EstimatorOutput, PoseEstimator, PoseMaps
from .vitpose import VitPose, load_vitpose

__all__ = [
    "EstimatorOutput",
    "HigherHRNet",
    "PoseEstimator",
    "PoseMaps",
    "VitPose",
    "load_vitpose",
    "merge_heatmaps",
    "predict_people",
    "predict_pose",
    "read_official",
]
