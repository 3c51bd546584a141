"""Lists of the PATN/GFLA split that several public sets share: keypoints, and pairs of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reposedm_core.errors import InputError
from training.preparation.plan import Skip

HEADER = ["name", "keypoints_y", "keypoints_x"]
ABSENT = -1


def read_keypoints(file: Path) -> Iterator[tuple[str, np.ndarray] | Skip]:
    """Names and OpenPose joints (18, 3) of a `name:keypoints_y:keypoints_x` list.

    The list's numbers are indices of pixels, -1 where a joint is missing; here they are positions, with pixel centres
    at +0.5. Lines that cannot be read are given as `Skip`.

    Raises:
        InputError: a list without that head line.
    """
    for number, line in _lines(file):
        fields = [part.strip() for part in line.split(":")]
        if number == 1:
            if fields != HEADER:
                raise InputError(
                    f"{file}: its first line is {line[:80]!r}, not {':'.join(HEADER)!r}; this is no "
                    "keypoint list of the PATN/GFLA split."
                )
            continue
        try:
            name, y, x = fields
            points = np.array([json.loads(x), json.loads(y)], dtype=np.float32).T
            if points.shape != (18, 2) or not np.isfinite(points).all():
                raise ValueError(f"{len(points)} points instead of 18")
        except ValueError as error:
            yield Skip(fields[0], "unreadable line", f"{file.name}, line {number}: {error}"[:200])
            continue
        there = (points != ABSENT).all(1) & (points >= 0).all(1)
        yield name, np.where(there[:, None], np.column_stack([points + 0.5, np.full(18, 2)]), 0).astype(np.float32)


def read_pairs(file: Path) -> Iterator[tuple[str, str] | Skip]:
    """Names of source and target, from a `from,to` list, or one of two names a line without a head line."""
    for number, line in _lines(file):
        names = [part.strip() for part in line.replace("\t", ",").split(",")]
        if len(names) == 1:
            names = names[0].split()
        if number == 1 and names == ["from", "to"]:
            continue
        if len(names) != 2 or not all(names):
            yield Skip(line[:120], "unreadable line", f"{file.name}, line {number}")
        else:
            yield names[0], names[1]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8", errors="surrogateescape") as opened:
        for number, line in enumerate(opened, 1):
            if line.strip():
                yield number, line.strip()
