"""Rows of the benchmark: judged against their budgets, printed as a table, as Markdown and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reposedm_core.files import write_text

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"

OPERATORS = "local correlation and windowed attention"
ALIGNER = "whole aligner, N iterations"
CONTEXT = "cross-attention keys and values of the fixed context"
GUIDANCE = "guided step / unguided step"
PASS = "256×176 picture, paper preset, one denoiser pass"
PICTURE = "a picture of the shipped model, all in"
START = "ComfyUI's start with the pack / without"
DEMO = "make demo after installation"
TEST = "make test after installation"
TRAINING = "training, each stage"
GROWTH = "how cost grows"

MET, MISSED, UNMEASURED, FREE = "met", "MISSED", "not measured", "–"


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        design: which budget of the design it belongs to, one of the names above.
        what: what was measured, at what size.
        value: the number; None: not measured, `note` says why.
        unit: "×" for a ratio, "s", "calls", "bytes" per element, "" for an exponent.
        budget: ("≥" or "≤", limit), or None where the design sets none.
        spread: quartiles of the rounds' values.
        milliseconds: median of each side of a ratio.
        note: what a reader must know.
    """

    design: str
    what: str
    value: float | None
    unit: str = "×"
    budget: tuple[str, float] | None = None
    spread: tuple[float, float] | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    note: str = ""


def evaluate(row: Row) -> str:
    """ "met", "MISSED", "not measured", or "–" for a row without a budget. A value that is not a number misses."""
    if row.value is None:
        return UNMEASURED
    if row.budget is None:
        return FREE
    sign, limit = row.budget
    if math.isnan(row.value):
        return MISSED
    return MET if (row.value >= limit if sign == "≥" else row.value <= limit) else MISSED


def missed(rows: list[Row]) -> list[Row]:
    """The rows whose budget is not met."""
    return [row for row in rows if evaluate(row) == MISSED]


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits and the unit."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    whole, size = value == round(value), abs(value)
    digits = 0 if whole or size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f} {unit}".strip()


def cells(row: Row) -> list[str]:
    """What, value, spread, budget, verdict, and the medians with the note."""
    spread = "" if row.spread is None else f"{number(row.spread[0])} … {number(row.spread[1])}"
    budget = "" if row.budget is None else f"{row.budget[0]} {number(row.budget[1])}"
    sides = ", ".join(f"{side} {number(value)} ms" for side, value in row.milliseconds.items())
    return [
        row.what,
        number(row.value, row.unit),
        spread,
        budget,
        evaluate(row),
        "; ".join(filter(None, (sides, row.note))),
    ]


HEADINGS = ["what", "measured", "spread", "budget", "verdict", "medians, notes"]


def header(report: dict[str, Any]) -> str:
    """The machine, in one line."""
    m = report["machine"]
    parts = [
        m["cpu"],
        f"{m['cores']} cores, {m['threads']} threads",
        f"{m['ram_gib']} GiB",
        f"load {m['load']}",
        f"torch {m['torch']}",
        m.get("gpu") or m["device"],
        report["date"],
    ]
    if report["clock"] == "processor":
        parts.append("processor time, not wall-clock time")
    return " · ".join(parts) + (" · QUICK: small sizes and few repeats, no verdict counts" if report["quick"] else "")


def verdict(rows: list[Row]) -> str:
    """The last line: how many budgets are met, and which are not."""
    late, unmeasured = missed(rows), sum(evaluate(row) == UNMEASURED for row in rows)
    judged = sum(evaluate(row) in (MET, MISSED) for row in rows)
    rest = f", {unmeasured} rows not measured" if unmeasured else ""
    line = f"{judged - len(late)} of {judged} budgets met{rest}."
    return "\n".join(
        [
            line,
            *(
                f"{MISSED}: {row.design}: {row.what}: {number(row.value, row.unit)}, "
                f"budget {row.budget[0]} {number(row.budget[1])}"
                for row in late
            ),
        ]
    )


def as_text(rows: list[Row], report: dict[str, Any]) -> str:
    """The table for a terminal."""
    lines = [HEADINGS] + [cells(row) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]

    def line_of(line: list[str]) -> str:
        return (
            "  "
            + "  ".join([line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in (1, 2, 3, 4)), line[5]]).rstrip()
        )

    out, design = [header(report), "", line_of(HEADINGS)], None
    for row in rows:
        if row.design != design:
            out.append(design := row.design)
        out.append(line_of(cells(row)))
    return "\n".join([*out, "", verdict(rows)])


def as_markdown(rows: list[Row], report: dict[str, Any]) -> str:
    """The table for benchmarks/README.md, the machine above it; what is missed is in bold."""
    out = [
        header(report),
        "",
        "| budget of | what | measured | spread | budget | verdict |",
        "|---|---|---|---|---|---|",
    ]
    design = None
    for row in rows:
        what, value, spread, budget, said, _ = (cell.replace("|", "\\|") for cell in cells(row))
        out.append(
            f"| {row.design if row.design != design else ''} | {what} | {value} | {spread} | {budget} | "
            f"{f'**{said}**' if said == MISSED else said} |"
        )
        design = row.design
    return "\n".join([*out, "", verdict(rows).replace("\n", "\n\n")])


def as_json(rows: list[Row], report: dict[str, Any]) -> dict[str, Any]:
    """Header, rows with their verdicts, and the number of budgets missed; plain JSON types, no NaN."""

    def plain(row: Row) -> dict[str, Any]:
        data = asdict(row)
        if data["value"] is not None and not math.isfinite(data["value"]):
            data["value"], data["note"] = None, f"{row.value}; {row.note}"
        return {**data, "verdict": evaluate(row)}

    return {**report, "rows": [plain(row) for row in rows], "missed": len(missed(rows))}


def rewrite(path: Path, markdown: str) -> None:
    """Put `markdown` between the markers of a file.

    Raises:
        ValueError: the markers are not in it, once each and in order.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path}: the table goes between the lines {BEGIN} and {END}; add both, once.")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    write_text(path, f"{before}{BEGIN}\n{markdown}\n{END}{after}")
