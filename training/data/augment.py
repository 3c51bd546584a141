"""Augmentation for the estimator: what photographs have and rendered people have not.

Every example has a generator of its own, so that what happens to it does not depend on the others in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reposedm_core.pose.skeleton import COCO_FLIP

Generators = Sequence[np.random.Generator]


def random_backgrounds(rngs: Generators, height: int, width: int) -> Tensor:
    """(n, 3, H, W) in [-1, 1]: noise of several scales, from nearly plain to cluttered."""
    pictures = []
    for rng in rngs:
        total = torch.from_numpy(rng.uniform(-0.8, 0.8, (1, 3, 1, 1)).astype(np.float32)).expand(1, 3, height, width)
        for cells in (2, 4, 9, 24):
            strength, smooth = rng.uniform(0, 0.7), rng.random() < 0.6
            if rng.random() < 0.6:
                noise = torch.from_numpy(rng.standard_normal((1, 3, cells, cells), np.float32) * np.float32(strength))
                total = total + F.interpolate(noise, (height, width), mode="bilinear" if smooth else "nearest")
        pictures.append(total)
    return torch.cat(pictures).clamp(-1, 1)


def random_affine(rngs: Generators, images: Tensor, joints: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Rotate, scale, shift and mirror each picture about its centre, and its joints with it.

    Args:
        images: (n, C, H, W); joints: COCO-17 (n, 17, 3), pixels.

    Returns:
        pictures, the border repeated, and joints, those outside the frame with score 0.
    """
    height, width = images.shape[-2:]
    drawn = np.array([[rng.uniform(-20, 20), rng.uniform(0.7, 1.15), rng.uniform(-0.12, 0.12),
                       rng.uniform(-0.1, 0.1), rng.random()] for rng in rngs])
    angle, scale, mirror = np.deg2rad(drawn[:, 0]), drawn[:, 1], np.where(drawn[:, 4] < 0.5, -1.0, 1.0)
    shift = drawn[:, 2:4] * (width, height)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    forward = np.stack([np.stack([cos * mirror, -sin], 1), np.stack([sin * mirror, cos], 1)], 1)     # n, 2, 2
    centre = np.array([width / 2, height / 2])
    moved = joints.copy()
    moved[..., :2] = np.einsum("nij,nkj->nki", forward, joints[..., :2] - centre) + centre + shift[:, None]
    flipped = mirror < 0
    order = list(COCO_FLIP)                            # left and right change sides
    moved[flipped] = moved[flipped][:, order]
    outside = (moved[..., 0] < 0) | (moved[..., 0] >= width) | (moved[..., 1] < 0) | (moved[..., 1] >= height)
    moved[..., 2] = np.where(outside, 0, moved[..., 2])
    inverse = np.linalg.inv(forward)
    size = np.array([width / 2, height / 2])
    matrix = inverse * size[None, None, :] / size[None, :, None]                # in normalised units
    offset = -np.einsum("nij,nj->ni", inverse, shift) / size
    theta = torch.from_numpy(np.concatenate([matrix, offset[..., None]], 2).astype(np.float32))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False), moved.astype(np.float32)


def random_look(rngs: Generators, images: Tensor) -> Tensor:
    """Contrast, brightness, tint, grey, blur by resampling, and noise; (n, 3, H, W) in [-1, 1]."""
    height, width = images.shape[-2:]
    pictures = []
    for rng, image in zip(rngs, images.split(1), strict=True):
        tint = torch.from_numpy(rng.uniform(-0.1, 0.1, (1, 3, 1, 1)).astype(np.float32))
        image = image * rng.uniform(0.6, 1.3) + rng.uniform(-0.25, 0.25) + tint
        if rng.random() < 0.1:
            image = image.mean(1, keepdim=True).expand_as(image)
        if rng.random() < 0.35:
            factor = rng.uniform(1.3, 4)
            small = F.interpolate(image, size=(int(height / factor), int(width / factor)), mode="area")
            image = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
        if rng.random() < 0.5:
            noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 0.08))
            image = image + torch.from_numpy(noise)
        pictures.append(image)
    return torch.cat(pictures).clamp(-1, 1)
