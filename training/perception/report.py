"""The results of a perception study: results.json, results.md, and the figure (Fig. 7 of the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reposedm_core.errors import InputError, quoted
from reposedm_core.files import make_folder, replacing, write_json, write_text
from training.perception.answers import Rater, count, read_answers, read_key


def report(key_file: Path, folder: Path, out: Path, leave_out: bool = False, name: str = "") -> dict[str, Any]:
    """Read a folder of answers and write results.json, results.md, perception.png and perception.pdf into `out`.

    Args:
        leave_out: raters who failed an attention check do not count; without it they are named and do.
        name: what the generated pictures of the first scheme are called in table and figure.

    Raises:
        InputError: no key, no answers, or nobody left.
    """
    key = read_key(key_file)
    raters, lines = read_answers(folder, key)
    inattentive = [rater for rater in raters if rater.failed]
    counted = [rater for rater in raters if not (leave_out and rater.failed)]
    if not counted:
        raise InputError(f"{folder}: every rater failed an attention check; without --leave-out-failed they count.")
    results = {
        "study": key["study"],
        "name": name or "generated",
        "raters": len(counted),
        "incomplete": [_named(rater) for rater in counted if not rater.complete],
        "failed_checks": [f"{_named(rater)}: {rater.failed} of {rater.checked}" for rater in inattentive],
        "failed_left_out": leave_out,
        "files_left_out": lines,
        **count(counted, key),
    }
    make_folder(out, "out")
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown(results))
    draw(results, out)
    return results


def _named(rater: Rater) -> str:
    return f"{quoted(rater.name)} ({rater.file})"


def _shown(cell: dict[str, Any]) -> str:
    if cell["share"] is None:
        return "–"
    return f"{cell['share']:.1%} [{cell['low']:.1%}, {cell['high']:.1%}] ({cell['hits']} of {cell['of']})"


def markdown(results: dict[str, Any]) -> str:
    """The table, and what must be known to read it."""
    lines = ["| measure | share of the answers |", "| --- | ---: |"]
    if results["r2g"]["of"] or results["g2r"]["of"]:
        lines.append(f"| R2G ↑: real pictures taken for generated | {_shown(results['r2g'])} |")
        lines.append(f"| G2R ↑: {results['name']} taken for real | {_shown(results['g2r'])} |")
    for method, cell in results["jab"].items():
        lines.append(f"| JAB ↑: {method} taken for the best | {_shown(cell)} |")
    said = []
    for scheme, what in (("singles", "real or generated"), ("sets", "the best one")):
        if scheme in results["seconds"]:
            low, middle, high = results["seconds"][scheme]
            kappa = results[f"kappa_{scheme}"]
            agreement = "–" if kappa is None else f"{kappa:.3f}"
            said.append(
                f"*{what}*: Fleiss' κ {agreement}; median time per answer {middle:.1f} s "
                f"(quartiles {low:.1f} and {high:.1f})."
            )
    said.append(
        f"{results['raters']} raters. In brackets: 95 % Wilson interval, as if all answers were independent; those of "
        "one rater, and those to one picture, are so only in part."
    )
    if results["failed_checks"]:
        fate = "left out" if results["failed_left_out"] else "counted all the same"
        said.append(f"Failed attention checks, {fate}: {'; '.join(results['failed_checks'])}.")
    if results["incomplete"]:
        said.append(f"Stopped before the end; what they answered counts: {'; '.join(results['incomplete'])}.")
    said += results["files_left_out"]
    return "\n".join([*lines, "", *(f"- {line}" for line in said)]) + "\n"


def draw(results: dict[str, Any], out: Path) -> None:
    """The figure: a bar per measure with its interval, as perception.png and perception.pdf."""
    from matplotlib.figure import Figure

    panels = {
        "R2G": {results["name"]: results["r2g"]},
        "G2R": {results["name"]: results["g2r"]},
        "JAB": results["jab"],
    }
    panels = {title: {k: v for k, v in cells.items() if v["share"] is not None} for title, cells in panels.items()}
    panels = {title: cells for title, cells in panels.items() if cells}
    widths = [len(cells) + 0.5 for cells in panels.values()]
    figure = Figure(figsize=(1.4 + 1.1 * sum(widths), 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    for axis, (title, cells) in zip(axes, panels.items(), strict=True):
        heights = [100 * cell["share"] for cell in cells.values()]
        ends = [[100 * abs(cell["share"] - cell[end]) for cell in cells.values()] for end in ("low", "high")]
        bars = axis.bar(range(len(cells)), heights, 0.7, yerr=ends, capsize=4, color="#3a6ea5", ecolor="#1e1e22")
        axis.bar_label(bars, fmt="%.0f", label_type="center", color="white")
        axis.set_xticks(range(len(cells)), list(cells), rotation=20 if len(cells) > 2 else 0)
        axis.set_title(f"{title} (%)")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 100)
    for suffix in ("png", "pdf"):
        with replacing(out / f"perception.{suffix}") as fresh:
            figure.savefig(fresh, dpi=150, format=suffix)
