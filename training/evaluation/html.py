"""The page of an evaluation: its tables and pictures in one HTML file that needs nothing else, sorted by any error."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np

from reposedm_core.files import write_text
from training.evaluation.compare import Comparison
from training.evaluation.generate import TRUTH
from training.evaluation.tables import COLUMNS, PARTS, captions, heading, how, rounded, shown, tables

TEMPLATE = Path(__file__).with_name("page.html")


def chosen_pairs(values: np.ndarray, most: int) -> np.ndarray:
    """Numbers of at most `most` pairs: all, or of the lowest and of the highest of values (n,) one half each."""
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(np.nan_to_num(values, nan=-np.inf), kind="stable")
    return np.sort(np.concatenate([order[: most // 2], order[len(order) - (most - most // 2) :]]))


def write_page(
    results: dict, comparison: Comparison, row: str, path: str | Path, most: int = 64, figure: Path | None = None
) -> None:
    """Write the page.

    Args:
        results: what results.json holds.
        row: the one by whose perceptual distance the pairs are chosen and at first sorted, the worst first.
        path: of the HTML file.
        most: pairs on the page; of more, the best and the worst.
        figure: PNG file that stands below the tables.
    """
    protocol, pairs = results["protocol"], comparison.pairs
    values = {name: comparison.values(name) for name in comparison.rows}
    first = "perceptual" if "perceptual" in values[row] else "joint_error"
    which = chosen_pairs(values[row][first], most)
    lines = captions(values[row], pairs)
    measures = [name for name in COLUMNS if any(name in found for found in values.values())]
    measures.sort(key=lambda name: name != first)
    data = {
        "title": f"{protocol['title']}: {protocol['pairs']} pairs",
        "how": how(protocol),
        "notes": protocol["notes"],
        "tables": [
            {
                "name": table,
                "head": [heading(name, protocol["extractor"]) for name in columns],
                "lines": [
                    [label, *(shown(cells.get(name), name) for name in columns)]
                    for label, cells in results[part].items()
                ],
            }
            for part in PARTS
            for table, columns in tables(results, part).items()
        ],
        "figure": figure and base64.b64encode(figure.read_bytes()).decode(),
        "which": f"{len(which)} of {len(pairs)} pairs"
        + ("." if len(which) == len(pairs) else f": the best and the worst {heading(first, None)[:-2]} of “{row}”."),
        "measures": {
            name: {"heading": heading(name, None), "better": -1 if "↓" in COLUMNS[name][0] else 1} for name in measures
        },
        "sortable": [row, *(name for name in values if name != row)],
        "given": [
            "source",
            "pose",
            TRUTH,
            *(label for label in comparison.pictures if label not in (*comparison.rows, "source", "pose")),
        ],
        "pairs": [
            {
                "number": int(n),
                "caption": lines[n],
                "pictures": {
                    label: base64.b64encode(files[n]).decode() for label, files in comparison.pictures.items()
                },
                "values": {
                    label: {name: rounded(float(found[name][n])) for name in found} for label, found in values.items()
                },
            }
            for n in which
        ],
    }
    text = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    write_text(Path(path), TEMPLATE.read_text(encoding="utf-8").replace("DATA", text, 1))
