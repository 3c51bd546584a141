"""Checks of the tensors that users hand in: what is wrong with which argument, and what was expected."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.amp import is_autocast_available

from .errors import InputError, quoted

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(
    value: Tensor,
    name: str,
    shape: str,
    sizes: dict[str, int] | None = None,
    *,
    multiples: Mapping[str, int] | None = None,
    like: Tensor | None = None,
    finite: bool = False,
) -> dict[str, int]:
    """Raise an `InputError` that names the argument and its shape unless `value` is as described.

    Args:
        value, name: the argument, and what its caller calls it.
        shape: axes separated by spaces, numbers or names: "B 3 H W". Every axis is 1 or more.
        sizes: named axes that are known already, from the arguments before; new ones are added to it.
        multiples: axes that must be a multiple of a number, {"H": 8}.
        like: a tensor whose dtype and device `value` must share.
        finite: also refuse NaN and infinity (reads every value once).

    Returns:
        the size of every named axis.
    """
    sizes = {} if sizes is None else sizes
    if not isinstance(value, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}; expected a tensor of shape ({_spelt(shape)}).")
    axes = shape.split()
    here = f"{name} has shape {tuple(value.shape)}"
    if value.layout != torch.strided:
        raise InputError(
            f"{here} and layout {str(value.layout).removeprefix('torch.')}; expected a dense tensor: give "
            "its .to_dense()."
        )
    if value.ndim != len(axes):
        raise InputError(f"{here}; expected {len(axes)} axes, ({_spelt(shape)}).")
    for axis, size in zip(axes, value.shape, strict=True):
        if size < 1:
            raise InputError(f"{here}: axis {axis} of ({_spelt(shape)}) is empty; give one element or more.")
        wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
        if size != wanted:
            raise InputError(
                f"{here}; expected ({_spelt(shape)}) with {axis} = {wanted}."
                if not axis.isdigit()
                else f"{here}; expected ({_spelt(shape)})."
            )
        factor = (multiples or {}).get(axis, 1)
        if size % factor:
            raise InputError(
                f"{here}: {axis} = {size} must be divisible by {factor}; crop, pad or resize it to "
                f"{max(factor, round(size / factor) * factor)}."
            )
    if value.dtype not in FLOATS:
        raise InputError(
            f"{here} and dtype {value.dtype}; expected one of "
            f"{', '.join(str(kind).removeprefix('torch.') for kind in FLOATS)}."
        )
    if like is not None and (value.dtype, value.device) != (like.dtype, like.device):
        raise InputError(
            f"{here}, dtype {value.dtype} on {value.device}; expected {like.dtype} on {like.device}: "
            "convert it with .to()."
        )
    if finite and not value.is_meta and not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise InputError(f"{here} and {count} values that are not finite (NaN or infinity); fix them first.")
    return sizes


class Watch:
    """Looks for NaN and infinity in what a run makes, without making the host wait for the device in its steps."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, Tensor]] = []

    def note(self, value: Tensor, message: str) -> None:
        """`report` is to raise `message` where `value` holds any; that is found out on its device."""
        self._noted.append((message, value.detach().isfinite().all()))

    def report(self) -> None:
        """Raise an `InputError` with the first message whose value was not finite; forgets what was noted."""
        noted, self._noted = self._noted, []
        fine = torch.stack([seen for _, seen in noted]).tolist() if noted else []
        for (message, _), each in zip(noted, fine, strict=True):
            if not each:
                raise InputError(message)


def keeps_precision(layer: nn.Module, value: Tensor) -> bool:
    """Does `layer` compute in the dtype of its weights? A host's own classes of layers may cast, and autocast does."""
    kind = value.device.type
    return type(layer) is nn.Conv2d and not (is_autocast_available(kind) and torch.is_autocast_enabled(kind))


def check_precision(value: Tensor, name: str, layer: nn.Module, weight: Tensor) -> bool:
    """Raise an `InputError` unless `value` has the dtype of `weight`, which belongs to `layer`.

    Returns whether precisions were looked at: not where `keeps_precision` says no.
    """
    strict = not value.is_meta and keeps_precision(layer, value)
    if strict and value.dtype != weight.dtype:
        raise InputError(
            f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}; the network's weights are {weight.dtype}."
        )
    return strict


def _spelt(shape: str) -> str:
    return ", ".join(shape.split())


def check_int(value: int, name: str, minimum: int, maximum: int | None = None) -> int:
    """`value` as an int; raises an `InputError` that names it unless it is a whole number in the range."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} = {quoted(value)}: must be a whole number.") from None
    if number < minimum or (maximum is not None and number > maximum):
        upper = "" if maximum is None else f", {maximum} at most"
        raise InputError(f"{name} = {number}: must be {minimum} or more{upper}.")
    return number
