"""Pictures with a caption and the poses of the people in them: what HumanSD trained on, for the stage `reposesd`."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from reposedm_core.errors import InputError
from reposedm_core.files import disk_full, read_json, replacing, write_array, write_json
from training.data.captioned_set import FORMAT, VERSION
from training.data.people_set import SPLITS
from training.preparation.plan import Item, Shares, Skip, hold_out, inside
from training.preparation.reading import open_picture

LEAST_SCORE = 0.02
"""Joints of a lower score count as absent, as in HumanSD's training."""


@dataclass(frozen=True)
class Caption:
    """A picture that is to become a line: paths within the root, and COCO joints (P, 17, 3), x, y, score, if known."""

    name: str
    split: str
    image: str
    text: str
    joints: np.ndarray | None = None
    pose: str = ""


@dataclass
class Captions:
    """What a set holds, and what is left out."""

    items: list[Caption]
    skipped: list[Skip] = field(default_factory=list)


class CaptionedAdapter(ABC):
    """Lists the originals of one text-image-pose set; attributes as in `Adapter`."""

    name: str
    title: str
    licence: str
    size: tuple[int, int] = (512, 512)

    @abstractmethod
    def plan(self, root: Path, shares: Shares) -> Captions:
        """Everything that becomes a line, in an order that depends on the originals only.

        Raises:
            InputError: the set is not there.
        """


def read_mapping(root: Path, file: Path, split: str, val: float, skipped: list[Skip]) -> list[Caption]:
    """The pictures of a HumanSD mapping file: {key: {"img_path": …, "pose_path": …, "prompt": …}}.

    Its paths are relative to some folder above; they are taken from `images` or `pose` on, which lie in `root`.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError(f"a {type(entries).__name__} instead of an object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: no mapping file of HumanSD ({error}).") from error
    held = hold_out(set(entries), val) if split == "train" else {}
    found = []
    for key, entry in entries.items():
        try:
            image, pose = (below(entry[name]) for name in ("img_path", "pose_path"))
            text = str(entry["prompt"]).strip()
        except (KeyError, TypeError, ValueError) as error:
            skipped.append(Skip(key, "unreadable entry", f"{type(error).__name__}: {error}"))
            continue
        if ".." in PurePosixPath(image).parts + PurePosixPath(pose).parts:
            skipped.append(Skip(key, "outside of the root", image))
        elif not text:
            skipped.append(Skip(key, "no caption"))
        else:
            found.append(Caption(key, held.get(key, split), image, text, None, pose))
    return found


def below(path: str) -> str:
    """A set's path from `images` or `pose` on."""
    parts = PurePosixPath(path).parts
    first = next((n for n, part in enumerate(parts) if part in ("images", "pose")), None)
    if first is None:
        raise ValueError(f"{path!r} is below neither images nor pose")
    return str(PurePosixPath(*parts[first:]))


