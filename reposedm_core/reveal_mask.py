"""Where a warped picture has to be painted anew: a noise mask from what its source shows (**ours**)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .crop import resize
from .errors import InputError
from .images import in_turn
from .letterbox import size_of
from .reference import faded, grown

ROWS = 1024
"""Side up to which a mask is grown and blurred as it is; a larger one is made at that."""


def reveal_mask(
    visibility: Tensor,
    person: Tensor,
    changed: Tensor | None = None,
    grow: float = 1.0,
    blur: float = 1.5,
    floor: float = 0.3,
) -> Tensor:
    """White where a part of the person is not seen in the source, or the person stood; `floor` where it is copied.

    Nothing is marked further off than `grow` and `blur` from where the picture changes.

    Args:
        visibility, person, changed: masks (B, h, w) in 0..1, taken in turn, those of another size resized to the first;
            see `skeleton_warp.SkeletonWarp`. Without `changed` it is the person alone.
        grow, blur: in percent of the height: how far what is painted reaches beyond, and over what it fades.
        floor: how much of the person that is copied is painted over, 0 to 1: it repairs seams, and takes detail.

    Returns:
        (B, h, w) in 0..1, of as many as the longest batch has.

    Raises:
        InputError: a number out of range.
    """
    for name, value, most in (("grow", grow, 50), ("blur", blur, 50), ("floor", floor, 1)):
        if not 0 <= value <= most:
            raise InputError(f"{name} = {value}: must be 0 to {most}.")
    changed = person if changed is None else changed
    whole = size_of(visibility)
    if max(whole) > ROWS and (grow or blur):
        # A latent's cells are 8 pixels or more: nothing finer is needed, and large squares are dear.
        small = [max(1, round(side * ROWS / max(whole))) for side in whole]
        seen, here, away = (_like(mask, len(mask), small)[:, 0] for mask in (visibility, person, changed))
        found = reveal_mask(seen, here, away, grow, blur, floor)
        return F.interpolate(found[:, None], whole, mode="bilinear", align_corners=False)[:, 0]
    count = max(len(visibility), len(person), len(changed))
    seen, here, away = (_like(mask, count, whole) for mask in (visibility, person, changed))
    away = torch.maximum(away, here)
    anew = torch.maximum(away * (1 - seen * here), floor * here)
    pixels, fade = (round(part / 100 * whole[0]) for part in (grow, blur))
    anew = grown(anew, pixels)
    anew = faded(anew, fade) if fade else anew
    return torch.where(anew < 1e-4, 0, anew).clamp(0, 1)[:, 0]


def _like(mask: Tensor, count: int, size: Sequence[int]) -> Tensor:
    """(count, 1, *size)."""
    return resize(in_turn(mask.float().clamp(0, 1), count)[:, None], size)
