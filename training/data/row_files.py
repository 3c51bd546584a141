"""Writing a set's arrays row by row: preallocated .npy files that a full disk or a kill leaves whole.

Rows are written with plain writes, not through a memory map: a full disk is then an error with a message, where a
mapped page would end the process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reposedm_core.errors import InputError
from reposedm_core.files import replacing

Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of every array by name; `done` (n,) uint8 is one of them."""


class RowFiles:
    """The arrays of a folder, opened for writing; those that are missing are created, filled with zeros.

    Args:
        folder: exists.
        layout: of the arrays; their first axis is the row.

    Raises:
        InputError: a file there has another shape or type, or the disk has no room for all of them.
    """

    def __init__(self, folder: Path, layout: Layout):
        self.folder, self.layout = folder, layout
        self._waiting: list[int] = []
        missing = [name for name in layout if not (folder / f"{name}.npy").exists()]
        need = sum(int(np.prod(layout[name][0])) * np.dtype(layout[name][1]).itemsize for name in missing)
        free = shutil.disk_usage(folder).free
        if need > free:
            raise InputError(
                f"The set needs {need / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free: make room, give "
                "another --out, or ask for a smaller set."
            )
        for name in missing:
            self._create(name)
        self._files, self._offset = {}, {}
        for name, (shape, dtype) in layout.items():
            path = folder / f"{name}.npy"
            array = np.load(path, mmap_mode="r")
            if array.shape != tuple(shape) or array.dtype != dtype:
                raise InputError(
                    f"{path} holds {array.dtype} {array.shape}, not {dtype} {tuple(shape)}: give another --out or the "
                    "same arguments."
                )
            self._offset[name] = array.offset
            self._files[name] = open(path, "r+b", buffering=0)  # noqa: SIM115  (closed by `close`)

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def done(self) -> np.ndarray:
        """(n,) bool: the rows that are whole on disk."""
        return np.load(self.folder / "done.npy") != 0

    def write(self, first: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write rows from number `first` on, arrays (k, …) by name; `flush` makes them count as done.

        Raises:
            InputError: the disk refuses.
        """
        for name, value in rows.items():
            shape, dtype = self.layout[name]
            value = np.ascontiguousarray(value, dtype)
            if value.shape[1:] != tuple(shape[1:]):
                raise ValueError(f"{name}: rows of shape {value.shape[1:]}, not {tuple(shape[1:])}")
            self._put(name, first, value)
        self._waiting += range(first, first + len(value))

    def flush(self) -> None:
        """Bring what was written to the disk, then mark it as done."""
        if not self._waiting:
            return
        try:
            for name, file in self._files.items():
                if name != "done":
                    os.fsync(file.fileno())
        except OSError as error:
            raise self._refused("its files", error) from error
        for row in self._waiting:
            self._put("done", row, np.ones(1, np.uint8))
        self._waiting.clear()

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _create(self, name: str) -> None:
        shape, dtype = self.layout[name]
        path = self.folder / f"{name}.npy"
        with replacing(path) as fresh:
            array = np.lib.format.open_memmap(fresh, mode="w+", dtype=dtype, shape=tuple(shape))
            size = array.offset + array.nbytes
            del array
            if hasattr(os, "posix_fallocate"):  # take the room now, so that the disk cannot fill up half way
                with open(fresh, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, size)

    def _put(self, name: str, row: int, value: np.ndarray) -> None:
        file, left = self._files[name], value.data.cast("B")
        try:
            file.seek(self._offset[name] + row * (value.nbytes // len(value)))
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            raise self._refused(f"{name}.npy", error) from error

    def _refused(self, what: str, error: OSError) -> InputError:
        return InputError(f"{self.folder}: {what} could not be written ({error.strerror}). What was finished is kept: "
                          "make room, then run the same command again.")  # fmt: skip
