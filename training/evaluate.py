"""Measure a checkpoint: python training/evaluate.py --weights FILE --data FOLDER --out FOLDER

Pairs of people never trained on: the person of one picture is put into the pose of another picture of the same person,
and the result is compared with that picture. Writes results.json, results.md and sheet.jpg.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

if __package__ in (None, ""):   # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reposedm_core.checkpoint import load_into, load_parts
from reposedm_core.config import EstimatorConfig, FieldConfig, from_dict
from reposedm_core.diffusion.guided import Condition, FieldGuidance, GuidedDenoiser
from reposedm_core.diffusion.sampler import initial_latent, sample_ddim, simple_sigmas
from reposedm_core.errors import InputError
from reposedm_core.field import HigherHRNet, PoseInteractionField, predict_pose
from reposedm_core.pipeline import RePoseDMPipeline
from training import metrics
from training.data.dataset import SPLITS, Pairs, People, to_unit
from training.metrics.perceptual import NETWORK, PerceptualDistance
from training.metrics.pictures import LEAST_SHARE, REGIONS, RIGHT_COLOUR
from training.report import captions, summarise, write_report
from training.sheet import comparison_sheet

COPY, WARP, UPPER, OURS = "copy the source", "warp only", "autoencoder of the truth", "RePoseDM"
TRUTH = "the truth itself"
OFF = FieldConfig(strength=0.0)


@torch.no_grad()
def transfer(pipe: RePoseDMPipeline, condition: Condition, skeleton: Tensor, seeds: list[int], steps: int, scale: float,
             guide: FieldConfig | None = None, joints: Tensor | None = None) -> Tensor:
    """What `RePoseDMPipeline` does with one aligned picture and one pose, for each of a batch, by DDIM.

    Here each picture has a seed. The pipeline draws the noise of a whole batch from one, so that there the second
    picture of a batch is not what the same picture gives alone.

    Args:
        condition: of B pictures, by `RePoseDMPipeline.condition`. skeleton: (B, 3, H, W) in [-1, 1].
        seeds: one a picture: a picture's result depends on its own seed only.
        steps, scale: sampling steps and w_c of eq. 16.
        guide, joints: gradient guidance towards the COCO joints (B, 17, 3), or in space "features" the skeleton;
            None or a strength of 0 is off.

    Returns:
        The results, (B, 3, H, W), about [-1, 1].
    """
    skeleton, coder, field = skeleton.to(pipe.device), pipe.autoencoder, None
    if guide is not None and guide.strength:
        compare = PoseInteractionField(pipe.estimator, guide.space, mask=guide.mask)
        target = (compare.target_from_image(skeleton) if guide.space == "features"
                  else compare.target_from_joints(joints.to(pipe.device), *skeleton.shape[-2:]))
        field = FieldGuidance.configured(guide, compare, target, coder.decode)
    shape = condition.pose.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    sigmas = simple_sigmas(pipe.schedule, steps).to(pipe.device)
    model = GuidedDenoiser(pipe.denoiser, pipe.schedule, condition, scale, field)
    latent = sample_ddim(model, initial_latent(noise.to(pipe.device), sigmas[0]), sigmas)
    return coder.decode(latent)


def to_pictures(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] → uint8 (B, H, W, 3), as the pictures would be saved."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


@torch.no_grad()
def generate(pipe: RePoseDMPipeline, people: People, pairs: Pairs, kinds: dict[str, FieldConfig], steps: int,
             scale: float, seed: int = 0, batch: int = 16) -> dict[str, np.ndarray]:
    """Pictures of every pair, uint8 (n, H, W, 3): results with the guidance of each of `kinds`, under its name, what
    they are compared with, and "pose", the skeletons."""
    columns: dict[str, list[np.ndarray]] = {}
    with tqdm(total=len(pairs) * len(kinds), desc=f"{people.split}: generating", unit="picture") as bar:
        for first in range(0, len(pairs), batch):
            part = pairs[slice(first, first + batch)]
            source, target = (people.pictures(part.identity, index) for index in (part.source, part.target))
            skeleton = people.skeletons(part.identity, part.target)
            joints = torch.from_numpy(people.joints(part.identity, part.target))
            seeds = [seed + first + i for i in range(len(part))]
            upper = pipe.autoencoder.decode(pipe.autoencoder.encode(target.to(pipe.device)))
            # Once for all kinds: aligning does not depend on the guidance.
            condition, alignment = pipe.condition(source.to(pipe.device), skeleton.to(pipe.device))
            rows = {COPY: source, WARP: alignment.image, UPPER: upper, TRUTH: target, "pose": skeleton}
            for name, kind in kinds.items():
                rows[name] = transfer(pipe, condition, skeleton, seeds, steps, scale, kind, joints)
                bar.update(len(part))
            for name, images in rows.items():
                columns.setdefault(name, []).append(to_pictures(images))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def with_field(strength: float) -> str:
    """Name of the row with gradient guidance."""
    return f"{OURS} + field {strength:g}"


def load(weights: str | Path, data: str | Path, split: str, device: str) -> tuple[RePoseDMPipeline, People]:
    """A checkpoint, and people to try it on.

    Raises:
        InputError: no such checkpoint or set, or pictures of another size than the checkpoint's.
    """
    people = People(data, split)
    pipe = RePoseDMPipeline.from_pretrained(weights, device)
    height, width = pipe.config.height, pipe.config.width
    if (people.height, people.width) != (height, width):
        raise InputError(f"The set {data} has pictures of {people.width}×{people.height}, {Path(weights).name} makes "
                         f"{width}×{height}: generate a set with --height {height} --width {width}.")
    return pipe, people


class Judge:
    """Measures pictures against the true ones of the same pairs; a measure is (n,), NaN where it says nothing.

    The joints are found by `estimator`, the checkpoint's own unless another is given.
    """

    def __init__(self, pipe: RePoseDMPipeline, people: People, pairs: Pairs, batch: int = 16,
                 estimator: HigherHRNet | None = None):
        self.pipe, self.batch, self.estimator = pipe, batch, estimator or pipe.estimator
        self.perceptual = PerceptualDistance().to(pipe.device)
        self.truth = to_pictures(people.pictures(pairs.identity, pairs.target))
        self.masks = people.masks(pairs.identity, pairs.target)[:, 0].numpy()
        self.joints = people.joints(pairs.identity, pairs.target)
        self.garments = people.garments(pairs.identity, pairs.target)

    def measure(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """All columns of uint8 pictures (n, H, W, 3); the colour columns only where the set labels garments."""
        values = {"perceptual": self._batched(lambda a, b: self.perceptual(a, b), pictures, self.truth),
                  "psnr": metrics.psnr(pictures, self.truth), "ssim": metrics.ssim_256(pictures, self.truth),
                  "foreground_l1": metrics.foreground_l1(pictures, self.truth, self.masks)}
        if self.garments is not None:
            values.update(metrics.colour_measures(pictures, self.truth, self.garments))
        return {**values, **self.measure_pose(pictures)}

    def measure_pose(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of the estimator: each joint at the highest peak of its heat map."""
        predicted = self._batched(lambda a: predict_pose(self.estimator, a, threshold=0.0), pictures)
        return metrics.pck_measures(predicted, self.joints, pictures.shape[1])

    def _batched(self, function, *pictures: np.ndarray) -> np.ndarray:
        parts = []
        for first in range(0, len(pictures[0]), self.batch):
            images = [to_unit(p[first:first + self.batch]).to(self.pipe.device) for p in pictures]
            parts.append(function(*images).cpu().numpy())
        return np.concatenate(parts)


