"""Picture sheets: labelled panels side by side under a title, with lines of text below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from reposedm_core.letterbox import Letterbox

PAPER, INK, FAINT = (250, 249, 246), (30, 30, 34), (110, 108, 104)
MARGIN, GAP = 20, 12


def fitted(
    picture: Image.Image, width: int, height: int, ground: tuple[int, int, int] = (200, 200, 200)
) -> Image.Image:
    """The picture enlarged or reduced (Lanczos) into width×height, aspect kept, on a plain ground (grey)."""
    letterbox = Letterbox((picture.height, picture.width), (height, width))
    panel = Image.new("RGB", (width, height), ground)
    small = picture.convert("RGB").resize(letterbox.inner[::-1], Image.Resampling.LANCZOS)
    panel.paste(small, letterbox.corner[::-1])
    return panel


def make_sheet(
    panels: Sequence[tuple[str, Image.Image]],
    title: str,
    lines: Sequence[str] = (),
    width: int = 288,
    height: int = 384,
) -> Image.Image:
    """A sheet of panels.

    Args:
        panels: label and picture of each, left to right.
        title: its heading.
        lines: paragraphs below the panels, wrapped to the sheet's width.
        width, height: of a panel in pixels.
    """
    heading, label, text = (ImageFont.load_default(size) for size in (24, 17, 15))
    total = 2 * MARGIN + len(panels) * (width + GAP) - GAP
    wrapped = [line for part in lines for line in textwrap.wrap(part, (total - 2 * MARGIN) // 7)]
    top = MARGIN + 44
    below = top + 26 + height + 14
    sheet = Image.new("RGB", (total, below + 22 * len(wrapped) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, heading)
    for index, (name, picture) in enumerate(panels):
        left = MARGIN + index * (width + GAP)
        draw.text((left, top), name, INK, label)
        sheet.paste(fitted(picture, width, height), (left, top + 26))
    for index, line in enumerate(wrapped):
        draw.text((MARGIN, below + 22 * index), line, FAINT, text)
    return sheet


def make_thumbnail(pictures: Sequence[Image.Image], side: int = 512) -> Image.Image:
    """A square of four pictures, two above two, for ComfyUI's template browser."""
    width, height = side * 3 // 8, side // 2  # pictures are 3:4
    sheet = Image.new("RGB", (side, side), PAPER)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, 2)
        left = side // 2 - width + column * width
        sheet.paste(fitted(picture, width, height), (left, row * height))
    return sheet


def make_card(picture: Image.Image, words: str, side: int = 512) -> Image.Image:
    """A square of one picture and a line or two of words below it, for a workflow that shows no result of its own."""
    font, line = ImageFont.load_default(side // 18), side // 14
    lines = textwrap.wrap(words, 30)
    height = side - line * len(lines) - line
    card = Image.new("RGB", (side, side), PAPER)
    card.paste(fitted(picture, side, height, (0, 0, 0)))
    draw = ImageDraw.Draw(card)
    for index, text in enumerate(lines):
        draw.text((side // 2, height + line * (index + 1)), text, INK, font, anchor="mm")
    return card
