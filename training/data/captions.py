"""Captions for people who have none: a people set as the text-image-pose set that RePoseSD is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from training.data.captioned_set import FORMAT, Captioned, CaptionedExample
from training.data.people_set import People

COLOURS = {
    "black": (20, 20, 20),
    "dark grey": (75, 75, 75),
    "grey": (140, 140, 140),
    "white": (240, 240, 240),
    "red": (200, 35, 35),
    "dark red": (110, 20, 25),
    "orange": (240, 130, 30),
    "yellow": (240, 220, 50),
    "beige": (220, 195, 160),
    "brown": (110, 70, 40),
    "green": (60, 160, 60),
    "dark green": (25, 80, 40),
    "turquoise": (60, 190, 185),
    "light blue": (140, 190, 235),
    "blue": (45, 90, 205),
    "navy blue": (20, 30, 90),
    "purple": (125, 55, 160),
    "pink": (240, 130, 175),
}
"""Names and sRGB values, the nearest in CIELAB counts (**ours**)."""
GARMENTS = {"top": 3, "trousers or skirt": 4, "dress": 7, "shoes": 5}
"""Their labels in garments.npy; 0 is the background, 2 hair."""
LEAST_PIXELS = 12
"""What covers fewer pixels goes unsaid."""


class CaptionedPeople:
    """One split of a people set by picture, read as a `Captioned` is; a caption names the colours of the clothes.

    Args:
        root, split: see `People`.

    Attributes:
        name: of the set. height, width: of every picture, in pixels.
    """

    def __init__(self, root: str | Path, split: str):
        self.people = People(root, split)
        self.name, self.split = self.people.name, split
        self.height, self.width = self.people.height, self.people.width
        self._ends = np.cumsum(self.people.counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _name(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Identity and index, (1,) each."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        return self.people.identities[[place]], np.array([number - self._ends[place] + self.people.counts[place]])

    def caption(self, number: int) -> str:
        """A sentence by the labelled garments, or the same for all where the set has no labels."""
        name = self._name(number)
        garments = self.people.garments(*name)
        if garments is None:
            return "a photo of a person"
        return describe(self.people.read("pictures", *name)[0], garments[0])

    def read(self, number: int, place: tuple[float, float] = (0.5, 0.5)) -> CaptionedExample:
        """An example; nothing is cut off, so `place` has no effect."""
        name = self._name(number)
        poses = self.people.openpose(*name).astype(np.float32)
        return CaptionedExample(
            self.people.pictures(*name)[0],
            self.caption(number),
            self.people.joints(*name),
            poses,
            f"{name[0][0]}/{name[1][0]}",
        )


def open_captions(root: str | Path, split: str) -> Captioned | CaptionedPeople:
    """One split of a captioned set, or of a people set with captions made for it."""
    try:
        form = json.loads((Path(root) / "dataset.json").read_text(encoding="utf-8")).get("format")
    except (OSError, ValueError, AttributeError, RecursionError):
        form = None  # the reader of people says what is wrong
    return Captioned(root, split) if form == FORMAT else CaptionedPeople(root, split)


def describe(picture: np.ndarray, garments: np.ndarray) -> str:
    """A caption by the median colours of hair, clothes and background.

    Args:
        picture: (H, W, 3) uint8 sRGB. garments: (H, W) uint8, see `GARMENTS`.
    """

    def colour(label: int) -> str | None:
        inside = picture[garments == label]
        return colour_name(np.median(inside, 0)) if len(inside) >= LEAST_PIXELS else None

    worn = [f"{found} {name}" for name, label in GARMENTS.items() if (found := colour(label))]
    hair, behind = colour(2), colour(0)
    return (
        "a photo of a person"
        + (f" with {hair} hair" if hair else "")
        + (f" wearing {', '.join(worn)}" if worn else "")
        + (f", {behind} background" if behind else "")
    )


def colour_name(colour: np.ndarray) -> str:
    """Name of an sRGB colour (3,) in 0..255."""
    from skimage.color import rgb2lab

    known = np.array([colour, *COLOURS.values()], np.float64) / 255
    lab = rgb2lab(known[None])[0]
    return list(COLOURS)[int(np.linalg.norm(lab[1:] - lab[0], axis=1).argmin())]
