"""What an adapter is: it lists the pictures of a public set, and reads those that are still missing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from training.preparation.plan import Plan, Shares, Skip
from training.preparation.reading import Reading, Row, read_rows


class Adapter(ABC):
    """Turns the originals of one public set into rows.

    Attributes:
        name: on the command line and in dataset.json.
        title, licence: for the data card.
        size: height and width of the rows unless others are asked for.
        resize: "stretch" brings the whole picture to the size, "letterbox" keeps the aspect.
        estimator: default of `--estimator`, for pictures without annotation.
        paper_pairs: how many pairs the paper has of each list, "train" and "test"; empty where it names none.
    """

    name: str
    title: str
    licence: str
    size: tuple[int, int]
    resize: str
    estimator: str
    paper_pairs: ClassVar[dict[str, int]] = {}

    @abstractmethod
    def plan(self, root: Path, shares: Shares, cache: Path) -> Plan:
        """Everything that becomes a row, in an order that depends on the originals only.

        Args:
            root: where they lie.
            shares: what to hold out where the set has no such split.
            cache: a folder to keep what is slow to find again.

        Raises:
            InputError: the set is not there.
        """

    def rows(
        self, plan: Plan, missing: Sequence[int], reading: Reading, workers: int
    ) -> Iterator[tuple[int, Row | Skip]]:
        """Number and row (or why there is none) of every missing row, in any order."""
        yield from read_rows(plan, missing, reading, workers)
