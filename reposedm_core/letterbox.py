"""Pictures and points of one size in another: aspect kept, the whole picture visible, centred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""


def size_of(pictures: Tensor) -> Size:
    """Height and width of pictures or maps (..., H, W)."""
    height, width = pictures.shape[-2:]
    return height, width


@dataclass(frozen=True)
class Letterbox:
    """How a picture of one size lies in a frame of another. All that is fitted to another size is fitted by it.

    Whole pixels are what a picture can have, so that its two sides may be scaled a little differently and it may lie
    half a pixel off the centre; points go where the picture went. Coordinates have pixel centres at +0.5.

    Attributes:
        size, frame: height and width of the picture, and of what it is fitted into; 1 or more.
    """

    size: Size
    frame: Size

    @property
    def inner(self) -> Size:
        """Height and width of the picture in the frame, at least a pixel each."""
        scale = min(self.frame[0] / self.size[0], self.frame[1] / self.size[1])
        return max(1, round(self.size[0] * scale)), max(1, round(self.size[1] * scale))

    @property
    def corner(self) -> Size:
        """Rows above the picture, and columns left of it."""
        rows, columns = self.inner
        return (self.frame[0] - rows) // 2, (self.frame[1] - columns) // 2

    @property
    def scale(self) -> np.ndarray:
        """(2,) float64: frame pixels per pixel of the picture, along x and y."""
        return np.array(self.inner[::-1]) / self.size[::-1]

    @property
    def offset(self) -> np.ndarray:
        """(2,): where in the frame the picture's upper left corner lies, x and y."""
        return np.array(self.corner[::-1])

    def image(self, image: Tensor, border: str = "replicate") -> Tensor:
        """Pictures (B, C, h, w) of `size` in the frame, (B, C, H, W): bilinear, antialiased.

        `border` is what lies around: "replicate" repeats the picture's edge outwards, "constant" is 0.
        """
        if self.size == self.frame:
            return image
        (height, width), (top, left) = self.inner, self.corner
        image = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
        if (height, width) == self.frame:  # padding by nothing copies, there and back
            return image
        return F.pad(image, (left, self.frame[1] - width - left, top, self.frame[0] - height - top), mode=border)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (…, 2 or more) of the picture, x and y first, in pixels of the frame; float64."""
        moved = np.array(points, np.float64)
        moved[..., :2] = moved[..., :2] * self.scale + self.offset
        return moved

    def back(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `points`: from pixels of the frame to those of the picture."""
        moved = np.array(points, np.float64)
        moved[..., :2] = (moved[..., :2] - self.offset) / self.scale
        return moved
