"""What is printed on a garment's chest or back: pictograms, letters and numbers as small bitmaps.

A print is a grid of `ROWS` × `COLUMNS` cells, 0 the cloth, 1 the print's colour, 2 its ground; `materials` lays it on
the garment in rest coordinates, so it bends with the cloth. Letters are five cells wide and seven high.
"""

from __future__ import annotations

import numpy as np

ROWS, COLUMNS = 24, 40
SHAPES = ("disc", "square", "cross", "triangle", "ring", "heart", "star", "bolt")
KINDS = {"none": 0.55, "shape": 0.17, "number": 0.10, "letters": 0.14, "patch": 0.04}
"""Kinds of print and their shares: a shape, one or two digits, letters in one or two lines, letters on a ground."""

# Seven rows of five cells a character, from the top; a row is a number whose highest of five bits is the left cell.
_FONT = {
    "A": "0E 11 11 1F 11 11 11", "B": "1E 11 11 1E 11 11 1E", "C": "0E 11 10 10 10 11 0E", "D": "1E 11 11 11 11 11 1E",
    "E": "1F 10 10 1E 10 10 1F", "F": "1F 10 10 1E 10 10 10", "G": "0E 11 10 17 11 11 0E", "H": "11 11 11 1F 11 11 11",
    "I": "1F 04 04 04 04 04 1F", "J": "07 02 02 02 02 12 0C", "K": "11 12 14 18 14 12 11", "L": "10 10 10 10 10 10 1F",
    "M": "11 1B 15 15 11 11 11", "N": "11 19 15 13 11 11 11", "O": "0E 11 11 11 11 11 0E", "P": "1E 11 11 1E 10 10 10",
    "Q": "0E 11 11 11 15 12 0D", "R": "1E 11 11 1E 14 12 11", "S": "0F 10 10 0E 01 01 1E", "T": "1F 04 04 04 04 04 04",
    "U": "11 11 11 11 11 11 0E", "V": "11 11 11 11 11 0A 04", "W": "11 11 11 15 15 1B 11", "X": "11 11 0A 04 0A 11 11",
    "Y": "11 11 0A 04 04 04 04", "Z": "1F 01 02 04 08 10 1F", "0": "0E 11 11 11 11 11 0E", "1": "04 0C 04 04 04 04 0E",
    "2": "0E 11 01 06 08 10 1F", "3": "1E 01 01 0E 01 01 1E", "4": "02 06 0A 12 1F 02 02", "5": "1F 10 1E 01 01 11 0E",
    "6": "0E 10 10 1E 11 11 0E", "7": "1F 01 02 04 08 08 08", "8": "0E 11 11 0E 11 11 0E", "9": "0E 11 11 0F 01 01 0E",
}  # fmt: skip


def bitmap_of(text: str) -> np.ndarray:
    """(7, 6·n - 1) bool: a word in capitals and digits."""
    rows = [[int(number, 16) for number in _FONT[letter].split()] for letter in text]
    letters = [np.array([[row >> (4 - k) & 1 for k in range(5)] for row in letter], bool) for letter in rows]
    return np.concatenate([np.pad(letter, ((0, 0), (0, 1))) for letter in letters], 1)[:, :-1]


def print_of_lines(lines: list[str], ground: bool = False) -> np.ndarray:
    """(ROWS, COLUMNS) uint8: one to three lines of at most six characters, centred, on a ground if asked for."""
    cells = np.zeros((ROWS, COLUMNS), np.uint8)
    words = [bitmap_of(line) for line in lines]
    height, width = 8 * len(words) - 1, max(word.shape[1] for word in words)
    top, left = (ROWS - height) // 2, (COLUMNS - width) // 2
    if ground:
        cells[max(top - 2, 0) : top + height + 2, max(left - 2, 0) : left + width + 2] = 2
    for n, word in enumerate(words):
        start = (COLUMNS - word.shape[1]) // 2
        cells[top + 8 * n : top + 8 * n + 7, start : start + word.shape[1]][word] = 1
    return cells


def print_of_shape(shape: str) -> np.ndarray:
    """(ROWS, COLUMNS) uint8: one of `SHAPES`, as high as the grid."""
    v, u = np.mgrid[0:ROWS, 0:COLUMNS] + 0.5
    x, y = (u - COLUMNS / 2) / (ROWS / 2), (v - ROWS / 2) / (ROWS / 2)  # right and down, ±1 at the grid's height
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    if shape == "disc":
        inside = radius < 0.95
    elif shape == "square":
        inside = np.maximum(np.abs(x), np.abs(y)) < 0.85
    elif shape == "cross":
        inside = (np.minimum(np.abs(x), np.abs(y)) < 0.3) & (np.maximum(np.abs(x), np.abs(y)) < 0.95)
    elif shape == "triangle":
        inside = np.abs(x) < 0.55 * (y + 0.95)
    elif shape == "ring":
        inside = (radius < 0.95) & (radius > 0.55)
    elif shape == "heart":
        inside = np.where(y < -0.2, np.hypot(np.abs(x) - 0.45, y + 0.35) < 0.5, np.abs(x) < 0.95 * (0.92 - y) / 1.12)
    elif shape == "star":
        inside = radius < 0.42 + 0.55 * np.abs(((angle / (2 * np.pi) * 5 + 0.5) % 1) - 0.5) * -2 + 0.55
    else:  # bolt
        inside = (np.abs(x - 0.25 + 0.5 * (y + 1) - 0.45 * (y > -0.1)) < 0.24) & (np.abs(y) < 0.98)
    return inside.astype(np.uint8)


def sample_print(rng: np.random.Generator) -> tuple[np.ndarray, float, tuple[float, float], str]:
    """A print: cells (ROWS, COLUMNS) uint8, size of a cell and centre (x, z) in rest units, and its kind."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    centre = (0.0, float(rng.uniform(0.34, 0.385)))
    if kind == "none":
        return np.zeros((ROWS, COLUMNS), np.uint8), 0.0, centre, kind
    if kind == "shape":
        small = rng.random() < 0.25  # on the left of the chest
        centre = (0.07, 0.41) if small else centre
        size = rng.uniform(0.06, 0.075) if small else rng.uniform(0.10, 0.16)
        return print_of_shape(str(rng.choice(SHAPES))), size / ROWS, centre, kind
    if kind == "number":
        text = str(rng.integers(1, 100))
        return print_of_lines([text]), float(rng.uniform(0.0165, 0.021)), centre, kind
    letters = "".join(rng.choice(list(_FONT)[:26], 8))
    if rng.random() < 0.5:
        lines = [letters[: rng.integers(1, 5)]]
    else:
        lines = [letters[:2], letters[2 : 2 + rng.integers(1, 3)]]
    widest = 6 * max(map(len, lines)) - 1
    tallest = 8 * len(lines) - 1
    cell = min(0.215 / widest, 0.19 / tallest, 0.021) * rng.uniform(0.85, 1)
    return print_of_lines(lines, ground=kind == "patch"), float(cell), centre, kind
