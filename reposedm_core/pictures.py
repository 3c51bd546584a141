"""Pictures and masks as users have them, and as the networks want them."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import InputError

ImageLike = Image.Image | np.ndarray | Tensor | str | os.PathLike

OVERSHOOT = 0.25
"""How far outside of 0..1 a picture's values may lie and are clamped: bicubic resizing leaves some a little outside."""


def to_image(source: ImageLike, name: str = "source") -> Tensor:
    """Any picture as (B, 3, H, W) in [-1, 1].

    Args:
        source: PIL picture, path, uint8 array (H, W, 3), or float tensor (B, H, W, 3) or (B, 3, H, W) in 0..1.

    Raises:
        InputError: it cannot be read, or has another shape, type or range.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _open(source, "RGB", name)
    if isinstance(source, Image.Image):
        source = np.array(source.convert("RGB"))
    image = _tensor(source, name)
    if image.dtype == torch.uint8:
        image = image.float() / 255
    elif not image.is_floating_point():
        raise InputError(f"{name}: a picture of dtype {str(image.dtype).removeprefix('torch.')}; convert it to uint8 "
                         "in 0..255 or to float32 in 0..1.")
    if image.ndim == 3:
        image = image[None]
    if image.ndim == 4 and image.shape[1] not in (3, 4) and image.shape[-1] in (1, 3, 4):
        image = image.movedim(-1, 1)
    if image.ndim != 4 or image.shape[1] not in (1, 3, 4) or min(image.shape) < 1:
        raise InputError(f"{name}: a picture of shape {tuple(image.shape)}; expected (height, width, 3).")
    image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image[:, :3]
    if not torch.isfinite(image).all():
        raise InputError(f"{name}: the picture has values that are not numbers (NaN or infinite).")
    low, high = (float(value) for value in image.aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise InputError(f"{name}: a picture of floats from {low:g} to {high:g}; bring them to 0..1, or give uint8 in "
                         "0..255.")
    return image.float().clamp(0, 1) * 2 - 1


def to_mask(mask: ImageLike, name: str = "mask") -> Tensor:
    """Any mask as (1, 1, H, W) in 0..1, 1 being inside.

    Args:
        mask: path or PIL picture (its brightness), array or tensor (H, W) or (1, H, W) of bool, uint8 0..255, or 0..1.

    Raises:
        InputError: it cannot be read, or has another shape, or values outside of 0..1.
    """
    if isinstance(mask, (str, os.PathLike)):
        mask = _open(mask, "L", name)
    if isinstance(mask, Image.Image):
        mask = np.array(mask.convert("L"))
    value = _tensor(mask, name)
    value = value.float() / 255 if value.dtype == torch.uint8 else value.float()
    while value.ndim > 2 and len(value) == 1:
        value = value[0]
    if value.ndim != 2 or min(value.shape) < 1:
        raise InputError(f"{name} has shape {tuple(value.shape)}; expected (height, width).")
    if not (value.isfinite().all() and value.min() >= 0 and value.max() <= 1):
        raise InputError(f"{name} has shape {tuple(value.shape)} and values from {float(value.min())} to "
                         f"{float(value.max())}; expected 0 (outside) to 1 (inside).")
    return value[None, None]


def _tensor(value: np.ndarray | Tensor, name: str) -> Tensor:
    """An array or tensor of real numbers as a tensor."""
    try:
        tensor = torch.tensor(value) if isinstance(value, np.ndarray) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: a {type(value).__name__} that holds no picture ({error}); give a PIL picture, the "
                         "path of one, or an array or tensor of numbers.") from error
    if tensor.is_complex():
        raise InputError(f"{name} has dtype {tensor.dtype}: complex numbers are no picture; give uint8 in "
                         "0..255 or float32 in 0..1.")
    return tensor


def _open(path: str | os.PathLike, mode: str, name: str) -> Image.Image:
    """The picture in a file, upright."""
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert(mode)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: cannot read the picture {path} ({error}). Give a PNG or JPEG file.") from error


def fit_image(image: Tensor, height: int, width: int, border: str = "replicate") -> Tensor:
    """Letterbox pictures (B, C, H, W) to height×width: aspect kept, centred.

    `border` is what lies around: "replicate" repeats the picture's edge outwards, "constant" is 0.
    """
    h, w = image.shape[-2:]
    if (h, w) == (height, width):
        return image
    scale = min(height / h, width / w)
    inner = max(1, round(h * scale)), max(1, round(w * scale))
    image = F.interpolate(image, size=inner, mode="bilinear", align_corners=False, antialias=True)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return F.pad(image, (left, width - inner[1] - left, top, height - inner[0] - top), mode=border)


def shown(picture: Tensor) -> Tensor:
    """[-1, 1] → 0..1, clamped."""
    return ((picture + 1) / 2).clamp(0, 1)


def to_pil(picture: Tensor) -> Image.Image:
    """One picture (3, H, W) in 0..1 as a PIL picture."""
    return Image.fromarray((picture.movedim(0, -1) * 255).round().byte().cpu().numpy())


def check_size(height: int, width: int, stride: int) -> None:
    """Raise an `InputError` that proposes the nearest size unless both sides are divisible by `stride`."""
    if height < stride or width < stride or height % stride or width % stride:
        raise InputError(f"width × height = {width} × {height}: both must be divisible by {stride}; "
                         f"the nearest is {round_to(width, stride)} × {round_to(height, stride)}.")


def round_to(size: int, stride: int) -> int:
    """The multiple of `stride` nearest to `size`, at least one stride."""
    return max(stride, round(size / stride) * stride)
