"""A video of people: frames → people → tracks → crops; all crops of a track show one person."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reposedm_core.errors import InputError
from reposedm_core.files import write_text
from training.preparation.adapter import Adapter
from training.preparation.plan import Item, Plan, Shares, Skip, hold_out, inside
from training.preparation.reading import Reader, Reading, Row
from training.preparation.tracking import follow

VIDEOS = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
MARGIN = 0.12
"""Of a box, added on each side."""
PICTURES_A_SECOND = 3
CACHE = "tracks.json"


@dataclass(frozen=True)
class Crop(Item):
    """A box (left, top, right, bottom; pixels) of a frame of a video."""

    frame: int = 0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Video(Adapter):
    """One video, or a folder of them, taken by a camera that stands still."""

    name = "video"
    title = "People of a video"
    licence = "That of the video's owner; ask the people shown."
    size = (128, 96)
    resize = "letterbox"
    estimator = "ours"

    def plan(self, root: Path, shares: Shares, cache: Path) -> Plan:
        skipped: list[Skip] = []
        files = [root]
        if root.is_dir():
            named = [path for path in sorted(root.iterdir()) if path.suffix.lower() in VIDEOS and path.is_file()]
            files = [path for path in named if inside(root, path.name)]
            skipped = [Skip(path.name, "outside of the root", "a link") for path in named if path not in files]
        found = _cached(cache / CACHE)
        tracks: list[tuple[Path, int, list]] = []
        for path in files:
            key = f"{path.name} {path.stat().st_size} {_checksum(path)}"
            if key not in found:
                try:
                    found[key] = find_people(path)
                except InputError as error:
                    if root.is_file():
                        raise
                    skipped.append(Skip(path.name, "corrupt video", str(error)))
                    continue
                cache.mkdir(parents=True, exist_ok=True)
                write_text(cache / CACHE, json.dumps(found))
            skipped += [Skip(*skip) for skip in found[key]["skipped"]]
            tracks += [(path, number, track) for number, track in enumerate(found[key]["tracks"])]
        split = hold_out({f"{path.name} {number}" for path, number, _ in tracks}, shares.val, shares.test)
        items: list[Item] = [
            Crop(
                f"{path.name}, person {number}, frame {frame}",
                identity,
                split[f"{path.name} {number}"],
                path,
                frame=frame,
                box=tuple(box),
            )
            for identity, (path, number, track) in enumerate(tracks)
            for frame, box in track
        ]
        return Plan(items, None, skipped)

    def rows(
        self, plan: Plan, missing: Sequence[int], reading: Reading, workers: int
    ) -> Iterator[tuple[int, Row | Skip]]:
        """Each video is decoded once, in this process."""
        reader = Reader(reading)
        crops = {int(number): crop for number in missing if isinstance(crop := plan.items[number], Crop)}
        wanted: dict[Path, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, crop in crops.items():
            wanted[crop.path][crop.frame].append(number)
        for path, by_frame in wanted.items():
            for frame, picture in enumerate(read_frames(path)):
                for number in by_frame.pop(frame, ()):
                    yield number, reader.row(crops[number], cut(picture, crops[number].box, reading.size))
                if not by_frame:
                    break
            for numbers in by_frame.values():
                yield from (
                    (number, Skip(crops[number].name, "corrupt picture", "the video ends before it"))
                    for number in numbers
                )


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames (h, w, 3) uint8 of a video, up to the first that cannot be decoded.

    Raises:
        InputError: no video, or none of its frames can be decoded.
    """
    import av

    number = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: there is no video in this file.")
            for frame in container.decode(container.streams.video[0]):
                picture = frame.to_ndarray(format="rgb24")
                turns = round(getattr(frame, "rotation", 0) / 90) % 4  # how a telephone was held
                yield np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
                number += 1
    except (av.error.FFmpegError, OSError) as error:
        if not number:
            raise InputError(f"{path}: cannot be read as a video ({error}).") from error


def frame_rate(path: Path) -> float:
    """Frames a second."""
    import av

    try:
        with av.open(str(path)) as container:
            return float(container.streams.video[0].average_rate or 25)
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as a video ({error}).") from error


def find_people(path: Path) -> dict:
    """Tracks of a video as JSON: {"tracks": [[[frame, [left, top, right, bottom]], …], …], "skipped": […]}."""
    every = max(1, round(frame_rate(path) / PICTURES_A_SECOND))
    tracks, skipped = [], []
    for number, track in enumerate(follow(tqdm(read_frames(path), desc=f"people in {path.name}", unit="frame"))):
        pictures = [[frame, [round(float(v), 1) for v in box]] for frame, box in track.pictures(every)]
        if len(pictures) > 1:
            tracks.append(pictures)
        else:
            skipped.append(
                (
                    f"{path.name}, track {number}",
                    "never whole and alone",
                    f"frames {track.frames[0]} to {track.frames[-1]}",
                )
            )
    return {"tracks": tracks, "skipped": skipped}


def cut(picture: np.ndarray, box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """The box with a margin, made as wide or as high as the aspect of `size` asks, as far as the frame reaches."""
    left, top, right, bottom = box
    width, height = (1 + 2 * MARGIN) * (right - left), (1 + 2 * MARGIN) * (bottom - top)
    width, height = max(width, height * size[1] / size[0]), max(height, width * size[0] / size[1])
    x, y = (left + right) / 2, (top + bottom) / 2
    rows = slice(max(0, round(y - height / 2)), max(1, round(y + height / 2)))
    return picture[rows, max(0, round(x - width / 2)) : max(1, round(x + width / 2))]


def _cached(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _checksum(path: Path) -> int:
    """Of the first and the last million bytes."""
    with path.open("rb") as file:
        total = zlib.crc32(file.read(1_000_000))
        file.seek(max(0, path.stat().st_size - 1_000_000))
        return zlib.crc32(file.read(), total)
