"""Typed configurations.

Every network of RePoseDM is described by a frozen dataclass of plain JSON types. A checkpoint carries its own
configuration, so that a file describes itself; `presets.PRESETS` holds the configurations this project has names for.
The defaults are those of `mini`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InputError
from .field.config import EstimatorConfig

__all__ = ["AlignerConfig", "AutoencoderConfig", "DenoiserConfig", "EstimatorConfig", "FieldConfig", "ModelConfig",
           "ScheduleConfig", "from_dict", "to_dict"]


@dataclass(frozen=True)
class AutoencoderConfig:
    """The encoder E and decoder of the latents.

    Attributes:
        kind: "pca", a linear encoder of non-overlapping patches with a small convolutional decoder (**ours**, `mini`);
            "kl", Stable Diffusion's variational autoencoder (diffusers' AutoencoderKL), whose public weights fit.
        channels: latent channels C (of "pca": the number of principal components kept).
        stride: pixels of a latent cell's side, H/h; 8.
        widths: of "pca", decoder channels at 1/2, 1/4 and 1/8 of the picture; of "kl", channels per resolution.
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


@dataclass(frozen=True)
class AlignerConfig:
    """Recurrent pose aligner: N = len(kernels) iterations.

    Attributes:
        kernels: neighbourhood side of MapFormer's attention per iteration, 0 = global (Fig. 1, kernels **ours**).
        radius: R of the local correlation of eq. 6, in cells, in the iterations after the first.
        first_radius: R of the first iteration; 0 reads the expected match in the whole source instead (**ours**).
        blocks: self- and cross-attention blocks of the first iteration; the others have 1, as the paper all have.
        encoder: what the features F come from. "picture": a small encoder of its own, features at 1/4 and 1/8
            (**ours**); "latent": E of the autoencoder, as in the paper, features at the latent's cells.
        warp: "image" warps the picture and encodes it again in every iteration (eq. 9); "latent" warps the features.
        channels: feature channels at 1/4 of the picture; unused with encoder="latent".
        latent_channels: C of the autoencoder; used with encoder="latent".
        dim: D, channels of a token.
        heads: attention heads.
        height, width: picture size the learned token positions belong to; other sizes interpolate them.
    """

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


@dataclass(frozen=True)
class FieldConfig:
    """Pose interaction field guidance: the defaults in sampling, and its part in training.

    Attributes:
        strength: w of the gradient in sampling; 0 samples without the field.
        start, end: the share of the sampling in which it acts, 0 (first step) to 1 (last).
        space: what is compared, "heatmaps" (**ours**) or "features" (the paper).
        mask: where, "union" (**ours**) or "predicted" (the paper); see `PoseInteractionField`.
        limit: largest step in sampling, relative to ŷ_0 (**ours**, see `guide_x0`); 0 is eq. 15 as written, which
            grows with σ beyond all pictures.
        training: factor of √(1-ᾱ_t) ∇G in the training loss (eq. 3, 15); 0 trains without the field.
        estimate: the picture it is computed on in training: "noise", VAE_dec(ε - ε_θ) as in eq. 10, or "x0", the
            decoded ŷ_0.
    """

    strength: float = 0.1
    start: float = 0.75
    end: float = 1.0
    space: str = "heatmaps"
    mask: str = "union"
    limit: float = 0.1
    training: float = 0.0
    estimate: str = "x0"


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
    aligner: AlignerConfig = field(default_factory=AlignerConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)
    field: FieldConfig = field(default_factory=FieldConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration dataclass."""
    return asdict(config)


def from_dict(kind: type, data: dict[str, Any], where: str = "configuration") -> Any:
    """Build the dataclass `kind` from JSON data.

    Raises:
        InputError: an unknown key, or a value of another type than its field's; the message names the key.
    """
    types = get_type_hints(kind)
    if not isinstance(data, dict):
        raise InputError(f"{where} = {data!r}: expected an object of the keys {sorted(types)}.")
    unknown = sorted(set(data) - set(types))
    if unknown:
        raise InputError(f"{where}: unknown keys {unknown} for {kind.__name__}; known are {sorted(types)}.")
    return kind(**{name: _typed(types[name], value, f"{where}.{name}") for name, value in data.items()})


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`: a dataclass, tuple[item, ...], or int, float, bool or str; a whole number is a float too."""
    if is_dataclass(kind):
        return from_dict(kind, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} = {value!r}: expected a list of {get_args(kind)[0].__name__}.")
        return tuple(_typed(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    # A bool is an int to Python, and no number here.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise InputError(f"{where} = {value!r}: expected {kind.__name__}, not {type(value).__name__}.")
    return value
