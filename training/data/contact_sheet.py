"""A contact sheet: one row an identity, one column a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from reposedm_core.errors import InputError


def contact_sheet(pictures: np.ndarray, zoom: int = 1) -> np.ndarray:
    """pictures (I, K, H, W, 3) uint8 → one picture (I·H·zoom, K·W·zoom, 3) uint8."""
    rows, columns, height, width, _ = pictures.shape
    sheet = pictures.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    return sheet.repeat(zoom, 0).repeat(zoom, 1)


def save_contact_sheet(folder: Path, path: Path, identities: int = 8, zoom: int = 2) -> None:
    """Write the first finished identities of a data set folder as one picture file."""
    finished = np.flatnonzero(np.load(folder / "done.npy"))[:identities]
    if len(finished) == 0:
        raise InputError(f"{folder} has no finished identity to show; run the generator first")
    pictures = np.load(folder / "pictures.npy", mmap_mode="r")[finished]
    Image.fromarray(contact_sheet(pictures, zoom)).save(path, quality=92)
