"""The configurations that have names, and the paper's ablations B1 and B2 as switches of any of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .config import (
    AlignerConfig,
    AutoencoderConfig,
    DecoderConfig,
    DenoiserConfig,
    EstimatorConfig,
    FieldConfig,
    ModelConfig,
    ParserConfig,
    ScheduleConfig,
    TinyConfig,
)
from .errors import InputError, quoted


def _official(width: int) -> EstimatorConfig:
    """HigherHRNet-W`width` (Cheng et al., 2020, section 3.2)."""
    return EstimatorConfig(
        stem=64,
        bottleneck=64,
        bottlenecks=4,
        channels=(width, 2 * width, 4 * width, 8 * width),
        modules=(1, 4, 3),
        blocks=4,
        deconv_channels=width,
        deconv_blocks=4,
        sigma=2.0,
    )


ESTIMATORS: dict[str, EstimatorConfig] = {
    "mini": EstimatorConfig(),
    "w32": _official(32),
    "w48": _official(48),
}
"""`mini` is for 128 x 96 pictures on a CPU; `w32` loads the official pose_higher_hrnet_w32_512.pth and `w48`
pose_higher_hrnet_w48_640.pth. For one of mmpose's that was trained with UDP: `replace(ESTIMATORS["w32"], udp=True)`."""


STABLE_DIFFUSION_VAE = AutoencoderConfig(kind="kl", channels=4, widths=(128, 256, 512, 512), scaling=0.18215)
"""Stable Diffusion's autoencoder, whose public weights load unchanged."""

PAPER_FIELD = FieldConfig(1.0, 0.0, 1.0, space="features", mask="predicted", training=1.0, estimate="noise")
"""The paper's field, in every step of training and sampling, for RePoseSD too (section 4.4); the bound of a step is
**ours** here, too."""

VARIANTS = ("b1", "b2", "b2-field")
INNER = ("exact", "tiny", "latent")
"""What eq. 9 may read on the way, see `ModelConfig.inner`."""


def with_inner(config: ModelConfig, name: str) -> ModelConfig:
    """`config` with another inner work: what the aligner's iterations read (eq. 9) and what the field decodes with.

    "exact": the large autoencoder does all of it. "tiny": the tiny one does both. "latent": the latent is warped
    instead of the picture; what `config` has of a tiny autoencoder stays, and encodes source and skeleton for the
    aligner and decodes for the field.

    Raises:
        InputError: another name.
    """
    if name not in INNER:
        raise InputError(f"inner = {quoted(name)}: known are {', '.join(INNER)}.")
    aligner = replace(config.aligner, warp="latent" if name == "latent" else "image")
    if name == "latent":
        return replace(config, aligner=aligner)
    tiny = replace(config.tiny, kind="tiny" if name == "tiny" else "none", latent_channels=config.autoencoder.channels)
    return replace(config, aligner=aligner, tiny=tiny)


def variant(config: ModelConfig, name: str) -> ModelConfig:
    """`config` as an ablation of Table 2.

    "b1" has no alignment and no gradient guidance: the source goes through a simple CNN to the cross-attention.
    "b2" has alignment, and no gradient guidance. "b2-field" has both, in training and in sampling, which is the paper's
    whole model. None has the extension on the channel axis.

    Raises:
        InputError: another name, or a text-conditioned model, which has no source picture.
    """
    if name not in VARIANTS:
        raise InputError(f"variant = {quoted(name)}: known are {', '.join(VARIANTS)}.")
    if config.denoiser.texture == "text":
        raise InputError(
            f"variant = {quoted(name)}: {config.name} is conditioned on text and has no alignment to leave out."
        )
    texture = "source" if name == "b1" else "aligned"
    weights: dict[str, Any] = {"strength": 0.0, "training": 0.0}
    if name == "b2-field":
        weights = {key: getattr(config.field, key) or 1.0 for key in weights}
    return replace(
        config,
        name=f"{config.name}-{name}",
        denoiser=replace(config.denoiser, texture=texture, channel_condition=False),
        decoder=DecoderConfig(),
        parser=ParserConfig("none"),
        layout=ParserConfig("none"),
        tiny=TinyConfig() if name == "b1" else config.tiny,
        field=replace(config.field, **weights),
    )


