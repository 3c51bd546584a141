"""Several source pictures of one person, aligned to the same pose, as one aligned picture (**ours**)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .recurrent import Alignment, at_latent_cells

if TYPE_CHECKING:
    from ..diffusion.reference_decoder import Reference


@dataclass
class Seen:
    """The person in the target pose as far as the sources show it; B results.

    Attributes:
        image: (B, 3, H, W) in [-1, 1].
        visibility: (B, 1, h, w) in 0..1, at the aligner's cells: does a source show this part of the body?
        weights: (B, S, 1, h, w), the share of each source in each cell; they sum to 1 over S.
        reference: what a decoder can be shown beside the latent, and `image` is made of; None of an aligner that finds
            no masks.
    """

    image: Tensor
    visibility: Tensor
    weights: Tensor
    reference: Reference | None = None

    def latent_visibility(self, stride: int) -> Tensor:
        """(B, 1, H/stride, W/stride) in 0..1, as `Alignment.latent_visibility` has it of one source."""
        return at_latent_cells(self.visibility, self.image, stride)


def combine(alignment: Alignment, sources: int) -> Seen:
    """The sources' aligned pictures, mixed in each cell by the softmax of their visibility logits.

    Where one source sees the body it alone counts, by the odds that the aligner itself gives; where all or none do
    they share. The aligned pictures are mixed, not their latents: what is encoded then is one picture.

    Args:
        alignment: of B·S pictures, the S sources of a result one after another.
        sources: S.

    Raises:
        InputError: S is below 1 or does not divide the pictures.
    """
    count = len(alignment.image)
    if sources < 1 or count % sources:
        raise InputError(f"sources = {sources}: must be 1 or more and divide the {count} aligned pictures.")
    logits = alignment.visibility[-1].unflatten(0, (-1, sources))
    weights = logits.softmax(1)
    visibility = (weights * logits.sigmoid()).sum(1)
    share = F.interpolate(weights.flatten(0, 1), size=alignment.image.shape[-2:], mode="bilinear", align_corners=False)
    image = (share * alignment.image).unflatten(0, (-1, sources)).sum(1)
    return Seen(image, visibility, weights)
