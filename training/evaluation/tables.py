"""Tables of an evaluation, as JSON and in Markdown."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_json, write_text
from training.data.people_set import Pairs
from training.metrics import interval

DISTURBANCES = (2, 4, 8)
"""Mean lengths of the disturbances of `recurrence`, in pixels of a picture of 128 rows."""


def left(pixels: int) -> str:
    """The measure: what is left of a disturbance of so many pixels."""
    return f"left@{pixels}"


TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "Pictures": {
        "perceptual": ("perceptual ↓", "{:.3f}"),
        "lpips": ("LPIPS (AlexNet) ↓", "{:.3f}"),
        "vgg": ("VGG ↓", "{:.3f}"),
        "psnr": ("PSNR ↑", "{:.2f}"),
        "ssim_51": ("SSIM ↑", "{:.3f}"),
        "ssim_256@1.2": ("SSIM_256 σ 1.2 ↑", "{:.3f}"),
        "ssim_256@1.5": ("SSIM_256 σ 1.5 ↑", "{:.3f}"),
        "foreground_l1": ("foreground L1 ↓", "{:.3f}"),
        "colour_right": ("colours right ↑", "{:.1%}"),
        "colour_difference": ("ΔE ↓", "{:.1f}"),
        "sharpness": ("sharpness → 1", "{:.2f}"),
        "background": ("background ↓", "{:.0f}"),
    },
    "Poses": {
        "pck@0.05": ("PCK@0.05 ↑", "{:.1%}"),
        "pck_ratio": ("PCK@0.05 / the truth's ↑", "{:.3f}"),
        "pck@0.1": ("PCK@0.1 ↑", "{:.1%}"),
        "pck_torso@0.2": ("PCK torso@0.2 ↑", "{:.1%}"),
        "pck_head@0.5": ("PCKh-like@0.5 ↑", "{:.1%}"),
        "joint_error": ("joints px ↓", "{:.2f}"),
        "oks": ("OKS ↑", "{:.3f}"),
        "ap": ("AP ↑", "{:.1%}"),
        "ap_m": ("AP(m) ↑", "{:.1%}"),
        "cap_published": ("CAP as published ↑", "{:.1%}"),
        "cap": ("CAP fixed ↑", "{:.1%}"),
        "pce": ("PCE ↓", "{:.2f}"),
    },
    "Texts": {"clip": ("CLIP score ↑", "{:.2f}")},
    "Sets of pictures": {
        "fid": ("FID, {extractor} ↓", "{:.2f}"),
        "kid": ("KID, {extractor} ↓", "{:.4f}"),
        "pictures": ("pictures", "{:.0f}"),
    },
    "Sampling maps": {
        "epe": ("epe ↓", "{:.2f} %"),
        "epe_median": ("median ↓", "{:.2f} %"),
        "epe_90": ("90 % ↓", "{:.2f} %"),
        **{left(pixels): (f"left of {pixels} px ↓", "{:.2f} %") for pixels in DISTURBANCES},
    },
}
COLUMNS = {name: column for table in TABLES.values() for name, column in table.items()}
"""Measure → heading and number format, in the order of the tables."""
GEOMETRIC = ("sharpness",)
"""Ratios, whose means are geometric; their differences mean nothing."""
PARTS = ("rows", "maps")
"""Of a results.json, whose tables are shown."""
OPEN, CLOSE = "<!-- results -->", "<!-- /results -->"

Measures = dict[str, np.ndarray]
"""Measure → one number per pair, (n,), NaN where it says nothing."""
Cell = dict[str, Any]
"""{"mean", "low", "high"}, None where unknown; perhaps "seeds", the mean of each seed."""
Summary = dict[str, dict[str, Cell]]
"""Row → measure → cell."""


def summarise(rows: dict[str, Measures], identity: np.ndarray) -> Summary:
    """Means over pairs (of `GEOMETRIC` geometric ones) with 95 % bootstrap intervals; identity (n,) of each pair."""

    def cell(name: str, values: np.ndarray) -> Cell:
        if name in GEOMETRIC:
            return as_cell(*np.exp(interval(np.log(values), identity)))
        return as_cell(*interval(values, identity))

    return {row: {name: cell(name, values) for name, values in measures.items()} for row, measures in rows.items()}


def as_cell(mean: float | None, low: float | None = None, high: float | None = None) -> Cell:
    """A number and the ends of its interval, as results.json holds them."""
    return {"mean": rounded(mean), "low": rounded(low), "high": rounded(high)}


def difference(one: Measures, other: Measures) -> Measures:
    """Pair by pair, of what has a difference."""
    return {name: one[name] - other[name] for name in one if name not in GEOMETRIC}


def rounded(value: float | None) -> float | None:
    """As results.json holds a number: six digits after the point, None for what is no number."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def heading(name: str, extractor: str | None) -> str:
    """A column's heading; those of FID and KID name the network whose features they compare."""
    return COLUMNS[name][0].format(extractor=extractor)


