"""Files that are whole or not there: settings read from JSON, and writing that a kill leaves the previous file of."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError, shortened

LARGEST_JSON = 64 * 2**20
"""Bytes of a file of settings at most; those of the largest text encoders have a thousandth."""


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


def reason(error: BaseException) -> str:
    """What an error says, in one line and not too long; its name where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the message has
    lines = str(error).strip().splitlines()
    return shortened(lines[0] if lines else type(error).__name__, 300)


@contextlib.contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """A file to write beside `path`; it takes that place when the block ends well, and is gone when it does not.

    Folders on the way are made. `shared`: others may write the same file now; each writes one of its own first.

    Raises:
        InputError: from an `OSError`, in the block too: the disk is full, or nothing of that name can be there.
    """
    mark = f".{uuid.uuid4().hex}.part" if shared else ".part"
    fresh = path.with_name(path.name + mark)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield fresh
        os.replace(fresh, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what is wrong with the place may hinder clearing up, too
            fresh.unlink()
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


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
    kept = "the one of before is intact" if before else "there is none of before"
    return InputError(
        f"{shortened(path, 300)} could not be written ({reason(error)}); {kept}. Make room, or choose "
        "another place, and run the same command again."
    )
