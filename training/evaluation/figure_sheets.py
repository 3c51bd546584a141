"""Sheets of pictures as the paper prints them: labelled columns of equal cells, as PDF and PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_bytes
from reposedm_core.images import to_rgb

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
POINT = 1 / 72
"""Of an inch."""


@dataclass(frozen=True)
class Look:
    """How a sheet looks, in inches and points.

    Attributes:
        width: of the sheet; the paper's text is 6.9 inches wide.
        gap, block_gap: between pictures, and between blocks of columns that stand side by side.
        font: size of the labels; captions are a point smaller.
        dpi: of the PNG.
    """

    width: float = 6.9
    gap: float = 0.02
    block_gap: float = 0.12
    font: float = 7.0
    dpi: int = 300


def pictures_in(folder: Path) -> dict[str, Path]:
    """Stem → picture of a folder, in the order of the names.

    Raises:
        InputError: no such folder, no picture in it, or two of one stem.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    except OSError:
        raise InputError(
            f"{folder} is no folder of pictures that can be read; name the folder of one column."
        ) from None
    found = {path.stem: path for path in files}
    if not found:
        raise InputError(f"{folder} holds no picture ({', '.join(ENDINGS)}).")
    if len(found) < len(files):
        twice = next(path for path in files if found[path.stem] != path)
        raise InputError(f"{folder} holds {twice.name} and {found[twice.stem].name}: leave one of both.")
    return found


def choose(columns: dict[str, dict[str, Path]], wanted: Sequence[str], count: int) -> list[str]:
    """Names of the rows: those of `wanted`, by their names or how they begin, or the first `count` of all columns.

    Args:
        columns: label → stem → picture.

    Raises:
        InputError: a column lacks one of them, or no name is in all columns.
    """
    common = [name for name in next(iter(columns.values())) if all(name in column for column in columns.values())]
    if not wanted:
        if not common:
            some = ", ".join(f"{label}: {next(iter(column))}" for label, column in columns.items())
            raise InputError(f"No picture has one name in all columns ({some} …): name them alike.")
        return common[:count]
    names = []
    for each in wanted:
        found = [name for name in common if name == each] or [name for name in common if name.startswith(each)]
        if len(found) != 1:
            lacking = [label for label, column in columns.items() if not any(name.startswith(each) for name in column)]
            what = f"the columns {', '.join(lacking)} have none" if lacking else f"{len(found)} names begin with it"
            raise InputError(f"rows: {each}: {what}; give names (or beginnings of them) that every column has once.")
        names.append(found[0])
    return names


def read_cell(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A picture fitted into (width, height), aspect kept, on white: uint8 (height, width, 3)."""
    try:
        with Image.open(path) as opened:
            picture = to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}); make it again.") from None
    if picture.size != size:
        picture = ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color=(255, 255, 255))
    return np.array(picture)


def draw_sheet(
    columns: dict[str, dict[str, Path]],
    rows: Sequence[str],
    captions: dict[str, str] | None = None,
    across: int = 1,
    bold: Sequence[str] = (),
    look: Look | None = None,
) -> Figure:
    """Rows of pictures under labels, filled block by block from the left.

    All cells have one size, that of the largest picture of the first row's; others are fitted into it.

    Args:
        columns: label → stem → picture. rows: stems, see `choose`.
        captions: stem → a text under its row, wrapped; None is no room for any.
        across: blocks side by side, each with all columns.
        bold: labels that are set in bold type.

    Raises:
        InputError: a picture cannot be read.
    """
    look = look or Look()
    across = max(1, min(across, len(rows)))
    deep = -(-len(rows) // across)
    with_sizes = []
    for column in columns.values():
        try:
            with Image.open(column[rows[0]]) as picture:
                with_sizes.append(ImageOps.exif_transpose(picture).size)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{column[rows[0]]} cannot be read as a picture ({error}); make it again.") from None
    size = max(with_sizes, key=lambda each: each[0] * each[1])
    gaps = across * (len(columns) - 1) * look.gap + (across - 1) * look.block_gap
    wide = (look.width - gaps) / (across * len(columns))
    high = wide * size[1] / size[0]
    block = len(columns) * (wide + look.gap) - look.gap
    letters = max(8, int(block / (0.5 * (look.font - 1) * POINT)))
    wrapped = {name: textwrap.wrap((captions or {}).get(name, ""), letters) for name in rows}
    line = 1.25 * (look.font - 1) * POINT
    under = line * max((len(lines) for lines in wrapped.values()), default=0)
    heads = {label: textwrap.wrap(label, max(4, int(wide / (0.62 * look.font * POINT)))) for label in columns}
    head = (0.5 + 1.2 * max(map(len, heads.values()))) * look.font * POINT
    height = head + deep * (high + under + look.gap)
    figure = Figure(figsize=(look.width, height), dpi=look.dpi)
    for number, name in enumerate(rows):
        left = number // deep * (block + look.block_gap)
        top = height - head - number % deep * (high + under + look.gap)
        for place, (label, column) in enumerate(columns.items()):
            x = left + place * (wide + look.gap)
            box = (x / look.width, (top - high) / height, wide / look.width, high / height)
            axes = figure.add_axes(box)
            axes.imshow(read_cell(column[name], size), interpolation="none", aspect="auto")
            axes.axis("off")
            if number % deep == 0:
                weight = "bold" if label in bold else "normal"
                middle = (x + wide / 2) / look.width
                lift = (top + 0.3 * look.font * POINT) / height
                text = "\n".join(heads[label])
                figure.text(middle, lift, text, ha="center", va="bottom", fontsize=look.font, weight=weight)
        if wrapped[name]:
            text = "\n".join(wrapped[name])
            low = (top - high - 0.1 * line) / height
            figure.text(
                (left + block / 2) / look.width, low, text, ha="center", va="top", fontsize=look.font - 1, linespacing=1
            )
    return figure


def save_sheet(figure: Figure, path: Path) -> list[Path]:
    """Write PATH.pdf and PATH.png, the same bytes for the same figure."""
    import matplotlib

    make_folder(path.parent, "out")
    written = []
    for kind, changing in (("pdf", "CreationDate"), ("png", "Software")):
        buffer = BytesIO()
        with matplotlib.rc_context({"pdf.fonttype": 42}):  # letters stay letters
            figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata={changing: None})
        written.append(path.with_name(f"{path.name}.{kind}"))
        write_bytes(written[-1], buffer.getvalue())
    return written