def load_judge(path: str | Path, device: str) -> HigherHRNet:
    """A pose estimator of its own to judge with: estimator.safetensors of training/train.py.

    Raises:
        InputError: no such checkpoint, or one of other networks.
    """
    parts, header = load_parts(path)
    if set(parts) != {"estimator"}:
        raise InputError(f"judge: {Path(path).name} holds {', '.join(sorted(parts))}; give the estimator.safetensors "
                         "of a run of training/train.py.")
    estimator = HigherHRNet(from_dict(EstimatorConfig, header["config"], Path(path).name))
    load_into(estimator, parts["estimator"], f"judge: {Path(path).name}")
    return estimator.eval().requires_grad_(False).to(device)


def notes(colours: bool, field: bool, judge: str | None = None) -> list[str]:
    """How each column is measured, and what it must not be taken for."""
    finder = "a pose estimator of another run than the checkpoint" if judge else "the checkpoint's own pose estimator"
    lines = [
        "All pictures are rounded to 8 bits first. Every column is the mean over pairs.",
        "perceptual: LPIPS's formula (unit-normalised features, all weights 1, mean over 5 layers, 0..2) on the "
        f"ImageNet features of {NETWORK}; not comparable with LPIPS on AlexNet or VGG.",
        "PSNR (dB) and SSIM (scikit-image, Gaussian window σ 1.5, range 1) of the whole picture with its background.",
        "foreground L1: mean absolute difference, range 0..1, inside the true person's mask.",
        "PCK@a: share of the target's visible joints found within a·height; joints px: their mean distance. The judge "
        f"is {finder}, trained on people of the same generator: what it gets wrong on the true pictures is the row "
        f"“{TRUTH}”."]
    if colours:
        lines.append(
            f"colours right: pairs whose {' and '.join(REGIONS)} (each where it covers {LEAST_SHARE:.1%} or more of "
            f"the true picture) have a mean CIELAB colour within ΔE {RIGHT_COLOUR:g} (CIE76) of the true one, measured "
            "where the true picture shows the garment; ΔE: its mean.")
    if field and not judge:
        lines.append("The field follows the gradient of the very estimator that judges: that flatters the joint "
                     "columns of its row.")
    return lines


