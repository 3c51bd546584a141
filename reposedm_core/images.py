"""Pictures and masks as users have them, and as the networks want them."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import InputError
from .letterbox import Letterbox, size_of

ImageLike = Image.Image | np.ndarray | Tensor | str | os.PathLike

OVERSHOOT = 0.75
"""How far outside of 0..1 values may lie and are clamped: one bicubic enlargement leaves some 0.45 outside at most,
several in a row no more than 0.6, and pictures of another range (-1..1, 0..255) reach further."""

COLOURS = {torch.uint8: 255, torch.uint16: 65535}
"""Types of whole numbers that are colours, and their largest value."""


def to_image(source: ImageLike, name: str = "source", *, channels_last: bool = False) -> Tensor:
    """Any picture as (B, 3, H, W) in [-1, 1].

    Args:
        source: PIL picture or path of one, of 8 or 16 bits or of floats in 0..1, transparency left out; or an array or
            tensor (H, W, 3), (B, H, W, 3) or (B, 3, H, W) of uint8, uint16, or floats in 0..1, of which those a little
            outside, as resizing leaves them, are clamped. 1 channel is grey, a fourth is left out.
        channels_last: a tensor is never (B, 3, H, W). Else one of 3 or 4 rows or columns that can be read both ways is
            taken for (B, H, W, 3).

    Raises:
        InputError: it cannot be read, or has another shape, type or range.
    """
    image = _tensor(_read(source, "RGB", name), name)
    if image.dtype in COLOURS:
        image = image.float() / COLOURS[image.dtype]
    elif not image.is_floating_point():
        raise InputError(
            f"{name}: a picture of dtype {str(image.dtype).removeprefix('torch.')}; convert it to uint8 "
            "in 0..255 or to float32 in 0..1."
        )
    shape = tuple(image.shape)
    if image.ndim == 3:
        image = image[None]
    if image.ndim == 4 and (channels_last or shape[-1] in (3, 4) or (shape[-1] == 1 and image.shape[1] not in (3, 4))):
        image = image.movedim(-1, 1)
    if image.ndim != 4 or image.shape[1] not in (1, 3, 4) or min(shape) < 1:
        raise InputError(f"{name}: a picture of shape {shape}; expected (height, width, 3).")
    image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image[:, :3]
    low, high = _range(image, f"{name}: the picture has")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise InputError(
            f"{name}: a picture of floats from {low:g} to {high:g}; bring them to 0..1, or give uint8 in 0..255."
        )
    return image.float().clamp(0, 1).mul_(2).sub_(1)


def to_rgb(picture: Image.Image, name: str = "picture") -> Image.Image:
    """A PIL picture as RGB of 8 bits: grey of 16 bits or of floats is scaled, where Pillow's `convert` cuts it off.

    Raises:
        InputError: it has another range.
    """
    if picture.mode == "F" or picture.mode.startswith("I"):
        return to_pil(shown(to_image(picture, name))[0])
    return picture.convert("RGB")


def to_mask(mask: ImageLike, name: str = "mask") -> Tensor:
    """Any mask, or several, as (M, 1, H, W) in 0..1, 1 being inside.

    Args:
        mask: PIL picture or path of one (its brightness, see `to_image`); or an array or tensor (H, W), (M, H, W) or
            (M, 1, H, W) of bool, uint8, uint16, or floats in 0..1, of which those a little outside are clamped.

    Raises:
        InputError: it cannot be read, or has another shape or range.
    """
    value = _tensor(_read(mask, "L", name), name)
    value = value.float() / COLOURS.get(value.dtype, 1)
    here = f"{name} has shape {tuple(value.shape)}"
    if value.ndim == 2 or (value.ndim == 3 and (value.shape[-1] not in (3, 4) or len(value) == 1)):  # no colours
        value = value.reshape(-1, 1, *value.shape[-2:])
    if value.ndim != 4 or value.shape[1] != 1 or min(value.shape) < 1:
        raise InputError(f"{here}; expected (height, width), or (masks, height, width).")
    low, high = _range(value, f"{here} and")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise InputError(f"{here} and values from {low:g} to {high:g}; expected 0 (outside) to 1 (inside).")
    return value.clamp(0, 1)


def in_turn(values: Tensor, count: int) -> Tensor:
    """`count` elements of the first axis, taken in turn, as ComfyUI repeats a batch; those beyond are left out."""
    if len(values) in (1, count):
        return values.expand(count, *values.shape[1:])
    return values[torch.arange(count, device=values.device) % len(values)]


def _range(values: Tensor, here: str) -> tuple[float, float]:
    """The least and the largest value; an `InputError` that begins with `here` unless all are numbers."""
    low, high = (float(value) for value in values.float().aminmax())
    if not math.isfinite(low) or not math.isfinite(high):
        raise InputError(f"{here} values that are not numbers (NaN or infinite).")
    return low, high


def _tensor(value: np.ndarray | Tensor, name: str) -> Tensor:
    """An array or tensor of real numbers as a tensor."""
    try:
        tensor = torch.tensor(value) if isinstance(value, np.ndarray) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: a {type(value).__name__} that holds no picture ({error}); give a PIL picture, the "
            "path of one, or an array or tensor of numbers."
        ) from error
    if tensor.is_meta or tensor.layout != torch.strided:
        kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        raise InputError(f"{name}: a {kind} tensor holds no picture; give a dense one with its values.")
    if tensor.is_complex():
        raise InputError(
            f"{name} has dtype {tensor.dtype}: complex numbers are no picture; give uint8 in 0..255 or float32 in 0..1."
        )
    return tensor


def _read(source: ImageLike, mode: str, name: str) -> np.ndarray | Tensor:
    """Pixels of a path, upright, or of a PIL picture in a mode of 8 bits, in grey where it has more; else `source`."""
    try:
        if isinstance(source, (str, os.PathLike)):
            source = ImageOps.exif_transpose(Image.open(source))
        if not isinstance(source, Image.Image):
            return source
        if source.mode == "F":
            return np.array(source)[..., None] if mode == "RGB" else np.array(source)
        if not source.mode.startswith("I"):
            return np.array(source.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = f"of mode {source.mode}" if isinstance(source, Image.Image) else source
        raise InputError(f"{name}: cannot read the picture {what} ({error}). Give a PNG or JPEG file.") from error
    return _deep(np.array(source), mode, name)


def _deep(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    """Grey of whole numbers, 16 bits in one form or another; a picture of 32 bits may also hold 8."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(f"{name}: a picture of whole numbers from {low} to {high}; save it with 8 or 16 bits.")
    values = values.astype(np.uint8 if values.dtype.itemsize > 2 and high < 256 else np.uint16)
    return values[..., None] if mode == "RGB" else values