def variants_of(config: ModelConfig) -> tuple[str, ...]:
    """The variants that differ from `config`: one without the extension on the channel axis is "b2-field" itself."""
    return VARIANTS if config.denoiser.channel_condition else VARIANTS[:2]


def _paper(
    name: str, height: int, width: int, block_channels: tuple[int, ...], heads_dim: int, **field: Any
) -> ModelConfig:
    """The paper's model at one size: 6 iterations on Stable Diffusion's latents, ε-prediction, guidance in training,
    and a U-Net that reads [y_t, E(P)] and no learned positions (section 3.1).

    The sizes of the U-Net are **ours**: at 256×176 one pass costs a 24th of the multiplications of a pixel-space
    U-Net of 181 M parameters at 256×256, such as PIDM's, and a tenth to a fourteenth of its time (`make bench`).

    So are `field`'s: the paper's two pictures through HigherHRNet-W48 in each step would cost more than twice the step.
    People of DeepFashion fill the picture, so W48 sees them well at half its size, for two thirds of a step, and every
    second step is guided. At half the size of Market-1501's they would be 60 pixels high: one step in three is guided
    there. Of `mini-256`, guidance in one step of two or three brings the joints most of the way, and at half the size,
    64 pixels, nowhere (training/README.md, "What guidance costs").
    """
    return ModelConfig(
        name,
        height,
        width,
        steps=100,
        guidance_scale=2.0,
        autoencoder=STABLE_DIFFUSION_VAE,
        tiny=TinyConfig("tiny"),
        aligner=AlignerConfig(
            kernels=(0, 9, 5, 3, 3, 3),
            first_radius=8,
            blocks=1,
            encoder="latent",
            latent_channels=4,
            height=height,
            width=width,
        ),
        denoiser=DenoiserConfig(
            latent_channels=4,
            block_channels=block_channels,
            attention=(True,) * len(block_channels),
            layers=2,
            heads_dim=heads_dim,
            context_dim=256,
            channel_condition=False,
            height=0,
            width=0,
            norm_groups=32,
        ),
        schedule=ScheduleConfig(prediction="epsilon"),
        estimator=ESTIMATORS["w48"],
        field=replace(PAPER_FIELD, **field),
    )


MINI_256 = ModelConfig(
    "mini-256",
    256,
    192,
    autoencoder=AutoencoderConfig(stride=16),
    aligner=AlignerConfig(kind="matching", kernels=(0, 9), shrink=2),
    estimator=EstimatorConfig(channels=(24, 48, 96, 160), modules=(1, 2, 1)),
    decoder=DecoderConfig("reference", detail=16, decision=2.0, copying=2.5, flat=True),
    parser=ParserConfig(),
    layout=ParserConfig(),
)
"""`mini` at 256×192 (**ours**): all networks but parser, layout network and decoder work at half that size."""

_MODELS = (
    ModelConfig(),
    MINI_256,
    _paper("market-128x64", 128, 64, (192, 384, 576), 64, every=3),
    _paper("deepfashion-256x176", 256, 176, (128, 256, 384, 512), 32, size=0.5, every=2),
    _paper("deepfashion-512x352", 512, 352, (128, 256, 384, 512), 32, size=0.5, every=2),
)

PRESETS: dict[str, ModelConfig] = {
    **{
        config.name: config
        for model in _MODELS
        for config in (model, *(variant(model, name) for name in variants_of(model)))
    },
    "sd21": ModelConfig(
        "sd21",
        512,
        512,
        steps=50,
        guidance_scale=7.5,
        autoencoder=STABLE_DIFFUSION_VAE,
        denoiser=DenoiserConfig(
            latent_channels=4,
            block_channels=(320, 640, 1280, 1280),
            attention=(True, True, True, False),
            layers=2,
            heads_dim=64,
            context_dim=1024,
            texture="text",
            channel_condition=False,
            learned_variance=False,
            height=0,
            width=0,
            norm_groups=32,
        ),
        schedule=ScheduleConfig(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction="epsilon"
        ),
        estimator=ESTIMATORS["w48"],
        field=PAPER_FIELD,
    ),
}
"""Every named model and, as NAME-b1, NAME-b2 and NAME-b2-field, its ablations; `sd21` is RePoseSD (eq. 17)."""

SHIPPED_PRESET = "mini-256"
"""Name of the preset whose weights come with the package: its settings are the defaults of the nodes."""
