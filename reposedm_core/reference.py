"""The background plate, what the reference decoder is shown, and the result pasted on the source (**ours**)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import Alignment
from .diffusion.reference_decoder import Reference
from .images import from_uint8, to_uint8
from .layout import Layout
from .letterbox import size_of

FILL_ROWS = 128
"""Rows at which a plate is filled in at most; the fill is enlarged to the picture's size."""
MARGIN = 0.008
"""Of the height: how far around the source's person the plate is filled in, and around both the result is painted."""
SURE = 0.3
"""Probability of the person from which a pixel counts as one of the person's."""
PARSED_SURE = 0.5
"""The same of the source's person where a parser finds it, whose mask is sharper than the aligner's."""


def grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask (B, 1, H, W) grown by so many pixels, as a square: its rows, then its columns."""
    if pixels <= 0:
        return mask
    mask = F.max_pool2d(mask, (2 * pixels + 1, 1), stride=1, padding=(pixels, 0))
    return F.max_pool2d(mask, (1, 2 * pixels + 1), stride=1, padding=(0, pixels))


def faded(mask: Tensor, pixels: int) -> Tensor:
    """A mask (B, 1, H, W) in 0..1 blurred over about so many pixels, at least one; 0 that far from it."""
    from kornia.filters import box_blur

    side = 2 * max(1, round(pixels / 2)) + 1
    for _ in range(2):  # a fade without corners
        mask = box_blur(mask, side, "replicate", separable=True)
    return torch.where(mask < 1e-4, 0, mask).clamp(0, 1)


def make_plate(source: Tensor, person: Tensor, sure: float = SURE) -> tuple[Tensor, Tensor]:
    """The source without its person.

    Args:
        source: (B, 3, H, W) in [-1, 1]. person: (B, 1, H, W) in 0..1.
        sure: from which probability it is filled in, and `MARGIN` around.

    Returns:
        the plate, where it is not filled in equal to the source, and where it is, (B, 1, H, W), 0 or 1.
    """
    import cv2

    height, width = source.shape[-2:]
    hidden = grown((person > sure).to(source.dtype), max(1, round(MARGIN * height)))
    factor = min(1.0, FILL_ROWS / height)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    small = F.interpolate(source, size, mode="bilinear", antialias=True) if factor < 1 else source
    small_hidden = F.adaptive_max_pool2d(hidden, size)
    pictures = to_uint8(small).movedim(1, -1).cpu().numpy()
    holes = (small_hidden[:, 0] > 0).byte().cpu().numpy()
    filled = np.stack(
        [
            cv2.inpaint(np.ascontiguousarray(picture), hole, 3, cv2.INPAINT_NS)
            for picture, hole in zip(pictures, holes, strict=True)
        ]
    )
    fill = from_uint8(torch.from_numpy(filled)).to(source).movedim(-1, 1)
    fill = F.interpolate(fill, (height, width), mode="bilinear", align_corners=False) if factor < 1 else fill
    return torch.where(hidden > 0, fill, source), hidden


def make_reference(
    source: Tensor,
    skeleton: Tensor,
    alignment: Alignment,
    warped: Tensor,
    visibility: Tensor,
    sources: int = 1,
    background: Tensor | None = None,
    was: Tensor | None = None,
    layout: Layout | None = None,
) -> Reference:
    """What the decoder sees of B results, each of S sources, of which the first gives the background.

    Args:
        source, skeleton: (B·S, 3, H, W) in [-1, 1]. alignment: of them, with its masks.
        warped, visibility: what they show together, (B, 3, H, W) and (B, 1, h, w) in 0..1.
        background: (B or 1, 3, H, W), another picture that gives it, of somebody who is in the target pose already.
        was: (B, 1, H, W) in 0..1, where a parser finds the first source's person (`layout.parse_source`); None: where
            the aligner does.
        layout: of the results, which says where the person will be; None: the aligner does.

    Raises:
        ValueError: the alignment has no masks.
    """
    if alignment.person is None or alignment.source_person is None:
        raise ValueError('alignment: it has no masks; only an aligner of kind "matching" finds them.')
    size = size_of(source)

    def full(values: Tensor) -> Tensor:
        return F.interpolate(values, size, mode="bilinear", align_corners=False)

    if layout is None:
        person, colours = full(alignment.person.unflatten(0, (-1, sources)).mean(1)).sigmoid(), warped
    else:
        person, colours = layout.drawn(size)
    if background is None and was is not None:
        plate, hidden = make_plate(source[::sources], was, PARSED_SURE)
    elif background is None:
        plate, hidden = make_plate(source[::sources], full(alignment.source_person[::sources]).sigmoid())
    else:
        plate, hidden = make_plate(background.expand_as(warped), person)
    flat = person * colours + (1 - person) * plate
    return Reference(warped, plate, hidden, full(visibility), person, skeleton[::sources], flat)


def on_plate(reference: Reference) -> Tensor:
    """The warped person on the plate, (B, 3, H, W) in [-1, 1]."""
    return reference.person * reference.warped + (1 - reference.person) * reference.plate


def near_people(reference: Reference) -> Tensor:
    """(B, 1, H, W) in 0..1: 1 where either person is or was, fading to 0 around them."""
    pixels = max(1, round(MARGIN * reference.person.shape[-2]))
    near = torch.maximum(grown((reference.person > SURE).to(reference.person.dtype), pixels), reference.hidden)
    return F.avg_pool2d(F.pad(grown(near, pixels), (pixels,) * 4, mode="replicate"), 2 * pixels + 1, stride=1)


def paste(picture: Tensor, source: Tensor, reference: Reference) -> Tensor:
    """The picture where either person is or was, fading into the source around them; further off, the source itself.

    Args:
        picture, source: (B, 3, H, W) in any one range.
    """
    share = near_people(reference).to(picture.dtype)
    return torch.where(share > 0, share * picture + (1 - share) * source, source)
