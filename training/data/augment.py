"""Augmentation for the estimator: what photographs have and rendered people have not."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reposedm_core.pose.skeleton import COCO_FLIP


def random_backgrounds(rng: np.random.Generator, count: int, height: int, width: int) -> Tensor:
    """(n, 3, H, W) in [-1, 1]: noise of several scales, from nearly plain to cluttered."""
    total = torch.from_numpy(rng.uniform(-0.8, 0.8, (count, 3, 1, 1)).astype(np.float32))
    for cells in (2, 4, 9, 24):
        strength = rng.uniform(0, 0.7, (count, 1, 1, 1)).astype(np.float32) * (rng.random((count, 1, 1, 1)) < 0.6)
        noise = torch.from_numpy((rng.standard_normal((count, 3, cells, cells)) * strength).astype(np.float32))
        total = total + F.interpolate(noise, size=(height, width), mode="bilinear" if rng.random() < 0.6 else "nearest")
    return total.clamp(-1, 1)


def random_affine(rng: np.random.Generator, images: Tensor, joints: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Rotate, scale, shift and mirror each picture about its centre, and its joints with it.

    Args:
        images: (n, C, H, W); joints: COCO-17 (n, 17, 3), pixels.

    Returns:
        pictures, the border repeated, and joints, those outside the frame with score 0.
    """
    n, _, height, width = images.shape
    angle = np.deg2rad(rng.uniform(-20, 20, n))
    scale = rng.uniform(0.7, 1.15, n)
    shift = np.stack([rng.uniform(-0.12, 0.12, n) * width, rng.uniform(-0.1, 0.1, n) * height], 1)
    mirror = np.where(rng.random(n) < 0.5, -1.0, 1.0)
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


def random_look(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Contrast, brightness, tint, grey, blur by resampling, and noise; (n, 3, H, W) in [-1, 1]."""
    n, _, height, width = images.shape

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, channels, 1, 1)).astype(np.float32))

    def chosen(share: float) -> Tensor:
        return torch.from_numpy(rng.random((n, 1, 1, 1)) < share)

    images = images * draw(0.6, 1.3) + draw(-0.25, 0.25) + draw(-0.1, 0.1, 3)
    images = torch.where(chosen(0.1), images.mean(1, keepdim=True).expand_as(images), images)
    factor = float(rng.uniform(1.3, 4))
    small = F.interpolate(images, size=(int(height / factor), int(width / factor)), mode="area")
    blurred = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    images = torch.where(chosen(0.35), blurred, images)
    noise = torch.from_numpy(rng.standard_normal(images.shape).astype(np.float32))
    return (images + noise * draw(0, 0.08) * chosen(0.5)).clamp(-1, 1)
