"""From pictures and a pose to the denoiser's conditioning; the pipeline and the nodes share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .alignment import Alignment, RecurrentPoseAligner, Start
from .alignment.multi_source import Seen, combine
from .diffusion.denoiser import MakesContext
from .diffusion.guided import Condition
from .estimator import PoseEstimator, predict_pose
from .garment_parser import GarmentParser
from .images import fit_image, from_uint8
from .layout import LayoutNetwork, parse_source, person_of, predict_layout
from .pose import Pose, check_in_frame, coco_to_openpose, draw_joints
from .reference import make_reference, on_plate


@dataclass
class Aligned:
    """Pictures aligned to poses, and the denoiser's conditioning: B results, each of S sources.

    Attributes:
        source, skeleton: (B·S, 3, H, W) in [-1, 1].
        start: what the aligner knows of the sources' poses; None for one that does not read them.
        condition: of the B results.
        alignment: of all B·S pictures.
        seen: what the sources show together.
    """

    source: Tensor
    skeleton: Tensor
    start: Start | None
    condition: Condition
    alignment: Alignment
    seen: Seen


def condition_image(pose: Pose, height: int, width: int) -> Tensor:
    """The skeleton as the networks were trained on it: the first person's body joints, (1, 3, H, W) in [-1, 1].

    Raises:
        InputError: none of that person's joints lies inside the canvas.
    """
    check_in_frame(pose, "pose")
    return from_uint8(draw_joints(pose.resized(height, width).joints[:1], height, width))


def first_joints(pose: Pose, count: int = 1) -> Tensor:
    """OpenPose-18 joints (count, 18, 3) of a pose's first person, once per picture; all zero where there is nobody."""
    joints = torch.from_numpy(np.asarray(pose.joints[:1], np.float32))
    return (joints if len(joints) else torch.zeros(1, 18, 3)).expand(count, -1, -1)


def source_joints(poses: list[Pose]) -> Tensor:
    """The first persons of several pictures, (B, 18, 3); all zero where nobody was found."""
    return torch.cat([first_joints(pose) for pose in poses])


def find_pose(estimator: PoseEstimator, picture: Tensor, native: tuple[int, int], device: torch.device) -> Pose:
    """The pose of the one person in a picture (1, 3, H, W) in [-1, 1], in its own pixels; nobody where none is found.

    Args:
        native: height and width that the estimator was trained at. device: where it is.
    """
    joints = predict_pose(estimator, fit_image(picture, *native).to(device))
    points = coco_to_openpose(joints[:1].cpu().numpy())
    points = points[(points[..., 2] > 0).any(1)]
    return Pose(points, *native).unfitted(*picture.shape[-2:])


@torch.no_grad()
def make_condition(
    aligner: RecurrentPoseAligner | nn.Module,
    conditioner: MakesContext,
    encode: Callable[[Tensor], Tensor],
    image: Tensor,
    skeleton: Tensor,
    stride: int,
    sources: int = 1,
    start: Start | None = None,
    background: Tensor | None = None,
    inner: Callable[[Tensor], Tensor] | None = None,
    parser: GarmentParser | None = None,
    layout: LayoutNetwork | None = None,
) -> Aligned:
    """Align pictures to poses and make the condition.

    Several sources of one person become one aligned picture (`alignment.multi_source.combine`), and the tokens are made
    of that; B1, which reads the sources unaligned, gets the tokens of all of them.

    Args:
        aligner: or what stands where B1 has none.
        conditioner: a denoiser, or the part of it that makes the tokens.
        encode: E, pictures → latents.
        image, skeleton: (B·S, 3, H, W) in [-1, 1]; the S sources of a result follow one another.
        stride: pixels of a latent cell's side.
        sources: S.
        start: what is known of the sources' poses; only for an aligner that reads them (`reads_pose`).
        background: of an aligner that finds masks, see `reference.make_reference`.
        inner: pictures → latents, for what only the aligner reads, see `RecurrentPoseAligner.forward`.
        parser: finds the sources' person finer than the aligner, see `layout.parse_source`.
        layout: says what the results will show where, see `layout.predict_layout`; needs the parser.
    """
    known: dict[int, Tensor] = {}

    def once(picture: Tensor) -> Tensor:
        """E, once for source and skeleton, which the aligner and the denoiser both read."""
        if picture is not image and picture is not skeleton:
            return encode(picture)
        if id(picture) not in known:
            known[id(picture)] = encode(picture)
        return known[id(picture)]

    if aligner.reads_pose:
        alignment = aligner(image, skeleton, start=start)
    else:
        alignment = aligner(image, skeleton, encode=once, inner=inner)
    if sources == 1:
        probable = alignment.visibility[-1].sigmoid()
        seen = Seen(alignment.image, probable, torch.ones_like(probable)[:, None])
        aligned = alignment.features
    else:
        seen, aligned = combine(alignment, sources), None
    visibility = seen.latent_visibility(stride)
    # The person on what the sources show behind him; B1 does not know where that is, nor must its result.
    if alignment.person is not None and conditioner.config.reads_aligned:
        was, planned, theirs = None, None, alignment.source_person
        asked = layout is not None or background is None
        if parser is not None and start is not None and theirs is not None and asked:
            every = 1 if layout is not None else sources  # the background is the first source's alone
            labels = parse_source(parser, *(values[::every] for values in (image, start.skeleton, theirs)))
            was = person_of(labels[:: sources // every])
            if layout is not None:
                planned = predict_layout(layout, image, skeleton, start.skeleton, labels, alignment, seen)
        shown = image, skeleton, alignment, seen.image, seen.visibility
        seen.reference = make_reference(*shown, sources, background, was, planned)
        seen.image = on_plate(seen.reference)
        aligned = None
    if aligned is None:
        aligned = encode(seen.image)
    pose = once(skeleton)[::sources]
    if conditioner.config.texture == "source" and sources > 1:
        texture = once(image)
        tokens = conditioner.context(texture, torch.ones_like(texture[:, :1]))
        tokens = tokens.unflatten(0, (-1, sources)).flatten(1, 2)
        condition = Condition(pose, tokens, aligned, torch.ones_like(visibility))
    else:
        texture = once(image) if conditioner.config.texture == "source" else aligned
        condition = Condition.of(conditioner, pose, texture, aligned, visibility)
    return Aligned(image, skeleton, start, condition, alignment, seen)
