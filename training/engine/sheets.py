"""The sheet that evaluation leaves: pairs in rows, labelled columns, a caption under each row."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (250, 249, 246), (30, 30, 34)
MARGIN, GAP, BLOCK_GAP, HEADER, CAPTION = 16, 4, 24, 24, 20


MOST_WIDE = 3600
"""Pixels, unless one block alone is wider."""


def comparison_sheet(
    columns: dict[str, np.ndarray], captions: list[str], across: int = 3, zoom: int | None = None
) -> Image.Image:
    """One row per pair, filled block by block from the left.

    Args:
        columns: label → pictures (n, H, W, 3) uint8, in the order of the columns.
        captions: n lines, one under each row.
        across: most blocks side by side, each with all columns; fewer where they would be wider than `MOST_WIDE`.
        zoom: pixels per picture's pixel, Lanczos-filtered; None is 2 for pictures of less than 128 pixels, else 1.
    """
    count, height, width = next(iter(columns.values())).shape[:3]
    zoom = zoom or (2 if width < 128 else 1)
    height, width = height * zoom, width * zoom
    block = len(columns) * (width + GAP) - GAP
    across = max(1, min(across, count, MOST_WIDE // (block + BLOCK_GAP)))
    deep = -(-count // across)
    row = height + CAPTION + GAP
    size = 2 * MARGIN + across * (block + BLOCK_GAP) - BLOCK_GAP, 2 * MARGIN + HEADER + deep * row
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    heading, text = ImageFont.load_default(18), ImageFont.load_default(14)
    for index in range(count):
        left = MARGIN + index // deep * (block + BLOCK_GAP)
        top = MARGIN + HEADER + index % deep * row
        for number, (label, pictures) in enumerate(columns.items()):
            x = left + number * (width + GAP)
            picture = Image.fromarray(pictures[index]).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x, top))
            if index % deep == 0:
                draw.text((x, MARGIN), label, INK, heading)
        draw.text((left, top + height + 1), captions[index], INK, text)
    return sheet
