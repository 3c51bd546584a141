"""What the tiny autoencoder costs in accuracy: aligner, field's gradient and whole guided runs with it and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guidance import guide_x0
from reposedm_core.diffusion.tiny import TinyAutoencoder
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, predict_pose
from reposedm_core.field import PoseInteractionField, joints_target
from reposedm_core.files import make_folder, write_json, write_text
from reposedm_core.metrics.joints import joint_error
from reposedm_core.networks import Networks, change_inner
from reposedm_core.pipeline import RePoseDMPipeline
from training.data.people_set import Pairs, People
from training.engine.run import load_finished
from training.engine.settings import Settings, model_of
from training.evaluation.generate import OFF, SEED_STRIDE, Batch, align, transfer
from training.evaluation.measure import Detector, load_detector
from training.stages.aligner import alignment_loss

PARTS = {"autoencoder", "tiny", "estimator", "aligner", "denoiser"}
NOISE = (0.0, 0.5)
"""Deviations of the noise on the latents that are decoded: those of the late steps of a sampling."""
MOVED, STEPS, SHARE, LIMIT = 4.0, 10, 0.5, 0.05
"""Pixels of 128 by which joints are asked to move, steps down the gradient, the share of the distance that each is to
take off (`guide_x0`), and its bound."""
SAMPLED = 20
"""DDIM steps of the guided runs."""


class Compared:
    """The networks of a training run and its validation pairs."""

    autoencoder: KLAutoencoder
    tiny: TinyAutoencoder
    estimator: HigherHRNet
    aligner: RecurrentPoseAligner
    denoiser: Denoiser

    def __init__(self, settings: Settings, pairs: int, chunk: int = 8):
        self.config, self.chunk, self.seed = model_of(settings), chunk, settings.seed
        if self.config.inner != "tiny" or self.config.aligner.encoder != "latent":
            raise InputError(f"{self.config.name}: it has no tiny autoencoder for its inner work; nothing to compare.")
        networks: dict[str, nn.Module] = {}
        load_finished(PARTS, self.config, settings, networks)
        for name, network in networks.items():
            setattr(self, name, network.eval().requires_grad_(False))
        self.people = People(settings.data, "val")
        if not self.people.has_correspondence:
            raise InputError(f"data = {settings.data}: a set with exact correspondence is needed (generate.py).")
        self.pairs = self.people.fixed_pairs(pairs)
        self.sides: dict[str, KLAutoencoder | TinyAutoencoder] = {"exact": self.autoencoder, "tiny": self.tiny}

    def pipeline(self, side: str) -> RePoseDMPipeline:
        """The whole model with that side's inner work."""
        own = self.config, self.autoencoder, self.estimator, self.aligner, self.denoiser
        return RePoseDMPipeline(change_inner(Networks(*own, tiny=self.tiny), side))

    def parts(self) -> Iterator[Pairs]:
        """The pairs, some at a time."""
        for first in range(0, len(self.pairs), self.chunk):
            yield self.pairs[np.arange(first, min(first + self.chunk, len(self.pairs)))]


@torch.no_grad()
def latent_errors(known: Compared) -> dict[str, float]:
    """Mean square error of the tiny encoder's latents, as a share of the large one's mean square."""
    found: dict[str, list[Tensor]] = {}
    for pairs in known.parts():
        target = pairs.identity, pairs.target
        for name, read in (("pictures", known.people.pictures), ("skeletons", known.people.skeletons)):
            large, tiny = (network.encode(read(*target)) for network in known.sides.values())
            error = (tiny - large).square().flatten(1).mean(1) / large.square().flatten(1).mean(1)
            found.setdefault(name, []).append(error)
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


@torch.no_grad()
def end_point_errors(known: Compared) -> dict[str, dict[str, float]]:
    """Of each side: end-point error in pixels on the visible body, iteration by iteration; the last encoding is the
    large one's on both."""
    totals: dict[str, dict[str, float]] = {side: {} for side in known.sides}
    for pairs in known.parts():
        source, target = (known.people.pictures(pairs.identity, at) for at in (pairs.source, pairs.target))
        skeleton = known.people.skeletons(pairs.identity, pairs.target)
        truth = known.people.correspondence(pairs)
        for side, network in known.sides.items():
            found = known.aligner(source, skeleton, None, known.autoencoder.encode, network.encode)
            for name, value in alignment_loss(found, source, target, *truth).items():
                if name.startswith("epe"):
                    totals[side][name] = totals[side].get(name, 0.0) + float(value) * len(pairs) / len(known.pairs)
    return totals


