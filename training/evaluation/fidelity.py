"""What numbers say of the paper's equations on a checkpoint: eq. 4's bound, eq. 11's target, the step of eqs. 14-15."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from reposedm_core.config import SPACES, TARGETS, UPDATES, FieldConfig
from reposedm_core.diffusion.losses import variational_bound
from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_json, write_text
from training.data.people_set import People
from training.evaluation.generate import OFF, open_contender
from training.evaluation.guidance import label, measure
from training.evaluation.measure import Judge, detector_of
from training.evaluation.tables import difference, markdown_table, summarise
from training.stages.denoiser import UNREAD, denoise
from training.stages.estimates import Estimates
from training.stages.field_loss import FieldTerm

LEVELS = (0, 10, 100, 300, 600, 900)
"""Noise levels, in thousandths of T; the paper's t is one more."""
SHOWN = ("joint_error", "pck@0.05", "perceptual", "ssim_256@1.5")


class Probe:
    """A checkpoint's predictions on noised latents of validation pairs, the same noise in every call."""

    def __init__(self, estimates: Estimates, people: People, chunk: int = 16):
        self.known, self.people, self.chunk = estimates, people, chunk
        self.schedule, self.config = estimates.schedule, estimates.networks.config

    def at(self, level: int):
        """Batch, z, noise, prediction, variance logits and t (b,) of all pairs at one level, chunk by chunk."""
        steps = self.schedule.timesteps
        generator = torch.Generator().manual_seed(level)
        for rows in np.array_split(np.arange(len(self.known.cache)), -(-len(self.known.cache) // self.chunk)):
            batch = {key: value.to(self.known.device) for key, value in self.known.cache.batch(rows, UNREAD).items()}
            x0 = batch["target"]
            noise = torch.randn(x0.shape, generator=generator).to(x0)
            t = torch.full((len(x0),), min(level * steps // 1000, steps - 1), device=x0.device)
            z = self.schedule.add_noise(x0, noise, t)
            keep = torch.zeros(len(x0), dtype=torch.bool, device=x0.device)
            with torch.no_grad():
                found = denoise(self.known.networks.denoiser, batch, z, t, self.schedule, keep)
            yield batch, z, noise, *found, t


def bits_per_dimension(probe: Probe) -> dict[str, dict[str, float | None]]:
    """L_vlb's term of each level (eq. 4) in bits per dimension, with the learned variance, with β_t and with β̃_t.

    "learned" is None for a network without learned variance.
    """
    schedule, result = probe.schedule, {}
    for level in LEVELS:
        sums: dict[str, list[Tensor]] = {}
        for batch, z, _, prediction, logits, t in probe.at(level):
            mean = schedule.posterior_mean(schedule.predict_x0(z, prediction, t), z, t)
            spreads = {
                "β": schedule.at(schedule.log_beta, t, z).expand_as(z),
                "β̃": schedule.at(schedule.log_posterior_variance, t, z).expand_as(z),
            }
            if logits is not None:
                spreads["learned"] = schedule.log_variance(logits, t)
            for name, log_variance in spreads.items():
                bound = variational_bound(schedule, batch["target"], z, t, mean, log_variance)
                sums.setdefault(name, []).append(bound)
        result[f"t = {level * schedule.timesteps // 1000 + 1}"] = {
            name: float(torch.cat(sums[name]).mean()) if name in sums else None for name in ("learned", "β", "β̃")
        }
    return result


def target_cosines(probe: Probe) -> dict[str, dict[str, float]]:
    """Of each space and level: do the gradients of both targets of the field (`FieldConfig.target`) agree, and does
    either point from the truth to the estimate, so that the step down it leads to the truth?

    Means over the pairs of cosines of ∇G, with respect to the decoded ŷ_0.
    """
    config, result = probe.config, {}
    terms = {
        (space, target): FieldTerm(
            replace(config, field=replace(config.field, space=space, target=target, estimate="x0")),
            probe.known.networks.estimator,
            probe.known.networks.tiny or probe.known.networks.autoencoder,
            probe.people.height,
            probe.people.width,
            probe.known.device,
        )
        for space in SPACES
        for target in TARGETS
    }
    for space in SPACES:
        for level in LEVELS[1:]:
            found: dict[str, list[Tensor]] = {}
            for batch, z, noise, prediction, _, t in probe.at(level):
                x0, drop = batch["target"], torch.zeros(len(z), dtype=torch.bool, device=z.device)
                off = probe.schedule.predict_x0(z, prediction, t) - x0
                terms_of = batch["joints"], x0, z, noise, prediction, t, drop
                skeleton, picture = (terms[space, target](*terms_of)[0] for target in TARGETS)
                for name, one, other in (
                    ("both targets", skeleton, picture),
                    ("skeleton, error", skeleton, off),
                    ("picture, error", picture, off),
                ):
                    found.setdefault(name, []).append(cosine_similarity(one.flatten(1), other.flatten(1)))
            here = f"{space}, t = {level * probe.schedule.timesteps // 1000 + 1}"
            result[here] = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    return result


def steps_to_compare(own: FieldConfig) -> list[FieldConfig]:
    """No guidance; then both steps with the bound and without, in the file's part of the sampling and in all of it."""
    base = replace(own, strength=own.strength or 1.0, training=0.0, estimate="x0", target="skeleton")
    spans = ((base.start, base.end), (0.0, 1.0))
    kinds = [
        replace(base, start=start, end=end, update=update, limit=limit)
        for start, end in spans
        for update in UPDATES
        for limit in (base.limit or 0.1, 0.0)
    ]
    return list(dict.fromkeys((OFF, *kinds)))


def study(
    weights: str, data: str, out: str, pairs: int = 16, judge: str | None = None, seed: int = 0, device: str = "cpu"
) -> dict:
    """All three on validation people; writes fidelity.json and fidelity.md into `out`, and returns the numbers.

    Raises:
        InputError: no such checkpoint, set or judge, pictures of another size than the checkpoint's, or fewer than 1
            pair.
    """
    if pairs < 1:
        raise InputError(f"pairs = {pairs}: must be at least 1.")
    people = People(data, "val")
    pipe = open_contender(weights, people, device=device).pipe
    detector = detector_of(judge, pipe, device)
    judging = Judge(detector, device=device)
    folder = Path(out)
    make_folder(folder, "out")
    probe = Probe(Estimates(weights, people, pairs, folder, torch.device(device)), people)
    chosen = people.fixed_pairs(pairs)
    kinds = steps_to_compare(pipe.config.field)
    found = measure(pipe, people, chosen, kinds, seed, judging)
    rows = {label(kind): found.values(label(kind)) for kind in kinds}
    off = rows[label(OFF)]
    pairwise = {f"{name} − off": difference(row, off) for name, row in rows.items() if row is not off}
    results = {
        "protocol": {
            "weights": Path(weights).name,
            "pairs": len(chosen),
            "seed": seed,
            "judge": Path(judge).name if judge else None,
            "judge_guides": same_weights(detector.estimator, pipe.estimator),
        },
        "bits": bits_per_dimension(probe),
        "cosines": target_cosines(probe),
        "steps": summarise(rows, chosen.identity),
        "step_differences": summarise(pairwise, chosen.identity),
    }
    write_json(folder / "fidelity.json", results)
    write_text(folder / "fidelity.md", markdown(results))
    return results


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Are they one network, whatever file each is from?"""
    mine, others = one.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(value, others[key]) for key, value in mine.items())


def markdown(results: dict) -> str:
    """fidelity.md: the three tables and how they were measured."""
    p = results["protocol"]
    judge = "the guiding estimator itself" if p["judge_guides"] else "another estimator than the guiding one"
    judge += f" ({p['judge']})" if p["judge"] else ""
    return (
        "\n\n".join(
            [
                f"# The paper's equations on {p['weights']}",
                f"{p['pairs']} validation pairs, seed {p['seed']}.",
                "## Eq. 4: bits per dimension of one step's term",
                "The learned variance earns its place where it is below both fixed ones.",
                _plain(results["bits"], "step"),
                "## Eq. 11: the skeleton or the true picture for the valid pose",
                "Cosines of ∇G. *error*: with ŷ_0 − y_0; a step down a gradient of cosine 1 leads to the truth.",
                _plain(results["cosines"], "space"),
                "## Eqs. 14 and 15: the step in sampling",
                f"Joints are found by {judge}. Limit 0 is the equation without our bound. In brackets: 95 % bootstrap "
                "interval.",
                markdown_table(results["steps"], list(SHOWN), "guidance"),
                markdown_table(results["step_differences"], list(SHOWN), "pair by pair", signed=True),
            ]
        )
        + "\n"
    )


def _plain(rows: dict[str, dict[str, float | None]], first: str) -> str:
    columns = list(next(iter(rows.values())))
    lines = [[first, *columns], ["---", *["---:"] * len(columns)]]
    for name, cells in rows.items():
        lines.append([name, *("–" if cells[key] is None else f"{cells[key]:.3g}" for key in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
