"""The networks of a RePoseDM: built from a configuration, or filled from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .alignment import Alignment, MatchingPoseAligner, RecurrentPoseAligner, build_aligner
from .alignment.warp import identity_map
from .checkpoint import load_parts, read_header
from .config import ModelConfig, from_dict
from .diffusion.autoencoder import Autoencoder, KLAutoencoder, build_autoencoder
from .diffusion.denoiser import Denoiser
from .diffusion.reference_decoder import ReferenceDecoder
from .diffusion.tiny import TinyAutoencoder, load_tiny
from .errors import InputError, quoted
from .estimator import HigherHRNet
from .fitting import filled
from .garment_parser import GarmentParser
from .layout import LayoutNetwork
from .presets import with_inner

SHIPPED = Path(__file__).parent / "weights" / "reposedm-mini.safetensors"
"""The weights that come with the package."""

NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "autoencoder": build_autoencoder,
    "estimator": HigherHRNet,
    "aligner": build_aligner,
    "denoiser": Denoiser,
}
"""The parts of every RePoseDM by name: each is built from the field of that name in a `ModelConfig`."""
PARTS: dict[str, Callable[[Any], nn.Module]] = {
    **NETWORKS,
    "decoder": ReferenceDecoder,
    "tiny": TinyAutoencoder,
    "parser": GarmentParser,
    "layout": LayoutNetwork,
}
"""The same, and the parts that not every one has."""


def parts_of(config: ModelConfig) -> tuple[str, ...]:
    """The parts that a model of `config` has: those that are not in `NETWORKS` are not in every one."""
    return tuple(part for part in PARTS if part in NETWORKS or getattr(config, part).kind != "none")


class NoAlignment(nn.Module):
    """What stands where B1 has no aligner: the source as it is, all of it visible. Has no weights."""

    reads_pose = False

    def forward(
        self,
        source: Tensor,
        pose_image: Tensor,
        iterations: int | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        inner: Callable[[Tensor], Tensor] | None = None,
    ) -> Alignment:
        """As `RecurrentPoseAligner.forward`: the identity map and `source` itself, (B, 3, H, W) in [-1, 1]."""
        batch, _, height, width = source.shape
        here = identity_map(height // 4, width // 4, source.device, source.dtype).expand(batch, -1, -1, -1)
        certain = source.new_full((batch, 1, height // 4, width // 4), 30.0)  # its sigmoid is 1 in any precision
        return Alignment([here], [certain], source, None if encode is None else encode(source))


@dataclass
class Networks:
    """The networks of a RePoseDM and their configuration.

    `decoder` is None where the autoencoder's is all there is, `tiny` where the autoencoder does the inner work, and
    `parser` where the aligner alone finds the source's person, `layout` where it alone says where the result's will be.
    """

    config: ModelConfig
    autoencoder: Autoencoder | KLAutoencoder
    estimator: HigherHRNet
    aligner: RecurrentPoseAligner | MatchingPoseAligner | NoAlignment
    denoiser: Denoiser
    decoder: ReferenceDecoder | None = None
    tiny: TinyAutoencoder | None = None
    parser: GarmentParser | None = None
    layout: LayoutNetwork | None = None


def needs_aligner(config: ModelConfig) -> bool:
    """Does the denoiser read the aligned picture? B1's does not."""
    return config.denoiser.reads_aligned


def check_parts(config: ModelConfig, aligner: bool) -> None:
    """Raise an `InputError` unless the four networks, or those but the aligner, make a RePoseDM."""
    if config.denoiser.texture == "text":
        raise InputError(
            f"{config.name} is conditioned on text, not on a source picture: use "
            "diffusion.reposesd.load_reposesd, or RePoseSD Loader in ComfyUI."
        )
    config.check_together()
    if not aligner and needs_aligner(config):
        raise InputError(f"{config.name} needs an aligner: its denoiser reads the aligned picture.")


