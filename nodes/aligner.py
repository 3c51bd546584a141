"""Recurrent Pose Aligner: source picture and pose → what the denoiser is told."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any

import comfy.model_management as management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError, Pose
from ..reposedm_core.alignment import forget, start_from
from ..reposedm_core.alignment.flow_image import flow_colours
from ..reposedm_core.conditioning import condition_image, find_pose, make_condition, source_joints
from ..reposedm_core.config import STRIDE, AlignerConfig
from ..reposedm_core.diffusion.guided import Condition
from ..reposedm_core.full_size import MODEL, SOURCE, Detail, View, aligned, view
from ..reposedm_core.pipeline import check_size
from ..reposedm_core.pose.limits import check_pixels
from .decode import DETAIL, REFERENCE, pack, unpack
from .host.images import fitted, frames_of, to_comfy, to_mask
from .host.patchers import BYTES_A_PIXEL, load
from .host.poses import asked_to_stop, read_poses, show_text, target_poses
from .host.reposedm_model import RePoseDMVAE, check_vae, to_conditioning
from .host.sockets import AlignerSocket, EstimatorSocket, LoadedAligner, LoadedEstimator, PoseKeypoint

HEIGHT = "height"
"""The size of results that the widget output_height says, beside those that have a name."""
EACH, TOGETHER = "one picture a result", "all of one person"
AT_ONCE = 8
"""Pictures that are aligned at once: a long batch then needs no more memory, shows its progress and can be stopped."""
MOST_BYTES = 2**31
"""Memory that is taken at once, where one result needs no more; large pictures are aligned fewer at once."""
MOST_SOURCES = 32
"""Pictures of one person: they are aligned together, so that their number is one of memory."""


def size_inputs() -> list:
    """The widgets of a result's size."""
    return [
        io.Int.Input(
            side,
            default=0,
            min=0,
            max=4096,
            step=8,
            tooltip=f"{side.capitalize()} of the result in pixels, divisible by 8, or by 16 where the model's "
            "cells are that large; 0 is what the model was trained at, the only size at which it "
            "was measured.",
        )
        for side in ("width", "height")
    ]


def output_inputs(choices: tuple[str, ...] = (MODEL, SOURCE, HEIGHT)) -> list:
    """The widgets of the size at which pictures and masks come out."""
    model = "model is width and height above; " if MODEL in choices else ""
    return [
        io.Combo.Input(
            "output_size",
            options=list(choices),
            default=choices[0],
            optional=True,
            tooltip=f"Size of the pictures and masks that come out: {model}source is the picture's own size; height "
            "is output_height. What is copied is then read from the picture at its own resolution.",
        ),
        io.Int.Input(
            "output_height",
            default=1024,
            min=16,
            max=8192,
            step=8,
            optional=True,
            tooltip="With output_size = height: pixels from top to bottom; the width follows, divisible by 8.",
        ),
    ]


class RecurrentPoseAlignerNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMRecurrentPoseAligner",
            display_name="Recurrent Pose Aligner",
            category="RePoseDM",
            description="Warps the person of the source picture step by step towards the target pose, and makes of it "
            "the conditioning for the sampler. Runs once a picture.",
            search_aliases=[
                "pose transfer",
                "repose",
                "character",
                "reference",
                "reference person",
                "warp to pose",
                "align person",
                "optical flow",
            ],
            inputs=[
                AlignerSocket.Input("aligner", tooltip="From RePoseDM Loader."),
                io.Vae.Input("vae", tooltip="The VAE of the same RePoseDM Loader."),
                io.Image.Input(
                    "source",
                    tooltip="A picture that shows one person, fitted to the size with its borders "
                    "continued; what a batch means is for sources to say.",
                ),
                PoseKeypoint.Input(
                    "pose",
                    tooltip="The target pose; its first person counts. One frame serves all "
                    "pictures, several frames with one picture give a result a frame.",
                ),
                *size_inputs(),
                io.Combo.Input(
                    "sources",
                    options=[EACH, TOGETHER],
                    default=EACH,
                    optional=True,
                    tooltip="What a batch of source pictures is: people of their own, a result each, or "
                    "several pictures of one person, whose seen parts are put together in every "
                    "result.",
                ),
                PoseKeypoint.Input(
                    "source_pose",
                    optional=True,
                    tooltip="Pose of the person in the source, in the source's own pixels, for models "
                    "whose aligner reads it (mini-256): a frame per picture, or one for all. "
                    "Without it the estimator finds it.",
                ),
                EstimatorSocket.Input(
                    "pose_estimator",
                    optional=True,
                    tooltip="Finds the source's pose where none is connected, in place of the "
                    "checkpoint's own estimator.",
                ),
                *output_inputs(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Conditioning.Output("positive", tooltip="Pose and aligned person."),
                io.Conditioning.Output("negative", tooltip="Neither: the null condition of classifier-free guidance."),
                io.Latent.Output("latent", tooltip="Empty, of the right size."),
                io.Image.Output(
                    "aligned",
                    tooltip="The source as the aligner warped it, in front of the source's own "
                    "background where the model finds the person; what it could not "
                    "see is left for the sampler to invent.",
                ),
                io.Mask.Output("visibility", tooltip="White where the source shows what the result will need."),
                io.Image.Output(
                    "flow",
                    tooltip="Where each pixel was fetched from: the hue is the direction (red from "
                    "the right, cyan from the left), the strength the distance, white is "
                    "from the same place. A picture for every source and pose.",
                ),
                io.Mask.Output(
                    "person",
                    tooltip="White where the person is in the target pose; black with a model "
                    "whose aligner does not find the person.",
                ),
                io.Mask.Output(
                    "changed",
                    tooltip="White where the picture changes: where the person is, and where the person was. White "
                    "all over with a model whose aligner does not find the person.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        aligner: LoadedAligner,
        vae: Any,
        source: Tensor,
        pose: Any,
        width: int,
        height: int,
        sources: str = EACH,
        source_pose: Any = None,
        pose_estimator: LoadedEstimator | None = None,
        output_size: str = MODEL,
        output_height: int = 1024,
    ) -> io.NodeOutput:
        check_vae(vae, aligner)
        height, width = height or aligner.config.height, width or aligner.config.width
        check_size(height, width, vae.downscale_ratio)
        note = untrained(cls, "Recurrent Pose Aligner", aligner, height, width)
        poses = target_poses(pose)
        together = len(source) if sources == TOGETHER else 1
        if together == 1 and len(source) != len(poses) and min(len(source), len(poses)) != 1:
            raise InputError(
                f"pose: it has {len(poses)} frames and source {len(source)} pictures; give one pose for "
                "all, one picture for all, or as many of both."
            )
        if together > MOST_SOURCES:
            raise InputError(
                f"source: {together} pictures of one person; choose {MOST_SOURCES} of them or fewer, "
                "those that show different sides."
            )
        reads = aligner.patcher.model.aligner.reads_pose
        own = poses_of(source_pose, source, "source_pose") if reads else None
        image = fitted(source, "source", height, width)
        skeleton = torch.cat([condition_image(frame, height, width) for frame in poses])
        joints = None
        if reads:
            joints = known_joints(image, own, pose_estimator or aligner.estimator), joints_of(poses, height, width)
        found = align(aligner, vae, image, skeleton, together, joints)
        latent = {"samples": torch.zeros(found.condition.pose.shape, device=management.intermediate_device())}
        person = latent["samples"].new_zeros(len(found.image), 1, height, width)
        changed = torch.ones_like(person)
        reference = None
        if found.reference is not None:
            latent[REFERENCE] = found.reference
            reference = unpack(found.reference)[0]
            person, changed = reference.person, torch.maximum(reference.person, reference.hidden)
        seen = comfy.utils.common_upscale(found.visibility, width, height, "bilinear", "disabled")
        masks = [seen, person, changed]
        shown = view_of(output_size, output_height, source, (height, width), len(found.image))
        if shown is None:
            picture, flow = to_comfy(found.image), flow_colours(found.sampling, height, width)
        else:
            pictures = list(source[None] if source.ndim == 3 else source)
            latent[DETAIL] = detail = found.detail(shown, pictures)
            picture = to_mask(aligned(detail, reference, asked_to_stop))
            masks, flow = [shown.enlarge(mask) for mask in masks], shown.colours(found.sampling)
        seen, person, changed = (to_mask(mask[:, 0]) for mask in masks)
        return io.NodeOutput(
            *conditionings(aligner, found.condition),
            latent,
            picture,
            seen,
            to_mask(flow).movedim(1, -1),
            person,
            changed,
            ui={"text": [note]} if note else None,
        )


def untrained(node: type[io.ComfyNode], name: str, aligner: LoadedAligner, height: int, width: int) -> str:
    """What the node shows and the log says of a size that the model was not trained at; "" where it was."""
    trained = aligner.config.height, aligner.config.width
    if (height, width) == trained:
        return ""
    note = (
        f"Warning: this model was trained at {trained[1]} × {trained[0]} and is to work at {width} × {height}: expect "
        "noise and stick limbs. For larger pictures leave width and height 0 and set output_size."
    )
    logging.warning("%s: %s", name, note)
    show_text(node, note)
    return note


def view_of(output: str, height: int, picture: Tensor, frame: tuple[int, int], results: int) -> View | None:
    """What the widgets of `output_inputs` ask for of results that are put into an IMAGE; None is the networks' frame.

    Raises:
        InputError: the pictures are too many, or too large.
    """
    size = tuple(frames_of(picture)[0].shape[1:3])
    found = view(height if output == HEIGHT else output, size, frame)
    if found is not None:
        check_pixels("output_size", results, *found.size)
    return found


@dataclass
class Found:
    """What the aligner found, where ComfyUI keeps intermediate results.

    Attributes:
        condition: for the denoiser. image: the aligned person (B, 3, H, W) in [-1, 1].
        visibility: (B, 1, h, w) in 0..1. sampling: maps (B·S, 2, h, w).
        weights: of the sources, (B, S, 1, h, w).
        reference: what a decoder can be shown, see `decode.pack`; None of an aligner that finds no masks.
    """

    condition: Condition
    image: Tensor
    visibility: Tensor
    sampling: Tensor
    weights: Tensor
    reference: Tensor | None = None

    def detail(self, shown: View, pictures: list[Tensor], background: Tensor | None = None) -> Detail:
        """What the results are made of at the size of `shown`; pictures (H, W, 3 or more) in 0..1."""
        results, sources = self.weights.shape[:2]
        if sources > 1:
            rows = [list(range(sources))] * results
        else:
            rows = [[result if len(pictures) > 1 else 0] for result in range(results)]
        return Detail(shown, pictures, rows, self.sampling.unflatten(0, (results, sources)), self.weights, background)


def poses_of(data: Any, image: Tensor, name: str) -> list[Pose] | None:
    """Poses of the pictures of an IMAGE from the input `name`, on their canvas: one for all, or one per picture.

    Frames may be empty; None where nothing is connected.
    """
    if data is None:
        return None
    pictures = frames_of(image)
    height, width = pictures[0].shape[1:3]
    poses = [pose.resized(height, width) for pose in read_poses(data, name, allow_nobody=True, picture=(height, width))]
    if len(poses) not in (1, len(pictures)):
        raise InputError(
            f"{name}: it has {len(poses)} frames and there are {len(pictures)} pictures; give one frame "
            "for all, or a frame per picture."
        )
    return poses


def joints_of(poses: list[Pose], height: int, width: int) -> Tensor:
    """OpenPose-18 joints (N, 18, 3) of the first persons, in pixels of pictures of that size."""
    return source_joints([pose.resized(height, width) for pose in poses])


def known_joints(image: Tensor, poses: list[Pose] | None, estimator: LoadedEstimator) -> Tensor:
    """OpenPose-18 joints (N or 1, 18, 3) in pictures (N, 3, H, W) in [-1, 1]: of given poses, else as estimated.

    All zero where nobody is found.
    """
    if poses is None:
        native = estimator.height, estimator.width
        device = load(estimator.patcher, pixels=native[0] * native[1])
        poses = []
        for picture in image:
            asked_to_stop()
            poses.append(find_pose(estimator.patcher.model, picture[None], native, device))
    return joints_of(poses, *image.shape[-2:])


def conditionings(aligner: LoadedAligner, condition: Condition) -> tuple[list, list]:
    """Positive and negative CONDITIONING: the condition, and the null condition of its shape."""
    null = Condition.null(aligner.patcher.model.conditioner, condition)
    return to_conditioning(condition), to_conditioning(null)


def memory(config: AlignerConfig, height: int, width: int) -> float:
    """Bytes that the alignment of one picture takes, weights aside: a generous bound.

    Activations grow as the pixels do; what matches all cells with all others, in float32, as their square.
    """
    cells = height * width / (4 * config.shrink if config.kind == "matching" else STRIDE) ** 2
    return height * width * BYTES_A_PIXEL + 4 * cells**2 * (len(config.kernels) + 4)


def align(
    aligner: LoadedAligner,
    vae: RePoseDMVAE,
    image: Tensor,
    skeleton: Tensor,
    sources: int = 1,
    joints: tuple[Tensor, Tensor] | None = None,
    background: Tensor | None = None,
) -> Found:
    """Align pictures to poses, a few at a time.

    Args:
        image, skeleton: (B, 3, H, W) or (1, 3, H, W) for all, in [-1, 1]; with `sources` S > 1 the S pictures of the
            one person, and as many skeletons as there are to be results.
        joints: those of `image` and of `skeleton`, (B or 1, 18, 3) each, for an aligner that reads poses.
        background: (1, 3, H, W), what the results are put on instead of the sources, see `reference.make_reference`.
    """
    batch = len(skeleton) if sources > 1 else max(len(image), len(skeleton))
    height, width = image.shape[-2:]
    each = sources * memory(aligner.config.aligner, height, width)
    step = max(1, min(AT_ONCE // sources, int(MOST_BYTES // each)))
    device = load(aligner.patcher, vae.patcher, memory=min(step, batch) * each)
    networks, keep = aligner.patcher.model, management.intermediate_device()

    def encode(picture: Tensor) -> Tensor:
        return vae.first_stage_model.encode(picture.to(vae.device)).to(device)

    def part(values: Tensor, start: int) -> Tensor:
        """Those of results `start` and after, on the device."""
        count = min(step, batch - start)
        chosen = values.expand(count, *values.shape[1:]) if len(values) == 1 else values[start : start + count]
        return chosen.to(device)

    def of_sources(values: Tensor, start: int) -> Tensor:
        """Those of all sources of results `start` and after."""
        if sources == 1:
            return part(values, start)
        count = min(step, batch - start)
        return values.expand(sources, *values.shape[1:]).to(device).repeat(count, *[1] * (values.ndim - 1))

    parts = []
    progress = comfy.utils.ProgressBar(-(-batch // step)) if batch > step else None
    try:
        for start in range(0, batch, step):
            pictures, poses = of_sources(image, start), part(skeleton, start).repeat_interleave(sources, 0)
            known = None
            if joints is not None:
                wanted = part(joints[1], start).repeat_interleave(sources, 0)
                known = start_from(of_sources(joints[0], start), wanted, pictures, networks.aligner.config.shrink)
            behind = None if background is None else background.to(device)
            found = make_condition(
                networks.aligner,
                networks.conditioner,
                encode,
                pictures,
                poses,
                vae.downscale_ratio,
                sources,
                known,
                behind,
            )
            values = [
                *(getattr(found.condition, field.name) for field in fields(Condition)),
                found.seen.image,
                found.seen.visibility,
                found.alignment.maps[-1],
                found.seen.weights,
            ]
            if found.seen.reference is not None:
                values.append(pack(found.seen.reference, pictures[::sources] if behind is None else behind))
            parts.append([value.to(keep) for value in values])
            if progress is not None:
                progress.update(1)
    finally:
        forget()
    whole = [torch.cat(values) for values in zip(*parts, strict=True)]
    count = len(fields(Condition))
    return Found(Condition(*whole[:count]), *whole[count:])