def shown(cell: Cell | None, name: str, signed: bool = False) -> str:
    """A cell as text: `mean [low, high]`, or – where there is no number."""
    if not cell or cell["mean"] is None:
        return "–"
    form = COLUMNS[name][1].replace(":", ":+") if signed else COLUMNS[name][1]
    ends = [] if cell["low"] is None else [form.format(cell["low"]), form.format(cell["high"])]
    return form.format(cell["mean"]) + (f" [{', '.join(ends)}]" if ends else "")


def markdown_table(
    summary: Summary, columns: list[str], corner: str, signed: bool = False, extractor: str | None = None
) -> str:
    """A Markdown table, a line per row."""
    lines = [[corner, *(heading(name, extractor) for name in columns)], ["---"] + ["---:"] * len(columns)]
    lines += [[row, *(shown(cells.get(name), name, signed) for name in columns)] for row, cells in summary.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(results: dict, part: str = "rows") -> dict[str, list[str]]:
    """Name of each table that has something to show → its columns."""
    measured = {name for cells in results[part].values() for name, cell in cells.items() if cell["mean"] is not None}
    found = {table: [name for name in columns if name in measured] for table, columns in TABLES.items()}
    return {table: columns for table, columns in found.items() if columns}


def how(protocol: dict) -> str:
    """One paragraph: how the rows were made, and what the brackets are."""
    p = protocol
    seeds = ", ".join(map(str, p["seeds"]))
    made = [
        f"{name}: {c['weights']}, {c['steps']} DDIM steps, w_c {c['guidance_scale']:g}"
        + (f", from the aligned latent at {c['start']:g} of the schedule" if c.get("start", 1) < 1 else "")
        for name, c in p["checkpoints"].items()
    ]
    made += [f"{name}: pictures in a folder of that name" for name in p["folders"]]
    seeds = f"Seeds {seeds}; numbers are means over them" if len(p["seeds"]) > 1 else f"Seed {seeds}"
    said = [f"{p['width']}×{p['height']}", *(["; ".join(made), seeds] if made else [])]
    return (
        f"{p['pairs']} pairs of {p['identities']} people ({p['data']}, split {p['split']!r}), pictures "
        f"{'. '.join(said)}. "
        "In brackets: 95 % bootstrap interval, whole people resampled."
    )


def results_tables(results: dict, names: list[str] | None = None) -> str:
    """Every table of the rows, in Markdown; `names` are the measures to show instead of all."""
    extractor = results["protocol"]["extractor"]
    if names is not None:
        return markdown_table(results["rows"], names, "compared with the true target", extractor=extractor)
    return "\n\n".join(
        markdown_table(results[part], columns, table, extractor=extractor)
        for part in PARTS
        if part in results
        for table, columns in tables(results, part).items()
    )


def markdown(results: dict) -> str:
    """results.md: what was measured, the tables, the differences from the baselines, and what the numbers mean."""
    p = results["protocol"]
    parts = [
        f"# {p['title']}: {p['pairs']} pairs of {p['identities']} people, split {p['split']!r}",
        how(p),
        results_tables(results),
    ]
    if results["differences"]:
        parts += [
            "Differences pair by pair; where the interval holds no 0, the difference is more than chance:",
            *(
                markdown_table(results["differences"], columns, "difference", signed=True)
                for columns in tables(results, "differences").values()
            ),
        ]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in p["notes"])]) + "\n"


def captions(measures: Measures, pairs: Pairs) -> list[str]:
    """One line per pair for the sheet."""
    lines = []
    for n in range(len(pairs)):
        line = f"{n}: person {pairs.identity[n]}, picture {pairs.source[n]} to {pairs.target[n]}"
        if "perceptual" in measures:
            line += f" · perceptual {measures['perceptual'][n]:.3f}"
        line += f" · PCK@0.05 {measures['pck@0.05'][n]:.0%}"
        if "colour_difference" in measures:
            line += f" · colours off by {measures['colour_difference'][n]:.0f}"  # Pillow's font has no Δ
        lines.append(line)
    return lines


def write_report(results: dict, out: str | Path) -> None:
    """Write results.json and results.md into the folder `out`, which is made where it is missing."""
    out = Path(out)
    make_folder(out, "out")
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown(results))


def insert(text: str, path: str | Path, name: str = "") -> None:
    """Replace what stands between the markers of a Markdown file.

    Args:
        name: of the markers, where a file has several tables: <!-- results NAME --> and <!-- /results NAME -->.

    Raises:
        InputError: no such file, or not one pair of these markers in it.
    """
    path = Path(path)
    first, last = (mark.replace(" -->", f" {name} -->") if name else mark for mark in (OPEN, CLOSE))
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): name a Markdown file with the line {first}.") from None
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    if len(pattern.findall(old)) != 1:
        raise InputError(f"{path} must hold the lines {first} and {last}, once each: the tables go between them.")
    new = pattern.sub(lambda _: f"{first}\n\n{text}\n\n{last}", old)
    write_text(path, new)