def build_networks(config: ModelConfig, aligner: bool = True) -> Networks:
    """Networks of `config` with fresh weights, in eval mode; `aligner=False` makes do without where B1 can.

    Raises:
        InputError: `config` is a text-conditioned model, contradicts itself, or needs the aligner.
    """
    check_parts(config, aligner)
    networks: dict[str, Any] = {
        part: PARTS[part](getattr(config, part)) if aligner or part != "aligner" else NoAlignment()
        for part in parts_of(config)
    }
    for network in networks.values():
        network.eval().requires_grad_(False)
    return Networks(config, **networks)


def load_networks(path: str | os.PathLike) -> Networks:
    """Build and fill the networks that a checkpoint describes, on the CPU in float32, in eval mode.

    Full models, B1 and B2 are all loaded by it; the file of a B1 may leave out the aligner, which it does not use.

    Raises:
        InputError: no such file, not a RePoseDM checkpoint, or weights that do not fit.
    """
    name = Path(path).name
    config: ModelConfig = from_dict(ModelConfig, read_header(path)["config"], name)
    parts, _ = load_parts(path)
    needed = set(parts_of(config)) - (set() if needs_aligner(config) else {"aligner"})
    missing = sorted(needed - set(parts))
    if missing:
        raise InputError(
            f"Checkpoint {name} holds only {', '.join(sorted(parts))}; a whole RePoseDM model also has "
            f"{', '.join(missing)}. Export it with training/train.py."
        )
    check_parts(config, "aligner" in parts)
    networks: dict[str, Any] = {
        part: filled(partial(PARTS[part], getattr(config, part)), parts[part], f"{name}: {part}")
        if part in parts
        else NoAlignment().eval()
        for part in parts_of(config)
    }
    return Networks(config, **networks)


def change_inner(networks: Networks, inner: str, tiny: str | os.PathLike | None = None) -> Networks:
    """The same model with another inner work, see `presets.with_inner`; the aligner is shared and changed with it.

    Args:
        inner: "exact", "tiny" or "latent".
        tiny: file of a tiny autoencoder, public TAESD weights or an exported one; None: the model's own.

    Raises:
        InputError: another `inner`, an aligner that reads no latents, no tiny autoencoder, one that does not fit, or a
            file that `inner` = "exact" would not read.
    """
    config = networks.config
    if inner == "exact" and tiny is not None:
        raise InputError(
            f"tiny = {quoted(os.fspath(tiny))}: inner = 'exact' uses no tiny autoencoder; leave tiny out, or set inner "
            "to 'tiny' or 'latent'."
        )
    if config.aligner.encoder != "latent" or not isinstance(networks.aligner, RecurrentPoseAligner):
        raise InputError(f"inner, tiny: the aligner of {config.name} reads no latents; leave both out.")
    config = with_inner(config if tiny is None else with_inner(config, "tiny"), inner)
    config.check_together()
    network = networks.tiny if config.tiny.kind == "tiny" else None
    if tiny is not None:
        network = load_tiny(tiny, config.tiny)
    if network is None and config.tiny.kind == "tiny":
        raise InputError(
            f"inner = 'tiny': {config.name} has no tiny autoencoder of its own; give the file of one as tiny, such as "
            "public TAESD weights, or train one with the stage tiny."
        )
    networks.aligner.config = config.aligner
    return replace(networks, config=config, tiny=network)


class MixedPrecisionDenoiser(nn.Module):
    """A denoiser whose weights are of half precision, between float32 latents: only the network itself is rounded."""

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype):
        super().__init__()
        self.denoiser, self.dtype = denoiser.to(dtype), dtype
        self.config = denoiser.config

    def context(self, latent: Tensor, visibility: Tensor, drop: Tensor | None = None) -> Tensor:
        """See `Conditioner.context`."""
        return self.denoiser.context(latent.to(self.dtype), visibility.to(self.dtype), drop)

    def null_context(self, batch: int, count: int) -> Tensor:
        """See `Conditioner.null_context`."""
        return self.denoiser.null_context(batch, count)

    def forward(self, z: Tensor, t: Tensor, *conditioning: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `Denoiser.forward`; float32 in and out."""
        prediction, variance = self.denoiser(z.to(self.dtype), t, *(value.to(self.dtype) for value in conditioning))
        return prediction.float(), None if variance is None else variance.float()
