"""Files with poses: JSON or JSON lines, in UTF-8, UTF-16 or Latin-1, packed or not; and folders of a file per frame."""

from __future__ import annotations

import codecs
import json
import re
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

from ...errors import InputError
from .formats import REMEDY

SUFFIXES = (".json", ".jsonl", ".ndjson")
"""Ends of the names of files with poses, in any case; ".gz" may follow."""

_MOST = 2**29
"""Bytes of text that are read."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def is_pose_file(name: str | PathLike) -> bool:
    """Is this the name of a file with poses?"""
    return str(name).lower().removesuffix(".gz").endswith(SUFFIXES)


def pose_files(folder: Path) -> list[Path]:
    """The pose files directly in a folder, with numbers in their names in the order of numbers."""
    found = [path for path in folder.iterdir() if is_pose_file(path.name) and path.is_file()]
    return sorted(
        found, key=lambda path: [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", path.name)]
    )


def read_file(path: str | PathLike) -> Any:
    """What a file holds, or a list of what the pose files of a folder hold.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    path = Path(path)
    try:
        if path.is_dir():
            files = pose_files(path)
            if not files:
                raise InputError(
                    f"{path.name}: there is no file with a pose in this folder: it holds none that ends "
                    f"in {', '.join(SUFFIXES)}."
                )
            return [read_text(_text(file), f"{path.name}/{file.name}") for file in files]
        return read_text(_text(path), path.name)
    except OSError as error:
        raise InputError(f"{path.name}: the file cannot be read ({error.strerror}): check its path.") from error


def read_text(text: str, source: str) -> Any:
    """What JSON text holds; of JSON lines a list.

    Raises:
        InputError: it is neither.
    """
    try:
        data = _parsed(text.removeprefix("\ufeff"))
    except RecursionError as error:
        raise InputError(f"{source}: this is no pose, its JSON is nested too deeply: {REMEDY}.") from error
    except ValueError as error:
        raise InputError(f"{source}: this is no pose: it is no JSON ({error}): {REMEDY}.") from error
    if isinstance(data, str):
        raise InputError(f"{source}: this is no pose, its JSON is a text: {REMEDY}.")
    return data


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as whole:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or not whole.msg.startswith("Extra data"):
            raise
    frames = []
    for number, line in lines:
        try:
            frames.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.msg}: line {number} column {error.colno}") from error
    return frames


def _text(path: Path) -> str:
    if path.stat().st_size > _MOST:
        raise InputError(f"{path.name}: it has more than {_MOST >> 20} MiB; save fewer frames to a file.")
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = _unpacked(data, path.name)
    try:
        return _decoded(data)
    except ValueError as error:
        raise InputError(f"{path.name}: this is no pose, it is no text file: {REMEDY}, saved as JSON.") from error


def _unpacked(data: bytes, name: str) -> bytes:
    """Of a gzip file, which can hold a thousand times what it takes up."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, _MOST + 1)
    except zlib.error as error:
        raise InputError(f"{name}: the packed file is damaged ({error}); pack it again.") from error
    if len(text) > _MOST:
        raise InputError(f"{name}: it unpacks to more than {_MOST >> 20} MiB; save fewer frames to a file.")
    if not unpacker.eof:
        raise InputError(f"{name}: the packed file ends too early; pack it again.")
    return text


def _decoded(data: bytes) -> str:
    coding = next((coding for mark, coding in _MARKS if data.startswith(mark)), None)
    if coding is None and data[1:2] == b"\0" != data[:1]:
        coding = "utf-16-le"  # text without a mark begins with a bracket
    elif coding is None and data[:1] == b"\0" and data[1:2] not in (b"", b"\0"):
        coding = "utf-16-be"
    if coding is not None:
        return data.decode(coding)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
        if text.lstrip()[:1] not in ("{", "["):  # a picture, or another file of bytes
            raise
        return text