def gradients(known: Compared, seed: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Cosines of both sides' ∇G at each level of noise, and joint errors in pixels and distances G of the true picture
    and of what each side's steps make of it, all decoded by the large one.

    The joints that are asked for are the true ones, each moved at random; without noise.
    """
    config, rng = known.config, np.random.default_rng(seed)
    field = PoseInteractionField(known.estimator, config.field.space, mask=config.field.mask).folded()
    cosines: dict[str, list[Tensor]] = {f"noise {level:g}": [] for level in NOISE}
    joints: dict[str, list[np.ndarray]] = {"asked for": []}
    distances: dict[str, list[Tensor]] = {}

    def looked_at(z: Tensor, name: str, target) -> None:
        with torch.no_grad():
            picture = known.autoencoder.decode(z)
            joints.setdefault(name, []).append(predict_pose(known.estimator, picture).numpy())
            distances.setdefault(name, []).append(field.distance(picture, target))

    for pairs in known.parts():
        where = pairs.identity, pairs.target
        wanted = known.people.joints(*where).astype(np.float32)
        wanted[..., :2] += rng.normal(0, MOVED * known.people.height / 128, wanted[..., :2].shape)
        joints["asked for"].append(wanted)
        target = joints_target(field, torch.from_numpy(wanted), known.people.height, known.people.width)
        with torch.no_grad():
            latents = known.autoencoder.encode(known.people.pictures(*where))
        for level in NOISE:
            noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
            one, other = (
                field.gradient(latents + level * noise, net.decode, target)[0] for net in known.sides.values()
            )
            cosines[f"noise {level:g}"].append(cosine_similarity(one.flatten(1), other.flatten(1)))
        looked_at(latents, "before", target)
        for side, network in known.sides.items():
            looked_at(_descend(field, latents, network.decode, target), side, target)
    truth = np.concatenate(joints.pop("asked for"))
    moved = {
        name: {"joints": joint_error(np.concatenate(found), truth), "G": float(torch.cat(distances[name]).mean())}
        for name, found in joints.items()
    }
    return {name: float(torch.cat(values).mean()) for name, values in cosines.items()}, moved


def guided_runs(known: Compared, judge: Detector | None = None) -> dict[str, dict[str, float]]:
    """Of whole runs of each side, unguided and guided in the model's own way: how far the joints that are found in the
    results are from those asked for, in pixels; by the guiding estimator, and by a judge where there is one. The large
    one decodes all results.

    Both sides and guidances start from the same noise of a pair.
    """
    config = known.config
    judges = {"": Detector(known.estimator, "")} | ({} if judge is None else {f", by {judge.name}": judge})
    errors: dict[str, dict[str, float]] = {}
    for side in known.sides:
        pipe = known.pipeline(side)
        found: dict[str, list[np.ndarray]] = {}
        truth = []
        for first in range(0, len(known.pairs), known.chunk):
            batch = Batch.read(known.people, known.pairs, first, known.chunk)
            aligned, seeds = align(pipe, batch, None), [SEED_STRIDE * known.seed + first + n for n in range(len(batch))]
            truth.append(batch.joints)
            for name, guide in (("unguided", OFF), ("guided", config.field)):
                given = aligned, seeds, SAMPLED, config.guidance_scale, guide, batch.target_pose
                pictures = transfer(pipe, *given)
                for whose, each in judges.items():
                    found.setdefault(name + whose, []).append(_best(each, pictures))
        for name, joints in found.items():
            errors.setdefault(name, {})[side] = joint_error(np.concatenate(joints), np.concatenate(truth))
    return errors


def _best(judge: Detector, pictures: Tensor) -> np.ndarray:
    """The surest person of each picture, (n, 17, 3); zeros where a judge of several finds nobody."""
    return np.stack([people[0] if len(people) else np.zeros((17, 3), np.float32) for people in judge(pictures)])


def _descend(field: PoseInteractionField, z: Tensor, decode: Callable[[Tensor], Tensor], target) -> Tensor:
    for _ in range(STEPS):
        gradient, distance = field.gradient(z, decode, target)
        z = guide_x0(z, gradient, 0.0, SHARE, LIMIT, distance)
    return z


def study(settings: Settings, out: str, pairs: int = 32, judge: str | None = None) -> dict:
    """All of it on validation pairs; writes inner.json and inner.md into `out`, and returns the numbers.

    Args:
        judge: file of another estimator, which looks at the whole runs, too; see `load_detector`.

    Raises:
        InputError: fewer than 1 pair, a preset without tiny autoencoder, a set without correspondence, a stage that
            the run has not finished, or a judge that cannot be read.
    """
    if pairs < 1:
        raise InputError(f"pairs = {pairs}: must be at least 1.")
    other = None if judge is None else load_detector(judge)
    known = Compared(settings, pairs)
    make_folder(Path(out), "out")
    cosines, moved = gradients(known, settings.seed)
    results = {
        "pairs": len(known.pairs),
        "latents": latent_errors(known),
        "end_point": end_point_errors(known),
        "cosines": cosines,
        "moved": moved,
        "runs": guided_runs(known, other),
    }
    write_json(Path(out) / "inner.json", results)
    write_text(Path(out) / "inner.md", markdown(results))
    return results


def markdown(results: dict) -> str:
    """inner.md: one table."""
    exact, tiny = results["end_point"]["exact"], results["end_point"]["tiny"]
    moved = results["moved"]
    rows = [
        ("", "exact", "tiny"),
        ("---", "---:", "---:"),
        *((f"end-point error, iteration {n + 1}, px", exact[name], tiny[name]) for n, name in enumerate(exact)),
        (f"joints asked for, px, after {STEPS} steps (before: {moved['before']['joints']:.2f})",)
        + tuple(moved[side]["joints"] for side in ("exact", "tiny")),
        (f"G after {STEPS} steps (before: {moved['before']['G']:.1f})",)
        + tuple(moved[side]["G"] for side in ("exact", "tiny")),
        *(
            (f"joints after whole runs of {SAMPLED} steps, {name}, px", *(errors[side] for side in ("exact", "tiny")))
            for name, errors in results["runs"].items()
        ),
        *((f"cosine of ∇G with exact's, {name}", 1.0, value) for name, value in results["cosines"].items()),
        *((f"error of the latents of {name}", 0.0, value) for name, value in results["latents"].items()),
    ]
    cells = [[cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + f"\n\n{results['pairs']} validation pairs.\n"
