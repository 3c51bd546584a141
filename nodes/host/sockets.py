"""Types of the sockets that ComfyUI does not bring, and what travels through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ...reposedm_core import ModelConfig

PoseKeypoint = io.Custom("POSE_KEYPOINT")
"""OpenPose frames, the type that ControlNet and DWPose nodes use: a list, a dict a frame."""

AlignerSocket = io.Custom("REPOSEDM_ALIGNER")
EstimatorSocket = io.Custom("POSE_ESTIMATOR")
CropSocket = io.Custom("REPOSEDM_CROP")
"""Where crops lie in their pictures: a list of `crop.Crop`."""

FIELD = "reposedm_field"
"""Under which a MODEL keeps what its pose field guidance needs."""

FIELD_STRENGTH = "reposedm_field_strength"
"""Key in a model's transformer options of the strength that its pose field guidance is to have instead of its own."""

BATCH_INDEX = "reposedm_batch_index"
"""Key in a model's transformer options of the places that the sampled latents had in the batch they were taken from."""


@dataclass
class LoadedAligner:
    """REPOSEDM_ALIGNER: a patcher around `reposedm_model.ConditioningNetworks`, and what else of its checkpoint goes
    with it.

    `config` is the checkpoint's, `estimator` finds the source's pose where nobody gives it, `decoder` is a patcher
    around the reference decoder, if there is one.
    """

    patcher: ModelPatcher
    config: ModelConfig
    estimator: LoadedEstimator
    decoder: ModelPatcher | None = None


@dataclass
class LoadedEstimator:
    """POSE_ESTIMATOR: a patcher around a pose estimator of core's, and the picture size that it is shown.

    `several`: it tells several people in a picture apart. `fixed`: it takes pictures of that size alone.
    """

    patcher: ModelPatcher
    height: int
    width: int
    several: bool = False
    fixed: bool = False
