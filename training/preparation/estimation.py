"""Poses for pictures without annotation: an estimator of core's, or OpenPose from controlnet_aux."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from reposedm_core.checkpoint import read_weights
from reposedm_core.errors import InputError
from reposedm_core.estimator import PoseEstimator, predict_pose
from reposedm_core.estimator.load import load_estimator as load_network
from reposedm_core.images import from_uint8
from reposedm_core.letterbox import Letterbox
from reposedm_core.networks import SHIPPED
from reposedm_core.pose import coco_to_openpose, openpose_to_coco

Estimator = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Picture (h, w, 3) uint8 → COCO joints (17, 3) and OpenPose joints (18, 3), its pixels, state 0 absent or 2 found."""

THRESHOLD = 0.1
OPENPOSE_FILE = "body_pose_model.pth"


def load_estimator(which: str, openpose_weights: str = "") -> Estimator:
    """An estimator by name.

    Args:
        which: "ours" (the shipped weights), "openpose", or what core's `load_estimator` takes: a checkpoint of
            training/train.py, the weights of a public HigherHRNet, or a ViTPose's folder.
        openpose_weights: folder with OpenPose's body_pose_model.pth; only for "openpose".

    Raises:
        InputError: no such file, or weights of another network.
    """
    if which == "openpose":
        return partial(_openpose, _load_openpose(openpose_weights))
    path = SHIPPED if which == "ours" else Path(which)
    if not path.exists():
        raise InputError(f"estimator = {which!r}: neither ours, openpose or none, nor a file or folder that exists.")
    found = load_network(path)
    return partial(_heatmaps, found.network, (found.height, found.width))


@torch.no_grad()
def _heatmaps(network: PoseEstimator, size: tuple[int, int], picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The one person of a picture, seen letterboxed to `size`."""
    letterbox = Letterbox(picture.shape[:2], size)
    image = from_uint8(torch.tensor(picture).movedim(-1, 0)[None])
    joints = letterbox.back(predict_pose(network, letterbox.image(image), THRESHOLD)[0].numpy())
    found = np.concatenate([joints[:, :2], 2.0 * (joints[:, 2:] > 0)], 1)
    found = np.where(found[:, 2:] > 0, found, 0).astype(np.float32)
    return found, coco_to_openpose(found)


def _load_openpose(folder: str):
    """controlnet_aux's OpenPose with its body network alone, from a file here; it fetches nothing."""
    from huggingface_hub import try_to_load_from_cache

    file = Path(folder or "data/openpose") / OPENPOSE_FILE
    if not file.is_file():
        cached = try_to_load_from_cache("lllyasviel/Annotators", OPENPOSE_FILE)
        file = Path(cached) if isinstance(cached, str) else file
    if not file.is_file():
        raise InputError(
            f"estimator = 'openpose': {file} is missing. Put OpenPose's {OPENPOSE_FILE} there (it is in "
            "lllyasviel/Annotators on Hugging Face), or name its folder with --openpose-weights; nothing "
            "is downloaded."
        )
    from controlnet_aux.open_pose import OpenposeDetector
    from controlnet_aux.open_pose.body import Body
    from controlnet_aux.open_pose.model import bodypose_model
    from controlnet_aux.open_pose.util import transfer

    body = Body.__new__(Body)  # its own constructor unpickles whatever is in the file
    body.model = bodypose_model()
    try:
        body.model.load_state_dict(transfer(body.model, read_weights(file)))
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{file}: not the weights of OpenPose's body network ({error}).") from error
    body.model.eval()
    return OpenposeDetector(body)


def _openpose(detector, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest person that OpenPose finds."""
    height, width = picture.shape[:2]
    best = np.zeros((18, 3), np.float32)
    for pose in detector.detect_poses(picture):
        points = np.array(
            [(0, 0, 0) if k is None else (k.x * width, k.y * height, 2) for k in pose.body.keypoints], np.float32
        )
        if _extent(points) > _extent(best):
            best = points
    return openpose_to_coco(best), best


def _extent(points: np.ndarray) -> float:
    """Diagonal of the box around the found points, in pixels."""
    found = points[points[:, 2] > 0, :2]
    return float(np.linalg.norm(np.ptp(found, axis=0))) if len(found) else 0.0
