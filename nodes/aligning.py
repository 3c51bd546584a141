"""Pictures aligned to poses, a few at a time, for the nodes that begin with it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import comfy.model_management as management
import comfy.utils
import torch
from torch import Tensor

from ..reposedm_core import Pose
from ..reposedm_core.alignment import clear_caches, start_from
from ..reposedm_core.conditioning import find_pose, make_condition, source_joints
from ..reposedm_core.config import STRIDE, AlignerConfig
from ..reposedm_core.diffusion.guided import Condition
from ..reposedm_core.full_size import Detail, View
from .decode import pack
from .host.patchers import BYTES_A_PIXEL, load
from .host.poses import asked_to_stop
from .host.reposedm_model import RePoseDMVAE, to_conditioning
from .host.sockets import LoadedAligner, LoadedEstimator

AT_ONCE = 8
"""Pictures that are aligned at once: a long batch then needs no more memory, shows its progress and can be stopped."""
MOST_BYTES = 2**31
"""Memory that is taken at once, where one result needs no more; large pictures are aligned fewer at once."""


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
                None if networks.tiny is None else networks.tiny.encode,
                networks.parser,
                networks.layout,
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
        clear_caches()
    whole = [torch.cat(values) for values in zip(*parts, strict=True)]
    count = len(fields(Condition))
    return Found(Condition(*whole[:count]), *whole[count:])