def fit_image(image: Tensor, height: int, width: int, border: str = "replicate") -> Tensor:
    """Pictures (B, C, H, W) letterboxed to height×width; see `Letterbox.image`."""
    return Letterbox(size_of(image), (height, width)).image(image, border)


def shown(picture: Tensor) -> Tensor:
    """[-1, 1] → 0..1, clamped."""
    return ((picture + 1) / 2).clamp(0, 1)


def from_uint8(picture: Tensor) -> Tensor:
    """uint8 → float32 in [-1, 1], of any layout."""
    return picture.float() / 127.5 - 1


def to_uint8(picture: Tensor) -> Tensor:
    """[-1, 1] → uint8, clamped, of any layout."""
    return ((picture.clamp(-1, 1) + 1) * 127.5).round().byte()


def to_pil(picture: Tensor) -> Image.Image:
    """One picture (3, H, W) in 0..1 as a PIL picture."""
    return Image.fromarray((picture.movedim(0, -1) * 255).round().byte().cpu().numpy())


def check_size(height: int, width: int, stride: int) -> None:
    """Raise an `InputError` that proposes the nearest size unless both sides are divisible by `stride`."""
    if height < stride or width < stride or height % stride or width % stride:
        raise InputError(
            f"width × height = {width} × {height}: both must be divisible by {stride}; "
            f"the nearest is {round_to(width, stride)} × {round_to(height, stride)}."
        )


def round_to(size: float, stride: int) -> int:
    """The multiple of `stride` nearest to `size`, at least one stride."""
    return max(stride, round(size / stride) * stride)