_ARRAYS = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
_ARRAYS |= {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _NumbersOnly(pickle.Unpickler):
    """Reads pickled numpy arrays within lists and dicts; whatever else a file asks for is refused, nothing is run."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is no array of numbers")
        return super().find_class(module, name)


def read_pose_file(file: Path) -> np.ndarray:
    """COCO joints (P, 17, 3) float32, x, y in pixels and score, of a HumanSD .npz file.

    Such a file holds pickled dicts, one per person, with "keypoints" (17, 3); nothing but arrays is unpickled.

    Raises:
        ValueError: another content. OSError: unreadable.
    """
    try:
        with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as member:
            version = np.lib.format.read_magic(member)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            _, _, dtype = read_header[version](member)
            if not dtype.hasobject:
                raise ValueError("numbers instead of a list of people")
            people = _NumbersOnly(member).load()
        joints = np.array([np.asarray(person["keypoints"], np.float32) for person in people], np.float32)
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        IndexError,
        ImportError,
    ) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not len(joints):
        return np.zeros((0, 17, 3), np.float32)
    if joints.ndim != 3 or joints.shape[1] < 17 or joints.shape[2] != 3:
        raise ValueError(f"keypoints of shape {joints.shape[1:]} instead of (17, 3)")
    return joints[:, :17]


def make_line(root: Path, item: Caption) -> dict | Skip:
    """A line of captions.jsonl: image, caption, split, height, width and joints (P, 17, 3) of a whole picture."""
    for path in filter(None, (item.image, item.pose)):
        if inside(root, path) is None:  # by a link; too slow to look at for a million pictures in one process
            return Skip(item.name, "outside of the root", path)
    picture = open_picture(Item(item.name, 0, item.split, root / item.image))
    if isinstance(picture, Skip):
        return picture
    joints = item.joints
    if joints is None:
        file = root / item.pose
        if not file.is_file():
            return Skip(item.name, "missing pose file", item.pose)
        try:
            joints = read_pose_file(file)
        except (OSError, ValueError) as error:
            return Skip(item.name, "corrupt pose file", str(error)[:200])
    height, width = picture.shape[:2]
    joints = np.where(np.isfinite(joints), joints, 0)
    x, y, score = np.moveaxis(joints, -1, 0)
    there = (score > LEAST_SCORE) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    joints = np.where(there[..., None], joints, 0)[there.any(1)]
    if not len(joints):
        return Skip(item.name, "no keypoints")
    return {
        "image": item.image,
        "caption": item.text,
        "split": item.split,
        "height": height,
        "width": width,
        "joints": [[[round(float(v), 2) for v in point] for point in person] for person in joints],
    }


def prepare_captions(
    adapter: CaptionedAdapter, root: Path, out: Path, size: tuple[int, int], workers: int, shares: Shares
) -> dict:
    """Write captions.jsonl and its index, or go on where an earlier run stopped; returns the report.

    The pictures stay where they are: every one is opened once, to know that it is whole, and read again in training.

    Raises:
        InputError: no such originals, a folder that holds something else, or a full disk.
    """
    plan = adapter.plan(root, shares)
    if not plan.items:
        raise InputError(
            f"{root}: no picture of {adapter.title} found there; training/data/README.md shows the "
            "folders that are expected."
        )
    text = "\n".join(f"{item.name} {item.split} {item.image} {item.text}" for item in plan.items)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "name": adapter.title,
        "licence": adapter.licence,
        "source": {"adapter": adapter.name, "val": shares.val},
        "images": str(root.resolve()),
        "height": size[0],
        "width": size[1],
        "plan": zlib.crc32(text.encode("utf-8", "backslashreplace")),
    }
    _describe(out, description)
    rough = out / "captions.part.jsonl"
    if not rough.is_file() and (out / "captions.jsonl").is_file():
        os.replace(out / "captions.jsonl", rough)  # a finished set: only what was left out is tried again
    done = _finished(rough)
    missing = [n for n in range(len(plan.items)) if n not in done]
    skipped = list(plan.skipped)
    try:
        with (
            rough.open("ab") as file,
            tqdm(total=len(plan.items), initial=len(done), desc=adapter.name, unit="picture") as bar,
        ):
            for number, line in _lines(root, plan, missing, workers):
                if isinstance(line, Skip):
                    skipped.append(line)
                    bar.set_postfix(skipped=len(skipped), refresh=False)
                else:
                    file.write(json.dumps({"row": number, **line}, ensure_ascii=True).encode() + b"\n")
                bar.update()
    except OSError as error:
        raise disk_full(error, rough) from error
    counts = _finish(out, rough)
    report = {
        "adapter": adapter.name,
        "written": sum(counts.values()),
        "splits": {split: {"pictures": counts.get(split, 0)} for split in SPLITS},
        "skipped": dict(Counter(skip.reason for skip in skipped).most_common()),
        "skipped_files": [skip._asdict() for skip in sorted(skipped)],
    }
    write_json(out / "report.json", report)
    return report


def _describe(out: Path, description: dict) -> None:
    file = out / "dataset.json"
    if file.is_file():
        if read_json(file, str(file), "delete it, or give another --out") != description:
            raise InputError(f"{out} holds a set of other arguments or other originals: give another --out.")
    else:
        write_json(file, description)


def _finished(file: Path) -> dict[int, int]:
    """Where (in bytes) the line of each finished row begins; a line that a kill cut off is taken off the file."""
    found: dict[int, int] = {}
    if not file.is_file():
        return found
    end = 0
    with file.open("rb") as opened:
        for line in opened:
            if not line.endswith(b"\n"):
                break
            found[json.loads(line)["row"]] = end
            end += len(line)
    os.truncate(file, end)
    return found


def _finish(out: Path, rough: Path) -> Counter:
    """captions.jsonl in the order of the rows, with offsets.npy and split.npy; how many lines each split has."""
    where, splits, offsets = _finished(rough), [], [0]
    with replacing(out / "captions.jsonl") as ordered:
        with rough.open("rb") as source, ordered.open("wb") as target:
            for row in sorted(where):
                source.seek(where[row])
                line = source.readline()
                target.write(line)
                offsets.append(offsets[-1] + len(line))
                splits.append(SPLITS.index(json.loads(line)["split"]))
        write_array(out / "offsets.npy", np.array(offsets, np.int64))
        write_array(out / "split.npy", np.array(splits, np.uint8))
    rough.unlink()
    return Counter(SPLITS[code] for code in splits)


def _lines(root: Path, plan: Captions, missing: list[int], workers: int) -> Iterator[tuple[int, dict | Skip]]:
    tasks = [(root, number, plan.items[number]) for number in missing]
    if workers == 1 or len(tasks) < 2:
        yield from map(_line, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from pool.imap_unordered(_line, tasks, chunksize=8)


def _line(task: tuple[Path, int, Caption]) -> tuple[int, dict | Skip]:
    root, number, item = task
    return number, make_line(root, item)
