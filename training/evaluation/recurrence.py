"""How far sampling maps are from the exact correspondence after each iteration, and what an iteration corrects."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reposedm_core.alignment import MatchingPoseAligner, Start
from reposedm_core.alignment.skeleton_map import skeleton_map
from reposedm_core.alignment.warp import identity_map, resize_map
from reposedm_core.files import write_bytes
from reposedm_core.letterbox import size_of
from reposedm_core.networks import NoAlignment
from training.data.people_set import People
from training.evaluation.generate import COPY, SKELETON, Aligned, Batch, Contender
from training.evaluation.tables import DISTURBANCES, left
from training.stages.matching_losses import coarse_truth

MapErrors = dict[str, dict[str, np.ndarray]]
"""Row → measure → one number per pair, (n,), in % of the picture's height; NaN where no cell is visible."""
ROWS = 128
"""Of the pictures in whose pixels `DISTURBANCES` are."""
ERRORS = ("epe", "epe_median", "epe_90")


@torch.no_grad()
def map_errors(
    people: People, batch: Batch, contenders: list[Contender], joints: Tensor | None, aligned: list[Aligned]
) -> MapErrors:
    """End-point errors on the visible cells of the set's correspondence, of each pair.

    Args:
        joints: of the sources' people for the skeleton map; None leaves it out.
        aligned: the batch by each of the contenders.

    Returns:
        Rows: the identity, the skeleton map, and every iteration of each contender with an aligner. Measures: `ERRORS`,
        the mean, the median and the 90 % quantile over a pair's cells; and of an aligner of kind "matching" from its
        second iteration on, and in the row of the disturbed maps themselves, `left`, see `disturbed_errors`.
    """
    flow, visible = people.correspondence(batch.pairs)
    truth = _Truth(flow, visible, people.width / people.height)
    cells = size_of(flow)
    found: MapErrors = {COPY: truth.errors(identity_map(*cells).expand_as(flow))}
    if joints is not None:
        size = people.height, people.width
        target = torch.from_numpy(batch.target_pose).float()
        found[SKELETON] = truth.errors(skeleton_map(joints, target, size, size, cells)[0])
    for contender, each in zip(contenders, aligned, strict=True):
        aligner = contender.pipe.aligner
        if isinstance(aligner, NoAlignment):
            continue
        after = {iteration(contender.name, n): truth.errors(sampling) for n, sampling in enumerate(each.alignment.maps)}
        left_over = {}
        if isinstance(aligner, MatchingPoseAligner) and each.start is not None:
            left_over = disturbed_errors(aligner, contender.name, each, each.start, truth, batch.first)
        found |= {row: {**after.get(row, {}), **left_over.get(row, {})} for row in [*list(left_over)[:1], *after]}
    return found


def iteration(name: str, n: int) -> str:
    """The row of a contender's iteration n, counted from 0."""
    return f"{name}, iteration {n + 1}"


def disturbed(name: str) -> str:
    """The row of the disturbed maps, before any iteration corrects them."""
    return f"{name}, disturbed"


class _Truth:
    """The exact maps of a batch.

    Attributes:
        flow, seen: (b, 2, h, w) in units of a map, and (b, 1, h, w) bool.
        unit: (2, 1, 1), % of the height in a unit of a map.
    """

    def __init__(self, flow: Tensor, visible: Tensor, aspect: float):  # visible: 2 where the source shows it
        self.flow, self.visible, self.seen = flow, visible, visible == 2
        self.unit = torch.tensor([50.0 * aspect, 50.0])[:, None, None]

    def distance(self, sampling: Tensor) -> np.ndarray:
        """(b, h·w) of a map of any resolution, NaN where the source does not show the cell."""
        off = (resize_map(sampling.cpu().float(), *self.flow.shape[-2:]) - self.flow) * self.unit
        return torch.where(self.seen, off.norm(dim=1, keepdim=True), torch.nan).flatten(1).double().numpy()

    def errors(self, sampling: Tensor) -> dict[str, np.ndarray]:
        """`ERRORS` of each pair."""
        far = self.distance(sampling)
        known = np.isfinite(far).any(1)
        far = np.where(known[:, None], far, 0)
        values = np.nanmean(far, 1), np.nanmedian(far, 1), np.nanquantile(far, 0.9, 1)
        return {name: np.where(known, value, np.nan) for name, value in zip(ERRORS, values, strict=True)}


