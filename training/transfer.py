"""Pictures to be measured: what checkpoints make of pairs of a people set, and what they are compared with."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reposedm_core.config import FieldConfig
from reposedm_core.diffusion.guided import Condition, FieldGuidance, GuidedDenoiser
from reposedm_core.diffusion.sampler import initial_latent, sample_ddim, simple_sigmas
from reposedm_core.errors import InputError
from reposedm_core.field import PoseInteractionField
from reposedm_core.pipeline import RePoseDMPipeline
from training.data.dataset import Pairs, People, to_unit

COPY, WARP, UPPER, OURS = "copy the source", "warp only", "autoencoder of the truth", "RePoseDM"
TRUTH = "the truth itself"
OFF = FieldConfig(strength=0.0)
SEED_STRIDE = 1_000_000
"""The noise of pair n has the seed SEED_STRIDE · seed + n: the pairs of two seeds share none."""


@dataclass
class Contender:
    """A checkpoint in the comparison.

    Attributes:
        kinds: row of the table → gradient guidance; `OFF` is none.
        steps, scale: DDIM steps and w_c of eq. 16.
        start: see `transfer`.
    """

    pipe: RePoseDMPipeline
    kinds: dict[str, FieldConfig]
    steps: int
    scale: float
    start: float = 1.0


@dataclass
class Batch:
    """Pairs number `first` and after, and what is known of them; pictures are uint8 (b, H, W, 3)."""

    first: int
    pairs: Pairs
    source: np.ndarray
    truth: np.ndarray
    skeleton: Tensor
    joints: np.ndarray
    masks: np.ndarray | None
    garments: np.ndarray | None

    @classmethod
    def read(cls, people: People, pairs: Pairs, first: int, size: int) -> Batch:
        """Pairs `first` to `first + size` of `pairs`, as far as there are so many."""
        part = pairs[slice(first, first + size)]
        of_target = part.identity, part.target
        masks = people.masks(*of_target)
        source, truth = (people.read("pictures", part.identity, index) for index in (part.source, part.target))
        return cls(first, part, source, truth, people.skeletons(*of_target), people.joints(*of_target),
                   None if masks is None else masks[:, 0].numpy(), people.garments(*of_target))

    def __len__(self) -> int:
        return len(self.pairs)


@torch.no_grad()
def transfer(pipe: RePoseDMPipeline, condition: Condition, skeleton: Tensor, seeds: list[int], steps: int, scale: float,
             guide: FieldConfig | None = None, joints: Tensor | None = None, start: float = 1.0) -> Tensor:
    """What `RePoseDMPipeline` does with one aligned picture and one pose, for each of a batch, by DDIM.

    Here each picture has a seed. The pipeline draws the noise of a whole batch from one, so that there the second
    picture of a batch is not what the same picture gives alone.

    Args:
        condition: of B pictures, by `RePoseDMPipeline.condition`. skeleton: (B, 3, H, W) in [-1, 1].
        seeds: one a picture: a picture's result depends on its own seed only.
        steps, scale: sampling steps and w_c of eq. 16.
        guide, joints: gradient guidance towards the COCO joints (B, 17, 3), or in space "features" the skeleton;
            None or a strength of 0 is off.
        start: below 1, sampling starts from the aligned latent, noised to this share of the schedule (**ours**);
            1 starts from noise.

    Returns:
        The results, (B, 3, H, W), about [-1, 1].
    """
    skeleton, field = skeleton.to(pipe.device), None
    if guide is not None and guide.strength:
        compare = PoseInteractionField(pipe.estimator, guide.space, mask=guide.mask)
        target = (compare.target_from_image(skeleton) if guide.space == "features"
                  else compare.target_from_joints(joints.to(pipe.device), *skeleton.shape[-2:]))
        field = FieldGuidance.configured(guide, compare, target, pipe.decode)
    shape = condition.pose.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    noise = noise.to(pipe.device)
    sigmas = simple_sigmas(pipe.schedule, round(steps / start))[-steps - 1:].to(pipe.device)
    first = initial_latent(noise, sigmas[0]) if start == 1 else condition.aligned + sigmas[0] * noise
    model = GuidedDenoiser(pipe.denoiser, pipe.schedule, condition, scale, field)
    return pipe.decode(sample_ddim(model, first, sigmas))


def to_pictures(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] → uint8 (B, H, W, 3), as the pictures would be saved."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).cpu().numpy()


@torch.no_grad()
def generate(contender: Contender, batch: Batch, seeds: list[int],
             baselines: bool = False) -> Iterator[tuple[str, int, np.ndarray]]:
    """(row, number of the seed, pictures) of every guidance of a checkpoint and every seed.

    `baselines` gives the rows `WARP` and `UPPER` first, once.
    """
    pipe, skeleton = contender.pipe, batch.skeleton.to(contender.pipe.device)
    # Once for all: aligning depends neither on the guidance nor on the seed.
    condition, alignment = pipe.condition(to_unit(batch.source).to(pipe.device), skeleton)
    if baselines:
        yield WARP, 0, to_pictures(alignment.image)
        yield UPPER, 0, to_pictures(pipe.decode(pipe.encode(to_unit(batch.truth).to(pipe.device))))
    for number, seed in enumerate(seeds):
        noises = [SEED_STRIDE * seed + batch.first + i for i in range(len(batch))]
        for row, kind in contender.kinds.items():
            yield row, number, to_pictures(transfer(pipe, condition, skeleton, noises, contender.steps,
                                                    contender.scale, kind, torch.from_numpy(batch.joints),
                                                    contender.start))


def open_contender(path: str | Path, people: People, name: str = OURS, strength: float | None = None,
                   steps: int | None = None, scale: float | None = None, device: str = "cpu",
                   start: float = 1.0) -> Contender:
    """A checkpoint without guidance, and with guidance of `strength` where that is above 0.

    Args:
        path: exported by training/train.py.
        name: of its rows.
        strength, steps, scale: None is what the checkpoint has as default.
        start: see `transfer`.

    Raises:
        InputError: no such checkpoint, made for pictures of another size, or steps or start out of range.
    """
    if not 0 < start <= 1:
        raise InputError(f"warm start = {start:g}: give a share of the schedule above 0; 1 starts from noise.")
    pipe = RePoseDMPipeline.from_pretrained(path, device)
    config = pipe.config
    if (people.height, people.width) != (config.height, config.width):
        raise InputError(f"The set {people.root} has pictures of {people.width}×{people.height}, "
                         f"{Path(path).name} makes {config.width}×{config.height}: make a set with --height "
                         f"{config.height} --width {config.width}.")
    steps = config.steps if steps is None else steps
    simple_sigmas(pipe.schedule, steps)      # refuses a number of steps before the first picture
    strength = config.field.strength if strength is None else strength
    kinds = {name: OFF}
    if strength:
        kinds[f"{name} + field {strength:g}"] = replace(config.field, strength=strength)
    return Contender(pipe, kinds, steps, config.guidance_scale if scale is None else scale, start)


# -- pictures in files

def named(value: str) -> tuple[str, Path]:
    """NAME=PATH of a command line."""
    name, found, path = value.partition("=")
    if not (name and found and path):
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=PATH")
    return name, Path(path)


def file_name(batch: Batch, n: int) -> str:
    """Name of the picture of a batch's n-th pair: NUMBER_PERSON_SOURCE_TARGET.png."""
    pairs = batch.pairs
    return f"{batch.first + n:05d}_{pairs.identity[n]:06d}_{pairs.source[n]:03d}_{pairs.target[n]:03d}.png"


