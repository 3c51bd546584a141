"""A set of synthetic people: layout, description, workers; `training/generate.py` explains the arrays."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, read_json, write_text
from training.data.people_set import SPLITS, VERSION, split_of
from training.data.row_files import Layout, RowFiles
from training.synthetic.body import load_body
from training.synthetic.materials import LABELS
from training.synthetic.poses import KINDS
from training.synthetic.render import render_identity

REVISION = 3  # of the people: raised whenever the same arguments give other pictures
SETTLE_SECONDS = 1.0  # between two marks of what is done; a kill repeats at most this much work


@dataclass(frozen=True)
class Arguments:
    """What decides the bytes of a set; second_person is the share of pictures with a second person, cell the side of a
    cell of the correspondence in pixels."""

    identities: int
    poses: int
    seed: int = 1
    height: int = 256
    width: int = 192
    correspondence: bool = False
    second_person: float = 0.0
    cell: int = 4

    def __post_init__(self) -> None:
        if min(self.identities, self.poses) < 1 or self.seed < 0:
            raise InputError("identities and poses must be positive, and seed at least 0.")
        if min(self.height, self.width) < 16:
            raise InputError(f"height {self.height} and width {self.width} must be at least 16.")
        if self.cell < 1 or self.height % self.cell or self.width % self.cell:
            raise InputError(f"cell = {self.cell} must be positive and divide height {self.height} and width "
                             f"{self.width}.")  # fmt: skip
        if not 0 <= self.second_person <= 1:
            raise InputError(f"second_person = {self.second_person} is a share of the pictures: 0 to 1.")


def layout(a: Arguments) -> Layout:
    """Shape and dtype of every array of the data set."""
    n, k, cells = a.identities * a.poses, a.poses, (a.height // a.cell, a.width // a.cell)
    arrays = {
        "pictures": ((n, a.height, a.width, 3), "uint8"),
        "joints": ((n, 17, 3), "float32"),
        "openpose": ((n, 18, 3), "float32"),
        "identity": ((n,), "int64"),
        "split": ((n,), "uint8"),
        "views": ((n, 2), "float32"),
        "masks": ((n, a.height, a.width), "uint8"),
        "garments": ((n, a.height, a.width), "uint8"),
        "done": ((n,), "uint8"),
    }
    if a.second_person > 0:
        arrays["others"] = ((n, 17, 3), "float32")
    if a.correspondence:
        arrays |= {"flow": ((n, k, *cells, 2), "float16"), "visibility": ((n, k, *cells), "uint8")}
        arrays["surface"] = ((n, *cells, 3), "float16")
    return arrays


def describe(folder: Path, arguments: Arguments) -> None:
    """Write dataset.json, or check that the one there describes the same data."""
    description = {
        "format": "people set",
        "version": VERSION,
        "name": "synthetic people",
        "source": {"generator": "training/data/synthetic.py", "revision": REVISION, **asdict(arguments)},
        "height": arguments.height,
        "width": arguments.width,
        "split": "by identity i: i % 25 == 0 test, i % 25 == 1 val, otherwise train",
        "garments": list(LABELS),
        "poses": list(KINDS),
        "licence": "Rendered from Anny (code Apache-2.0) and MakeHuman assets (CC0), some poses from motion clips of "
        "the Bullet Physics SDK (zlib); may be passed on freely. The pictures show no real person.",
    }
    path = folder / "dataset.json"
    if path.exists():
        if read_json(path, str(path), "delete it, or give another --out") != description:
            raise InputError(f"{path} describes data made with other arguments or by another version of the generator: "
                             "give another --out or the same arguments.")  # fmt: skip
        return
    write_text(path, json.dumps(description, indent=1) + "\n")


def generate(out: str | Path, identities: int, poses: int, seed: int = 1, workers: int = 2, **more) -> None:
    """Make the data set in the folder `out`, or finish it; one worker means in this process.

    Args:
        more: the other fields of `Arguments`.

    Raises:
        InputError: the folder holds something else, the disk is full, or a worker was killed. What was finished stays.
    """
    if workers < 1:
        raise InputError(f"workers = {workers} must be positive.")
    out, arguments = Path(out), Arguments(identities, poses, seed, **more)
    make_folder(out, "out")
    describe(out, arguments)
    with RowFiles(out, layout(arguments)) as files:
        missing = np.flatnonzero(~files.done().reshape(-1, poses).all(1)).tolist()
        total = identities * poses
        settled = 0.0
        with tqdm(total=total, initial=total - len(missing) * poses, unit="picture") as bar:
            try:
                for identity, rows in _render_all(missing, arguments, workers):
                    files.write(identity * poses, rows)
                    bar.update(poses)
                    if time.monotonic() - settled > SETTLE_SECONDS:
                        files.flush()
                        settled = time.monotonic()
            finally:
                files.flush()


def _render_all(missing: list[int], arguments: Arguments, workers: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(identity, rows) of the missing identities, in any order."""
    if workers == 1 or len(missing) < 2:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: the order of a sum must not depend on the machine
        try:
            for identity in missing:
                yield identity, _render(identity, arguments)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), context, _start_worker) as pool:
        waiting, left = {}, iter(missing)
        try:
            while True:
                for identity in left:
                    waiting[pool.submit(_render, identity, arguments)] = identity
                    if len(waiting) == 3 * workers:  # enough to keep them busy, little to hold in memory
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise InputError("A worker was killed, perhaps for want of memory. What was finished is kept: run the same "
                             "command again, with fewer --workers.") from error  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Runs in every worker: one thread each, and an end when the main process has gone."""
    import torch

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def end_with_it() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _render(identity: int, a: Arguments) -> dict[str, np.ndarray]:
    rows = render_identity(
        load_body(), a.seed, identity, a.poses, a.height, a.width, a.correspondence, a.second_person, a.cell
    )
    rows["identity"] = np.full(a.poses, identity, np.int64)
    rows["split"] = np.full(a.poses, SPLITS.index(split_of(identity)), np.uint8)
    return rows
