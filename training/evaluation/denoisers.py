"""Several denoisers on the same noised latents: squared error of ŷ_0 and bits per dimension, and their differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reposedm_core.diffusion.losses import guided_prediction, variational_bound
from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_json, write_text
from training.data.people_set import People
from training.engine.settings import RePoseDMSettings
from training.evaluation.fidelity import LEVELS, Probe
from training.evaluation.tables import Cell, as_cell
from training.metrics import interval
from training.stages.estimates import Estimates
from training.stages.field_loss import FieldTerm

ERROR, BITS = "error", "bits"
TITLES = {ERROR: "Squared error of ŷ_0", BITS: "Bits per dimension of one step's term (eq. 4)"}
FIELD, BETA = ", with its field", ", with β"

Rows = dict[str, dict[str, dict[str, np.ndarray]]]
"""Measure → row → step ("t = 301") → one number per pair, (n,)."""


def field_of(probe: Probe) -> FieldTerm | None:
    """∇G as the training of a checkpoint adds it, towards the joints, which is what use has; None: trained without."""
    config = probe.config
    if not config.field.training:
        return None
    return FieldTerm(
        replace(config, field=replace(config.field, target="skeleton")),
        probe.known.networks.estimator,
        probe.known.networks.tiny or probe.known.networks.autoencoder,
        probe.people.height,
        probe.people.width,
        probe.known.device,
    )


def measure(probe: Probe, name: str) -> Rows:
    """Of one checkpoint: its row, and where it was trained with the field a second one, of ŷ_0 after the field's step.

    The step is the training's, with the default bound of `RePoseDMSettings.field_limit`. The variance is the
    network's own, beside it β_t in its place, and bits are those of the prediction without the field, as in training.
    """
    schedule, config, term = probe.schedule, probe.config.field, field_of(probe)
    found: dict[str, dict[str, dict[str, list[Tensor]]]] = {ERROR: {}, BITS: {}}

    def keep(what: str, row: str, step: str, values: Tensor) -> None:
        found[what].setdefault(row, {}).setdefault(step, []).append(values)

    for level in LEVELS:
        step = f"t = {level * schedule.timesteps // 1000 + 1}"
        for batch, z, noise, prediction, logits, t in probe.at(level):
            x0 = batch["target"]
            estimate = schedule.predict_x0(z, prediction, t)
            keep(ERROR, name, step, squared(estimate - x0))
            if logits is not None:
                mean = schedule.posterior_mean(estimate, z, t)
                beta = schedule.at(schedule.log_beta, t, z).expand_as(z)
                for row, spread in ((name, schedule.log_variance(logits, t)), (name + BETA, beta)):
                    keep(BITS, row, step, variational_bound(schedule, x0, z, t, mean, spread))
            if term is not None:
                drop = torch.zeros(len(z), dtype=torch.bool, device=z.device)
                gradient = term(batch["joints"], x0, z, noise, prediction, t, drop)[0]
                limit = RePoseDMSettings.field_limit
                guided = guided_prediction(schedule, prediction, gradient, t, config.training, limit, config.update)
                keep(ERROR, name + FIELD, step, squared(schedule.predict_x0(z, guided, t) - x0))
    return {
        what: {
            row: {step: torch.cat(values).double().cpu().numpy() for step, values in steps.items()}
            for row, steps in rows.items()
        }
        for what, rows in found.items()
    }


def squared(error: Tensor) -> Tensor:
    """Mean square of each example, (b, C, h, w) to (b,)."""
    return error.square().flatten(1).mean(1)


def study(weights: dict[str, str | Path], data: str, out: str, pairs: int = 128, device: str = "cpu") -> dict:
    """Measure checkpoints on validation people; writes denoisers.json and denoisers.md into `out`, and returns the
    former: measure → "rows" and "differences", of each row those from the first, pair by pair → step → mean, low, high.

    Args:
        weights: checkpoints of one autoencoder by the names of their rows.
        pairs: how many of `People.fixed_pairs`.

    Raises:
        InputError: no such checkpoint or set, fewer than 1 checkpoint or pair, or checkpoints of different latents.
    """
    if pairs < 1 or not weights:
        raise InputError(f"pairs = {pairs}, {len(weights)} checkpoints: there must be at least 1 of each.")
    people, folder = People(data, "val"), Path(out)
    make_folder(folder, "out")
    values: Rows = {ERROR: {}, BITS: {}}
    truth = None
    for name, file in weights.items():
        probe = Probe(Estimates(file, people, pairs, folder, torch.device(device)), people)
        target = probe.known.cache.tensors["target"]
        if truth is not None and not torch.equal(truth, target):
            raise InputError(
                f"{name}: {file} has another autoencoder than the first checkpoint; train with its parts=."
            )
        truth = target
        for what, rows in measure(probe, name).items():
            values[what] |= rows
    who = people.fixed_pairs(pairs).identity
    results = {
        "protocol": {
            "weights": {name: Path(file).name for name, file in weights.items()},
            "pairs": len(who),
            "people": len(np.unique(who)),
        },
        **{what: tables(rows, who) for what, rows in values.items()},
    }
    write_json(folder / "denoisers.json", results)
    write_text(folder / "denoisers.md", markdown(results))
    return results


def tables(rows: dict[str, dict[str, np.ndarray]], people: np.ndarray) -> dict[str, dict[str, dict[str, Cell]]]:
    """Means with 95 % bootstrap intervals over people (n,), and the same of differences from the first row."""
    if not rows:
        return {"rows": {}, "differences": {}}
    first, base = next(iter(rows.items()))

    def cells(steps: dict[str, np.ndarray]) -> dict[str, Cell]:
        return {step: as_cell(*interval(numbers, people)) for step, numbers in steps.items()}

    less = {
        f"{row} − {first}": {step: numbers - base[step] for step, numbers in steps.items()}
        for row, steps in rows.items()
        if row != first
    }
    return {
        "rows": {row: cells(steps) for row, steps in rows.items()},
        "differences": {row: cells(steps) for row, steps in less.items()},
    }


def markdown(results: dict) -> str:
    """denoisers.md."""
    p = results["protocol"]
    parts = [
        "# Denoisers on the same noised latents",
        f"{p['pairs']} pairs of {p['people']} validation people, the same noise for every row. In brackets: 95 % "
        "bootstrap interval, whole people resampled. It tells pairs apart, not training runs.",
    ]
    for what, title in TITLES.items():
        if results[what]["rows"]:
            parts += [f"## {title}", table(results[what]["rows"], "")]
        if results[what]["differences"]:
            parts += ["Pair by pair:", table(results[what]["differences"], "+")]
    return "\n\n".join(parts) + "\n"


def table(rows: dict[str, dict[str, Cell]], sign: str) -> str:
    """A row a line, a step a column."""
    steps = list(next(iter(rows.values())))
    lines = [["", *steps], ["---", *["---:"] * len(steps)]]
    for row, cells in rows.items():
        lines.append([row, *(shown(cells[step], sign) for step in steps)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(cell: Cell, sign: str) -> str:
    """`mean [low, high]` to four digits after the point."""
    low, high = (None if cell[end] is None else f"{cell[end]:{sign}.4f}" for end in ("low", "high"))
    return f"{cell['mean']:{sign}.4f}" + (f" [{low}, {high}]" if low and high else "")
