"""Every row of an evaluation, measured batch by batch in one process or in several, with the same numbers."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import distributed
from tqdm import tqdm

from training.data.dataset import Pairs, People
from training.judge import Judge, Measured
from training.metrics.distribution import fid, kid
from training.metrics.people import people_measures
from training.transfer import (
    COPY,
    TRUTH,
    UPPER,
    Batch,
    Contender,
    folder_name,
    generate,
    read_pictures,
    save_pictures,
    to_pictures,
)

KEPT_QUALITY = 92
"""JPEG quality of the pictures that are kept to be looked at."""


@dataclass
class Comparison:
    """What was measured.

    Attributes:
        pairs: the n pairs.
        rows: row of the table → for each seed what the judge says of its n pictures; one where no seed plays a part.
        pictures: row, or "source" or "pose" → n JPEG files, of the first seed.
        poses: of each pair the poses asked for, (1, 17, 3).
    """

    pairs: Pairs
    rows: dict[str, list[Measured]]
    pictures: dict[str, list[bytes]]
    poses: list[np.ndarray]

    def shown(self, row: str, which: Sequence[int]) -> np.ndarray:
        """Some of a row's pictures as uint8 (m, H, W, 3)."""
        return np.stack([np.array(Image.open(io.BytesIO(self.pictures[row][n]))) for n in which])

    def values(self, row: str) -> dict[str, np.ndarray]:
        """Measure → (n,), the mean over the seeds, for a pair with at least one number."""
        def mean(name: str) -> np.ndarray:
            found = np.stack([measured.values[name] for measured in self.rows[row]])
            known = np.isfinite(found)
            return np.where(known.any(0), np.where(known, found, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)

        return {name: mean(name) for name in self.rows[row][0].values}


@dataclass
class _Part:
    """The share of one batch, as one process sends it to all."""

    first: int
    rows: dict[str, list[Measured]] = field(default_factory=dict)
    pictures: dict[str, list[bytes]] = field(default_factory=dict)
    poses: list[np.ndarray] = field(default_factory=list)


def processes() -> tuple[int, int]:
    """Rank of this process and how many there are; they are joined where `accelerate launch` started several."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def join_processes(device: str) -> str:
    """Join the processes that `accelerate launch` started, if it did; the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    return device if device == "cpu" else str(state.device)


def compare(people: People, pairs: Pairs, contenders: list[Contender], judge: Judge, seeds: Sequence[int] = (0,),
            batch: int = 16, folders: dict[str, Path] | None = None, save: Path | None = None) -> Comparison:
    """Measure the source copied, what checkpoints make of the pairs, pictures in folders, and the truth.

    Whole batches go to the processes in turn, so that a picture is computed in the same company whatever their
    number: every process gets the same whole comparison.

    Args:
        contenders: the first one's aligner and autoencoder give rows of their own.
        seeds: of the noise; see `transfer.SEED_STRIDE`.
        folders: row → folder of pictures, see `transfer.read_pictures`.
        save: folder that gets a folder of PNG pictures for each row (and in it one a seed, where there are several).
    """
    rank, world = processes()
    firsts = list(range(0, len(pairs), batch))
    parts = []
    for first in tqdm(firsts[rank::world], desc=f"{people.split}: measuring", unit="batch", disable=rank > 0):
        given = Batch.read(people, pairs, first, batch)
        part = _Part(first, poses=[pose[None] for pose in given.joints],
                     pictures={"source": _encoded(given.source), "pose": _encoded(to_pictures(given.skeleton))})
        for row, number, pictures in _pictures(given, contenders, list(seeds), folders or {}):
            part.rows.setdefault(row, []).append(judge.measure(pictures, given, same=row == TRUTH))
            if number == 0:
                part.pictures[row] = _encoded(pictures)
            if save is not None:
                place, seeded = save / folder_name(row), any(row in contender.kinds for contender in contenders)
                save_pictures(place / f"seed-{seeds[number]}" if seeded and len(seeds) > 1 else place, given, pictures)
        parts.append(part)
    parts = sorted(gathered(parts), key=lambda part: part.first)
    rows = {row: [_joined([part.rows[row][number] for part in parts]) for number in range(len(measured))]
            for row, measured in parts[0].rows.items()}
    pictures = {row: [file for part in parts for file in part.pictures[row]] for row in parts[0].pictures}
    return Comparison(pairs, rows, pictures, [pose for part in parts for pose in part.poses])


def real_features(people: People, judge: Judge, batch: int = 16) -> np.ndarray:
    """Features (m, D) of every picture of a split, the real set of the published FIDs."""
    rank, world = processes()
    identity = np.repeat(people.identities, people.counts)
    index = np.concatenate([np.arange(count) for count in people.counts])
    found = []
    firsts = list(range(0, len(identity), batch))[rank::world]
    for first in tqdm(firsts, desc=f"{people.split}: features of the real pictures", unit="batch", disable=rank > 0):
        images = people.pictures(identity[first:first + batch], index[first:first + batch]).to(judge.device)
        found.append((first, judge.extractor(images).cpu().numpy()))
    return np.concatenate([features for _, features in sorted(gathered(found), key=lambda part: part[0])])


def set_measures(comparison: Comparison, real: np.ndarray | None,
                 progress: Callable[..., Any] = tqdm) -> dict[str, list[dict[str, float | None]]]:
    """Row → for each seed the measures of all its pictures together.

    Args:
        real: features (m, D) of the real set of FID and KID; None leaves them out.

    Returns:
        `people_measures`; and "fid", "kid" with its deviation over subsets "kid_std".
    """
    found: dict[str, list[dict[str, float | None]]] = {}
    for row, measured in progress(comparison.rows.items(), desc="measuring sets", unit="row"):
        found[row] = [dict(people_measures(one.people, comparison.poses)) for one in measured]
        if real is None:
            continue
        for values, one in zip(found[row], measured, strict=True):
            fake = torch.from_numpy(one.features)
            values["fid"] = fid(torch.from_numpy(real), fake)
            values["kid"], values["kid_std"] = kid(torch.from_numpy(real), fake) or (None, None)
    return found


def _pictures(batch: Batch, contenders: list[Contender], seeds: list[int],
              folders: dict[str, Path]) -> Iterator[tuple[str, int, np.ndarray]]:
    """(row, number of the seed, pictures) in the order of the table."""
    yield COPY, 0, batch.source
    upper = None
    for place, contender in enumerate(contenders):
        for row, number, pictures in generate(contender, batch, seeds, baselines=place == 0):
            if row == UPPER:
                upper = pictures
            else:
                yield row, number, pictures
    for row, folder in folders.items():
        yield row, 0, read_pictures(folder, batch)
    if upper is not None:
        yield UPPER, 0, upper
    yield TRUTH, 0, batch.truth


def _joined(parts: list[Measured]) -> Measured:
    features = None if parts[0].features is None else np.concatenate([part.features for part in parts])
    return Measured({name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
                    [found for part in parts for found in part.people], features)


def gathered(parts: list) -> list:
    """The parts of all processes, in every process."""
    if processes()[1] == 1:
        return parts
    from accelerate.utils import gather_object

    return gather_object(parts)


def _encoded(pictures: np.ndarray) -> list[bytes]:
    files = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=KEPT_QUALITY)
        files.append(file.getvalue())
    return files
