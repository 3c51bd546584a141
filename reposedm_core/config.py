"""Typed configurations.

Every network of RePoseDM is described by a frozen dataclass of plain JSON types. A checkpoint carries its own
configuration, so that a file describes itself; `presets.PRESETS` holds the configurations this project has names for.
The defaults are those of `mini`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InputError, quoted
from .garment_parser import ParserConfig
from .ranges import check_counts, check_known, check_multiples, check_ranges, wrong

__all__ = [
    "AlignerConfig",
    "AutoencoderConfig",
    "DecoderConfig",
    "DenoiserConfig",
    "EstimatorConfig",
    "FieldConfig",
    "ModelConfig",
    "ParserConfig",
    "ScheduleConfig",
    "TinyConfig",
    "from_dict",
    "to_dict",
]

PREDICTIONS = ("epsilon", "v_prediction")
WIDE, LATENT, PIXELS = 16384, 4096, 16384
"""Most channels of a layer and of a latent, and the longest side of a picture."""
STRIDE = 8
"""Pixels of a latent cell's side, everywhere: the aligner's tokens are such cells."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """The encoder E and decoder of the latents.

    Attributes:
        kind: "pca", a linear encoder of non-overlapping patches with a small convolutional decoder (**ours**, `mini`);
            "kl", Stable Diffusion's variational autoencoder (diffusers' AutoencoderKL), whose public weights fit.
        channels: latent channels C (of "pca": the number of principal components kept).
        stride: pixels of a latent cell's side, H/h; 8. With "pca" a multiple of it, too: pictures are averaged over
            stride/8 pixels first, and the decoder gives them back at their own size (**ours**, `mini`: 16).
        widths: of "pca", decoder channels at 4, 2 and 1 times the resolution of the latent; of "kl", channels per
            resolution.
        whitening: exponent e in scale_i = std_i**e of "pca"; 0 keeps the pixel metric (large colours, tiny edges), 1
            gives every component unit variance. In between, an error of colour still costs more than one of texture.
        scaling: factor that brings "kl" latents to unit variance (0.18215 for Stable Diffusion).
    """

    kind: str = "pca"
    channels: int = 16
    stride: int = 8
    widths: tuple[int, ...] = (24, 48, 64)
    whitening: float = 0.5
    scaling: float = 1.0

    def __post_init__(self) -> None:
        check_known(self, kind=("pca", "kl"))
        check_counts(self, widths=(3, 3) if self.kind == "pca" else (1, 8))
        check_ranges(
            self, channels=(1, LATENT), stride=(1, 128), widths=(1, WIDE), whitening=(0, 2), scaling=(1e-6, 1e6)
        )
        if self.kind == "pca":
            check_multiples(self, stride=STRIDE)
            check_ranges(self, channels=(1, 3 * STRIDE**2))
        else:
            stages = len(self.widths)
            if self.stride != 2 ** (stages - 1):
                raise wrong(
                    self,
                    "stride",
                    f"{stages} widths {self.widths} halve the picture {stages - 1} times, "
                    f"which is a stride of {2 ** (stages - 1)}",
                )
            # Group norm: 32 groups as in the public weights; fewer only where a small network has fewer channels.
            check_multiples(self, widths=min(32, *self.widths))


@dataclass(frozen=True)
class TinyConfig:
    """A tiny autoencoder on the latents of the other one, for the inner work of eq. 9 and 10 (**ours**).

    It encodes what only the aligner reads, and decodes what only the field looks at. The latent that the denoiser reads
    and the final picture stay the large one's. The defaults are TAESD's, whose public weights fit.

    Attributes:
        kind: "none", the large autoencoder does all the work, or "tiny".
        widths: channels at 1, 1/2, 1/4 … of the picture.
        blocks: residual blocks there, of the encoder; the decoder has as many, the number at 1/8 before it is enlarged.
        latent_channels: C of the large autoencoder.
    """

    kind: str = "none"
    widths: tuple[int, ...] = (64, 64, 64, 64)
    blocks: tuple[int, ...] = (1, 3, 3, 3)
    latent_channels: int = 4

    @property
    def stride(self) -> int:
        """Pixels of a latent cell's side."""
        return 2 ** (len(self.widths) - 1)

    def __post_init__(self) -> None:
        check_known(self, kind=("none", "tiny"))
        check_counts(self, widths=(1, 8))
        check_ranges(self, widths=(1, WIDE), blocks=(0, 64), latent_channels=(1, LATENT))
        if len(set(self.widths)) != 1:
            raise wrong(self, "widths", "all resolutions have as many channels as one another")
        if len(self.blocks) != len(self.widths):
            raise wrong(self, "blocks", f"give one number for each of widths = {self.widths}")


