"""The pictures of a set in Market-1501's layout: who is on them, and which camera took them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reposedm_core.errors import InputError, shortened
from reposedm_core.images import to_rgb
from training.adapters.market1501 import NAME
from training.metrics.retrieval import JUNK
from training.preparation.plan import files_below, need

TRAIN, GALLERY, QUERY = ("bounding_box_train", "train"), ("bounding_box_test", "test"), ("query",)


@dataclass(frozen=True)
class Shots:
    """Pictures: files, and of each the person's number (0 a distractor, -1 junk) and the camera, (n,) int64."""

    files: list[Path]
    person: np.ndarray
    camera: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    @property
    def names(self) -> list[str]:
        """Each without its ending."""
        return [path.stem for path in self.files]


def read_shots(root: Path, names: tuple[str, ...], least: int = JUNK) -> Shots:
    """The pictures of a folder whose names are Market-1501's, sorted by name.

    Args:
        names: of the folder, the first that is there.
        least: number of a person below which pictures are left out: 0 leaves out junk, 1 distractors, too.

    Raises:
        InputError: no such folder, or no such picture in it.
    """
    folder = need(root, *names)
    found = [(path, match) for path in files_below(folder) if (match := NAME.fullmatch(path.name))]
    found = [(path, match) for path, match in found if int(match[1]) >= least]
    if not found:
        raise InputError(f"{folder}: no picture there has a name like 0002_c1s1_000451_03.jpg.")
    if len({path.name for path, _ in found}) < len(found):
        raise InputError(f"{folder}: two pictures there have one name; remove one.")
    people = np.array([int(match[1]) for _, match in found], np.int64)
    assert JUNK == -1  # as the names have it
    return Shots([path for path, _ in found], people, np.array([int(match[2]) for _, match in found], np.int64))


def read_pictures(files: list[Path], height: int, width: int) -> np.ndarray:
    """Pictures at one size, stretched as re-identification does, uint8 (n, height, width, 3).

    Raises:
        InputError: one cannot be read.
    """
    pictures = np.empty((len(files), height, width, 3), np.uint8)
    for n, path in enumerate(files):
        try:
            with Image.open(path) as picture:
                pictures[n] = np.asarray(to_rgb(picture).resize((width, height), Image.Resampling.BICUBIC))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a picture ({shortened(error)}): write it again.") from None
    return pictures
