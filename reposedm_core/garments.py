"""Masks of garments, and of the person who wears them, by the garment parser (**ours**)."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoint import load_parts, read_header
from .conditioning import condition_image
from .config import from_dict
from .crop import SURE, Crop, crop_around, mask_box, person_box, resize
from .errors import InputError, quoted
from .fitting import filled
from .garment_parser import LABELS, GarmentParser, ParserConfig
from .images import shown
from .letterbox import Letterbox
from .paste_back import ROWS
from .pose import Pose
from .reference import faded, grown

PERSON = LABELS[1:]
CLOTHES = ("top", "bottom", "dress")
"""What Garment Transfer puts on."""

SHIPPED_PARSER = Path(__file__).parent / "weights" / "garment-parser.safetensors"
"""The parser that comes with the package."""

MARGIN = 0.15
"""Room around a person in the picture that the network sees, a share of the longer side."""
SPECK = 0.1
"""What a first look finds is nobody where it has less than this share of the largest person's pixels."""
ENLARGED = 2
"""How many pixels of the picture one that the network sees has to be for the picture's borders to be followed. Below,
it costs more at fine patterns than it gains."""
WINDOW, EDGES = 9, 1e-3
"""Of the guided filter: side of its window in pixels that the network sees, and the variance of colours (0..1) above
which a border of the picture is followed."""


def load_parser(path: str | os.PathLike = SHIPPED_PARSER) -> GarmentParser:
    """The parser in a file that the stage `parser` exported, on the CPU in float32, in eval mode, frozen.

    Raises:
        InputError: no such file, no parser in it, or a damaged one.
    """
    name, header = Path(path).name, read_header(path)
    if header["parts"] != ["parser"]:
        raise InputError(f"{name} holds {', '.join(header['parts'])}, and no garment parser.")
    config = from_dict(ParserConfig, header["config"], name)
    return filled(lambda: GarmentParser(config), load_parts(path)[0]["parser"], f"{name}: parser")


@dataclass(frozen=True)
class Parsed:
    """What a picture shows.

    Attributes:
        labels: their names.
        shares: (L, h, w) in 0..1, of every label in every pixel of `crop`; their sum is 1.
        crop: the part of the picture that was looked at.
    """

    labels: tuple[str, ...]
    shares: Tensor
    crop: Crop

    def found(self, least: float = 0.002) -> list[str]:
        """Labels but the background of which that share of the crop's pixels is most likely, the largest first."""
        likely = self.shares.argmax(0).flatten().bincount(minlength=len(self.labels)) / self.shares[0].numel()
        order = likely.argsort(descending=True).tolist()
        return [self.labels[number] for number in order if number and likely[number] >= least]

    def mask(self, kinds: Collection[str], picture: Tensor | None = None) -> Tensor:
        """Mask (H, W) in 0..1 of these labels at the size of the whole picture; 0 outside of the crop.

        Args:
            kinds: some of `labels`.
            picture: (3, H, W) in [-1, 1], the one that was parsed: where the mask is enlarged `ENLARGED` times or more,
                the picture's borders are followed (He and Sun, "Fast Guided Filter", 2015: in every window the mask is
                a linear function of the colours). None enlarges smoothly.

        Raises:
            InputError: an unknown label.
        """
        unknown = sorted(set(kinds) - set(self.labels))
        if unknown:
            raise InputError(f"kinds = {quoted(unknown)}: known are {', '.join(self.labels)}.")
        chosen = [self.labels.index(kind) for kind in kinds]
        small, crop = self.shares[chosen].sum(0, keepdim=True), self.crop
        size = crop.height, crop.width
        mask = resize(small[None], size)
        scale = size[0] / small.shape[-2]
        if picture is not None and scale >= ENLARGED:
            mask = _follow_borders(mask, shown(crop.scaled(size).image(picture))[None], scale)
        whole = mask.new_zeros(crop.picture)
        there, here = crop.overlap()
        whole[there] = mask[0, 0][here]
        return whole.clamp(0, 1)


