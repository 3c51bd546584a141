"""What adapters say of a set's pictures before any is read, and how they look at its folders."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reposedm_core.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of the files that are taken for pictures."""


class Skip(NamedTuple):
    """A picture, or a line of a list, that is left out: a short reason, which is counted, and what is special here."""

    name: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Item:
    """A picture that is to become a row.

    Attributes:
        name: what the set calls it; unique.
        identity: label of the person; one person's items follow one another.
        split: "train", "val" or "test".
        path: of the picture.
        openpose: (18, 3) float32 OpenPose joints, x and y in pixels of `canvas` (pixel centres at +0.5), state 0
            absent or 2 annotated; None where the set has none.
        canvas: height and width of the picture that the joints were marked on; None for the picture itself.
    """

    name: str
    identity: int
    split: str
    path: Path
    openpose: np.ndarray | None = None
    canvas: tuple[int, int] | None = None


@dataclass
class Plan:
    """What a set holds: its pictures in row order, its official pairs of names (or None), and what is left out.

    `annotated`: the set came with keypoints, so a picture without is left out unless an estimator is asked for.
    """

    items: list[Item]
    pairs: list[tuple[str, str]] | None = None
    skipped: list[Skip] = field(default_factory=list)
    annotated: bool = False


@dataclass(frozen=True)
class Shares:
    """Parts of the people that are held out where the set itself has no such split, each 0 to less than 1."""

    val: float = 0.02
    test: float = 0.04


def need(root: Path, *names: str) -> Path:
    """The first of `names` that is in `root`; InputError that says what to put there if none is."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise InputError(
        f"{root}: {' or '.join(names)} is missing there. training/data/README.md shows which files to put where."
    )


def inside(base: Path, name: str) -> Path | None:
    """`base`/`name`, or None where that leads out of `base`: absolute, by "..", or by a link."""
    try:
        path = (base / name).resolve()
    except (OSError, ValueError, RuntimeError):  # a name with a null byte, too long, or links in a circle
        return None
    return path if path.is_relative_to(base.resolve()) else None


def files_below(base: Path) -> Iterator[Path]:
    """Picture files below a folder, sorted; links to folders are not followed."""
    for entry in sorted(base.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from files_below(entry)
        elif entry.suffix.lower() in PICTURES:
            yield entry


def hold_out(people: set[str], val: float, test: float = 0.0) -> dict[str, str]:
    """The split of each person: the share `test` of them tests, then `val` validates, the others train.

    Who is held out is fixed by the names, not by their order. At least one person is in each wanted split if there are
    three or more; fewer all train.
    """
    order = sorted(people, key=lambda person: (zlib.crc32(person.encode("utf-8", "surrogateescape")), person))
    counts = [max(1, round(share * len(order))) if share > 0 and len(order) > 2 else 0 for share in (test, val)]
    splits = ["test"] * counts[0] + ["val"] * counts[1]
    return dict(zip(order, splits + ["train"] * (len(order) - len(splits)), strict=True))
