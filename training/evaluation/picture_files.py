"""Pictures of an evaluation in files, a folder a row: written to be kept, and read that any model made."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from PIL import Image

from reposedm_core.errors import InputError
from reposedm_core.files import read_json, write_json, write_picture
from reposedm_core.images import to_rgb
from training.evaluation.generate import Batch

POSES = "pose"
"""Folder, beside those of the rows, of the drawn target poses."""


def named(value: str) -> tuple[str, Path]:
    """NAME=PATH of a command line."""
    name, found, path = value.partition("=")
    if not (name and found and path):
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=PATH")
    return name, Path(path)


def picture_size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH of a command line, 16 to 4096 pixels each."""
    try:
        height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write HEIGHTxWIDTH, such as 256x176") from None
    if not (16 <= height <= 4096 and 16 <= width <= 4096):
        raise argparse.ArgumentTypeError(f"{text!r}: both must be 16 to 4096")
    return height, width


def file_name(batch: Batch, n: int) -> str:
    """Name of the picture of a batch's n-th pair: NUMBER_PERSON_SOURCE_TARGET.png."""
    pairs = batch.pairs
    return f"{batch.first + n:05d}_{pairs.identity[n]:06d}_{pairs.source[n]:03d}_{pairs.target[n]:03d}.png"


def folder_name(row: str) -> str:
    """A row's name as that of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", row.lower()).strip("-")


def keep_settings(folder: Path, name: str, settings: dict, write: bool = True) -> None:
    """Keep what decides on the pictures in a folder as its file `name`; `write` = False only compares.

    Raises:
        InputError: the pictures there were made with other settings.
    """
    file = folder / name
    if file.is_file():
        known = read_json(file, str(file), "delete the folder, or give another --out")
        other = [key for key, value in settings.items() if known.get(key) != value]
        if other:
            raise InputError(
                f"{folder} holds pictures that were made with other settings ({', '.join(other)}): give another --out, "
                "or delete the folder."
            )
    elif write:
        write_json(file, settings)


def save_pictures(folder: Path, batch: Batch, pictures: np.ndarray) -> None:
    """Write pictures (b, H, W, 3), without loss, under the names of `file_name`."""
    for n, picture in enumerate(pictures):
        write_picture(folder / file_name(batch, n), Image.fromarray(picture))


def read_pictures(folder: Path, batch: Batch) -> np.ndarray:
    """The pictures of a batch's pairs, uint8 (b, H, W, 3), made by any model, of a folder as `save_pictures` writes it.

    Raises:
        InputError: one is missing, unreadable, or of another size than the set's.
    """
    pictures = []
    for n in range(len(batch)):
        path = folder / file_name(batch, n)
        if not path.is_file():
            raise InputError(
                f"{folder} has no {path.name}: it must hold one PNG picture for each pair, named "
                "NUMBER_PERSON_SOURCE_TARGET.png; --save-pictures writes such names."
            )
        try:
            with Image.open(path) as picture:
                pictures.append(np.array(to_rgb(picture)))
        except OSError as error:
            raise InputError(f"{path} cannot be read as a picture ({error}): write it again.") from None
        height, width = pictures[-1].shape[:2]
        if (height, width) != batch.truth.shape[1:3]:
            raise InputError(
                f"{path} is {width}×{height}, the set has {batch.truth.shape[2]}×{batch.truth.shape[1]}: "
                "resize the pictures to the set's size."
            )
    return np.stack(pictures)
