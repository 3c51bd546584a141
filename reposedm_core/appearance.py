"""Appearance control (Fig. 4): the garment of one picture on the person of another, inside a mask, pose kept.

`RePoseDMPipeline.dress` puts the parts of this module together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .alignment import Alignment
from .checks import check_tensor
from .diffusion.context_cache import sampling_of
from .diffusion.sampler import Denoised, Model
from .diffusion.schedule import DiffusionSchedule
from .diffusion.schedulers import schedule_of
from .errors import InputError
from .images import fit_image, in_turn, shown, to_pil


@dataclass
class AppearanceResult:
    """Pictures are (B, 3, H, W) in 0..1, at the model's size; B is the number of garment pictures.

    Attributes:
        image: the reference person in the garment; equal to `reference` wherever `mask` is 0.
        reference, garment, pose_image: what the networks saw.
        aligned: the garment picture warped to the reference's pose.
        mask: (M, 1, H, W), 0 kept to 1 replaced; the results take them in turn.
        visibility: (B, 1, h, w), where the garment picture shows the reference's body, 0..1.
        latent: the sampled latent. alignment: maps and logits of every iteration.
    """

    image: Tensor
    reference: Tensor
    garment: Tensor
    aligned: Tensor
    pose_image: Tensor
    mask: Tensor
    visibility: Tensor
    latent: Tensor
    alignment: Alignment

    def to_pil(self, index: int = 0) -> Image.Image:
        """The result as a PIL picture."""
        return to_pil(self.image[index])


class KeepOutside:
    """`model(x, σ)` whose estimate is the reference's latent outside of a mask: ŷ_0 ← m ŷ_0 + (1 − m) z_ref.

    PIDM replaces the sample itself, at every step, by the reference noised to that level. Saying so of ŷ_0 does the
    same for every sampler: DDIM's x′ = ŷ_0 + (x − ŷ_0) σ′/σ then keeps x = z_ref + σ ε outside, ε being the run's own
    first noise; ancestral sampling draws from q(y_{t-1} | y_t, y_0 = z_ref); solvers with a memory see one smooth
    trajectory instead of a jump; and all end on z_ref exactly.
    """

    def __init__(self, model: Model, reference: Tensor, mask: Tensor):
        """`reference` is z_ref (1 or B, C, h, w), `mask` m (M, 1, h, w) in 0..1, 1 where the model decides."""
        sizes = check_tensor(reference, "reference", "N C h w")
        check_tensor(mask, "mask", "M 1 h w", sizes)
        self.model, self.reference, self.mask = model, reference, mask

    @property
    def schedule(self) -> DiffusionSchedule:
        """Of the model within."""
        return schedule_of(self.model)

    def sampling(self, x: Tensor, levels: Sequence[Tensor]) -> AbstractContextManager:
        """What the model within prepares while it is sampled."""
        return sampling_of(self.model, x, levels)

    def __call__(self, x: Tensor, sigma: Tensor) -> Denoised:
        """ŷ_0 at x (B, C, h, w) and σ (B,); the variance logits are the model's."""
        out = self.model(x, sigma)
        return replace(out, x0=keep_outside(out.x0, self.reference, self.mask))


def keep_outside(x0: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """m ŷ_0 + (1 − m) z_ref; ŷ_0 is (B, C, h, w), z_ref (1 or B, C, h, w), m (M, 1, h, w) in 0..1, taken in turn."""
    mask = in_turn(mask, len(x0))
    # Chosen, not multiplied, where the mask is 1: a mask of ones changes not one bit.
    return torch.where(mask == 1, x0, mask * x0 + (1 - mask) * reference)


@dataclass
class Dressing:
    """The reference and its mask at the size of the result, and how a new picture goes into them.

    Attributes:
        person: (1, 3, H, W) in [-1, 1], letterboxed.
        cover: the masks, (M, 1, H, W) in 0..1; results take them in turn.
        share: of the new picture in each pixel, see `inside`.
    """

    person: Tensor
    cover: Tensor
    share: Tensor

    @classmethod
    def fitted(cls, person: Tensor, cover: Tensor, height: int, width: int, feather: int) -> Dressing:
        """Of a reference and masks that went through `check_cover`; masks of another size are resized to it.

        Raises:
            InputError: the mask is too small to be left at this size, or a negative feather.
        """
        cover = resized(cover, person.shape[-2:])
        person, cover = fit_image(person, height, width), fit_image(cover, height, width, border="constant")
        if not cover.any():
            raise InputError(
                f"mask: too little is painted, nothing of it is left at {width} × {height} pixels; paint white over "
                "all of the place where the garment goes."
            )
        return cls(person, cover, inside(cover, feather))

    def blend(self, new: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 inside the mask, the reference around them, bit for bit where it is 0."""
        return blend(new, shown(self.person).to(new), self.share.to(new))


def blend(new: Tensor, base: Tensor, share: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) over `base` (1, 3, H, W), bit for bit that where `share` (M, 1, H, W), in turn, is 0."""
    share = in_turn(share, len(new))
    return torch.where(share > 0, share * new + (1 - share) * base, base)


def resized(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (M, 1, h, w) at another height and width: bilinear, as ComfyUI's own nodes do it."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    return F.interpolate(mask, size=tuple(size), mode="bilinear", align_corners=False)


def check_cover(person: Tensor, cover: Tensor) -> None:
    """Raise an `InputError` unless these are one reference (1, 3, H, W) and masks (M, 1, h, w) that mark some of it."""
    if len(person) != 1:
        raise InputError(f"reference: it holds {len(person)} pictures; dress one at a time.")
    if not cover.any():
        raise InputError(
            "mask: it is black everywhere, so there is no place for the garment. Paint white where it goes (in "
            "ComfyUI: right-click the picture → Open in MaskEditor); from Garment Mask, see its note: it has found "
            "nothing."
        )


def latent_mask(mask: Tensor, stride: int) -> Tensor:
    """(B, 1, H, W) → (B, 1, H/stride, W/stride): a cell is sampled as soon as one of its pixels is to be replaced.

    Raises:
        InputError: not a mask, or a side that is not divisible by the stride.
    """
    check_tensor(mask, "mask", "B 1 H W", multiples={"H": stride, "W": stride})
    return (F.max_pool2d(mask, stride) > 0).to(mask.dtype)


def inside(mask: Tensor, feather: int) -> Tensor:
    """The share of the new picture in each pixel, (B, 1, H, W) in 0..1: the mask, fading to 0 inside its own edge.

    A pixel d < `feather` steps (of king's moves) inside the edge gets d/(feather + 1) of its mask, those deeper all of
    it; nothing outside of the mask gets any. The picture's border is no edge.

    Raises:
        InputError: not a mask, or a negative feather.
    """
    check_tensor(mask, "mask", "B 1 H W")
    if feather < 0:
        raise InputError(f"feather = {feather}: must be 0 pixels or more.")
    eroded, total = (mask > 0).to(mask.dtype), torch.zeros_like(mask)
    for _ in range(feather + 1):
        total += eroded
        eroded = -F.max_pool2d(-eroded, 3, stride=1, padding=1)
    return mask * total / (feather + 1)
