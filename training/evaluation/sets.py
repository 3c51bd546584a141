"""The cells of the tables: means over pairs, and measures of all pictures of a row together (AP and the like, FID,
KID)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from reposedm_core.pipeline import RePoseDMPipeline
from training.data.people_set import Pairs, People, to_unit
from training.evaluation.compare import Comparison, align_all, all_pictures, gathered, processes, shared_batches
from training.evaluation.generate import TRUTH, Contender
from training.evaluation.measure import Judge
from training.evaluation.tables import Cell, Summary, as_cell, rounded, summarise
from training.metrics import interval
from training.metrics.distribution import fid, kid
from training.metrics.people import people_measures


@dataclass
class RealSet:
    """Features (n, D) of real pictures, and whose they are, (n,)."""

    features: np.ndarray
    persons: np.ndarray


@dataclass
class Collected:
    """Features of the pictures of every row, on more pairs than the rest is measured on.

    Attributes:
        rows: row → for each seed (m, D), of the first m pairs: only those measured for a row of pictures in a folder.
        pairs: the pairs, no two the same.
    """

    rows: dict[str, list[np.ndarray]]
    pairs: Pairs


def more_pairs(people: People, pairs: Pairs, count: int) -> Pairs:
    """Pairs beyond `pairs`, none of them twice, so that there are `count` different ones, or all of the set."""
    known = _numbers(people, pairs)
    missing = min(count, len(people)) - len(np.unique(known))
    drawn = pairs[:0]
    size = count
    while missing > len(drawn):
        drawn = people.fixed_pairs(size) if size < len(people) else people.pairs(np.arange(len(people)))
        numbers = _numbers(people, drawn)
        drawn = drawn[[n for n in _firsts(numbers) if numbers[n] not in known]]
        size *= 2
    return drawn[: max(0, missing)]


def _numbers(people: People, pairs: Pairs) -> np.ndarray:
    """A number per pair, (n,) int64: the same for the same two pictures."""
    source, target = (people.rows(pairs.identity, index) for index in (pairs.source, pairs.target))
    return source * len(people.arrays["done"]) + target


def _firsts(values: np.ndarray) -> np.ndarray:
    """Where each different value stands first, ascending."""
    return np.sort(np.unique(values, return_index=True)[1])


def collect(
    measured: Comparison,
    people: People,
    more: Pairs,
    contenders: list[Contender],
    judge: Judge,
    seeds: list[int],
    batch: int,
    source_pose: str,
    finder: RePoseDMPipeline | None,
) -> Collected:
    """The features of the measured pairs, each once, and of `more`, for whose pictures nothing else is measured."""
    first = _firsts(_numbers(people, measured.pairs))
    rows = {row: [one.features[first] for one in each] for row, each in measured.rows.items()}
    parts = []
    for given in shared_batches(people, more, batch, "more pairs for KID"):
        given.first += len(measured.pairs)  # noise of their own
        joints, aligned = align_all(given, contenders, source_pose, finder)
        found: dict[str, list[np.ndarray]] = {}
        for row, _, pictures in all_pictures(given, contenders, joints, aligned, seeds, {}):
            found.setdefault(row, []).append(judge.features(to_unit(pictures)))
        parts.append((given.first, found))
    parts = sorted(gathered(parts), key=lambda part: part[0])
    for row in parts[0][1] if parts else ():
        rows[row] = [
            np.concatenate([old, *(found[row][number] for _, found in parts)]) for number, old in enumerate(rows[row])
        ]
    once = measured.pairs[first]
    return Collected(
        rows,
        Pairs(
            *(
                np.concatenate([getattr(part, name) for part in (once, more)])
                for name in ("identity", "source", "target")
            )
        ),
    )


def targets(collected: Collected, people: People) -> RealSet:
    """The targets of the pairs as a real set, each picture once."""
    pairs = collected.pairs
    once = _firsts(people.rows(pairs.identity, pairs.target))
    return RealSet(collected.rows[TRUTH][0][once], pairs.identity[once])


def every_picture(people: People, judge: Judge, batch: int = 16) -> RealSet:
    """All pictures of a split, the real set of the published FIDs."""
    rank, world = processes()
    identity = np.repeat(people.identities, people.counts)
    index = np.concatenate([np.arange(count) for count in people.counts])
    found = []
    firsts = list(range(0, len(identity), batch))[rank::world]
    for first in tqdm(firsts, desc=f"{people.split}: features of the real pictures", unit="batch", disable=rank > 0):
        found.append(
            (first, judge.features(people.pictures(identity[first : first + batch], index[first : first + batch])))
        )
    features = [part for _, part in sorted(gathered(found), key=lambda part: part[0])]
    return RealSet(np.concatenate(features), identity)


def summarise_rows(
    measured: Comparison,
    collected: Collected | None = None,
    real: RealSet | None = None,
    kid_real: RealSet | None = None,
    against_truth: bool = True,
) -> Summary:
    """Cells of every row: of single pictures with their intervals, of all pictures together, and of each seed.

    Args:
        collected: for KID; real, kid_real: real sets of FID and of KID. None leaves both out.
        against_truth: they are the true targets, with which the row `TRUTH` is not compared.
    """
    found: Summary = {}
    for row, each in tqdm(measured.rows.items(), desc="measuring sets", unit="row"):
        found[row] = _pair_cells(measured, row, measured.values(row))
        seeds = [_pair_cells(measured, row, one.values) if len(each) > 1 else {} for one in each]
        for n, one in enumerate(each):
            seeds[n] |= {name: as_cell(value) for name, value in people_measures(one.people, measured.poses).items()}
            if row == TRUTH and against_truth:
                continue
            if real is not None and kid_real is not None and collected is not None:
                seeds[n]["fid"] = as_cell(fid(torch.from_numpy(real.features), torch.from_numpy(one.features)))
                features = collected.rows[row][n]
                seeds[n]["kid"] = as_cell(
                    *kid(kid_real.features, features, kid_real.persons, collected.pairs.identity[: len(features)])
                    or (None,)
                )
        for name in seeds[0]:
            if name not in found[row]:  # a mean over the seeds
                found[row][name] = {end: _mean([cells[name][end] for cells in seeds]) for end in seeds[0][name]}
            if len(each) > 1:
                found[row][name]["seeds"] = [cells[name]["mean"] for cells in seeds]
    return found


def _pair_cells(measured: Comparison, row: str, values: dict[str, np.ndarray]) -> dict[str, Cell]:
    """What single pictures of a row say, and their PCK by that of the true ones."""
    identity = measured.pairs.identity
    cells = summarise({row: values}, identity)[row]
    if row != TRUTH:
        cells["pck_ratio"] = as_cell(*interval(values["pck@0.05"], identity, measured.values(TRUTH)["pck@0.05"]))
    return cells


def _mean(numbers: list[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return rounded(float(np.mean(known))) if known else None
