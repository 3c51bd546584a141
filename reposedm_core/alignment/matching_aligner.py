"""The recurrent aligner of `mini` (**ours**): the source's skeleton is read too, and every iteration matches anew.

The recurrence is the paper's (eq. 5, 7-9): MapFormer, a map, the source warped by it and encoded again. What differs
is how an iteration finds ΔF: instead of a local correlation on a coarse grid it matches the target's cells with all
cells of the source, biased towards the map so far. The first iteration starts from the skeleton map φ⁰, where the
source's pose is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_tensor
from ..config import AlignerConfig
from ..errors import InputError
from ..images import from_uint8
from ..pose.draw import draw_joints
from .features import Encoder
from .limb_choice import LimbChoice, coarse_map
from .mapformer import MapFormer
from .matching import FINER, BiasedMatch
from .recurrent import STRIDE, Alignment, Encode, check_config
from .skeleton_map import LIMBS, limb_maps, skeleton_map
from .warp import identity_map, resize_map, warp

CELL = 4
"""Pixels of a matched cell's side; maps come out at half of it."""
WIDTHS = (64, 64)
"""Of the two convolutions of a `BiasedMatch`."""


@dataclass
class Start:
    """What is known of the sources' poses.

    Attributes:
        skeleton: the source's skeleton as a picture (B, 3, H, W) in [-1, 1], black where the pose is unknown.
        map: φ⁰ (B, 2, H/4, W/4). share: how far to trust it, (B, 1, H/4, W/4) in 0..1; 0 where the pose is unknown.
        limbs: the limbs' maps (B, L, 2, H/2, W/2). near: how near each is, (B, L, H/2, W/2) in 0..1; 0 where it is
            unknown.
    """

    skeleton: Tensor
    map: Tensor
    share: Tensor
    limbs: Tensor
    near: Tensor

    @property
    def finer(self) -> Tensor:
        """φ⁰ (B, 2, H/2, W/2), as the first iteration is given it."""
        return resize_map(self.map, *self.limbs.shape[-2:])

    def check(self, batch: int, height: int, width: int) -> None:
        """Raise an `InputError` unless it is of so many pictures of this size, as the networks see them."""
        sizes = {
            "B": batch,
            "H": height,
            "W": width,
            "h": height // CELL,
            "w": width // CELL,
            "L": len(LIMBS),
            "f": FINER * (height // CELL),
            "g": FINER * (width // CELL),
        }
        for name, shape in (
            ("skeleton", "B 3 H W"),
            ("map", "B 2 h w"),
            ("share", "B 1 h w"),
            ("limbs", "B L 2 f g"),
            ("near", "B L f g"),
        ):
            check_tensor(getattr(self, name), f"start.{name}", shape, sizes)


def start_from(source_joints: Tensor | None, target_joints: Tensor | None, like: Tensor, shrink: int = 1) -> Start:
    """The start for pictures `like` (B, 3, H, W); OpenPose-18 joints (B, 18, 3) in their pixels.

    Where either skeleton is None, or nothing of a source's is known, φ⁰ is the identity and nothing trusts it.

    Args:
        shrink: of the aligner (`AlignerConfig.shrink`).
    """
    batch, _, height, width = like.shape
    height, width = height // shrink, width // shrink
    cells = height // CELL, width // CELL
    finer = FINER * cells[0], FINER * cells[1]
    identity = identity_map(*cells, like.device, torch.float32).expand(batch, -1, -1, -1)
    if source_joints is None or target_joints is None:
        limbs = identity_map(*finer, like.device, torch.float32)[:, None].expand(batch, len(LIMBS), -1, -1, -1)
        return Start(
            like.new_full((batch, 3, height, width), -1),
            identity,
            identity.new_zeros(batch, 1, *cells),
            limbs,
            identity.new_zeros(batch, len(LIMBS), *finer),
        )
    unit = like.new_tensor([1 / shrink, 1 / shrink, 1], dtype=torch.float32)
    source_joints, target_joints = (
        joints.to(like.device, torch.float32) * unit for joints in (source_joints, target_joints)
    )
    poses = source_joints, target_joints, (height, width), (height, width)
    start, share = skeleton_map(*poses, cells)
    drawn = from_uint8(draw_joints(np.asarray(source_joints.cpu()), height, width)).to(like)
    known = (source_joints[..., 2] > 0).any(1)[:, None, None, None]
    return Start(drawn, torch.where(known, start, identity), share * known, *limb_maps(*poses, finer))


@dataclass
class Pass:
    """What one iteration leaves: map and logits at the cells and at half their size, and the match it came from.

    Attributes:
        fine: φ (B, 2, 2h, 2w). fine_logits: visibility and person (B, 2, 2h, 2w). logits: the same at (h, w).
        match: log-probabilities (B, h·w, h·w) of the source's cells. target: F'_T (B, d, h, w).
        candidates, shares: of `LimbChoice`; the first is the match's own map.
    """

    fine: Tensor
    fine_logits: Tensor
    logits: Tensor
    match: Tensor
    target: Tensor
    candidates: Tensor
    shares: Tensor


class MatchingPoseAligner(nn.Module):
    """N iterations, each a MapFormer and a `BiasedMatch`, made of `encode_source`, `encode_pose` and `iterate`."""

    reads_pose = True

    def __init__(self, config: AlignerConfig, operations=nn):
        super().__init__()
        check_config(config)
        self.config = config
        dim, channels = config.dim, config.channels
        self.position = nn.Parameter(0.02 * torch.randn(1, dim, config.height // STRIDE, config.width // STRIDE))
        self.source_encoder = Encoder(channels, dim, operations, inputs=6)
        self.pose_encoder = Encoder(channels, dim, operations)
        later = len(config.kernels) - 1
        self.mapformers = nn.ModuleList(
            MapFormer(channels, dim, config.heads, kernel, blocks, operations)
            for kernel, blocks in zip(config.kernels, [config.blocks] + [1] * later, strict=True)
        )
        self.matches = nn.ModuleList(BiasedMatch(channels, WIDTHS, operations) for _ in config.kernels)
        self.choices = nn.ModuleList(LimbChoice(2 * WIDTHS[1], channels, operations) for _ in config.kernels)
        self.source_person = operations.Conv2d(2 * channels, 4, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        source: Tensor,
        pose_image: Tensor,
        iterations: int | None = None,
        encode: Encode | None = None,
        start: Start | None = None,
    ) -> Alignment:
        """Align `source` to the skeleton drawn in `pose_image`.

        Args:
            source, pose_image: (B, 3, H, W) in [-1, 1]; H and W divisible by 8 · shrink; of the network's dtype.
            iterations: N, at most the number the network was made with (default: all).
            encode: E; only fills in `Alignment.features`.
            start: what is known of the source's pose; None is nothing.

        Raises:
            InputError: an argument whose shape, dtype or values do not fit, or N out of range.
        """
        shrink = self.config.shrink
        multiples = {"H": STRIDE * shrink, "W": STRIDE * shrink}
        sizes = check_tensor(source, "source", "B 3 H W", multiples=multiples, finite=True)
        check_tensor(pose_image, "pose_image", "B 3 H W", dict(sizes), like=source, finite=True)
        count = len(self.matches) if iterations is None else iterations
        if not 1 <= count <= len(self.matches):
            raise InputError(f"iterations = {count}; this network has 1 to {len(self.matches)}.")
        start = start or start_from(None, None, source, shrink)
        start.check(sizes["B"], sizes["H"] // shrink, sizes["W"] // shrink)
        small, small_pose = (F.avg_pool2d(picture, shrink) for picture in (source, pose_image))
        pictures = torch.cat([small, start.skeleton.to(source)], 1)
        first, pose = self.encode_source(pictures), self.encode_pose(small_pose)
        keys, known, logits = None, start.share, None
        sampling = start.finer
        passes: list[Pass] = []
        person = None
        for n in range(count):
            seen = self.encode_source(warp(pictures, sampling)) if n else first  # eq. 9
            found, pose, merged = self.iterate(
                n, pose, seen, keys, sampling, known, logits, start, pictures, small_pose
            )
            if keys is None:
                keys, person = merged, self.source_mask(first, merged)
            sampling, logits, known = found.fine, found.logits, torch.ones_like(known)
            passes.append(found)
        image = warp(source, passes[-1].fine)
        return Alignment(
            [p.fine for p in passes],
            [p.fine_logits[:, :1] for p in passes],
            image,
            None if encode is None else encode(image),
            passes[-1].fine_logits[:, 1:],
            person,
        )

    def encode_source(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features of source and skeleton (B, 6, H, W) at 1/4 and 1/8."""
        return self.source_encoder(pictures)

    def encode_pose(self, pose_image: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the target's skeleton (B, 3, H, W) at 1/4 and 1/8."""
        return self.pose_encoder(pose_image)

    def source_mask(self, first: tuple[Tensor, ...], keys: Tensor) -> Tensor:
        """Logits (B, 1, H/2, W/2): does the source show the person here?"""
        return F.pixel_shuffle(self.source_person(torch.cat([first[0], keys], 1)), 2).float()

    def iterate(
        self,
        n: int,
        pose: tuple[Tensor, ...],
        seen: tuple[Tensor, ...],
        keys: Tensor | None,
        sampling: Tensor,
        known: Tensor,
        logits: Tensor | None,
        start: Start,
        pictures: Tensor,
        pose_image: Tensor,
    ) -> tuple[Pass, tuple[Tensor, Tensor], Tensor]:
        """Iteration n of 0 … N-1.

        Args:
            pose: features of the target's pose. seen: of the source as φⁿ warps it.
            keys: F'_S of the source itself, which is matched with; None takes those of `seen`.
            sampling: φⁿ at 1/2. known: how far to trust it. logits: visibility and person so far; None for none.
            start, pictures, pose_image: see `forward`; pictures hold the source and its skeleton.

        Returns:
            what it found, the pose's features to go on with, and F'_S of `seen`.
        """
        height, width = (STRIDE * side for side in seen[-1].shape[-2:])
        target, merged, coarse = self.mapformers[n](pose, seen, self._position(*seen[-1].shape[-2:]))
        before = start.map if n == 0 else coarse_map(sampling)
        if logits is None:
            logits = sampling.new_zeros(len(sampling), 2, *before.shape[-2:])
        _, logits, matched, fine_logits, match, features = self.matches[n](
            target, merged if keys is None else keys, before, known, logits, width / height
        )
        fine, fine_logits, *choice = self.choices[n](
            matched, fine_logits, features, sampling, start.limbs, start.near, pictures, pose_image
        )
        return Pass(fine, fine_logits, logits, match, target, *choice), (pose[0], coarse), merged

    def refine(self, n: int, source: Tensor, pose_image: Tensor, start: Start, sampling: Tensor) -> Pass:
        """Iteration n alone, on a map φⁿ (B, 2, *, *) of the caller's; see `forward` for the others."""
        pictures = torch.cat([source, start.skeleton.to(source)], 1)
        first, pose = self.encode_source(pictures), self.encode_pose(pose_image)
        begin = start.finer
        found, pose, keys = self.iterate(0, pose, first, None, begin, start.share, None, start, pictures, pose_image)
        sampling = resize_map(sampling, *begin.shape[-2:])
        seen = self.encode_source(warp(pictures, sampling))
        return self.iterate(
            n, pose, seen, keys, sampling, torch.ones_like(start.share), found.logits, start, pictures, pose_image
        )[0]

    def _position(self, height: int, width: int) -> Tensor:
        if self.position.shape[-2:] == (height, width):
            return self.position
        return F.interpolate(self.position, size=(height, width), mode="bilinear", align_corners=False)