def folder_name(row: str) -> str:
    """A row's name as that of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", row.lower()).strip("-")


def save_pictures(folder: Path, batch: Batch, pictures: np.ndarray) -> None:
    """Write pictures (b, H, W, 3), without loss, under the names of `file_name`."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / file_name(batch, n))


def read_pictures(folder: Path, batch: Batch) -> np.ndarray:
    """The pictures of a batch's pairs, uint8 (b, H, W, 3), made by any model, of a folder as `save_pictures` writes it.

    Raises:
        InputError: one is missing, unreadable, or of another size than the set's.
    """
    pictures = []
    for n in range(len(batch)):
        path = folder / file_name(batch, n)
        if not path.is_file():
            raise InputError(f"{folder} has no {path.name}: it must hold one PNG picture for each pair, named "
                             "NUMBER_PERSON_SOURCE_TARGET.png; --save-pictures writes such names.")
        try:
            with Image.open(path) as picture:
                pictures.append(np.array(picture.convert("RGB")))
        except OSError as error:
            raise InputError(f"{path} cannot be read as a picture ({error}): write it again.") from None
        height, width = pictures[-1].shape[:2]
        if (height, width) != batch.truth.shape[1:3]:
            raise InputError(f"{path} is {width}×{height}, the set has {batch.truth.shape[2]}×{batch.truth.shape[1]}: "
                             "resize the pictures to the set's size.")
    return np.stack(pictures)
