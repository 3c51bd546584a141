"""A contact sheet: one row an identity, one column a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from reposedm_core.errors import InputError
from reposedm_core.files import write_picture


def contact_sheet(pictures: np.ndarray, zoom: int = 1) -> np.ndarray:
    """pictures (I, K, H, W, 3) uint8 → one picture (I·H·zoom, K·W·zoom, 3) uint8."""
    rows, columns, height, width, _ = pictures.shape
    sheet = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return sheet.repeat(zoom, 0).repeat(zoom, 1)


def save_contact_sheet(folder: Path, path: Path, identities: int = 12, zoom: int = 1) -> None:
    """Write the first people of a set whose pictures are all finished as one picture file, at most 8 pictures each.

    Raises:
        InputError: nobody is finished.
    """
    label, done = np.load(folder / "identity.npy"), np.load(folder / "done.npy") != 0
    pictures = np.load(folder / "pictures.npy", mmap_mode="r")
    people, first, counts = np.unique(label[done], return_index=True, return_counts=True)
    if len(people) == 0:
        raise InputError(f"{folder} has no finished identity to show; run the generator first")
    rows = np.flatnonzero(done)
    columns = min(int(counts.max()), 8)
    shown = [rows[start : start + columns] for start, count in zip(first, counts, strict=True) if count >= columns]
    sheet = contact_sheet(np.stack([pictures[part] for part in shown[:identities]]), zoom)
    write_picture(path, Image.fromarray(sheet), quality=92)
