"""Poses for pictures without annotation: our estimator, a HigherHRNet file, or OpenPose from controlnet_aux."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from reposedm_core.checkpoint import load_into, load_parts, read_weights
from reposedm_core.config import EstimatorConfig, ModelConfig, from_dict
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, load_official, predict_pose
from reposedm_core.letterbox import Letterbox
from reposedm_core.pipeline import RePoseDMPipeline
from reposedm_core.pose import coco_to_openpose, openpose_to_coco
from reposedm_core.presets import ESTIMATORS

Estimator = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Picture (h, w, 3) uint8 → COCO joints (17, 3) and OpenPose joints (18, 3), its pixels, state 0 absent or 2 found."""

THRESHOLD = 0.1
OURS = (128, 96)
"""Height and width at which an estimator of ours looks when its file does not say."""
OFFICIAL = (512, 512)
OPENPOSE_FILE = "body_pose_model.pth"


def load_estimator(which: str, openpose_weights: str = "") -> Estimator:
    """An estimator by name.

    Args:
        which: "ours" (the shipped weights), "openpose", or a file: a checkpoint of training/train.py, or the weights
            of a public HigherHRNet-W32 or -W48 (.pth or .safetensors).
        openpose_weights: folder with OpenPose's body_pose_model.pth; only for "openpose".

    Raises:
        InputError: no such file, or weights of another network.
    """
    if which == "ours":
        pipe = RePoseDMPipeline.from_pretrained()
        return partial(_heatmaps, pipe.estimator, pipe.config.network_size)
    if which == "openpose":
        return partial(_openpose, _load_openpose(openpose_weights))
    file = Path(which)
    if not file.is_file():
        raise InputError(f"estimator = {which!r}: neither ours, openpose or none, nor a file that exists.")
    try:
        parts, header = load_parts(file)
    except InputError:
        return partial(_heatmaps, _load_public(file), OFFICIAL)
    if "estimator" not in parts:
        raise InputError(f"estimator = {which!r}: the checkpoint holds {', '.join(sorted(parts))}, but no estimator.")
    whole = len(parts) > 1
    config = from_dict(ModelConfig if whole else EstimatorConfig, header["config"], file.name)
    network = HigherHRNet(config.estimator if whole else config)
    load_into(network, parts["estimator"], f"{file.name}: estimator")
    return partial(_heatmaps, network.eval(), config.network_size if whole else OURS)


def _load_public(file: Path) -> HigherHRNet:
    """A public HigherHRNet of either width."""
    state, problems = read_weights(file), []
    for name in ("w32", "w48"):
        try:
            return load_official(HigherHRNet(ESTIMATORS[name]), state).eval()
        except InputError as error:
            problems.append(str(error))
    raise InputError(f"estimator = {file}: {problems[0]}")


@torch.no_grad()
def _heatmaps(network: torch.nn.Module, size: tuple[int, int], picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The one person of a picture, seen letterboxed to `size`."""
    letterbox = Letterbox(picture.shape[:2], size)
    image = torch.tensor(picture).movedim(-1, 0)[None].float() / 127.5 - 1
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
