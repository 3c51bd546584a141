"""Groups: several pictures of one person, each moved by a transform of its own, and all ordered pairs of them.

A picture is encoded once, however many pairs it is in. Turning a picture carries its joints, masks and surface along,
and the correspondence of a pair with both of its transforms.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reposedm_core.alignment.warp import identity_map, sample
from reposedm_core.errors import InputError
from reposedm_core.pose.skeleton import OPENPOSE_FLIP
from training.data.people_set import Pairs, People

FAR = 0.06
"""Of a unit of a map (3 pixels of 96): neighbours whose places differ by more lie on different limbs."""


@dataclass(frozen=True)
class Moves:
    """A transform per picture in units of sampling maps: p ↦ matrix·p + offset, (n, 2, 2) and (n, 2) float32; `flip`
    (n,) bool says which exchange left and right, and is part of the matrix."""

    matrix: np.ndarray
    offset: np.ndarray
    flip: np.ndarray

    def inverse(self) -> Moves:
        back = np.linalg.inv(self.matrix)
        return Moves(back, -np.einsum("nij,nj->ni", back, self.offset), self.flip)

    def grid(self, height: int, width: int) -> Tensor:
        """The transform of every cell's centre as a sampling map (n, 2, height, width)."""
        cells = identity_map(height, width)[0]
        turned = torch.einsum("nij,jhw->nihw", torch.from_numpy(self.matrix), cells)
        return turned + torch.from_numpy(self.offset)[..., None, None]


def draw_moves(
    rngs: list[np.random.Generator], flip: np.ndarray, aspect: float, scale: float, turn: float, shift: float
) -> Moves:
    """A similarity per picture: scaled by up to e^±scale, turned by up to ±turn degrees, moved by ±shift of its sides.

    `flip` (n,) bool mirrors. aspect: width by height of the pictures.
    """
    drawn = np.array([rng.uniform(-1, 1, 4) for rng in rngs])
    size, angle = np.exp(scale * drawn[:, 0]), np.deg2rad(turn * drawn[:, 1])
    mirror = np.where(flip, -1.0, 1.0)
    cos, sin = size * np.cos(angle), size * np.sin(angle)
    matrix = np.stack([np.stack([cos * mirror, -sin / aspect], 1), np.stack([sin * mirror * aspect, cos], 1)], 1)
    return Moves(matrix.astype(np.float32), (2 * shift * drawn[:, 2:]).astype(np.float32), flip)


def moved_joints(joints: np.ndarray, moves: Moves, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """OpenPose joints (n, 18, 3) in pixels of the moved pictures of `new_size` (height, width); outside: score 0."""
    half = np.array([size[1] / 2, size[0] / 2], np.float32)
    new_half = np.array([new_size[1] / 2, new_size[0] / 2], np.float32)
    place = np.einsum("nij,nkj->nki", moves.matrix, joints[..., :2] / half - 1) + moves.offset[:, None]
    result = np.concatenate([(place + 1) * new_half, joints[..., 2:]], -1).astype(np.float32)
    result[moves.flip] = result[moves.flip][:, list(OPENPOSE_FLIP)]
    result[(np.abs(result[..., :2] / new_half - 1) > 1).any(-1)] = 0
    return result


def moved_pictures(pictures: Tensor, moves: Moves, size: tuple[int, int], padding: str = "border") -> Tensor:
    """Pictures (n, C, H, W) under their moves at `size` (height, width); averaged to at most twice that first."""
    factor = max(1, pictures.shape[-2] // size[0])
    if factor > 1:
        pictures = F.avg_pool2d(pictures, factor)
    grid = moves.inverse().grid(*size).movedim(1, -1)
    return F.grid_sample(pictures, grid, padding_mode=padding, align_corners=False)


def moved_flow(flow: Tensor, visible: Tensor, source: Moves, target: Moves) -> tuple[Tensor, Tensor]:
    """Correspondence (n, 2, h, w) and its labels (n, 1, h, w) between moved pictures; what the source's frame cuts off
    becomes hidden. Between cells it is interpolated where all four lie on the same surface."""
    h, w = flow.shape[-2:]
    back = target.inverse().grid(h, w)
    grid = back.movedim(1, -1)
    label = F.grid_sample(visible.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).round()
    nearest = F.grid_sample(flow, grid, mode="nearest", padding_mode="border", align_corners=False)
    known = (visible > 0).float()
    smooth, whole = sample(torch.cat([flow * known, known], 1), back).split([2, 1], 1)
    close = (whole > 0.999) & ((smooth - nearest).abs().amax(1, keepdim=True) < FAR)
    place = torch.where(close, smooth, nearest)
    moved = torch.einsum("nij,njhw->nihw", torch.from_numpy(source.matrix), place)
    moved = moved + torch.from_numpy(source.offset)[..., None, None]
    outside = (moved.abs() > 1).any(1, keepdim=True)
    return moved, torch.where(outside & (label == 2), torch.ones_like(label), label)


def pairs_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of all ordered pairs of different numbers below `count`."""
    source, target = np.array(list(permutations(range(count), 2))).T
    return source, target


def rows_of(groups: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same among `groups` groups of `count` pictures that follow one another."""
    source, target = pairs_of(count)
    first = count * np.arange(groups)[:, None]
    return (first + source).reshape(-1), (first + target).reshape(-1)


def random_groups(people: People, rng: np.random.Generator, groups: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (groups,) of people with `count` pictures or more, and which of them (groups, count), all different.

    Raises:
        InputError: nobody has so many.
    """
    able = np.flatnonzero(people.counts >= count)
    if not len(able):
        raise InputError(
            f"{people.root}: nobody in the split {people.split!r} has {count} pictures, but "
            f"{people.counts.max()} at most; ask for smaller groups (aligner.group), or make a set with "
            "more pictures of each person."
        )
    place = able[rng.integers(0, len(able), groups)]
    index = np.stack([rng.permutation(people.counts[p])[:count] for p in place])
    return people.identities[place], index


def group_correspondence(people: People, identity: np.ndarray, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """`People.correspondence` of all ordered pairs of each group: identity (g,), index (g, count)."""
    source, target = pairs_of(index.shape[1])
    labels = np.repeat(identity, len(source))
    return people.correspondence(Pairs(labels, index[:, source].reshape(-1), index[:, target].reshape(-1)))
