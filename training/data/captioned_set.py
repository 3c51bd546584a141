"""Reading a set of captioned pictures with the poses of the people in them, as `prepare.py` lists it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from reposedm_core.errors import InputError
from reposedm_core.images import to_rgb
from reposedm_core.pose import coco_to_openpose
from training.data.people_set import SPLITS, to_unit

FORMAT = "captioned set"
VERSION = 1


@dataclass(frozen=True)
class CaptionedExample:
    """A picture (3, H, W) float32 in [-1, 1], its caption, and its people, largest first.

    `joints` (P, 17, 3) are COCO's and `poses` (P, 18, 3) OpenPose's, float32: x, y in pixels (pixel centres at +0.5)
    and score, zeros where a joint is absent or cut off.
    """

    picture: Tensor
    caption: str
    joints: np.ndarray
    poses: np.ndarray
    name: str


class Captioned:
    """One split of a captioned set, as a sequence and an iterable of `CaptionedExample`.

    The pictures are read from where they lie: the shorter side is brought to the size (Pillow's bicubic filter,
    antialiased), and the rest is cut off, which `read` can do at any place.

    Args:
        root: folder that `training/prepare.py` wrote.
        split: "train", "val" or "test".
        images: folder of the originals, where they were moved since.
        size: height and width; those of the preparation if None.

    Raises:
        InputError: no such set, an unfinished one, no picture in the split, or the originals are gone.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        images: str | Path | None = None,
        size: tuple[int, int] | None = None,
    ):
        self.root, self.split = Path(root), split
        if split not in SPLITS:
            raise InputError(f"split = {split!r}: known are {', '.join(SPLITS)}.")
        try:
            self.description = json.loads((self.root / "dataset.json").read_text(encoding="utf-8"))
            known = self.description["format"], self.description["version"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            known = None
        if known != (FORMAT, VERSION):
            raise InputError(
                f"{root} is no captioned set of version {VERSION}; make one with training/prepare.py "
                "laion_human or human_art."
            )
        missing = [name for name in ("captions.jsonl", "offsets.npy", "split.npy") if not (self.root / name).is_file()]
        if missing:
            raise InputError(f"{root}: {', '.join(missing)} missing; let training/prepare.py run to its end.")
        self.name = self.description["name"]
        self.images = Path(images or self.description["images"])
        if not self.images.is_dir():
            raise InputError(f"{root}: its pictures are not at {self.images} any more; say where they are now.")
        size = size or (self.description["height"], self.description["width"])
        self.height, self.width = size
        self._offsets = np.load(self.root / "offsets.npy", mmap_mode="r")
        self._lines = np.flatnonzero(np.load(self.root / "split.npy") == SPLITS.index(split))
        if not len(self._lines):
            raise InputError(f"{root}: no picture in the split {split!r}.")

    def __reduce__(self):  # a loader's worker opens the files itself
        return type(self), (self.root, self.split, self.images, (self.height, self.width))

    def __len__(self) -> int:
        return len(self._lines)

    def entry(self, number: int) -> dict:
        """The line of captions.jsonl: image, caption, height, width, joints."""
        line = self._lines[number]
        with (self.root / "captions.jsonl").open("rb") as file:
            file.seek(int(self._offsets[line]))
            return json.loads(file.readline())

    def caption(self, number: int) -> str:
        return self.entry(number)["caption"]

    def read(self, number: int, place: tuple[float, float] = (0.5, 0.5)) -> CaptionedExample:
        """An example, cut out at `place`: the part (x, y) of what is cut off that lies left of and above it, 0..1.

        Raises:
            InputError: the picture cannot be read any more.
        """
        entry = self.entry(number)
        try:
            with Image.open(self.images / entry["image"]) as opened:
                picture = to_rgb(ImageOps.exif_transpose(opened))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"{self.images / entry['image']}: cannot be read any more ({error}); run training/prepare.py again."
            ) from error
        scale = max(self.height / picture.height, self.width / picture.width)
        size = max(self.width, round(picture.width * scale)), max(self.height, round(picture.height * scale))
        left, top = (
            round(share * (side - wanted))
            for share, side, wanted in zip(place, size, (self.width, self.height), strict=True)
        )
        factor = np.array(size) / (picture.width, picture.height)
        picture = picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + self.width, top + self.height))
        joints = np.array(entry["joints"], np.float32).reshape(-1, 17, 3)
        joints[..., :2] = joints[..., :2] * factor - (left, top)
        x, y, score = np.moveaxis(joints, -1, 0)
        there = (score > 0) & (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)
        joints = np.where(there[..., None], joints, 0)[there.any(1)].astype(np.float32)
        joints = joints[np.argsort([-_extent(person) for person in joints], kind="stable")]
        return CaptionedExample(
            to_unit(np.array(picture)), entry["caption"], joints, coco_to_openpose(joints), entry["image"]
        )

    def __getitem__(self, number: int) -> CaptionedExample:
        if not -len(self) <= number < len(self):
            raise IndexError(f"picture {number} of {len(self)}")
        return self.read(number % len(self))

    def __iter__(self) -> Iterator[CaptionedExample]:
        return (self.read(number) for number in range(len(self)))


def _extent(person: np.ndarray) -> float:
    """Diagonal of the box around a person's joints, in pixels."""
    found = person[person[:, 2] > 0, :2]
    return float(np.linalg.norm(np.ptp(found, axis=0)))
