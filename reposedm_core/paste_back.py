"""Results of crops put back into their pictures: feathered along a mask, colours matched at the seam (**ours**)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .crop import Crop, part_of_resized, resize
from .errors import InputError
from .reference import faded, grown

ROWS = 1024
"""Rows at which a seam is looked at, at most: shares and colours of a seam have no finer detail."""
BAND = 2**20
"""Pixels whose colours are changed at once."""
ENOUGH = 16
"""Pixels beside a seam from which colours can be measured."""
ALIKE = 0.5
"""Difference of mean colours in Lab below which there is nothing to match."""
UNLIKE = 25
"""Difference from which the two show different things beside the seam, and no shift of colours."""
RATIO = 1.25
"""By how much contrast is changed at most."""


@dataclass(frozen=True)
class Seam:
    """How a result meets its picture.

    Attributes:
        grow, feather: of the mask, in percent of the crop's height: how far the result goes beyond it, and over what
            width it then fades.
        match: how much of the colours' difference at the seam is taken from the result, 0 to 1.

    Raises:
        InputError: a number out of range.
    """

    grow: float = 1.0
    feather: float = 2.0
    match: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("grow", 50), ("feather", 50), ("match", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} = {getattr(self, name)}: must be 0 to {most}.")


def paste_back(picture: Tensor, result: Tensor, crop: Crop, mask: Tensor | None, seam: Seam) -> tuple[Tensor, Tensor]:
    """A result in its picture; where its share is 0 the picture stays as it is, bit for bit.

    Args:
        picture: (C, H, W) in 0..1, 3 channels or more; those beyond 3 stay as they are.
        result: (3, h, w) in 0..1, of any size.
        crop: where it lies.
        mask: (h, w) in 0..1, what of the result counts, of any size; None is all of it.

    Returns:
        the picture, and the share of the result in it, (H, W) in 0..1.

    Raises:
        InputError: `crop` is of a picture of another size.
    """
    if tuple(picture.shape[-2:]) != tuple(crop.picture):
        raise InputError(
            f"picture: it is {picture.shape[-1]} × {picture.shape[-2]} and the crop was made of one of "
            f"{crop.picture[1]} × {crop.picture[0]}; connect the picture that Crop to Person had."
        )
    whole = torch.zeros(picture.shape[-2:], dtype=torch.float32, device=picture.device)
    (rows, columns), inner = crop.overlap()
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return picture, whole
    share = _share(crop, mask, seam, *inner).to(picture.device)[0]
    if not share.any():
        return picture, whole
    picture = picture.clone()
    old = picture[:3, rows, columns]
    new = part_of_resized(result.to(old).clamp(0, 1), (crop.height, crop.width), *inner)
    new = match_colours(new, old, share, seam)
    mixed = share * new + (1 - share) * old
    picture[:3, rows, columns] = torch.where(share > 0, mixed.clamp(0, 1), old)
    whole[rows, columns] = share
    return picture, whole


def _share(crop: Crop, mask: Tensor | None, seam: Seam, rows: slice, columns: slice) -> Tensor:
    """Share of the result in these pixels of the box, (1, H, W)."""
    size = crop.height, crop.width
    factor = min(1.0, ROWS / max(size))
    small = tuple(max(1, round(side * factor)) for side in size)
    grow, fade = (round(small[0] * part / 100) for part in (seam.grow, seam.feather))
    if mask is None:
        share = torch.ones(1, *small)
    else:
        mask = mask.float().clamp(0, 1)[None]
        if not grow and not fade:
            return part_of_resized(mask, size, rows, columns)
        share = grown(resize(mask, small)[None], grow)[0]
        if fade:  # inwards and outwards alike
            share = faded(share[None], fade)[0]
    if fade:
        # Towards the box's own sides it fades too, other than where the picture ends.
        edges = _ramp(small[0], crop.top > 0, crop.top + crop.height < crop.picture[0], fade)[:, None]
        edges = edges * _ramp(small[1], crop.left > 0, crop.left + crop.width < crop.picture[1], fade)
        share = share * edges.to(share)
    return part_of_resized(share, size, rows, columns).clamp(0, 1)


def _ramp(count: int, first: bool, last: bool, fade: int) -> Tensor:
    """0 at the ends that fade, to 1 so many pixels further in."""
    place = torch.arange(count) + 0.5
    ramp = torch.ones(count)
    if first:
        ramp = torch.minimum(ramp, (place - 1).clamp(min=0) / fade)
    if last:
        ramp = torch.minimum(ramp, (count - place - 1).clamp(min=0) / fade)
    return ramp


def match_colours(new: Tensor, old: Tensor, share: Tensor, seam: Seam) -> Tensor:
    """`new` (3, H, W) with the means and contrasts in Lab that `old` has beside the seam of `share` (H, W).

    They are compared where both should show the same: beyond and at the outer half of the fade. Where there is too
    little of that, no difference, or one that is no shift of colours, `new` comes back as it is.
    """
    if seam.match == 0:
        return new
    from kornia.color import lab_to_rgb, rgb_to_lab

    factor = min(1.0, ROWS / 2 / max(share.shape))
    small = tuple(max(1, round(side * factor)) for side in share.shape)
    part = resize(share[None], small)[0]
    reach = max(2, round(0.04 * small[0]))
    beside = (grown((part > 0).float()[None, None], reach)[0, 0] > 0) & (part < 0.5)
    if beside.sum() < ENOUGH:
        return new
    there, here = (rgb_to_lab(resize(each, small)[None])[0][:, beside] for each in (new, old))
    mean, goal = (each.mean(1)[:, None, None] for each in (there, here))
    if not ALIKE <= (mean - goal).norm() <= UNLIKE:
        return new
    ratio = ((here.std(1) + 1) / (there.std(1) + 1)).clamp(1 / RATIO, RATIO)[:, None, None]
    out = torch.empty_like(new)
    rows = max(1, BAND // new.shape[-1])
    for first in range(0, new.shape[-2], rows):
        band = new[:, first : first + rows]
        lab = rgb_to_lab(band[None])[0]
        moved = lab_to_rgb(((lab - mean) * ratio + goal)[None])[0].clamp(0, 1)
        out[:, first : first + rows] = band + seam.match * (moved - band)
    return out