@dataclass(frozen=True)
class AlignerConfig:
    """Recurrent pose aligner: N = len(kernels) iterations.

    Attributes:
        kind: "recurrent", the paper's, a local correlation in every iteration after the first; "matching" (**ours**),
            which also reads the source's pose and matches with the whole source in every iteration, biased towards the
            map so far (`alignment.matching_aligner`); radius, first_radius, encoder and warp are not its own.
        kernels: neighbourhood side of MapFormer's attention per iteration, 0 = global (Fig. 1, kernels **ours**).
        radius: R of the local correlation of eq. 6, in cells, in the iterations after the first.
        first_radius: R of the first iteration; 0 reads the expected match in the whole source instead (**ours**).
        blocks: self- and cross-attention blocks of the first iteration; the others have 1, as the paper all have.
        encoder: what the features F come from. "picture": a small encoder of its own, features at 1/4 and 1/8
            (**ours**); "latent": E of the autoencoder, as in the paper, features at the latent's cells.
        warp: "image" warps the picture and encodes it again in every iteration (eq. 9); "latent" warps the features.
            What encodes it: see `ModelConfig.inner`.
        channels: feature channels at 1/4 of the picture; unused with encoder="latent".
        latent_channels: C of the autoencoder; used with encoder="latent".
        dim: D, channels of a token.
        heads: attention heads.
        height, width: picture size the learned token positions belong to; other sizes interpolate them.
        shrink: of kind "matching", pictures are averaged over shrink × shrink pixels before the networks see them
            (height and width are those of the smaller ones); the source itself is what is warped.
    """

    kind: str = "recurrent"
    kernels: tuple[int, ...] = (0, 9, 5)
    radius: int = 4
    first_radius: int = 0
    blocks: int = 2
    encoder: str = "picture"
    warp: str = "image"
    channels: int = 48
    latent_channels: int = 16
    dim: int = 96
    heads: int = 4
    height: int = 128
    width: int = 96
    shrink: int = 1

    def __post_init__(self) -> None:
        check_known(self, kind=("recurrent", "matching"), encoder=("picture", "latent"), warp=("image", "latent"))
        check_counts(self, kernels=(1, 64))
        check_ranges(self, shrink=(1, 16))
        check_ranges(
            self,
            kernels=(0, 1023),
            radius=(1, 64),
            first_radius=(0, 64),
            blocks=(1, 64),
            channels=(1, WIDE),
            latent_channels=(1, LATENT),
            dim=(1, WIDE),
            heads=(1, WIDE),
            height=(1, PIXELS),
            width=(1, PIXELS),
        )
        if any(kernel and kernel % 2 == 0 for kernel in self.kernels):
            raise wrong(self, "kernels", "window sides must be odd, or 0 for the whole grid")
        # 8 are the groups of the normalisation in the encoder of pictures.
        own = self.encoder == "picture"
        check_multiples(
            self, height=STRIDE, width=STRIDE, channels=8 if own else 1, dim=math.lcm(8 if own else 1, self.heads)
        )


