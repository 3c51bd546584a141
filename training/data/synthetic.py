"""Generate the synthetic-people data set: dressed people in random poses, with joints and correspondences.

    python training/data/synthetic.py --identities 4000 --poses 6 --seed 1 --out data/synthetic --workers 2

writes a folder of plain .npy arrays, I identities, K pictures each, H × W pixels, h × w = H/2 × W/2 cells:

    pictures    (I, K, H, W, 3) uint8    sRGB
    joints      (I, K, 17, 3) float32    COCO-17: x, y in pixels, 0 outside / 1 hidden / 2 visible
    masks       (I, K, H, W) uint8       1 on the person
    garments    (I, K, H, W) uint8       0 background 1 skin 2 hair 3 top 4 bottom 5 shoes 6 other
    flow        (I, K, K, h, w, 2) float16   [identity, source, target]: where a target cell's surface point
                                         lies in the source, in grid_sample coordinates (align_corners=False);
                                         0 off the person
    visibility  (I, K, K, h, w) uint8    0 background, 1 hidden in the source, 2 visible in the source
    done        (I,) uint8               1 once the identity is on disk; a stopped run resumes from here

Identity i depends on (seed, i) only, so neither the number of workers nor an interruption changes a byte.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # run as a script: make `training` importable from the project root
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "training.data"

import numpy as np
from tqdm import tqdm

from reposedm_core.errors import InputError
from training.data.body import load_body
from training.data.contact_sheet import save_contact_sheet
from training.data.render import render_identity

VERSION = 1
FLUSH_EVERY = 32  # identities between two flushes; an interruption repeats at most these


def layout(identities: int, poses: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every array of the data set."""
    i, k, cells = identities, poses, (height // 2, width // 2)
    return {
        "pictures": ((i, k, height, width, 3), "uint8"),
        "joints": ((i, k, 17, 3), "float32"),
        "masks": ((i, k, height, width), "uint8"),
        "garments": ((i, k, height, width), "uint8"),
        "flow": ((i, k, k, *cells, 2), "float16"),
        "visibility": ((i, k, k, *cells), "uint8"),
        "done": ((i,), "uint8"),
    }


def open_arrays(folder: Path, identities: int, poses: int, height: int, width: int) -> dict[str, np.memmap]:
    """Open the arrays of a data set for writing, creating those that are missing.

    Raises InputError when a file there has another shape or type: the folder holds a data set of other
    arguments.
    """
    arrays = {}
    for name, (shape, dtype) in layout(identities, poses, height, width).items():
        path = folder / f"{name}.npy"
        if not path.exists():
            fresh = path.with_suffix(".part")
            np.lib.format.open_memmap(fresh, mode="w+", dtype=dtype, shape=shape).flush()
            os.replace(fresh, path)
        array = np.lib.format.open_memmap(path, mode="r+")
        if array.shape != shape or array.dtype != dtype:
            raise InputError(
                f"{path} holds {array.dtype} {array.shape}, not {dtype} {shape}: "
                "give another --out or the same arguments"
            )
        arrays[name] = array
    return arrays


def describe(folder: Path, arguments: dict[str, int]) -> None:
    """Write dataset.json, or check that the one there describes the same data."""
    description = {
        "generator": "synthetic people",
        "version": VERSION,
        **arguments,
        "arrays": {name: {"shape": s, "dtype": t} for name, (s, t) in layout(
            arguments["identities"], arguments["poses"], arguments["height"], arguments["width"]).items()},
        "split": "by identity i: i % 25 == 0 test, i % 25 == 1 val, otherwise train",
        "licence": "Rendered from Anny (code Apache-2.0) and MakeHuman assets (CC0); "
        "the pictures show no real person.",
    }  # fmt: skip
    description = json.loads(json.dumps(description))
    path = folder / "dataset.json"
    if path.exists():
        if json.loads(path.read_text()) != description:
            raise InputError(
                f"{path} describes data made with other arguments: give another --out or the same arguments"
            )
        return
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(description, indent=1) + "\n")
    os.replace(fresh, path)


def generate(
    out: Path,
    identities: int,
    poses: int,
    seed: int = 1,
    workers: int = 2,
    height: int = 128,
    width: int = 96,
) -> None:
    """Make the data set, or finish it; height and width are even, and one worker means in this process."""
    if min(identities, poses, workers) < 1 or height < 16 or width < 16 or height % 2 or width % 2:
        raise InputError(
            "identities, poses and workers must be positive, height and width even and at least 16"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    arguments = {"identities": identities, "poses": poses, "seed": seed, "height": height, "width": width}
    describe(out, arguments)
    arrays = open_arrays(out, identities, poses, height, width)
    missing = [int(i) for i in np.flatnonzero(arrays["done"] == 0)]
    tasks = [(seed, i, poses, height, width) for i in missing]

    waiting: list[int] = []

    def settle() -> None:
        for name, array in arrays.items():
            if name != "done":
                array.flush()
        arrays["done"][waiting] = 1
        arrays["done"].flush()
        waiting.clear()

    with tqdm(total=identities * poses, initial=(identities - len(missing)) * poses, unit="picture") as bar:
        for identity, result in _render_all(tasks, workers):
            for name, value in result.items():
                arrays[name][identity] = value
            waiting.append(identity)
            if len(waiting) == FLUSH_EVERY:
                settle()
            bar.update(poses)
        if waiting:
            settle()


def _render_all(tasks: list[tuple], workers: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    if workers == 1 or len(tasks) < 2:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: the order of a sum must not depend on the machine
        try:
            yield from map(_render, tasks)
        finally:
            torch.set_num_threads(threads)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks)), _start_worker) as pool:
        yield from pool.imap_unordered(_render, tasks)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)


def _render(task: tuple[int, int, int, int, int]) -> tuple[int, dict[str, np.ndarray]]:
    seed, identity, poses, height, width = task
    return identity, render_identity(load_body(), seed, identity, poses, height, width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--identities", type=int, default=4000)
    parser.add_argument("--poses", type=int, default=6, help="pictures an identity")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("data/synthetic"), help="folder of the data set")
    parser.add_argument("--workers", type=int, default=2, help="processes; does not change the data")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of the first identities here")
    args = parser.parse_args()
    try:
        generate(args.out, args.identities, args.poses, args.seed, args.workers, args.height, args.width)
        if args.sheet:
            save_contact_sheet(args.out, args.sheet)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
