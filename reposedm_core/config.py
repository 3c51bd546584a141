"""Typed configurations and the named presets.

Every network of RePoseDM is described by a frozen dataclass of plain JSON types. A checkpoint carries its own
configuration, so that a file describes itself; `PRESETS` holds the configurations this project has names for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from .errors import InputError
from .field.config import EstimatorConfig

__all__ = ["PRESETS", "AlignerConfig", "AutoencoderConfig", "DenoiserConfig", "EstimatorConfig", "ModelConfig",
           "ScheduleConfig", "from_dict", "to_dict"]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Linear (principal component) encoder of non-overlapping patches and a small convolutional decoder.

    Attributes:
        channels: latent channels C, the number of principal components kept.
        stride: pixels of a patch side, H/h; a multiple of 8 or exactly 8.
        widths: decoder channels at 1/2, 1/4 and 1/8 of the picture.
        whitening: exponent e in scale_i = std_i**e; 0 keeps the pixel metric (large colours, tiny edges), 1 gives
            every component unit variance. In between, an error of colour still costs more than one of texture.
    """

    channels: int = 16
    stride: int = 8
    widths: tuple[int, int, int] = (32, 64, 128)
    whitening: float = 0.5


@dataclass(frozen=True)
class AlignerConfig:
    """Recurrent pose aligner: N = len(kernels) iterations.

    Attributes:
        kernels: neighbourhood side of MapFormer's attention per iteration, 0 = global (Fig. 1, kernels **ours**).
        radius: R of the local correlation of eq. 6 in the iterations after the first, which searches everywhere.
        channels: feature channels at 1/4 of the picture.
        dim: D, token channels at 1/8 of the picture.
        heads: attention heads.
        height, width: picture size the learned token positions belong to; other sizes interpolate them.
    """

    kernels: tuple[int, ...] = (0, 9, 5)
    radius: int = 4
    channels: int = 48
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
        layers: residual blocks per resolution.
        heads_dim: channels of one attention head.
        context_dim: D, channels of a context token.
        texture: "aligned": tokens of F_S^N, the latent of the aligned picture (the paper, and B2);
            "source": tokens of the unaligned source through a simple CNN (B1).
        channel_condition: also feed the aligned latent and its visibility on the channel axis (**ours**, `mini`).
        height, width: latent size the learned positions belong to; other sizes interpolate them.
    """

    latent_channels: int = 16
    block_channels: tuple[int, ...] = (80, 160)
    layers: int = 1
    heads_dim: int = 40
    context_dim: int = 96
    texture: str = "aligned"
    channel_condition: bool = True
    height: int = 16
    width: int = 12


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


PRESETS: dict[str, ModelConfig] = {
    "mini": ModelConfig(),
    "mini-b1": ModelConfig(name="mini-b1", denoiser=DenoiserConfig(texture="source", channel_condition=False)),
    "mini-b2": ModelConfig(name="mini-b2", denoiser=DenoiserConfig(channel_condition=False)),
}


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration dataclass."""
    return asdict(config)


def from_dict(kind: type, data: dict[str, Any], where: str = "configuration") -> Any:
    """Build the dataclass `kind` from JSON data; unknown keys are refused with an `InputError` naming them."""
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise InputError(f"{where}: unknown keys {unknown} for {kind.__name__}; known are {sorted(known)}.")
    values = {}
    for name, value in data.items():
        factory = known[name].default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            values[name] = from_dict(factory, value, f"{where}.{name}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
