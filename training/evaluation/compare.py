"""Every row of an evaluation, measured batch by batch in one process or in several, with the same numbers."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, distributed
from tqdm import tqdm

from reposedm_core.pipeline import RePoseDMPipeline
from training.data.people_set import Pairs, People
from training.evaluation.generate import (
    COPY,
    SKELETON,
    TRUTH,
    UPPER,
    Aligned,
    Batch,
    Contender,
    align,
    baselines,
    by_skeleton,
    find_source,
    generate,
    to_pictures,
    views,
)
from training.evaluation.measure import Judge, Measured
from training.evaluation.picture_files import POSES, folder_name, read_pictures, save_pictures
from training.evaluation.recurrence import MapErrors, map_errors

KEPT_QUALITY = 92
"""JPEG quality of the pictures that are kept to be looked at."""


@dataclass
class Comparison:
    """What was measured.

    Attributes:
        pairs: the n pairs.
        rows: row of the table → for each seed what the judge says of its n pictures; one where no seed plays a part.
        pictures: row, or "source", "pose" or one of `generate.views` → n JPEG files, of the first seed.
        poses: of each pair the poses asked for, (1, 17, 3).
        maps: row of the table of the sampling maps → its measures; empty for a set without correspondence.
    """

    pairs: Pairs
    rows: dict[str, list[Measured]]
    pictures: dict[str, list[bytes]]
    poses: list[np.ndarray]
    maps: MapErrors

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
    maps: MapErrors = field(default_factory=dict)


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


def shared_batches(people: People, pairs: Pairs, size: int, what: str) -> Iterator[Batch]:
    """The batches that this process is to do.

    Whole batches go to the processes in turn, so that a picture is computed in the same batch whatever their number.
    """
    rank, world = processes()
    firsts = list(range(0, len(pairs), size))
    for first in tqdm(firsts[rank::world], desc=f"{people.split}: {what}", unit="batch", disable=rank > 0):
        yield Batch.read(people, pairs, first, size)


def compare(
    people: People,
    pairs: Pairs,
    contenders: list[Contender],
    judge: Judge,
    seeds: Sequence[int] = (0,),
    batch: int = 16,
    folders: dict[str, Path] | None = None,
    save: Path | None = None,
    source_pose: str = "estimated",
    finder: RePoseDMPipeline | None = None,
) -> Comparison:
    """Measure the source copied, what checkpoints make of the pairs, pictures in folders, and the truth.

    Every process gets the same whole comparison.

    Args:
        contenders: the first one's aligner and autoencoder give rows of their own.
        seeds: of the noise; see `generate.SEED_STRIDE`.
        folders: row → folder of pictures, see `picture_files.read_pictures`.
        save: folder that gets a folder of PNG pictures for each row (and in it one for each seed, where there are
            several), and one of the target poses.
        source_pose: of the row `SKELETON`, one of `generate.SOURCE_POSES`; finder: its estimator is the one that finds
            it, the first checkpoint where None. Without either there is no such row.
    """
    parts = []
    for given in shared_batches(people, pairs, batch, "measuring"):
        joints, aligned = align_all(given, contenders, source_pose, finder)
        part = _Part(
            given.first,
            poses=[pose[None] for pose in given.joints],
            pictures={"source": _encoded(given.source), "pose": _encoded(to_pictures(given.skeleton))},
        )
        if save is not None:
            save_pictures(save / POSES, given, to_pictures(given.skeleton))
        shown = next(filter(None, map(views, aligned)), {})
        part.pictures |= {name: _encoded(pictures) for name, pictures in shown.items()}
        for row, number, pictures in all_pictures(given, contenders, joints, aligned, list(seeds), folders or {}):
            part.rows.setdefault(row, []).append(judge.measure(pictures, given, same=row == TRUTH))
            if number == 0:
                part.pictures[row] = _encoded(pictures)
            if save is not None:
                place, seeded = save / folder_name(row), any(row in contender.kinds for contender in contenders)
                save_pictures(place / f"seed-{seeds[number]}" if seeded and len(seeds) > 1 else place, given, pictures)
        if people.has_correspondence:
            part.maps = map_errors(people, given, contenders, joints, aligned)
        parts.append(part)
    parts = sorted(gathered(parts), key=lambda part: part.first)
    rows = {
        row: [_joined([part.rows[row][number] for part in parts]) for number in range(len(measured))]
        for row, measured in parts[0].rows.items()
    }
    kept = {row: [file for part in parts for file in part.pictures[row]] for row in parts[0].pictures}
    maps = {
        row: {name: np.concatenate([part.maps[row][name] for part in parts]) for name in measures}
        for row, measures in parts[0].maps.items()
    }
    return Comparison(pairs, rows, kept, [pose for part in parts for pose in part.poses], maps)


def align_all(
    batch: Batch, contenders: list[Contender], source_pose: str, finder: RePoseDMPipeline | None
) -> tuple[Tensor | None, list[Aligned]]:
    """The joints that the row `SKELETON` takes for the sources', see `compare`, and the batch aligned by each."""
    finder = contenders[0].pipe if finder is None and contenders else finder
    joints = find_source(finder, batch, source_pose)
    aligned = []
    for contender in contenders:
        same = contender.pipe is finder and contender.source_pose == source_pose
        reads = contender.pipe.aligner.reads_pose
        own = joints if same or not reads else find_source(contender.pipe, batch, contender.source_pose)
        aligned.append(align(contender.pipe, batch, own))
    return joints, aligned


def all_pictures(
    batch: Batch,
    contenders: list[Contender],
    joints: Tensor | None,
    aligned: list[Aligned],
    seeds: list[int],
    folders: dict[str, Path],
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(row, number of the seed, pictures) in the order of the table; `joints` and `aligned` by `align_all`."""
    yield COPY, 0, batch.source
    if joints is not None:
        yield SKELETON, 0, by_skeleton(batch, joints)
    upper = None
    if contenders:
        for row, pictures in baselines(contenders[0].pipe, batch, aligned[0]):
            if row == UPPER:
                upper = pictures
            else:
                yield row, 0, pictures
    for contender, each in zip(contenders, aligned, strict=True):
        yield from generate(contender, batch, each, seeds)
    for row, folder in folders.items():
        yield row, 0, read_pictures(folder, batch)
    if upper is not None:
        yield UPPER, 0, upper
    yield TRUTH, 0, batch.truth


def _joined(parts: list[Measured]) -> Measured:
    return Measured(
        {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
        [found for part in parts for found in part.people],
        np.concatenate([part.features for part in parts]),
    )


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
