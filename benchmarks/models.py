"""The networks that are measured, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from timing import Effort, Timings
from torch import Tensor

from reposedm_core import PRESETS, ModelConfig, RePoseDMPipeline
from reposedm_core.alignment import start_from
from reposedm_core.conditioning import condition_image, first_joints
from reposedm_core.config import EstimatorConfig
from reposedm_core.diffusion.guided import Condition, FieldGuidance, GuidedDenoiser
from reposedm_core.field import pose_target
from reposedm_core.images import fit_image, to_image
from reposedm_core.networks import build_networks
from reposedm_core.pose import one_pose

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "workflows" / "examples"
SOURCE, POSE, SOURCE_POSE = (EXAMPLES / f"red_trousers{end}" for end in (".png", "_pose.json", "_source.json"))
PAPER = "deepfashion-256x176"


@dataclass
class Bench:
    """How and on what to measure.

    Attributes:
        device: of all tensors. quick: small sizes and few repeats. full: also what takes minutes.
        effort: of every comparison.
        say: called with what is measured next.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    full: bool = False
    effort: Effort = field(default_factory=Effort)
    say: Callable[[str], None] = lambda _: None

    def compare(self, what: str, sides: dict[str, Callable[[], object]]) -> Timings:
        """Time the sides against each other."""
        self.say(what)
        return self.effort.compare(self.device, sides)

    def random(self, *shape: int) -> Tensor:
        """Reproducible normal noise."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def paper(self) -> RePoseDMPipeline:
        """The paper's preset with random weights, which cost what trained ones cost; with `quick` a small likeness."""
        return paper(self.device, self.quick)


@cache
def shipped(device: torch.device) -> RePoseDMPipeline:
    """The shipped preset with its weights."""
    return RePoseDMPipeline.from_pretrained(device=device)


@cache
def paper(device: torch.device, small: bool) -> RePoseDMPipeline:
    """See `Bench.paper`."""
    config = PRESETS[PAPER]
    if small:
        vae = replace(config.autoencoder, widths=(32, 32, 64, 64))
        config = replace(
            config,
            height=64,
            width=48,
            autoencoder=vae,
            estimator=EstimatorConfig(),
            aligner=replace(config.aligner, height=64, width=48),
            denoiser=replace(
                config.denoiser, block_channels=(64, 128), attention=(True, True), layers=1, height=8, width=6
            ),
        )
    return random_pipeline(config, device)


def random_pipeline(config: ModelConfig, device: torch.device) -> RePoseDMPipeline:
    """A model of any preset with random weights."""
    torch.manual_seed(0)
    return RePoseDMPipeline(build_networks(config), device)


def size_of(pipeline: RePoseDMPipeline) -> tuple[int, int]:
    """Height and width that a model is made for."""
    return pipeline.config.height, pipeline.config.width


def alignment(pipeline: RePoseDMPipeline, height: int, width: int) -> Callable[[int | None], None]:
    """A function that aligns a shipped example in so many iterations (None: all).

    It is the aligner alone, with everything that it needs encoded, and with the map of the two skeletons where it
    reads the source's pose, which is given.
    """
    image = fit_image(to_image(SOURCE), height, width).to(pipeline.device)
    skeleton = condition_image(one_pose(POSE), height, width).to(pipeline.device)
    joints = [first_joints(one_pose(pose).resized(height, width), 1) for pose in (SOURCE_POSE, POSE)]

    def align(iterations: int | None = None) -> None:
        known = {"inner": pipeline.encode_inner} if pipeline.tiny else {}
        if pipeline.aligner.reads_pose:
            known["start"] = start_from(*joints, image, pipeline.aligner.config.shrink)
        with torch.no_grad():
            pipeline.aligner(image, skeleton, iterations, pipeline.encode, **known)

    return align


def decoding(pipeline: RePoseDMPipeline, height: int, width: int) -> Callable[[], Tensor]:
    """A function that makes the picture of a noise latent, by the decoder that sees the source where there is one."""
    aligned = pipeline.align(SOURCE, POSE, height, width, source_pose=SOURCE_POSE)
    latent = torch.randn_like(aligned.condition.pose)
    return lambda: pipeline.picture(latent, aligned.seen, aligned.source)


def guidance(pipeline: RePoseDMPipeline, height: int, width: int) -> FieldGuidance:
    """The preset's own guidance: space, strength, schedule and limit, the strength 1 where the preset has it off."""
    native, settings = pipeline.config.field_size(pipeline.config.field.size), pipeline.config.field
    target = pose_target(pipeline.field, [one_pose(POSE)], (height, width), native).map(lambda t: t.to(pipeline.device))
    return FieldGuidance.configured(
        replace(settings, strength=settings.strength or 1.0),
        pipeline.field,
        target,
        lambda z: pipeline.field_picture(z, settings.size),
    )


@dataclass
class Step:
    """One sampling step as it is in the middle of a run: context known, its keys and values cached."""

    model: GuidedDenoiser
    x: Tensor
    sigma: Tensor

    @torch.no_grad()
    def __call__(self, field: FieldGuidance | None = None) -> None:
        """`field` acts where its schedule says so."""
        self.model.field = field
        self.model(self.x, self.sigma)


@contextmanager
def sampling_step(pipeline: RePoseDMPipeline, condition: Condition, scale: float | None = None) -> Iterator[Step]:
    """A `Step` with w_c = `scale` (default: the preset's, both passes of eq. 16 in one batch)."""
    scale = pipeline.config.guidance_scale if scale is None else scale
    model = GuidedDenoiser(pipeline.denoiser, pipeline.schedule, condition, scale)
    x, sigma = torch.randn_like(condition.pose), torch.full((1,), 3.0, device=condition.pose.device)
    with model.sampling(x, [sigma]):
        yield Step(model, x, sigma)


def random_condition(pipeline: RePoseDMPipeline, height: int, width: int) -> Condition:
    """A condition of noise: what the denoiser costs does not depend on what the aligner found."""
    config, stride = pipeline.config, pipeline.autoencoder.stride
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, config.autoencoder.channels, height // stride, width // stride, generator=generator)
    latent = latent.to(pipeline.device)
    with torch.no_grad():
        return Condition.of(pipeline.denoiser, latent, latent, latent, torch.ones_like(latent[:, :1]))
