"""Distances between two sets of pictures by the features of a named network: FID, through torchmetrics, and KID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into
from reposedm_core.errors import InputError
from training.metrics import backbones
from training.metrics.perceptual import efficientnet_lite0
from training.metrics.statistics import percentiles, resampled

INCEPTION, EFFICIENTNET = "Inception-v3", "EfficientNet-Lite0"
EXTRACTORS = {"inception": INCEPTION, "efficientnet": EFFICIENTNET}
"""Option → the extractor's name, which every table carries: numbers of two extractors do not compare."""
HERE: dict[str, Any] = {"sync_on_compute": False}
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


def kid(
    real: np.ndarray, fake: np.ndarray, real_groups: np.ndarray | None = None, fake_groups: np.ndarray | None = None
) -> tuple[float, float, float] | None:
    """Kernel distance (Bińkowski et al., 2018), unbiased for any number of pictures, and its 95 % bootstrap interval.

    Over all pictures at once, not the mean over subsets: of the two, which expect the same, the one that varies less.
    Pictures of one group are not paired: a result is like the pictures that it was made of, more than two pictures of
    different people are, and the distance would come out too small.

    Args:
        real, fake: features (n, D) and (m, D).
        real_groups, fake_groups: (n,) and (m,), e.g. identities: whole groups are resampled, a group of both sets in
            both. None makes each picture a group of its own.

    Returns:
        distance, low and high; None where a set has fewer than four pictures, or those of fewer than two groups.
    """
    if min(len(real), len(fake)) < 4:
        return None
    if real_groups is None or fake_groups is None:
        real_groups, fake_groups = np.arange(len(real)), len(real) + np.arange(len(fake))
    if min(len(np.unique(real_groups)), len(np.unique(fake_groups))) < 2:
        return None
    labels, index = np.unique(np.concatenate([real_groups, fake_groups]), return_inverse=True)
    reals, fakes = (real, index[: len(real)]), (fake, index[len(real) :])
    parts = [
        _kernel_sums(*first, *second, len(labels)) for first, second in ((reals, reals), (fakes, fakes), (reals, fakes))
    ]

    def distance(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            same_real, same_fake, between = (
                np.einsum("rg,rg->r", drawn @ sums, drawn) / np.einsum("rg,rg->r", drawn @ counts, drawn)
                for sums, counts in parts
            )
        return same_real + same_fake - 2 * between

    return (
        float(distance(np.ones((1, len(labels))))[0]),
        *percentiles(distance(resampled(len(labels)).astype(np.float64))),
    )


def _kernel_sums(
    first: np.ndarray,
    first_groups: np.ndarray,
    second: np.ndarray,
    second_groups: np.ndarray,
    groups: int,
    rows: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of (x·y / D + 1)³ over the pairs of each two different groups, (groups, groups), and how many those are."""
    sums = np.zeros((groups, groups))
    order = np.argsort(second_groups, kind="stable")
    labels, starts = np.unique(second_groups[order], return_index=True)
    columns = second[order].astype(np.float64).T
    for top in range(0, len(first), rows):
        part = first[top : top + rows].astype(np.float64)
        kernel = (part @ columns / first.shape[1] + 1) ** 3
        by_column = np.add.reduceat(kernel, starts, axis=1)
        np.add.at(sums, (first_groups[top : top + rows, None], labels[None]), by_column)
    sizes = [np.bincount(each, minlength=groups).astype(np.float64) for each in (first_groups, second_groups)]
    counts = np.outer(*sizes)
    for values in (sums, counts):
        np.fill_diagonal(values, 0)
    return sums, counts
