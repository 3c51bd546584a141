"""Pictures and masks between ComfyUI's conventions and core's."""

from __future__ import annotations

import comfy.model_management as management
import torch
from torch import Tensor

from ...reposedm_core.images import fit_image, shown, to_image
from ...reposedm_core.images import to_mask as read_mask


def from_comfy(image: Tensor, name: str) -> Tensor:
    """IMAGE (B, H, W, 3) in 0..1 → (B, 3, H, W) in [-1, 1]; `name` is the input that an `InputError` speaks of."""
    return to_image(image, name, channels_last=True)


def frames_of(image: Tensor) -> list[Tensor]:
    """The pictures of an IMAGE one by one, in place: `from_comfy` is for each when its turn comes."""
    return list((image[None] if image.ndim == 3 else image).split(1))


def coloured(image: Tensor, name: str) -> Tensor:
    """IMAGE with three channels where it has one, grey; with more as it is."""
    if image.shape[-1] > 2:
        return image
    from_comfy(image[..., :1, :1, :], name)  # says that two are none
    return image.expand(*image.shape[:-1], 3)


def one_picture(frame: Tensor, name: str) -> Tensor:
    """One IMAGE (1, H, W, C) as (3, H, W) in 0..1: its own values where they are in range."""
    from_comfy(frame[:, :1, :1] if frame.isfinite().all() else frame, name)  # says what is wrong with it
    picture = frame[0].movedim(-1, 0)
    return picture.expand(3, -1, -1) if len(picture) == 1 else picture[:3]


def fitted(image: Tensor, name: str, height: int, width: int) -> Tensor:
    """IMAGE letterboxed to (B, 3, height, width) in [-1, 1], one picture at a time: no second batch of large ones."""
    return torch.cat([fit_image(from_comfy(frame, name), height, width) for frame in frames_of(image)])


def masks_of(mask: Tensor, name: str = "mask") -> Tensor:
    """MASK (B, H, W) as (B, 1, H, W) in 0..1: masks that are narrow are no colours."""
    return read_mask(mask[:, None] if mask.ndim == 3 else mask, name)


def to_comfy(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] → IMAGE (B, H, W, 3) in 0..1."""
    return to_mask(shown(image)).movedim(1, -1)


def to_mask(values: Tensor) -> Tensor:
    """Values clamped to 0..1 where ComfyUI keeps intermediate results."""
    return values.clamp(0, 1).to(device=management.intermediate_device(), dtype=torch.float32)
