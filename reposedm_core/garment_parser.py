"""The garment parser: a small network that says what every pixel of a person shows (**ours**)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_tensor
from .ranges import check_counts, check_known, check_ranges, wrong

LABELS = ("background", "skin", "hair", "top", "bottom", "shoes", "other", "dress")
"""What a pixel may show; "top" is all that is worn above the waist, coats too, "other" hats, glasses, socks, gloves,
belts and scarves. The order is that of `garments.npy` in a people set."""


@dataclass(frozen=True)
class ParserConfig:
    """Sizes of a `GarmentParser`, or of a `layout.LayoutNetwork`.

    Attributes:
        kind: "none", or "unet".
        labels: what its classes mean, the background first.
        widths: channels at 1/2, 1/4 … of the picture.
        height, width: of the pictures that it was trained on.
    """

    kind: str = "unet"
    labels: tuple[str, ...] = LABELS
    widths: tuple[int, ...] = (16, 32, 56, 88, 112)
    height: int = 256
    width: int = 192

    def __post_init__(self) -> None:
        check_known(self, kind=("none", "unet"))
        check_counts(self, labels=(2, 256), widths=(2, 7))
        check_ranges(self, widths=(1, 4096), height=(1, 4096), width=(1, 4096))
        if len(set(self.labels)) != len(self.labels) or self.labels[0] != LABELS[0]:
            raise wrong(self, "labels", f"the first must be {LABELS[0]}, and none may occur twice")
        if self.height % self.stride or self.width % self.stride:
            raise wrong(self, "widths", f"{self.width} × {self.height} pixels are no multiple of {self.stride}")

    @property
    def stride(self) -> int:
        """Pixels of the side of the coarsest cell."""
        return 2 ** len(self.widths)


def _layer(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.first = _layer(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class LabelNetwork(nn.Module):
    """A U-Net that labels every pixel of what it is shown.

    It halves the picture once per width, with a residual block each time, adds to the coarsest cells what is in the
    whole picture, and goes back up with what it saw on the way down.
    """

    def __init__(self, config: ParserConfig, inputs: int):
        super().__init__()
        self.config = config
        widths = config.widths
        self.down = nn.ModuleList(
            nn.Sequential(_layer(inside, outside, 2), _Residual(outside))
            for inside, outside in zip((inputs, *widths), widths, strict=False)
        )
        self.whole = nn.Conv2d(widths[-1], widths[-1], 1)
        self.up = nn.ModuleList(_layer(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.head = nn.Conv2d(widths[0], len(config.labels), 1)
        self.to(memory_format=torch.channels_last)

    def label(self, shown: Tensor) -> Tensor:
        """Logits (B, L, H/2, W/2) of (B, inputs, H, W)."""
        x, seen = shown.contiguous(memory_format=torch.channels_last), []
        for layer in self.down:
            x = layer(x)
            seen.append(x)
        x = x + self.whole(x.mean((2, 3), keepdim=True))
        for layer, fine in zip(reversed(self.up), seen[-2::-1], strict=True):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), fine], 1))
        return self.head(x)


class GarmentParser(LabelNetwork):
    """Labels of a picture's pixels, with or without the pose of the person who is meant."""

    def __init__(self, config: ParserConfig):
        super().__init__(config, 6)

    def forward(self, images: Tensor, skeletons: Tensor | None = None) -> Tensor:
        """Logits (B, L, H, W) of the labels.

        Args:
            images: (B, 3, H, W) in [-1, 1], H and W multiples of the stride.
            skeletons: (B, 3, H, W) in [-1, 1], the drawn pose of the person who is meant (`condition_image`). None:
                black pictures, which leave it open.

        Raises:
            InputError: tensors of other shapes.
        """
        stride = self.config.stride
        sizes = check_tensor(images, "images", "B 3 H W", multiples={"H": stride, "W": stride})
        skeletons = torch.full_like(images, -1) if skeletons is None else skeletons
        check_tensor(skeletons, "skeletons", "B 3 H W", sizes, like=images)
        logits = self.label(torch.cat([images, skeletons], 1))
        return F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
