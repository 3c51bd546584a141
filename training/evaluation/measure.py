"""Measuring pictures against the truth: every measure of one picture, the people found in it, and its features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, PoseEstimator, predict_people, predict_pose
from reposedm_core.estimator.load import load_estimator
from reposedm_core.letterbox import Letterbox, size_of
from reposedm_core.metrics import object_keypoint_similarity
from reposedm_core.pipeline import RePoseDMPipeline
from training import metrics
from training.data.people_set import to_unit
from training.evaluation.generate import OURS, Batch
from training.metrics.distribution import FeatureExtractor
from training.metrics.people import people_count_errors
from training.metrics.perceptual import LPIPS, PerceptualDistance
from training.metrics.pictures import WINDOW
from training.metrics.vgg import VGGDistance

MIN_PERSON_SCORE = 0.4
"""Mean score of the joints below which nobody is where an estimator of one person looks. The shipped one's mean is 0.50
or more on 64 test people, and at most 0.41 on backgrounds and noise."""
CELL = 64
"""Where several people are looked for, sides are multiples of so many pixels."""


@dataclass
class Detector:
    """Finds the people in pictures.

    Attributes:
        estimator: in eval mode.
        name: what tables call it.
        several: by its tags (`predict_people`); else the one person of the highest peaks.
        side: pictures are enlarged so that the shorter side has as many pixels.
        size: height and width to which pictures are fitted instead; without either they are seen as they are.
    """

    estimator: PoseEstimator
    name: str
    several: bool = False
    side: int | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, pipe: RePoseDMPipeline, name: str) -> Detector:
        """The estimator of a whole checkpoint, which is shown pictures of the size that it was trained at."""
        return cls(pipe.estimator, name, size=pipe.config.network_size)

    def sure(self, found: list[np.ndarray]) -> list[np.ndarray]:
        """Of each picture's people those that are there: all, or, of estimators of one, by `MIN_PERSON_SCORE`."""
        return found if self.several else [people[people[..., 2].mean(-1) >= MIN_PERSON_SCORE] for people in found]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[np.ndarray]:
        """People of each picture, best first: (P, 17, 3) x, y in the picture's pixels and score.

        P may be 0 where several are looked for; else it is 1, though the scores may say that nobody is there.

        Args:
            images: (B, 3, H, W) in [-1, 1].
        """
        shape = size_of(images)
        size = self.size or shape
        if self.side:
            height, width = (-(-round(self.side * length / min(shape)) // CELL) * CELL for length in shape)
            size = height, width
        letterbox = Letterbox(shape, size)
        seen = letterbox.image(images)
        if self.several:
            found = [people.cpu().numpy() for people in predict_people(self.estimator, seen)]
        else:
            # every joint has a place, however unsure, as in the public protocol
            found = list(predict_pose(self.estimator, seen, threshold=0.0).cpu().numpy()[:, None])
        for people in found:
            people[..., :2] = np.where(people[..., 2:] > 0, letterbox.back(people)[..., :2], 0)
        return found


def load_detector(path: str | Path, device: str = "cpu", udp: bool = False) -> Detector:
    """A pose estimator of its own to judge with.

    Args:
        path: what core's `load_estimator` takes. Public HigherHRNet weights find several people. An estimator that
            does not say the size it was trained at sees pictures as they are.
        udp: public weights that were trained with unbiased data processing (mmpose's "udp"), whatever their name says.

    Raises:
        InputError: no such file, or one of other networks.
    """
    path = Path(path)
    try:
        found = load_estimator(path, udp or None)
    except InputError as error:
        raise InputError(f"judge: {error}") from error
    network = found.network.to(device)
    if found.several and isinstance(network, HigherHRNet):
        name = f"HigherHRNet-W{network.config.channels[0]} ({path.name})"
        return Detector(network, name, several=True, side=min(found.height, found.width))
    return Detector(network, path.name, size=(found.height, found.width) if found.size_known else None)


def detector_of(judge: str | None, pipe: RePoseDMPipeline, device: str = "cpu") -> Detector:
    """The estimator in the file `judge`, or where there is none that of the checkpoint itself."""
    return load_detector(judge, device) if judge else Detector.of(pipe, f"the estimator of {OURS}")


@dataclass
class Measured:
    """What a judge says of b pictures.

    Attributes:
        values: measure → (b,), NaN where it says nothing.
        people: those found in each picture, (P, 17, 3), P may be 0.
        features: (b, D) for FID and KID; D is 0 without an extractor.
    """

    values: dict[str, np.ndarray]
    people: list[np.ndarray]
    features: np.ndarray


class Judge:
    """Measures pictures against the true ones of the same pairs.

    Args:
        detector: finds people and their joints.
        extractor: of the features of FID and KID; None leaves them out.
        lpips, vgg: None leaves them out.
    """

    def __init__(
        self,
        detector: Detector,
        extractor: FeatureExtractor | None = None,
        lpips: LPIPS | None = None,
        device: str | torch.device = "cpu",
        vgg: VGGDistance | None = None,
    ):
        self.detector, self.device = detector, device
        self.extractor = None if extractor is None else extractor.to(device)
        self.perceptual = PerceptualDistance().to(device)
        self.lpips = None if lpips is None else lpips.to(device)
        self.vgg = None if vgg is None else vgg.to(device)
        self._truth: tuple[Batch, list[Tensor]] | None = None

    def measure(self, pictures: np.ndarray, batch: Batch, same: bool = False) -> Measured:
        """Every measure of uint8 pictures (b, H, W, 3); `same` says that they are the truth: joints and people only."""
        images = to_unit(pictures).to(self.device)
        values = {} if same else self._against(pictures, images, batch)
        looked_for = self.detector(images)
        people = self.detector.sure(looked_for)
        values.update(self._poses(looked_for, batch))
        values["pce"] = people_count_errors(people, [pose[None] for pose in batch.joints])
        return Measured(values, people, self.features(images))

    def features(self, images: Tensor) -> np.ndarray:
        """(b, D) of pictures (b, 3, H, W) in [-1, 1], by the extractor; D is 0 without one."""
        if self.extractor is None:
            return np.zeros((len(images), 0), np.float32)
        return self.extractor(images.to(self.device)).cpu().numpy()

    def _against(self, pictures: np.ndarray, images: Tensor, batch: Batch) -> dict[str, np.ndarray]:
        truth = to_unit(batch.truth).to(self.device)
        distances = {"perceptual": self.perceptual(images, truth)}
        if self.lpips is not None:
            distances["lpips"] = self.lpips(images, truth)
        if self.vgg is not None:
            with torch.no_grad():
                distances["vgg"] = self.vgg.to_features(images, self._vgg_of(self.vgg, batch, truth))
        values = {name: distance.double().cpu().numpy() for name, distance in distances.items()}
        values["psnr"] = metrics.psnr(pictures, batch.truth)
        if min(pictures.shape[1:3]) >= WINDOW:
            values["ssim_51"] = metrics.ssim_51(pictures, batch.truth)
        for sigma in (1.2, 1.5):
            values[f"ssim_256@{sigma}"] = metrics.ssim_256(pictures, batch.truth, sigma)
        if batch.masks is not None:
            values["foreground_l1"] = metrics.foreground_l1(pictures, batch.truth, batch.masks)
        if batch.garments is not None:
            values.update(metrics.colour_measures(pictures, batch.truth, batch.garments))
            values["sharpness"] = metrics.sharpness(pictures, batch.truth, batch.garments)
        if batch.masks is not None and batch.source_masks is not None:
            values["background"] = metrics.background_difference(
                pictures, batch.source, batch.masks, batch.source_masks
            )
        return values

    def _vgg_of(self, vgg: VGGDistance, batch: Batch, truth: Tensor) -> list[Tensor]:
        """VGG's features of a batch's true pictures, kept for the next row: nothing else costs so much."""
        if self._truth is None or self._truth[0] is not batch:
            self._truth = batch, vgg.features(truth)
        return self._truth[1]

    def _poses(self, people: list[np.ndarray], batch: Batch) -> dict[str, np.ndarray]:
        """PCK, distances and OKS of the person most like the pose asked for."""
        similarities, joints = np.zeros(len(batch)), np.full((len(batch), 17, 3), np.inf)
        for n, (found, truth) in enumerate(zip(people, batch.joints, strict=True)):
            labelled = truth[truth[:, 2] > 0, :2].astype(np.float64)
            area = float(np.prod(np.ptp(labelled, 0))) if len(labelled) else 0.0
            every = [float(object_keypoint_similarity(person, truth, area)) for person in found]
            if not len(labelled):
                similarities[n] = np.nan
            elif every:
                best = int(np.argmax(every))
                similarities[n] = every[best]
                joints[n] = np.where(found[best][:, 2:] > 0, found[best], np.inf)
        return {**metrics.pck_measures(joints, batch.joints, batch.truth.shape[1]), "oks": similarities}
