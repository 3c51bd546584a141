"""Distances between two sets of pictures by the features of a named network: FID and KID, through torchmetrics."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into
from reposedm_core.errors import InputError
from training.metrics import backbones
from training.metrics.perceptual import efficientnet_lite0

INCEPTION, EFFICIENTNET = "Inception-v3", "EfficientNet-Lite0"
EXTRACTORS = {"inception": INCEPTION, "efficientnet": EFFICIENTNET}
"""Option → the extractor's name, which every table carries: numbers of two extractors do not compare."""
SUBSETS, LARGEST_SUBSET = 100, 1000
HERE = {"sync_on_compute": False}
"""The features of all processes are here already; torchmetrics would wait for the other processes."""


class FeatureExtractor(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] → features (B, D) float32.

    Pictures are resized bilinearly, without antialiasing and without regard to their aspect, to the size the network
    was trained at.

    Args:
        name: of `EXTRACTORS`: torchvision's Inception-v3 with its ImageNet weights (299², D = 2048), which PIDM, CFLD
            and PCDMs measure with and which is not pytorch-fid's; or EfficientNet-Lite0 (224², D = 1280).
        folder: with Inception's weights (`backbones.FILES`); None is torch.hub's cache.

    Attributes:
        name: what tables call it. side: the size in pixels. num_features: D.

    Raises:
        InputError: the weights are not there or do not fit.
    """

    def __init__(self, name: str, folder: str | Path | None = None):
        super().__init__()
        self.name = EXTRACTORS[name]
        if name == "inception":
            from torchvision.models import inception_v3

            state = dict(backbones.load("inception", folder))
            # [-1, 1] is what transform_input would make of a picture normalised for ImageNet.
            self.network = inception_v3(weights=None, init_weights=False, transform_input=False)
            load_into(self.network, state, f"{backbones.FILES['inception']}: Inception-v3")
            self.network.fc = nn.Identity()
            self.side, self.num_features = 299, 2048
        else:
            self.network = efficientnet_lite0(num_classes=0)
            self.side, self.num_features = 224, self.network.num_features
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        size = (self.side, self.side)
        return self.network(F.interpolate(pictures, size=size, mode="bilinear", align_corners=False))


def open_extractor(name: str = "auto", folder: str | Path | None = None) -> FeatureExtractor:
    """The extractor of that name; "auto" is Inception where its weights are, else EfficientNet-Lite0."""
    if name == "auto":
        name = "inception" if backbones.find("inception", folder) else "efficientnet"
    if name not in EXTRACTORS:
        raise InputError(f"extractor = {name!r}: known are auto, {', '.join(EXTRACTORS)}.")
    return FeatureExtractor(name, folder)


class _Given(nn.Module):
    """Stands for an extractor whose features were computed before."""

    def __init__(self, features: int):
        super().__init__()
        self.num_features = features

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(real: Tensor, fake: Tensor) -> float | None:
    """Fréchet distance (Heusel et al., 2017) between Gaussians fitted to two sets of features (n, D) and (m, D).

    It is biased upwards, the more the fewer the pictures: compare it only between sets of equal size. None where a
    set has fewer than two pictures.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(fake)) < 2:
        return None
    real, fake = real.double(), fake.double()
    if len(real) + len(fake) < real.shape[1]:
        # Nothing lies outside of the samples' span, and the distance does not depend on the axes: fewer will do.
        basis = torch.linalg.qr(torch.cat([real, fake]).T).Q
        real, fake = real @ basis, fake @ basis
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), **HERE)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def kid(real: Tensor, fake: Tensor, seed: int = 0) -> tuple[float, float] | None:
    """Kernel distance (Bińkowski et al., 2018), unbiased for any number of pictures: mean and deviation over subsets.

    Args:
        real, fake: features (n, D) and (m, D).
        seed: of the choice of `SUBSETS` subsets, each of half of the smaller set and at most `LARGEST_SUBSET` pictures.

    Returns:
        None where a set has fewer than four pictures.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(LARGEST_SUBSET, len(real) // 2, len(fake) // 2)
    if size < 2:
        return None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*save all extracted features")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(_Given(real.shape[1]), SUBSETS, size, **HERE)
        metric.update(real.double(), real=True)
        metric.update(fake.double(), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)
