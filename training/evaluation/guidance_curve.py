"""What pose field guidance does at every strength, as a table and a curve."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from reposedm_core.files import make_folder, write_json, write_picture, write_text
from training.data.people_set import People
from training.evaluation.generate import OFF, OURS, Batch, open_contender
from training.evaluation.guidance import check_counts, default_of, label, measure
from training.evaluation.measure import Detector, Judge, Measured, load_detector
from training.evaluation.tables import Summary, difference, markdown_table, summarise

MULTIPLES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the checkpoint's strength: what the widget **strength** of the node says with the preset *from the model*."""
SHOWN = ("joint_error", "pck@0.05", "perceptual")
OTHER = "another estimator"


class _TwoJudges(Judge):
    """The guiding estimator's measures, and beside them the joints that another one finds, under `OTHER`."""

    def __init__(self, own: Detector, other: Judge):
        super().__init__(own, device=other.device)
        self.other = other

    def measure(self, pictures: np.ndarray, batch: Batch, same: bool = False) -> Measured:
        measured, found = super().measure(pictures, batch, same), self.other.measure(pictures, batch, same=True)
        measured.values.update({f"{OTHER}: {name}": found.values[name] for name in SHOWN if name in found.values})
        return measured


def study_curve(
    weights: str,
    data: str,
    out: str,
    pairs: int = 64,
    judge: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    steps: int | None = None,
) -> dict:
    """Measure the checkpoint's guidance at `MULTIPLES` of its strength on test people; writes guidance-curve.json, .md
    and .png into `out`.

    Args:
        judge: another estimator, which looks for the joints beside the guiding one.
        steps: of every run; None: the checkpoint's.

    Returns:
        what guidance-curve.json holds: under each judge's name multiple → measure → difference to no guidance.

    Raises:
        InputError: no such checkpoint, set or judge, pictures of another size than the checkpoint's, or fewer than 1
            pair or step.
    """
    check_counts(pairs, steps)
    people = People(data, "test")
    pipe = open_contender(weights, people, device=device).pipe
    own = Detector.of(pipe, f"the estimator of {OURS}")
    judging = (
        _TwoJudges(own, Judge(load_detector(judge, device), device=device)) if judge else Judge(own, device=device)
    )
    folder = Path(out)
    make_folder(folder, "out")  # before the work, not after it
    default = default_of(pipe.config.field)
    kinds = [OFF, *(replace(default, strength=default.strength * each) for each in MULTIPLES)]
    chosen = people.fixed_pairs(pairs)
    found = measure(pipe, people, chosen, kinds, seed, judging, steps)
    off, *rows = (found.values(label(kind)) for kind in kinds)
    changes = {f"{each:g}": difference(row, off) for each, row in zip(MULTIPLES, rows, strict=True)}
    judges: dict[str, Summary] = {}
    for name, prefix in (("the guiding estimator", ""), (OTHER, f"{OTHER}: ")):
        kept = {
            row: {measure: values[prefix + measure] for measure in SHOWN if prefix + measure in values}
            for row, values in changes.items()
        }
        if kept[f"{MULTIPLES[0]:g}"]:
            judges[name] = summarise(kept, chosen.identity)
    results = {
        "weights": Path(weights).name,
        "pairs": pairs,
        "seed": seed,
        "strength": default.strength,
        "judges": judges,
    }
    write_json(folder / "guidance-curve.json", results)
    write_text(folder / "guidance-curve.md", markdown(results))
    write_picture(folder / "guidance-curve.png", draw(judges))
    return results


def markdown(results: dict) -> str:
    """guidance-curve.md: a table for each judge."""
    parts = [
        f"{results['weights']}: {results['pairs']} pairs of test people, seed {results['seed']}, the same noise with "
        f"guidance and without. Strength 1 is the checkpoint's own, {results['strength']:g}. Differences to no "
        "guidance, pair by pair, with 95 % bootstrap intervals."
    ]
    for name, rows in results["judges"].items():
        columns = [column for column in SHOWN if column in next(iter(rows.values()))]
        parts.append(markdown_table(rows, columns, f"strength, joints found by {name}", signed=True))
    return "\n\n".join(parts) + "\n"


def draw(judges: dict[str, Summary]) -> Image.Image:
    """The curves over the strength: distance of the joints by every judge, and perceptual distance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 2),
        ("joint_error", "perceptual"),
        ("joints off the pose, px", "perceptual distance"),
        strict=True,
    ):
        for judge, rows in judges.items():
            cells = [row[name] for row in rows.values() if name in row]
            if not cells:
                continue
            x = [0.0, *map(float, rows)]
            mean, low, high = ([0.0, *(np.nan if cell[k] is None else cell[k] for cell in cells)]
                               for k in ("mean", "low", "high"))  # fmt: skip
            (line,) = axes.plot(x, mean, marker="o", label=f"found by {judge}" if name == "joint_error" else None)
            axes.fill_between(x, low, high, alpha=0.2, color=line.get_color())
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(xlabel="strength", ylabel="change, less is better", title=title)
        axes.title.set_fontsize("medium")
    figure.axes[0].legend(fontsize="small", loc="lower right")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return Image.open(data)
