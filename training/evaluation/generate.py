"""Pictures to be measured: what checkpoints make of pairs of a people set, and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reposedm_core.alignment import MatchingPoseAligner, start_from
from reposedm_core.alignment.skeleton_map import skeleton_map
from reposedm_core.alignment.warp import warp
from reposedm_core.conditioning import Aligned, make_condition, source_joints
from reposedm_core.config import FieldConfig
from reposedm_core.diffusion.guided import FieldGuidance, GuidedDenoiser
from reposedm_core.diffusion.sampler import simple_sigmas
from reposedm_core.diffusion.schedulers import sample_noise
from reposedm_core.errors import InputError
from reposedm_core.field import PoseInteractionField, pose_target
from reposedm_core.images import to_uint8
from reposedm_core.letterbox import size_of
from reposedm_core.pipeline import RePoseDMPipeline
from reposedm_core.pose import Pose
from training.data.people_set import Pairs, People, to_unit

COPY, SKELETON, WARP, PLATE = "copy the source", "skeleton map", "warp only", "warp on its plate"
UPPER, OURS, TRUTH = "autoencoder reconstruction", "RePoseDM", "ground truth"
SHOWN = ("source", "pose", "plate", "visibility", "person")
"""Pictures that are kept to be looked at, beside those of the rows; see `views`."""
SOURCE_POSES = ("estimated", "true", "none")
"""What an aligner that reads the source's pose is given: what its checkpoint's estimator finds, as the pipeline does;
the set's own; or nothing."""
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
        source_pose: one of `SOURCE_POSES`.
    """

    pipe: RePoseDMPipeline
    kinds: dict[str, FieldConfig]
    steps: int
    scale: float
    start: float = 1.0
    source_pose: str = "estimated"

    @property
    def name(self) -> str:
        """The first of its rows."""
        return next(iter(self.kinds))


@dataclass
class Batch:
    """Pairs number `first` and after, and what is known of them; pictures are uint8 (b, H, W, 3).

    `joints` are the target's, COCO-17 (b, 17, 3); `source_pose` and `target_pose` OpenPose-18 (b, 18, 3). Masks
    (b, H, W) and garments are the target's, but for `source_masks`; None for a set without them.
    """

    first: int
    pairs: Pairs
    source: np.ndarray
    truth: np.ndarray
    skeleton: Tensor
    joints: np.ndarray
    masks: np.ndarray | None
    garments: np.ndarray | None
    source_masks: np.ndarray | None
    source_pose: np.ndarray
    target_pose: np.ndarray

    @classmethod
    def read(cls, people: People, pairs: Pairs, first: int, size: int) -> Batch:
        """Pairs `first` to `first + size` of `pairs`, as far as there are so many."""
        part = pairs[slice(first, first + size)]
        of_source, of_target = (part.identity, part.source), (part.identity, part.target)
        masks, source_masks = (people.masks(*which) for which in (of_target, of_source))
        source, truth = (people.read("pictures", *which) for which in (of_source, of_target))
        return cls(
            first,
            part,
            source,
            truth,
            people.skeletons(*of_target),
            people.joints(*of_target),
            None if masks is None else masks[:, 0].numpy(),
            people.garments(*of_target),
            None if source_masks is None else source_masks[:, 0].numpy(),
            people.openpose(*of_source),
            people.openpose(*of_target),
        )

    def __len__(self) -> int:
        return len(self.pairs)


def find_source(pipe: RePoseDMPipeline | None, batch: Batch, source_pose: str) -> Tensor | None:
    """OpenPose-18 joints (b, 18, 3) of the sources' people by one of `SOURCE_POSES`.

    None for "none", and for "estimated" where `pipe`, whose estimator finds them, is None.
    """
    if source_pose == "true":
        return torch.from_numpy(batch.source_pose).float()
    if source_pose == "none" or pipe is None:
        return None
    return source_joints([pipe.find(picture[None]) for picture in to_unit(batch.source)])


@torch.no_grad()
def align(pipe: RePoseDMPipeline, batch: Batch, joints: Tensor | None) -> Aligned:
    """Align a batch as `RePoseDMPipeline` aligns each of its pictures.

    Args:
        joints: of the sources' people, see `find_source`; only an aligner that reads them looks at them.
    """
    source, skeleton = to_unit(batch.source).to(pipe.device), batch.skeleton.to(pipe.device)
    start = None
    if isinstance(pipe.aligner, MatchingPoseAligner):
        target = torch.from_numpy(batch.target_pose).float()
        start = start_from(joints, target, source, pipe.aligner.config.shrink)
    return make_condition(
        pipe.aligner,
        pipe.denoiser,
        pipe.encode,
        source,
        skeleton,
        pipe.autoencoder.stride,
        start=start,
        inner=pipe.encode_inner if pipe.tiny else None,
        parser=pipe.parser,
        layout=pipe.layout,
    )


@torch.no_grad()
def transfer(
    pipe: RePoseDMPipeline,
    aligned: Aligned,
    seeds: list[int],
    steps: int,
    scale: float,
    guide: FieldConfig | None = None,
    poses: np.ndarray | None = None,
    start: float = 1.0,
) -> Tensor:
    """What `RePoseDMPipeline` does with one aligned picture and one pose, for each of a batch, by DDIM.

    Here each picture has a seed. The pipeline draws the noise of a whole batch from one, so that there the second
    picture of a batch is not what the same picture gives alone.

    Args:
        aligned: B pictures, by `align`.
        seeds: one per picture: a picture's result depends on its own seed only.
        steps, scale: sampling steps and w_c of eq. 16.
        guide, poses: gradient guidance towards the OpenPose-18 joints (B, 18, 3), at the size that the networks see;
            None or a strength of 0 is off.
        start: below 1, sampling starts from the aligned latent, noised to this share of the schedule (**ours**);
            1 starts from noise.

    Returns:
        The results, (B, 3, H, W), about [-1, 1].
    """
    condition, field = aligned.condition, None
    if guide is not None and guide.strength and poses is not None:
        size, native = size_of(aligned.source), pipe.config.field_size(guide.size)
        compare = PoseInteractionField(pipe.estimator, guide.space, mask=guide.mask)
        target = pose_target(compare, [Pose(joints[None], *size) for joints in poses], size, native)
        field = FieldGuidance.configured(
            guide,
            compare,
            target.map(lambda values: values.to(pipe.device)),
            lambda z: pipe.field_picture(z, guide.size),
        )
    shape = condition.pose.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    noise = noise.to(pipe.device)
    model = GuidedDenoiser(pipe.denoiser, pipe.schedule, condition, scale, field)
    latent = sample_noise(model, noise, steps, start=None if start == 1 else (condition.aligned, start))
    return pipe.picture(latent, aligned.seen, aligned.source)


def to_pictures(images: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] → uint8 (B, H, W, 3), as the pictures would be saved."""
    return to_uint8(images).movedim(1, -1).cpu().numpy()