def _follow_borders(mask: Tensor, picture: Tensor, scale: float) -> Tensor:
    """A mask (1, 1, H, W) that follows the borders of a picture (1, 3, H, W) in 0..1; `scale`: pixels of each that one
    pixel was that the network saw."""
    from kornia.filters import guided_blur

    return guided_blur(picture, mask, 2 * round(WINDOW * scale / 2) + 1, EDGES, "replicate", int(scale))


@torch.no_grad()
def parse(network: GarmentParser, picture: Tensor, pose: Pose | None = None) -> Parsed | None:
    """What the person in a picture wears.

    The network sees the part of the picture that the person needs: by the pose, or else by what a first look at the
    whole picture finds, which is everybody in it.

    Args:
        picture: (3, H, W) in [-1, 1].
        pose: of the person who is meant, the first one in it, in pixels of the picture; nobody in it is no pose.

    Returns:
        None where nobody is found.

    Raises:
        InputError: no joint of the pose lies in the picture.
    """
    config, (height, width) = network.config, picture.shape[-2:]
    size, seen = (height, width), (config.height, config.width)
    pose = pose if pose is not None and len(pose.joints) else None
    box = _first_look(network, picture) if pose is None else person_box(pose, size)
    if box is None:
        return None
    crop = crop_around([box], size, MARGIN, seen[1] / seen[0]).scaled(seen)
    where = next(network.parameters()).device
    skeleton = None if pose is None else condition_image(crop.pose(pose), *seen).to(where)
    shares = network(crop.image(picture)[None].to(where), skeleton).softmax(1)[0]
    return Parsed(config.labels, shares.to(picture.device), crop)


def _first_look(network: GarmentParser, picture: Tensor) -> np.ndarray | None:
    """(4,) first and last x and y of everybody in a picture (3, H, W), in its pixels; None: nobody is there."""
    from scipy import ndimage

    height, width = picture.shape[-2:]
    box = Letterbox((height, width), (network.config.height, network.config.width))
    shares = network(box.image(picture[None]).to(next(network.parameters()).device)).softmax(1)
    (top, left), (height, width) = box.corner, box.inner
    person = (1 - shares[0, 0])[top : top + height, left : left + width].cpu()
    regions, count = ndimage.label(person > SURE)
    if not count:
        return None
    areas = np.bincount(regions.flat, minlength=count + 1)[1:]
    people = np.isin(regions, 1 + np.flatnonzero(areas >= SPECK * areas.max()))
    edges = mask_box(torch.from_numpy(people).float()) + [left, top, left, top]
    return box.back(edges.reshape(2, 2)).reshape(4)


def shaped(mask: Tensor, threshold: float = 0.5, grow: float = 0.0, feather: float = 0.0) -> Tensor:
    """A mask (H, W) in 0..1 as it is wanted.

    Args:
        threshold: above 0, what is surer is white and the rest black; 0 leaves the shares as they are.
        grow, feather: in percent of the height: how far it reaches beyond, and over what width it then fades.

    Raises:
        InputError: a number out of range.
    """
    for name, value, most in (("threshold", threshold, 1), ("grow", grow, 50), ("feather", feather, 50)):
        if not 0 <= value <= most:
            raise InputError(f"{name} = {value}: must be 0 to {most}.")
    mask = (mask > threshold).float() if threshold else mask
    if not mask.any() or not (grow or feather):
        return mask
    size = tuple(mask.shape)
    factor = min(1.0, ROWS / max(size))  # large squares are dear
    small = tuple(max(1, round(side * factor)) for side in size)
    pixels, fade = (round(small[0] * part / 100) for part in (grow, feather))
    found = grown(resize(mask[None], small)[None], pixels)
    found = faded(found, fade) if fade else found
    if factor < 1:
        found = F.interpolate(found, size, mode="bilinear", align_corners=False)
    return found[0, 0].clamp(0, 1)
