"""Files that are whole or not there: a kill or a full disk leaves the previous one; and settings read from JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import InputError, shortened

LARGEST_JSON = 64 * 2**20
"""Bytes of a file of settings at most; those of the largest text encoders have a thousandth."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of an error of writing: the disk is full, or a quota or the largest file's size is reached."""


def read_json(path: Path, where: str, remedy: str = "download it again") -> dict[str, Any]:
    """The object in a file of settings. `where` is what a message calls the file, `remedy` what its reader is to do.

    Raises:
        InputError: no such file, no JSON, JSON nested too deeply to be read, or no object.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has more than {LARGEST_JSON // 2**20} MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        return value
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be read ({reason(error)}); {remedy}.") from error


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; of a folder that of the names and contents of all files below it.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    digest = hashlib.sha256()
    try:
        whole = path.is_dir()
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if whole else [path]:
            digest.update(file.relative_to(path).as_posix().encode("utf-8", "surrogateescape") if whole else b"")
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): name a file or folder of weights.") from None
    return digest.hexdigest()


def reason(error: BaseException) -> str:
    """What an error says, in one line and not too long; its name where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the message has
    lines = str(error).strip().splitlines()
    return shortened(lines[0] if lines else type(error).__name__, 300)


@contextlib.contextmanager
def replacing(path: Path, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """A file to write beside `path`; it takes that place when the block ends well, and is gone when it does not.

    Folders on the way are made.

    Args:
        shared: others may write the same file now; each writes one of its own first.
        durable: not even a power cut costs both files: it is on the disk before it takes the place.

    Raises:
        InputError: from an `OSError`, in the block too: the disk is full, or nothing of that name can be there.
    """
    mark = f".{uuid.uuid4().hex}.part" if shared else ".part"
    fresh = path.with_name(path.name + mark)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        if durable:
            with open(fresh, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(fresh, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what is wrong with the place may hinder clearing up, too
            fresh.unlink()
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Bring a renamed file's name to the disk; where folders cannot be opened (Windows) the system does so itself."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 as `replacing` does; halves of characters, which names of files may have, are escaped.

    Raises:
        InputError: the disk refuses; the previous file is whole.
    """
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as `replacing` does; see `write_text`."""
    with replacing(path) as fresh:
        fresh.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people to read; see `write_text`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy; see `write_text`."""
    with replacing(path) as fresh, fresh.open("wb") as file:
        np.save(file, array)


def write_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """Write a picture in the format of the path's ending; see `write_text`. `options` are those of Pillow's `save`."""
    buffer = io.BytesIO()  # on a full disk Pillow's own writing may cut a file off without an error
    picture.save(buffer, Image.registered_extensions()[path.suffix.lower()], **options)
    write_bytes(path, buffer.getvalue())


def make_folder(path: Path, setting: str) -> None:
    """Make a folder and those on the way, where they are not there yet; `setting` is what the user gave it by.

    Raises:
        InputError: no folder can be there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{setting}: the folder {shortened(path, 300)} cannot be made ({reason(error)}); choose another place."
        ) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """The error that says why `path` could not be written, and whether an earlier file is there."""
    try:
        before = path.is_file()
    except OSError:  # a name that no file can have
        before = False
    kept = "the previous file is intact" if before else "there is no previous file"
    return InputError(
        f"{shortened(path, 300)} could not be written ({reason(error)}); {kept}. Make room, or choose "
        "another place, and run the same command again."
    )


def disk_full(error: OSError, place: object) -> InputError | OSError:
    """What to raise for an error of writing something else than a file of its own: full disks are the user's to solve.

    Returns:
        an `InputError` that says so of `place`, or `error` itself where that is not it.
    """
    if error.errno not in FULL:
        return error
    return InputError(
        f"{place}: the disk is full ({error.strerror}). What was finished is kept; make room, or give another place, "
        "and run the same command again."
    )
