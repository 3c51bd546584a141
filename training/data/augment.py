"""Augmentation: what photographs have and rendered people have not.

Every example has a generator of its own, so that what happens to it does not depend on the others in the batch.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reposedm_core.pose.skeleton import COCO_FLIP
from training.data.clutter import dead_leaves, pink_noise

Share = TypeVar("Share", float, np.ndarray)

Generators = Sequence[np.random.Generator]
Range = tuple[float, float]


def random_backgrounds(rngs: Generators, height: int, width: int) -> Tensor:
    """(n, 3, H, W) in [-1, 1]: smooth and blocky noise from nearly plain to cluttered, dead leaves, 1/f noise."""
    pictures = []
    for rng in rngs:
        kind = rng.random()
        if kind < 0.35:
            pictures.append(_patches(rng, height, width))
        else:
            drawn = (dead_leaves if kind < 0.75 else pink_noise)(rng, height, width)
            pictures.append(torch.from_numpy(drawn).movedim(-1, 0) * 2 - 1)
    return torch.stack(pictures)


def _patches(rng: np.random.Generator, height: int, width: int) -> Tensor:
    total = torch.from_numpy(rng.uniform(-0.8, 0.8, (1, 3, 1, 1)).astype(np.float32)).expand(1, 3, height, width)
    for cells in (2, 4, 9, 24):
        strength, smooth = rng.uniform(0, 0.7), rng.random() < 0.6
        if rng.random() < 0.6:
            noise = torch.from_numpy(rng.standard_normal((1, 3, cells, cells), np.float32) * np.float32(strength))
            total = total + F.interpolate(noise, (height, width), mode="bilinear" if smooth else "nearest")
    return total[0].clamp(-1, 1)


def paste_background(rngs: Generators, images: Tensor, masks: Tensor, backgrounds: Tensor) -> Tensor:
    """Put people before other backgrounds.

    Args:
        images: (n, 3, H, W); masks: (n, 1, H, W), 1 on what is kept, 0 elsewhere; backgrounds: (n, 3, H, W).

    Returns:
        (n, 3, H, W): the person where the mask is 1, but for its outermost pixel, which is mixed with the background as
        far as the example's generator says: in a rendered picture it shows some of the old one.
    """
    edge = torch.tensor([rng.uniform(0.4, 1.0) for rng in rngs], dtype=images.dtype, device=images.device)
    edge = edge[:, None, None, None]
    inside = -F.max_pool2d(-masks, 3, 1, 1)
    share = masks * (edge + (1 - edge) * inside)
    return share * images + (1 - share) * backgrounds


def random_affine(
    rngs: Generators, images: Tensor, joints: np.ndarray, *, turn: float = 20.0, scale: Range = (0.6, 1.6),
    shift: Range = (0.12, 0.1), mirror: float = 0.5,
) -> tuple[Tensor, np.ndarray]:  # fmt: skip
    """Rotate, scale, shift and mirror each picture about its centre, and its joints with it.

    Args:
        images: (n, C, H, W); joints: COCO-17 (n, 17, 3), pixels.
        turn, scale, shift, mirror: see `random_grid`.

    Returns:
        pictures, the border repeated, and joints, those outside the frame with score 0.
    """
    height, width = images.shape[-2:]
    grid, joints = random_grid(rngs, joints, height, width, turn=turn, scale=scale, shift=shift, mirror=mirror)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False), joints


def random_grid(
    rngs: Generators, joints: np.ndarray, height: int, width: int, *, turn: float = 20.0, scale: Range = (0.6, 1.6),
    shift: Range = (0.12, 0.1), mirror: float = 0.5,
) -> tuple[Tensor, np.ndarray]:  # fmt: skip
    """Where the pixels of rotated, scaled, shifted and mirrored pictures come from, and their joints.

    Args:
        joints: COCO-17 (n, 17, 3), pixels of pictures of that height and width.
        turn: degrees to either side.
        scale: least and most, every ratio as likely as its inverse; above 1 the picture is cut off, at the feet rather
            than at the head.
        shift: of the centre to either side, as shares of width and height; of an enlarged picture further.
        mirror: share of mirrored pictures.

    Returns:
        (n, H, W, 2) for `grid_sample` with align_corners=False, and joints, those outside the frame with score 0.
    """
    drawn = np.array([[*rng.uniform(-1, 1, 3), rng.random(), rng.random()] for rng in rngs])
    angle, size = np.deg2rad(turn * drawn[:, 0]), np.exp(_between(np.log(scale), drawn[:, 3]))
    cut = np.maximum(size - 1, 0)[:, None] * ((0.25, 0.3) * drawn[:, 1:3] + (0, 0.2))
    moves, flips = (drawn[:, 1:3] * shift + cut) * (width, height), np.where(drawn[:, 4] < mirror, -1.0, 1.0)
    cos, sin = size * np.cos(angle), size * np.sin(angle)
    forward = np.stack([np.stack([cos * flips, -sin], 1), np.stack([sin * flips, cos], 1)], 1)  # n, 2, 2
    half = np.array([width / 2, height / 2])
    moved = joints.copy()
    moved[..., :2] = np.einsum("nij,nkj->nki", forward, joints[..., :2] - half) + half + moves[:, None]
    moved[flips < 0] = moved[flips < 0][:, list(COCO_FLIP)]  # left and right change sides
    outside = (moved[..., 0] < 0) | (moved[..., 0] >= width) | (moved[..., 1] < 0) | (moved[..., 1] >= height)
    moved[..., 2] = np.where(outside, 0, moved[..., 2])
    inverse = np.linalg.inv(forward)
    matrix = inverse * half[None, None, :] / half[None, :, None]  # in normalised units
    offset = -np.einsum("nij,nj->ni", inverse, moves) / half
    theta = torch.from_numpy(np.concatenate([matrix, offset[..., None]], 2).astype(np.float32))
    grid = F.affine_grid(theta, [len(theta), 1, height, width], align_corners=False)
    return grid, moved.astype(np.float32)


def _between(span: Sequence[float] | np.ndarray, share: Share) -> Share:
    return span[0] + (span[1] - span[0]) * share


def random_look(rngs: Generators, images: Tensor, strength: float = 1.0) -> Tensor:
    """What cameras and files do to a picture, in their order: light and colours, blur, few pixels, noise, JPEG.

    Args:
        images: (n, 3, H, W) in [-1, 1], on the CPU.
        strength: 0 leaves the pictures as they are, 1 is for pictures like a telephone's or worse; scales both how
            often something happens and how much.

    Returns:
        (n, 3, H, W) in [-1, 1].
    """
    if strength == 0:
        return images
    pictures = []
    for rng, image in zip(rngs, images.split(1), strict=True):
        image = _colours(rng, (image + 1) / 2, strength)
        for change, often in ((_blur, 0.25), (_few_pixels, 0.3), (_noise, 0.5), (_jpeg, 0.4)):
            if rng.random() < often * strength:
                image = change(rng, image, strength)
        pictures.append(image)
    return torch.cat(pictures).clamp(0, 1) * 2 - 1


def _colours(rng: np.random.Generator, image: Tensor, strength: float) -> Tensor:
    """Exposure, contrast, white balance and a cast of colour always; gamma, saturation, grey sometimes."""
    from kornia.enhance import adjust_gamma, adjust_saturation_with_gray_subtraction

    balance = np.exp(strength * rng.uniform(-0.15, 0.15, 3)) * (1 + strength * rng.uniform(-0.4, 0.3))
    cast = 0.5 + strength * (rng.uniform(-0.05, 0.05, 3) + rng.uniform(-0.125, 0.125))
    gain, level = (torch.from_numpy(v.astype(np.float32)).view(1, 3, 1, 1) for v in (balance, cast))
    image = ((image - 0.5) * gain + level).clamp(0, 1)
    if rng.random() < 0.5 * strength:
        image = adjust_gamma(image, float(np.exp(strength * rng.uniform(-0.5, 0.5))))
    if rng.random() < 0.1 * strength:
        return image.mean(1, keepdim=True).expand_as(image)
    if rng.random() < 0.4 * strength:
        image = adjust_saturation_with_gray_subtraction(image, 1 + strength * rng.uniform(-0.6, 0.5))
    return image


def _blur(rng: np.random.Generator, image: Tensor, strength: float) -> Tensor:
    """Out of focus, or moved while the picture was taken; both grow with the picture."""
    from kornia.filters import gaussian_blur2d, motion_blur

    unit, amount = strength * image.shape[-2] / 128, rng.random()
    if rng.random() < 0.6:
        sigma = unit * _between((0.4, 1.0), amount)
        side = 2 * int(np.ceil(2 * sigma)) + 1
        return gaussian_blur2d(image, (side, side), (sigma, sigma))
    side = 2 * max(int(round(unit * _between((1, 2.5), amount))), 1) + 1
    return motion_blur(image, side, rng.uniform(0, 180), 0.0, border_type="replicate")


def _few_pixels(rng: np.random.Generator, image: Tensor, strength: float) -> Tensor:
    height, width = image.shape[-2:]
    factor = 1 + strength * rng.uniform(0.2, 1.8)
    small = F.interpolate(image, (max(int(height / factor), 8), max(int(width / factor), 8)), mode="area")
    return F.interpolate(small, (height, width), mode="bilinear" if rng.random() < 0.8 else "nearest")


def _noise(rng: np.random.Generator, image: Tensor, strength: float) -> Tensor:
    """Gaussian noise and shot noise, the latter by its normal limit; both of every pixel and channel."""
    gaussian, shot = strength * rng.uniform(0, 0.04, 2) * rng.choice([(1, 0), (0, 1), (1, 1)])
    deviation = (gaussian**2 + shot**2 * 4 * image.clamp(0, 1)).sqrt()
    return image + deviation * torch.from_numpy(rng.standard_normal(image.shape, np.float32))


def _jpeg(rng: np.random.Generator, image: Tensor, strength: float) -> Tensor:
    """Pillow's encoder: five times as quick as a differentiable one."""
    pixels = (image[0].clamp(0, 1) * 255).round().byte().movedim(0, -1).contiguous().numpy()
    file, quality = io.BytesIO(), int(round(95 - strength * rng.uniform(0, 70)))
    Image.fromarray(pixels).save(file, "JPEG", quality=max(quality, 5), subsampling=int(rng.choice([0, 2])))
    return torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0)[None].float() / 255