def evaluate(weights: str | Path, data: str | Path, out: str | Path, split: str = "test", pairs: int = 128,
             steps: int | None = None, guidance_scale: float | None = None, field_strength: float = 0.0, seed: int = 0,
             device: str = "cpu", batch: int = 16, shown: int = 24, judge: str | Path | None = None) -> dict:
    """Measure a checkpoint and write results.json, results.md and sheet.jpg into `out`; returns the results.

    Args:
        weights, data: a checkpoint of training/train.py and a folder of training/data/synthetic.py.
        pairs: how many pairs of `People.fixed_pairs`.
        steps, guidance_scale: the checkpoint's defaults when None.
        field_strength: above 0 adds a row with gradient guidance.
        shown: pairs on the sheet, the first ones.
        judge: estimator.safetensors of another training run that finds the joints instead of the checkpoint's own.

    Raises:
        InputError: no such checkpoint or set, pictures of another size than the checkpoint's, or a number out of range.
    """
    if pairs < 1 or batch < 1 or shown < 1:
        raise InputError(f"pairs = {pairs}, batch = {batch}, shown = {shown}: all must be at least 1.")
    pipe, people = load(weights, data, split, device)
    config = pipe.config
    chosen = people.fixed_pairs(pairs)
    steps = config.steps if steps is None else steps
    scale = config.guidance_scale if guidance_scale is None else guidance_scale
    kinds = {OURS: OFF}
    if field_strength:
        kinds[with_field(field_strength)] = replace(config.field, strength=field_strength)
    pictures = generate(pipe, people, chosen, kinds, steps, scale, seed, batch)
    measured = Judge(pipe, people, chosen, batch, load_judge(judge, device) if judge else None)
    names = tqdm([COPY, WARP, *kinds, UPPER], desc="measuring", unit="row")
    rows = {name: measured.measure(pictures[name]) for name in names}
    rows[TRUTH] = measured.measure_pose(pictures[TRUTH])
    differences = {f"{name} − {base}": {k: rows[name][k] - rows[base][k] for k in rows[base]}
                   for name in kinds for base in (COPY, WARP)}
    results = {
        "protocol": {"weights": Path(weights).name, "preset": config.name, "split": split, "pairs": pairs,
                     "identities": len(np.unique(chosen.identity)), "width": people.width, "height": people.height,
                     "steps": steps, "guidance_scale": scale, "field_strength": field_strength, "seed": seed,
                     "perceptual_network": NETWORK, "right_colour": RIGHT_COLOUR,
                     "judge": Path(judge).name if judge else None,
                     "notes": notes(measured.garments is not None, bool(field_strength), judge)},
        "rows": summarise(rows, chosen.identity), "differences": summarise(differences, chosen.identity)}
    write_report(results, out)
    best = list(kinds)[-1]
    columns = {"source": COPY, "pose": "pose", "aligned": WARP, "result": best, "target": TRUTH}
    sheet = comparison_sheet({label: pictures[name][:shown] for label, name in columns.items()},
                             captions(rows[best], chosen[:shown]))
    sheet.save(Path(out) / "sheet.jpg", quality=90)
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint exported by training/train.py")
    parser.add_argument("--data", required=True, help="folder written by training/data/synthetic.py")
    parser.add_argument("--out", required=True, help="folder for results.json, results.md and sheet.jpg")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--steps", type=int, help="DDIM steps (default: the checkpoint's)")
    parser.add_argument("--guidance-scale", type=float, help="w_c of eq. 16 (default: the checkpoint's)")
    parser.add_argument("--field-strength", type=float, default=0.0, help="adds a row with gradient guidance")
    parser.add_argument("--judge", help="estimator.safetensors of another training run, to find the joints with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        evaluate(**vars(options))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((Path(options.out) / "results.md").read_text(encoding="utf-8"))
    print(f"Wrote results.json, results.md and sheet.jpg to {options.out} in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
