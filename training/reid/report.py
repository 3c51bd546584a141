"""Tables of the re-identification experiment, in Markdown and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reposedm_core.files import write_json, write_text
from training.metrics.statistics import interval_of_runs
from training.reid.experiment import ALONE

MEASURES = {"map": "mAP", "map_toolkit": "mAP, toolkit's", "cmc1": "CMC-1", "cmc5": "CMC-5", "cmc10": "CMC-10"}


def results_of(found: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds and queries with bootstrap intervals, and the differences from `ALONE`.

    Args:
        found: what `experiment.run` returns: "persons", of each query, and "runs".

    Returns:
        {"protocol", "rows", "differences"}: row → percent → measure → {"mean", "low", "high", "seeds"}, in percent.
    """
    people = np.array(found["persons"])
    values: dict[str, dict[str, dict[str, list[np.ndarray]]]] = {}
    for run in found["runs"]:
        cell = values.setdefault(run["row"], {}).setdefault(str(run["percent"]), {name: [] for name in MEASURES})
        ap, toolkit, first = (np.array(run[name], float) for name in ("ap", "ap_toolkit", "first"))
        cell["map"].append(ap)
        cell["map_toolkit"].append(toolkit)
        for places in (1, 5, 10):
            cell[f"cmc{places}"].append(np.where(np.isnan(first), np.nan, first <= places))

    def summary(seeds: list[np.ndarray]) -> dict[str, Any]:
        each = np.stack(seeds) * 100
        numbers = [None if np.isnan(x) else round(float(x), 4) for x in interval_of_runs(each, people)]
        means = [round(float(np.nanmean(seed)), 4) for seed in each]
        return dict(zip(("mean", "low", "high"), numbers, strict=True)) | {"seeds": means}

    rows = {
        row: {p: {name: summary(seeds) for name, seeds in cell.items()} for p, cell in shares.items()}
        for row, shares in values.items()
    }
    differences = {
        row: {
            p: {
                name: summary([a - b for a, b in zip(cell[name], values[ALONE][p][name], strict=True)]) for name in cell
            }
            for p, cell in shares.items()
        }
        for row, shares in values.items()
        if row != ALONE
    }
    return {"protocol": found["protocol"], "rows": rows, "differences": differences}


def shown(cell: dict[str, Any] | None, sign: str = "") -> str:
    """`mean [low, high]`, in percent."""
    if not cell or cell["mean"] is None:
        return "–"
    ends = "" if cell["low"] is None else f" [{cell['low']:{sign}.1f}, {cell['high']:{sign}.1f}]"
    return f"{cell['mean']:{sign}.1f}{ends}"


def table(rows: dict[str, Any], measure: str, corner: str, sign: str = "") -> str:
    """A row of the experiment a line, a share a column."""
    shares = sorted({p for cells in rows.values() for p in cells}, key=int)
    lines = [[corner, *(f"{p} % real" for p in shares)], ["---", *("---:" for _ in shares)]]
    lines += [[row, *(shown(cells.get(p, {}).get(measure), sign) for p in shares)] for row, cells in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(results: dict[str, Any]) -> str:
    """The tables, and what must be known to read them."""
    p = results["protocol"]
    recipe = p["recipe"]
    start = f"from {Path(recipe['weights']).name}" if recipe["weights"] else "from random weights, not ImageNet's"
    spread = [
        np.std(cell["map"]["seeds"], ddof=1)
        for cells in results["rows"].values()
        for cell in cells.values()
        if len(cell["map"]["seeds"]) > 1
    ]
    notes = [
        f"{recipe['backbone']} {start}, {recipe['width']}×{recipe['height']}, {recipe['steps']} steps of "
        f"{recipe['people']} × {recipe['each']} pictures, the same for every row; {p['people']} people in "
        f"{p['train']} pictures to train with; {p['queries']} queries, {p['gallery']} gallery pictures.",
        "Market-1501's protocol: single query; pictures of the query's person by its own camera, and junk, are left "
        f"out; distractors {'stay, as wrong answers' if p['distractors'] else 'are left out, too, unlike there'}. "
        "*toolkit's* is the average precision as the set's own code has it.",
        f"Means over {len(p['seeds'])} seeds. In brackets: 95 % bootstrap interval, whole test people and whole "
        "trainings resampled, too narrow still where there are few of the latter"
        + (f"; between seeds mAP has a standard deviation of {np.mean(spread):.1f} on average." if spread else "."),
    ]
    if p["generators"]:
        notes.append(
            f"{', '.join(p['generators'])}: a generator that was trained on the whole training set brings in what it "
            "learned of the pictures that a share leaves out."
        )
    if p["remark"]:
        notes.insert(0, p["remark"])
    parts = ["# Person re-identification", table(results["rows"], "map", "mAP, %")]
    if results["differences"]:
        parts.append("Difference from *real only*, query by query:")
        parts.append(table(results["differences"], "map", "mAP, %", "+"))
    parts += [table(results["rows"], name, f"{title}, %") for name, title in MEASURES.items() if name != "map"]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def write_report(found: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write results.json and results.md into `out`; returns the former."""
    results = results_of(found)
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown(results))
    return results
