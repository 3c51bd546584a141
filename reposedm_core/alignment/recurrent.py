"""Recurrent pose alignment (eq. 5-9): warp the source towards the target pose, look again, refine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_tensor
from ..config import AlignerConfig
from ..errors import InputError
from .attention import check_kernel
from .features import Encoder, LatentEncoder
from .mapformer import MapFormer, PoseMappingAggregator
from .warp import compose, identity_map, warp

Encode = Callable[[Tensor], Tensor]
"""E of the autoencoder: pictures (B, 3, H, W) in [-1, 1] → latents (B, C, H/8, W/8)."""

STRIDE = 8
"""Pixels of a token's side, and of a latent cell's."""


@dataclass
class Alignment:
    """What the aligner found; h × w is 1/4 of the picture, 1/8 with features from the latent, 1/2 of kind "matching".

    Attributes:
        maps: φ¹ … φᴺ, each (B, 2, h, w), see `alignment.warp`; float32 for a picture of half precision.
        visibility: logits per iteration, (B, 1, h, w): is this target cell a part of the body seen in the source?
        image: W(I_S; φᴺ), (B, 3, H, W) in [-1, 1].
        features: F_S^N = E(W(I_S; φᴺ)), (B, C, H/8, W/8), what the denoiser attends to; None without `encode`.
        person, source_person: logits (B, 1, h, w), where the person is in the target and in the source; of an aligner
            that finds them (`AlignerConfig.kind` "matching"), else None.
    """

    maps: list[Tensor]
    visibility: list[Tensor]
    image: Tensor
    features: Tensor | None = None
    person: Tensor | None = None
    source_person: Tensor | None = None

    def images(self, source: Tensor) -> list[Tensor]:
        """W(I_S; φ¹) … W(I_S; φᴺ), each (B, 3, H, W): the aligned picture as every iteration left it, to look at."""
        return [warp(source, sampling) for sampling in self.maps]

    def latent_visibility(self, stride: int) -> Tensor:
        """Probability (B, 1, H/stride, W/stride) that a latent cell shows what the source shows."""
        return at_latent_cells(self.visibility[-1].sigmoid(), self.image, stride)


def at_latent_cells(visibility: Tensor, image: Tensor, stride: int) -> Tensor:
    """Visibility (B, 1, h, w) of `image` (B, 3, H, W) at the cells of its latent, (B, 1, H/stride, W/stride).

    The mean over the map's cells in it, or the one cell that it lies in where the map is coarser.
    """
    height, width = image.shape[-2:]
    return F.adaptive_avg_pool2d(visibility, (height // stride, width // stride))


class RecurrentPoseAligner(nn.Module):
    """N iterations of MapFormer and Pose Mapping Aggregator, the picture being warped and re-encoded in each.

    Raises:
        InputError: a value of the configuration that makes no network.
    """

    reads_pose = False
    source_encoder: Encoder | LatentEncoder
    pose_encoder: Encoder | LatentEncoder

    def __init__(self, config: AlignerConfig, operations=nn):
        super().__init__()
        check_config(config)
        self.config = config
        dim = config.dim
        self.position = nn.Parameter(0.02 * torch.randn(1, dim, config.height // STRIDE, config.width // STRIDE))
        if config.encoder == "picture":
            fine, channels, pool = config.channels, config.channels, 2
            self.source_encoder = Encoder(channels, dim, operations)
            self.pose_encoder = Encoder(channels, dim, operations)
        else:
            fine, channels, pool = None, dim, 1
            self.source_encoder = LatentEncoder(config.latent_channels, dim, operations)
            self.pose_encoder = LatentEncoder(config.latent_channels, dim, operations)

        def aggregator(radius: int | None) -> PoseMappingAggregator:
            # The paper's convolutions have depth D; those of our own encoder are narrower than its many cells.
            widths = (dim, dim) if fine is None else (64 if radius is None else 96, 64)
            return PoseMappingAggregator(channels, radius, widths, pool, operations)

        later = len(config.kernels) - 1
        self.mapformers = nn.ModuleList(
            MapFormer(fine, dim, config.heads, kernel, blocks, operations)
            for kernel, blocks in zip(config.kernels, [config.blocks] + [1] * later, strict=True)
        )
        self.aggregators = nn.ModuleList(
            aggregator(radius) for radius in [config.first_radius or None] + [config.radius] * later
        )
        # Channels innermost in memory, as the features are on a CPU: each convolution would copy its weights so first.
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        source: Tensor,
        pose_image: Tensor,
        iterations: int | None = None,
        encode: Encode | None = None,
        inner: Encode | None = None,
    ) -> Alignment:
        """Align `source` to the skeleton drawn in `pose_image`.

        Args:
            source, pose_image: (B, 3, H, W) in [-1, 1]; H and W divisible by 8; of the network's dtype.
            iterations: N, at most the number the network was made with (default: all).
            encode: E of the autoencoder, pictures (B, 3, H, W) → latents (B, C, H/8, W/8). With features from the
                latent it is needed; otherwise it only fills in `Alignment.features`.
            inner: what encodes instead whatever only this network reads: source, skeleton, and the picture as each
                iteration but the last warped it. None is `encode` itself.

        Raises:
            InputError: an argument whose shape, dtype or values do not fit, N out of range, or `encode` missing.
        """
        sizes = check_tensor(source, "source", "B 3 H W", multiples={"H": STRIDE, "W": STRIDE}, finite=True)
        check_tensor(pose_image, "pose_image", "B 3 H W", dict(sizes), like=source, finite=True)
        count = len(self.mapformers) if iterations is None else iterations
        if not 1 <= count <= len(self.mapformers):
            raise InputError(f"iterations = {count}; this network has 1 to {len(self.mapformers)}.")
        latent = self.config.encoder == "latent"
        if latent and encode is None:
            raise InputError(
                "encode is missing: this aligner's features come from the autoencoder's latents "
                '(AlignerConfig.encoder = "latent"); give the autoencoder\'s encode.'
            )
        rewarp = self.config.warp == "image"
        embed = (inner or encode) if latent else None

        def read(picture: Tensor) -> tuple[Tensor, ...]:
            return self.source_encoder(picture) if embed is None else (self._latent(embed, picture),)

        def features(raw: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return self.source_encoder(raw[0]) if latent else raw

        position = self._position(sizes["H"] // STRIDE, sizes["W"] // STRIDE)
        pose = self.pose_encoder(pose_image if embed is None else self._latent(embed, pose_image))
        seen = unwarped = read(source)
        h, w = seen[0].shape[-2:]
        wide = torch.promote_types(source.dtype, torch.float32)  # half precision is too coarse for positions
        sampling = identity_map(h, w, device=source.device, dtype=wide).expand(sizes["B"], -1, -1, -1)
        visibility = source.new_zeros(sizes["B"], 1, h, w)
        maps, logits = [], []
        for n, (mapformer, aggregator) in enumerate(
            zip(self.mapformers[:count], self.aggregators[:count], strict=True)
        ):
            if n:  # eq. 9: the features of the warped picture, or (an option) the warped features
                seen = read(warp(source, sampling)) if rewarp else tuple(warp(f, sampling) for f in unwarped)
            target, matched, coarse = mapformer(pose, features(seen), position)  # eq. 5
            base, offset, visibility = aggregator(target, matched, sampling, visibility)  # eq. 6
            sampling = compose(base, offset)  # eq. 7-8
            maps.append(sampling)
            logits.append(visibility)
            if not latent:  # the paper keeps F_T; our own encoder's is carried on attended (**ours**)
                pose = (pose[0], coarse)
        image = warp(source, sampling)
        return Alignment(maps, logits, image, None if encode is None else self._latent(encode, image))

    def _position(self, height: int, width: int) -> Tensor:
        if self.position.shape[-2:] == (height, width):
            return self.position
        return F.interpolate(self.position, size=(height, width), mode="bilinear", align_corners=False)

    def _latent(self, encode: Encode, picture: Tensor) -> Tensor:
        """E(picture), its shape checked."""
        value = encode(picture)
        channels = self.config.latent_channels if self.config.encoder == "latent" else "C"
        sizes = {"h": picture.shape[-2] // STRIDE, "w": picture.shape[-1] // STRIDE}
        check_tensor(value, "the latent that encode gives", f"{len(picture)} {channels} h w", sizes)
        return value


def check_config(config: AlignerConfig) -> None:
    """Raise an `InputError` that names the first field of `config` with which no aligner can be made."""
    if not config.kernels:
        raise InputError("AlignerConfig.kernels is empty: give one window side an iteration.")
    for kernel in config.kernels:
        check_kernel(kernel, "AlignerConfig.kernels: a kernel")
    for name, known in (("encoder", ("picture", "latent")), ("warp", ("image", "latent"))):
        if getattr(config, name) not in known:
            raise InputError(f"AlignerConfig.{name} = {getattr(config, name)!r}: known are {', '.join(known)}.")
    least = {
        "radius": 1,
        "first_radius": 0,
        "blocks": 1,
        "channels": 1,
        "latent_channels": 1,
        "dim": 1,
        "heads": 1,
        "height": 1,
        "width": 1,
    }
    for name, minimum in least.items():
        if getattr(config, name) < minimum:
            raise InputError(f"AlignerConfig.{name} = {getattr(config, name)}: expected {minimum} or more.")
    multiples = {"dim": config.heads, "height": STRIDE, "width": STRIDE}
    if config.encoder == "picture":
        multiples["channels"] = 8  # groups of the encoder's normalisation
        multiples["dim"] = math.lcm(8, config.heads)
    for name, factor in multiples.items():
        if getattr(config, name) % factor:
            raise InputError(f"AlignerConfig.{name} = {getattr(config, name)}: must be divisible by {factor}.")
