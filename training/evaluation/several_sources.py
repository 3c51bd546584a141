"""What more pictures of a person bring: the same target pose and noise, from one source and from several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_json, write_picture, write_text
from reposedm_core.images import to_uint8
from reposedm_core.pipeline import RePoseDMPipeline
from reposedm_core.pose import Pose
from training.data.people_set import Pairs, People
from training.engine.sheets import comparison_sheet
from training.evaluation.compare import shared_batches
from training.evaluation.generate import SEED_STRIDE, Batch, open_contender, to_pictures
from training.evaluation.measure import Judge, detector_of
from training.evaluation.tables import difference, markdown_table, summarise

SHOWN = ("ssim_256@1.5", "perceptual", "foreground_l1", "colour_difference", "colour_right", "joint_error")
BATCH = 16
ORDER_SEED = 0


def label(count: int) -> str:
    """How a table names a row."""
    return f"{count} picture{'s'[: count > 1]}"


def sources_of(people: People, pairs: Pairs, count: int) -> np.ndarray:
    """Pictures (n, count) of each pair's person without its target: its source first, then others in a mixed order.

    Raises:
        InputError: a person has not so many.
    """
    rng = np.random.default_rng(ORDER_SEED)
    rows = []
    for identity, source, target in zip(pairs.identity, pairs.source, pairs.target, strict=True):
        total = int(people.counts[np.searchsorted(people.identities, identity)])
        if total <= count:
            raise InputError(
                f"counts: {count} sources and a target are {count + 1} pictures, and person {identity} of "
                f"{people.root} has {total}; ask for fewer, or generate more with generate.py --poses."
            )
        others = np.setdiff1d(np.arange(total), [source, target])
        rows.append([source, *rng.permutation(others)[: count - 1]])
    return np.array(rows)


def results_from(pipe: RePoseDMPipeline, people: People, batch: Batch, sources: np.ndarray, seed: int) -> np.ndarray:
    """What the model makes of a batch from the sources (b, S), unguided; uint8 (b, H, W, 3)."""
    found = []
    for n in range(len(batch)):
        pictures = people.read("pictures", np.repeat(batch.pairs.identity[n], sources.shape[1]), sources[n])
        result = pipe(
            pictures[0],
            Pose(batch.target_pose[n][None], people.height, people.width),
            SEED_STRIDE * seed + batch.first + n,
            field_strength=0,
            more_sources=list(pictures[1:]),
        )
        found.append(to_uint8(2 * result.image - 1).movedim(1, -1).cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def study(
    weights: str,
    data: str,
    out: str,
    pairs: int = 64,
    judge: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    counts: Sequence[int] = (1, 2, 3, 5),
    shown: int = 8,
) -> dict:
    """Measure results from so many sources on test people, and write the report into `out`.

    Args:
        counts: of sources; the others are compared with the first, pair by pair.

    Raises:
        InputError: no such checkpoint, set or judge, pictures of another size than the checkpoint's, fewer than 1 pair
            or source, or people with too few pictures.
    """
    if pairs < 1 or min(counts) < 1 or len(set(counts)) < len(counts):
        raise InputError(f"pairs = {pairs}, counts = {list(counts)}: must be at least 1, and each count another.")
    people = People(data, "test")
    pipe = open_contender(weights, people, device=device).pipe
    detector = detector_of(judge, pipe, device)
    judging = Judge(detector, device=device)
    chosen = people.fixed_pairs(pairs)
    sources = sources_of(people, chosen, max(counts))
    make_folder(Path(out), "out")  # before the work, not after it
    measured: dict[str, list[dict[str, np.ndarray]]] = {label(count): [] for count in counts}
    columns: dict[str, list[np.ndarray]] = {}
    for batch in shared_batches(people, chosen, BATCH, "measuring"):
        rows = sources[batch.first : batch.first + len(batch)]
        kept = {"source": batch.source, "pose": to_pictures(batch.skeleton)}
        for count in counts:
            kept[label(count)] = results_from(pipe, people, batch, rows[:, :count], seed)
            measured[label(count)].append(judging.measure(kept[label(count)], batch).values)
        for name, pictures in {**kept, "target": batch.truth}.items():
            columns.setdefault(name, []).append(pictures)
    values = {
        row: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for row, parts in measured.items()
    }
    first, *others = values
    against = {f"{row} − {first}": difference(values[row], values[first]) for row in others}
    results = {
        "protocol": {
            "weights": Path(weights).name,
            "pairs": len(chosen),
            "seed": seed,
            "steps": pipe.config.steps,
            "guidance_scale": pipe.config.guidance_scale,
            "judge": detector.name,
        },
        "rows": summarise(values, chosen.identity),
        "difference": summarise(against, chosen.identity),
    }
    write_json(Path(out) / "sources.json", results)
    write_text(Path(out) / "sources.md", markdown(results))
    shown = min(shown, len(chosen))
    captions = [
        f"{n}: ΔE of the clothes "
        + ", ".join(f"{row['colour_difference'][n]:.1f}" for row in values.values() if "colour_difference" in row)
        for n in range(shown)
    ]
    sheet = comparison_sheet({name: np.concatenate(parts)[:shown] for name, parts in columns.items()}, captions)
    write_picture(Path(out) / "sources.jpg", sheet, quality=90)
    return results


def markdown(results: dict) -> str:
    """sources.md: both tables, and how they came about."""
    p = results["protocol"]
    parts = [
        f"# Several pictures of a person: {p['weights']}",
        f"{p['pairs']} pairs of test people, {p['steps']} DDIM steps, w_c {p['guidance_scale']:g}, no guidance, "
        f"seed {p['seed']}, the same noise for every row. Joints are found by {p['judge']}. In brackets: 95 % "
        "bootstrap interval.",
        markdown_table(results["rows"], list(SHOWN), "from"),
        markdown_table(results["difference"], list(SHOWN), "pair by pair", signed=True),
    ]
    return "\n\n".join(parts) + "\n"