def disturbed_errors(
    aligner: MatchingPoseAligner, name: str, aligned: Aligned, start: Start, truth: _Truth, first: int
) -> MapErrors:
    """What each iteration after the first leaves of a map that is exact but for a smooth disturbance.

    The exact map at the aligner's cells, where half of a cell or more is visible, plus a field of 4×3 random values,
    bicubically enlarged, whose mean length there is one of `DISTURBANCES`; elsewhere the first iteration's map. The
    error is measured at these cells. The field of pair n depends on n alone; `first` is the first pair's number.
    """
    device, shrink = aligned.source.device, aligner.config.shrink
    source, skeleton = (F.avg_pool2d(picture, shrink) for picture in (aligned.source, aligned.skeleton))
    cells = size_of(start.map)
    place, shown = coarse_truth(truth.flow, truth.visible, *cells)
    exact = _Truth(place, 2 * shown, float(truth.unit[0] / truth.unit[1]))
    base = resize_map(aligned.alignment.maps[0].cpu(), *cells)
    values = torch.stack(
        [torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(first + n)) for n in range(len(place))]
    )
    field = F.interpolate(values, cells, mode="bicubic", align_corners=False)
    length = (field.norm(dim=1, keepdim=True) * shown).sum((1, 2, 3)) / shown.sum((1, 2, 3)).clamp(min=1)
    field = field / length[:, None, None, None] / truth.unit * (100 / ROWS)
    found: MapErrors = {}
    for pixels in DISTURBANCES:
        wrong = torch.where(shown > 0, place + pixels * field, base)
        maps = {disturbed(name): wrong}
        for n in range(1, len(aligner.matches)):
            maps[iteration(name, n)] = aligner.refine(n, source, skeleton, start, wrong.to(device)).fine
        for row, sampling in maps.items():
            found.setdefault(row, {})[left(pixels)] = exact.errors(sampling)["epe"]
    return found


def draw_recurrence(maps: dict[str, dict[str, dict[str, Any]]], names: list[str], path: Any) -> None:
    """The figure: error after each iteration, and what each iteration leaves of the disturbances, with intervals.

    Args:
        maps: row → measure → cell, see `tables.Summary`.
        names: of the contenders. path: PNG file to write.
    """
    from matplotlib.figure import Figure

    steps = {name: [row for n in range(64) if (row := iteration(name, n)) in maps] for name in names}
    steps = {name: rows for name, rows in steps.items() if rows}
    corrected = [name for name in steps if disturbed(name) in maps]
    figure = Figure(figsize=(4.6 * (1 + len(corrected)), 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(corrected), squeeze=False)[0]
    for name, rows in steps.items():
        middle, low, high = _numbers([maps[row]["epe"] for row in rows])
        (line,) = axes[0].plot(range(1, len(rows) + 1), middle, marker="o", label=name)
        axes[0].fill_between(range(1, len(rows) + 1), low, high, alpha=0.2, color=line.get_color())
    for row, style in ((SKELETON, "--"), (COPY, ":")):
        if row in maps and maps[row]["epe"]["mean"] is not None:
            axes[0].axhline(maps[row]["epe"]["mean"], linestyle=style, color="grey", label=row)
    axes[0].set_title("error after each iteration")
    for place, name in zip(axes[1:], corrected, strict=True):
        bars = {"disturbed": disturbed(name), **{f"iteration {n}": row for n, row in enumerate(steps[name][1:], 2)}}
        width = 0.8 / len(bars)
        for number, (label, row) in enumerate(bars.items()):
            middle, low, high = _numbers([maps[row][left(pixels)] for pixels in DISTURBANCES])
            at = np.arange(len(DISTURBANCES)) + (number + 0.5) * width - 0.4
            place.bar(
                at,
                middle,
                width,
                yerr=[middle - low, high - middle],
                label=label,
                capsize=2,
                color=f"{0.8 - 0.5 * number / max(1, len(bars) - 1):.2f}",
            )
        place.set_xticks(range(len(DISTURBANCES)), [f"{pixels} px of {ROWS}" for pixels in DISTURBANCES])
        place.set_title(f"left of a disturbance by {name}")
    for place in axes:
        place.set_ylabel("end-point error, % of the height")
        place.set_ylim(bottom=0)
        place.grid(alpha=0.3)
        if place.get_legend_handles_labels()[0]:
            place.legend(fontsize=8)
    most = max((len(rows) for rows in steps.values()), default=1)
    axes[0].set_xticks(range(1, most + 1))
    axes[0].set_xlabel("iteration")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())


def _numbers(cells: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high of some cells; an interval that is not known has no length."""
    middle = [np.nan if cell["mean"] is None else cell["mean"] for cell in cells]
    low, high = (
        [mean if cell[end] is None else cell[end] for cell, mean in zip(cells, middle, strict=True)]
        for end in ("low", "high")
    )
    return np.array(middle), np.array(low), np.array(high)