def generate(
    contender: Contender, batch: Batch, aligned: Aligned, seeds: list[int]
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(row, number of the seed, pictures) of every guidance of a checkpoint and every seed."""
    for number, seed in enumerate(seeds):
        noises = [SEED_STRIDE * seed + batch.first + i for i in range(len(batch))]
        for row, kind in contender.kinds.items():
            yield (
                row,
                number,
                to_pictures(
                    transfer(
                        contender.pipe,
                        aligned,
                        noises,
                        contender.steps,
                        contender.scale,
                        kind,
                        batch.target_pose,
                        contender.start,
                    )
                ),
            )


def by_skeleton(batch: Batch, joints: Tensor) -> np.ndarray:
    """The row `SKELETON`: the source at its full size under the map that the two skeletons give, without a network."""
    source, target = to_unit(batch.source), torch.from_numpy(batch.target_pose).float()
    size = size_of(source)
    return to_pictures(warp(source, skeleton_map(joints, target, size, size, size)[0]))


@torch.no_grad()
def baselines(pipe: RePoseDMPipeline, batch: Batch, aligned: Aligned) -> Iterator[tuple[str, np.ndarray]]:
    """(row, pictures) of what a checkpoint's aligner and autoencoder do alone."""
    yield WARP, to_pictures(aligned.alignment.image)
    if aligned.seen.reference is not None:
        yield PLATE, to_pictures(aligned.seen.image)
    yield UPPER, to_pictures(pipe.decode(pipe.encode(to_unit(batch.truth).to(pipe.device))))


def views(aligned: Aligned) -> dict[str, np.ndarray]:
    """What an aligner with masks found, as pictures: the plate, and visibility and person from black to white."""
    found = aligned.seen.reference
    if found is None:
        return {}
    masks = {"visibility": found.visibility, "person": found.person}
    return {
        "plate": to_pictures(found.plate),
        **{name: to_pictures(2 * mask.expand(-1, 3, -1, -1) - 1) for name, mask in masks.items()},
    }


def open_contender(
    path: str | Path,
    people: People,
    name: str = OURS,
    strength: float | None = None,
    steps: int | None = None,
    scale: float | None = None,
    device: str = "cpu",
    start: float = 1.0,
    source_pose: str = "estimated",
) -> Contender:
    """A checkpoint without guidance, and with guidance of `strength` where that is above 0.

    Args:
        path: exported by training/train.py.
        name: of its rows.
        strength, steps, scale: None is what the checkpoint has as default.
        start: see `transfer`. source_pose: one of `SOURCE_POSES`.

    Raises:
        InputError: no such checkpoint, made for pictures of another size, or steps or start out of range.
    """
    if not 0 < start <= 1:
        raise InputError(f"warm start = {start:g}: give a share of the schedule above 0; 1 starts from noise.")
    pipe = RePoseDMPipeline.from_pretrained(path, device)
    config = pipe.config
    if (people.height, people.width) != (config.height, config.width):
        raise InputError(
            f"The set {people.root} has pictures of {people.width}×{people.height}, "
            f"{Path(path).name} makes {config.width}×{config.height}: make a set with --height "
            f"{config.height} --width {config.width}."
        )
    steps = config.steps if steps is None else steps
    simple_sigmas(pipe.schedule, steps)  # refuses a number of steps before the first picture
    strength = config.field.strength if strength is None else strength
    kinds = {name: OFF}
    if strength:
        kinds[f"{name} + field {strength:g}"] = replace(config.field, strength=strength)
    return Contender(pipe, kinds, steps, config.guidance_scale if scale is None else scale, start, source_pose)