@dataclass(frozen=True)
class DenoiserConfig:
    """Conditional U-Net (diffusers' UNet2DConditionModel) with learned variance.

    Attributes:
        latent_channels: C of the autoencoder; the pose latent has as many.
        block_channels: U-Net channels per resolution.
        attention: per resolution, whether it attends to the context.
        layers: residual blocks per resolution.
        heads_dim: channels of one attention head.
        context_dim: channels of a context token.
        texture: what the context tokens are. "aligned": F_S^N, the latent of the aligned picture (the paper, and B2);
            "source": the unaligned source through a simple CNN (B1); "text": a text encoder's (RePoseSD).
        channel_condition: also feed the aligned latent and its visibility on the channel axis (**ours**, `mini`).
        residual: with channel_condition, a learned gate also lets the aligned latent through as a first estimate of
            ŷ_0, of which the U-Net predicts the rest (**ours**, `mini`).
        learned_variance: the output has 2C channels, the second half being the variance logits (eq. 4).
        height, width: latent size the learned positions belong to; other sizes interpolate them. 0: no positions.
        norm_groups: groups of the U-Net's group norms.
    """

    latent_channels: int = 16
    block_channels: tuple[int, ...] = (80, 160)
    attention: tuple[bool, ...] = (True, True)
    layers: int = 1
    heads_dim: int = 40
    context_dim: int = 96
    texture: str = "aligned"
    channel_condition: bool = True
    residual: bool = True
    learned_variance: bool = True
    height: int = 16
    width: int = 12
    norm_groups: int = 16

    def __post_init__(self) -> None:
        check_known(self, texture=("aligned", "source", "text"))
        check_counts(self, block_channels=(1, 8))
        check_ranges(
            self,
            latent_channels=(1, LATENT),
            block_channels=(1, WIDE),
            layers=(1, 16),
            heads_dim=(1, WIDE),
            context_dim=(1, WIDE),
            height=(0, PIXELS // STRIDE),
            width=(0, PIXELS // STRIDE),
            norm_groups=(1, WIDE),
        )
        if len(self.attention) != len(self.block_channels):
            raise wrong(self, "attention", f"give it and block_channels = {self.block_channels} one value a resolution")
        for name in ("heads_dim", "norm_groups"):
            if any(channels % getattr(self, name) for channels in self.block_channels):
                raise wrong(self, name, f"must divide each of block_channels = {self.block_channels}")
        if bool(self.height) != bool(self.width):
            raise wrong(self, "height", f"with width = {self.width}: both above 0, or both 0 for no learned positions")

    @property
    def reads_aligned(self) -> bool:
        """Does it read the aligned picture? B1's does not."""
        return self.texture != "source" or self.channel_condition


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder that also sees the source (**ours**, `diffusion.reference_decoder`).

    Attributes:
        kind: "none", the autoencoder's decoder alone, or "reference".
        widths: channels at 1/4, 1/8 … of the picture.
        latent_channels: C of the autoencoder.
        decision, copying: in use, not in training: the factor of the logits of warp, plate and paint, and what is added
            to the warp's before. Trained on means of what may be, shares blur; above 1 and 0 more is copied, sharply.
        detail: channels of three convolutions at the picture's own size, without which no edge of the shares is
            sharper than 4 pixels; 0: none.
        flat: it is also shown the target's layout in the source's colours (`layout.Layout`), and may paint in them.
    """

    kind: str = "none"
    widths: tuple[int, ...] = (48, 80, 128)
    latent_channels: int = 16
    detail: int = 0
    decision: float = 1.0
    copying: float = 0.0
    flat: bool = False

    def __post_init__(self) -> None:
        check_known(self, kind=("none", "reference"))
        check_counts(self, widths=(2, 8))
        check_ranges(self, widths=(1, WIDE), latent_channels=(1, LATENT), detail=(0, WIDE))
        check_ranges(self, decision=(0.1, 100), copying=(-100, 100))


@dataclass(frozen=True)
class ScheduleConfig:
    """Noise schedule of eq. 1-2 (T and β are **ours**, after PIDM).

    Attributes:
        timesteps: T.
        beta_schedule: "linear", or Stable Diffusion's "scaled_linear" (linear in √β).
        beta_start, beta_end: first and last β.
        prediction: "epsilon" or "v_prediction".
    """

    timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction: str = "v_prediction"

    def __post_init__(self) -> None:
        check_known(self, beta_schedule=("linear", "scaled_linear"), prediction=PREDICTIONS)
        check_ranges(self, timesteps=(2, 100_000))
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise wrong(self, "beta_start", f"with beta_end = {self.beta_end}: must rise, between 0 and 1")


SPACES, MASKS = ("heatmaps", "features"), ("union", "predicted")
"""What the field compares, and where."""
UPDATES = ("eq15", "eq14")
"""How its gradient enters: equation 15 as printed, or equations 13 and 14 with their η; see `FieldConfig.update`."""
TARGETS = ("skeleton", "picture")
"""What stands for the target pose in training."""


@dataclass(frozen=True)
class EstimatorConfig:
    """Sizes of a HigherHRNet; the defaults are `mini` (**ours**), `ESTIMATORS` holds the official ones too.

    Attributes:
        joints: K, joints of the COCO layout.
        stem: channels of the first convolution, at 1/2 of the picture.
        bottleneck: inner channels of the stage 1 blocks, which emit four times as many at 1/4 of the picture.
        bottlenecks: blocks of stage 1.
        channels: channels of each branch, at 1/4, 1/8, 1/16 (and 1/32) of the picture.
        modules: exchange modules of stage 2, 3 (and 4): one number fewer than `channels`.
        blocks: residual blocks of each branch in each module.
        deconv_channels: channels at 1/2 of the picture, after the one transposed convolution.
        deconv_blocks: residual blocks there.
        normalise: "imagenet" maps [-1, 1] to ImageNet's mean and deviation inside `forward`, "none" nothing.
        sigma: deviation in heat-map cells of the Gaussians that the network was trained on.
        udp: the network was trained with UDP's unbiased data processing: cells lie by its rule (`pose.heatmaps`).
    """

    joints: int = 17
    stem: int = 32
    bottleneck: int = 16
    bottlenecks: int = 1
    channels: tuple[int, ...] = (24, 48, 96)
    modules: tuple[int, ...] = (1, 1)
    blocks: int = 1
    deconv_channels: int = 24
    deconv_blocks: int = 0
    normalise: str = "imagenet"
    sigma: float = 1.5
    udp: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """Picture pixels per cell of both heat maps, coarsest first."""
        return (4, 2)

    def __post_init__(self) -> None:
        check_counts(self, channels=(2, 4))
        if len(self.modules) != len(self.channels) - 1:
            raise wrong(self, "modules", f"give one number for each of channels = {self.channels} but the first")
        check_ranges(
            self,
            joints=(1, 512),
            stem=(1, 4096),
            bottleneck=(1, 4096),
            bottlenecks=(1, 64),
            channels=(1, 4096),
            modules=(1, 64),
            blocks=(1, 64),
            deconv_channels=(1, 4096),
            deconv_blocks=(0, 64),
            sigma=(0.01, 1000),
        )
        check_known(self, normalise=("imagenet", "none"))


@dataclass(frozen=True)
class FieldConfig:
    """Pose interaction field guidance: the defaults in sampling, and its part in training.

    Attributes:
        strength: w of the gradient in sampling; 0 samples without the field.
        start, end: the share of the sampling in which it acts, 0 (first step) to 1 (last).
        every: it acts in one of so many of these steps, counted back from the last of them (**ours**).
        size: of the picture that is decoded and judged, as a share of the model's height and width (**ours**): 0.5
            costs a quarter.
        space: what is compared, "heatmaps" (**ours**) or "features" (the paper).
        mask: where, "union" (**ours**) or "predicted" (the paper); see `PoseInteractionField`.
        limit: largest step in sampling, relative to ŷ_0 (**ours**, see `guide_x0`); 0 is eq. 15 as written, which
            grows with σ beyond all pictures.
        training: factor of the gradient's step in the training loss (eq. 3, 15); 0 trains without the field.
        estimate: the picture it is computed on in training: "noise", VAE_dec(ε - ε_θ) as in eq. 10, or "x0", the
            decoded ŷ_0.
        update: the gradient's step, in training and sampling alike. The paper contradicts itself: "eq15" is eq. 15 as
            printed, ε̃ = ε + √(1-ᾱ_t) ∇G, which moves ŷ_0 by -(1-ᾱ_t)/√ᾱ_t ∇G, 157 ∇G at the first step; "eq14" is
            eqs. 13-14 with the η = √(1-ᾱ_t) below eq. 15, ε̃ = ε + √ᾱ_t ∇G, which moves ŷ_0 by -√(1-ᾱ_t) ∇G, never
            more than ∇G.
        target: the valid pose P of eq. 11 in training: "skeleton", what the joints say (drawn, as the paper's P, in
            space "features"), or "picture", the true picture as its latent is decoded (**ours**).
    """

    strength: float = 0.1
    start: float = 0.75
    end: float = 1.0
    every: int = 1
    size: float = 1.0
    space: str = "heatmaps"
    mask: str = "union"
    limit: float = 0.1
    training: float = 0.0
    estimate: str = "x0"
    update: str = "eq15"
    target: str = "skeleton"

    def __post_init__(self) -> None:
        check_known(self, space=SPACES, mask=MASKS, estimate=("noise", "x0"), update=UPDATES, target=TARGETS)
        check_ranges(self, strength=(-1e6, 1e6), start=(0, 1), end=(0, 1), limit=(0, 1e6), training=(-1e6, 1e6))
        check_ranges(self, every=(1, 10_000), size=(0.05, 1))


@dataclass(frozen=True)
class ModelConfig:
    """A whole RePoseDM: picture size and the configuration of each network.

    `steps` and `guidance_scale` (w_c of eq. 16) are the sampling defaults measured best for the preset.
    """

    name: str = "mini"
    height: int = 128
    width: int = 96
    steps: int = 4
    guidance_scale: float = 1.25
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    tiny: TinyConfig = field(default_factory=TinyConfig)
    aligner: AlignerConfig = field(default_factory=AlignerConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    parser: ParserConfig = field(default_factory=lambda: ParserConfig("none"))
    layout: ParserConfig = field(default_factory=lambda: ParserConfig("none"))
    field: FieldConfig = field(default_factory=FieldConfig)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            height=(STRIDE, PIXELS),
            width=(STRIDE, PIXELS),
            steps=(1, self.schedule.timesteps),
            guidance_scale=(-1000, 1000),
        )
        check_multiples(self, height=self.autoencoder.stride, width=self.autoencoder.stride)

    def check_together(self) -> None:
        """Raise an `InputError` unless the parts fit one another; a single one may be of another model.

        The denoiser, and an aligner that reads latents, take those of the autoencoder.
        """
        own = self.autoencoder.channels
        if self.denoiser.latent_channels != own:
            raise wrong(self.denoiser, "latent_channels", f"the autoencoder has {own} channels")
        if self.decoder.kind == "reference" and self.decoder.latent_channels != own:
            raise wrong(self.decoder, "latent_channels", f"the autoencoder has {own} channels")
        if self.decoder.kind == "reference" and self.aligner.kind != "matching":
            raise wrong(self.decoder, "kind", 'it needs an aligner of kind "matching", which finds masks')
        if self.decoder.kind == "reference" and not self.denoiser.reads_aligned:
            raise wrong(self.decoder, "kind", "its denoiser reads the source as it is, and no aligned picture is made")
        if self.parser.kind != "none" and self.aligner.kind != "matching":
            raise wrong(self.parser, "kind", 'it needs an aligner of kind "matching", which finds masks')
        if self.layout.kind != "none" and (self.parser.kind == "none" or self.parser.labels != self.layout.labels):
            raise wrong(self.layout, "labels", "the layout's must be those of a parser, which labels the source")
        if self.decoder.kind != "none" and self.decoder.flat and self.layout.kind == "none":
            raise wrong(self.decoder, "flat", "there is no layout network, whose colours it would be shown")
        if self.aligner.encoder == "latent" and self.aligner.latent_channels != own:
            raise wrong(self.aligner, "latent_channels", f"the autoencoder has {own} channels")
        if self.tiny.kind == "tiny" and self.tiny.latent_channels != own:
            raise wrong(self.tiny, "latent_channels", f"the autoencoder has {own} channels")
        if self.tiny.kind == "tiny" and self.tiny.stride != self.autoencoder.stride:
            raise wrong(self.tiny, "widths", f"the autoencoder has a stride of {self.autoencoder.stride}")

    @property
    def inner(self) -> str:
        """What eq. 9 reads on the way (`presets.with_inner` sets it): "exact", E of the warped picture; "tiny", the
        tiny autoencoder's instead; "latent", the latent warped."""
        return "latent" if self.aligner.warp == "latent" else "exact" if self.tiny.kind == "none" else "tiny"

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width at which aligner, denoiser and estimator see pictures of `height` × `width`."""
        shrink = self.autoencoder.stride // STRIDE if self.autoencoder.kind == "pca" else 1
        return self.height // shrink, self.width // shrink

    def field_size(self, share: float) -> tuple[int, int]:
        """Height and width of the pictures that a field of `FieldConfig.size` = `share` compares."""
        return shared_size(self.network_size, share, max(self.estimator.strides))


def shared_size(size: tuple[int, int], share: float, cell: int) -> tuple[int, int]:
    """Height and width that are that share of `size`, in whole cells; all of it as it is."""
    if share == 1:
        return size
    height, width = (max(cell, cell * round(share * side / cell)) for side in size)
    return height, width


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration dataclass."""
    return asdict(config)


def from_dict(kind: type, data: dict[str, Any], where: str = "configuration") -> Any:
    """Build the dataclass `kind` from JSON data.

    Raises:
        InputError: an unknown key, or a value of another type than its field's or outside of its range; the message
            names the key.
    """
    types = get_type_hints(kind)
    if not isinstance(data, dict):
        raise InputError(f"{where} = {quoted(data)}: expected an object of the keys {sorted(types)}.")
    unknown = sorted(set(data) - set(types))
    if unknown:
        raise InputError(f"{where}: unknown keys {quoted(unknown)} for {kind.__name__}; known are {sorted(types)}.")
    values = {name: _typed(types[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, tuple[item, ...], or int, float, bool or str; a whole number is a float too."""
    if isinstance(kind, type) and is_dataclass(kind):
        return from_dict(kind, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} = {quoted(value)}: expected a list of {get_args(kind)[0].__name__}.")
        return tuple(_typed(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    # A bool is an int to Python, and no number here.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise InputError(f"{where} = {quoted(value)}: expected {kind.__name__}, not {type(value).__name__}.")
    return value
