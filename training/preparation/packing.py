"""The folder of a people set that an adapter fills: what it is, its rows, names and official pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, read_json, write_array, write_json, write_text
from training.data.people_set import SPLITS, VERSION
from training.data.row_files import RowFiles
from training.preparation.plan import Plan
from training.preparation.reading import Row

FLUSH_EVERY = 64
"""Rows between two flushes; an interruption repeats at most these."""
ALLOWED = ("tracks.json", "tracks.json.part", "dataset.json.part")
"""Files that may be in a folder before it is known to be a set."""


def layout(rows: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every array that an adapter's set has."""
    return {
        "pictures": ((rows, height, width, 3), "uint8"),
        "joints": ((rows, 17, 3), "float32"),
        "openpose": ((rows, 18, 3), "float32"),
        "identity": ((rows,), "int64"),
        "split": ((rows,), "uint8"),
        "done": ((rows,), "uint8"),
    }


def open_folder(out: Path) -> None:
    """Make the folder, or see that it is empty or a set's own.

    Raises:
        InputError: somebody else's files are there.
    """
    make_folder(out, "out")
    if not (out / "dataset.json").is_file():
        others = sorted(path.name for path in out.iterdir() if path.name not in ALLOWED)
        if others:
            raise InputError(f"{out} holds no set but other files ({others[0]}): give another --out.")


class PeopleWriter:
    """Opens a folder for the rows of a plan, new or begun before; use as a context manager.

    Args:
        out: folder of the set.
        plan: its rows; a folder begun with another plan, or other arguments, is refused.
        description: what dataset.json says beside the format; JSON.
        size: height and width.

    Raises:
        InputError: the folder holds something else, or the disk has no room for the whole set.
    """

    def __init__(self, out: Path, plan: Plan, description: dict, size: tuple[int, int]):
        self.out, self.plan, self._waiting = out, plan, 0
        self._describe(
            {
                "format": "people set",
                "version": VERSION,
                "height": size[0],
                "width": size[1],
                "rows": len(plan.items),
                **description,
            }
        )
        self.files = RowFiles(out, layout(len(plan.items), *size))
        names = "".join(json.dumps(item.name)[1:-1] + "\n" for item in plan.items)
        write_text(out / "names.txt", names)
        for split, rows in official_pairs(plan).items():
            write_array(out / f"pairs_{split}.npy", rows)

    def _describe(self, description: dict) -> None:
        file, description = self.out / "dataset.json", json.loads(json.dumps(description))
        if file.is_file():
            found = read_json(file, str(file), "delete it, or give another --out")
            if found != description:
                keys = sorted(key for key in {*found, *description} if found.get(key) != description.get(key))
                raise InputError(
                    f"{self.out} holds a set of other arguments or other originals ({', '.join(keys)} "
                    "differ): give another --out, or the same arguments as then."
                )
        else:
            write_json(file, description)

    @property
    def done(self) -> np.ndarray:
        """(n,) bool: finished rows."""
        return self.files.done()

    def write(self, number: int, row: Row) -> None:
        """Write a row; it counts as finished once it is settled."""
        item = self.plan.items[number]
        values = {
            "pictures": row.picture,
            "joints": row.joints,
            "openpose": row.openpose,
            "identity": item.identity,
            "split": SPLITS.index(item.split),
        }
        self.files.write(number, {name: np.asarray(value)[None] for name, value in values.items()})
        self._waiting += 1
        if self._waiting >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Bring what was written to the disk, and only then call it done."""
        self.files.flush()
        self._waiting = 0

    def __enter__(self) -> PeopleWriter:
        return self

    def __exit__(self, *_) -> None:  # also after Ctrl-C: what is there is kept
        self.flush()
        self.files.close()


def official_pairs(plan: Plan) -> dict[str, np.ndarray]:
    """Rows (m, 2) of the set's own pairs, by split; without pairs of pictures that are no rows."""
    if plan.pairs is None:
        return {}
    number = {item.name: n for n, item in enumerate(plan.items)}
    found: dict[str, list[tuple[int, int]]] = {}
    for source, target in plan.pairs:
        a, b = number.get(source), number.get(target)
        if a is None or b is None:
            continue
        found.setdefault(plan.items[a].split, []).append((a, b))
    return {split: np.array(rows, np.int64) for split, rows in found.items()}
