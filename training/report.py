"""Tables of an evaluation: means with bootstrap intervals, as JSON and Markdown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from training.data.dataset import Pairs
from training.metrics import interval

COLUMNS = {"perceptual": ("perceptual ↓", "{:.3f}"), "psnr": ("PSNR ↑", "{:.2f}"), "ssim": ("SSIM ↑", "{:.3f}"),
           "foreground_l1": ("foreground L1 ↓", "{:.3f}"), "colour_right": ("colours right ↑", "{:.1%}"),
           "colour_difference": ("ΔE ↓", "{:.1f}"), "pck@0.05": ("PCK@0.05 ↑", "{:.1%}"),
           "pck@0.1": ("PCK@0.1 ↑", "{:.1%}"), "pck_torso@0.2": ("PCK torso@0.2 ↑", "{:.1%}"),
           "pck_head@0.5": ("PCKh-like@0.5 ↑", "{:.1%}"), "joint_error": ("joints px ↓", "{:.2f}")}
"""Measure → heading and number format, in the order of the table."""

Measures = dict[str, np.ndarray]
"""Measure → one number a pair, (n,), NaN where it says nothing."""
Cell = dict[str, float | None]
"""{"mean", "low", "high"}, None where unknown."""


def summarise(rows: dict[str, Measures], identity: np.ndarray) -> dict[str, dict[str, Cell]]:
    """{row: {measure: cell}}: means over pairs and their 95 % bootstrap intervals; identity (n,) of each pair."""
    def cell(values: np.ndarray) -> Cell:
        mean, low, high = (None if math.isnan(v) else round(v, 6) for v in interval(values, identity))
        return {"mean": mean, "low": low, "high": high}

    return {row: {name: cell(values) for name, values in measures.items()} for row, measures in rows.items()}


def markdown_table(summary: dict[str, dict[str, Cell]], columns: list[str], corner: str, signed: bool = False) -> str:
    """A Markdown table, a line a row, `mean [low, high]` in each cell, – where there is none."""
    def shown(cell: Cell | None, form: str) -> str:
        if not cell or cell["mean"] is None:
            return "–"
        form = form.replace(":", ":+") if signed else form
        ends = [] if cell["low"] is None else [form.format(cell["low"]), form.format(cell["high"])]
        return form.format(cell["mean"]) + (f" [{', '.join(ends)}]" if ends else "")

    lines = [[corner, *(COLUMNS[name][0] for name in columns)], ["---"] + ["---:"] * len(columns)]
    lines += [[row, *(shown(cells.get(name), COLUMNS[name][1]) for name in columns)] for row, cells in summary.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(results: dict) -> str:
    """results.md: what was measured, the table, the differences from the baselines, and what the numbers mean."""
    p = results["protocol"]
    columns = [name for name in COLUMNS if any(name in cells for cells in results["rows"].values())]
    parts = [f"# {p['weights']}: {p['pairs']} pairs of {p['identities']} people, split {p['split']!r}",
             f"{p['steps']} DDIM steps, guidance scale {p['guidance_scale']:g}, seed {p['seed']} + number of the pair, "
             f"pictures {p['width']}×{p['height']}. In brackets: 95 % bootstrap interval, whole people resampled.",
             markdown_table(results["rows"], columns, "compared with the true target"),
             "Differences pair by pair; where the interval holds no 0, the difference is more than chance:",
             markdown_table(results["differences"], columns, "difference", signed=True),
             "\n".join(f"- {note}" for note in p["notes"])]
    return "\n\n".join(parts) + "\n"


def captions(measures: Measures, pairs: Pairs) -> list[str]:
    """One line a pair for the sheet."""
    lines = []
    for n in range(len(pairs)):
        line = (f"{n}: person {pairs.identity[n]}, picture {pairs.source[n]} to {pairs.target[n]} · perceptual "
                f"{measures['perceptual'][n]:.3f} · PCK@0.05 {measures['pck@0.05'][n]:.0%}")
        if "colour_difference" in measures:
            line += f" · colours off by {measures['colour_difference'][n]:.0f}"   # Pillow's font has no Δ
        lines.append(line)
    return lines


def write_report(results: dict, out: str | Path) -> None:
    """Write results.json and results.md into the folder `out`, which is made where it is missing."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(results), encoding="utf-8")
