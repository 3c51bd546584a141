"""Pictures and masks between ComfyUI's conventions and core's."""

from __future__ import annotations

import comfy.model_management as management
import torch
from torch import Tensor

from ...reposedm_core.images import fit_image, shown, to_image


def from_comfy(image: Tensor, name: str) -> Tensor:
    """IMAGE (B, H, W, 3) in 0..1 → (B, 3, H, W) in [-1, 1]; `name` is the input that an `InputError` speaks of."""
    return to_image(image, name, channels_last=True)


def frames_of(image: Tensor) -> list[Tensor]:
    """The pictures of an IMAGE one by one, in place: `from_comfy` is for each when its turn comes."""
    return list((image[None] if image.ndim == 3 else image).split(1))


def fitted(image: Tensor, name: str, height: int, width: int) -> Tensor:
    """IMAGE letterboxed to (B, 3, height, width) in [-1, 1], one picture at a time: no second batch of large ones."""
    return torch.cat([fit_image(from_comfy(frame, name), height, width) for frame in frames_of(image)])


def to_comfy(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] → IMAGE (B, H, W, 3) in 0..1."""
    return to_mask(shown(image)).movedim(1, -1)


def to_mask(values: Tensor) -> Tensor:
    """Values clamped to 0..1 where ComfyUI keeps intermediate results."""
    return values.clamp(0, 1).to(device=management.intermediate_device(), dtype=torch.float32)
