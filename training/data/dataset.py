"""Reading the synthetic people set (memory-mapped .npy arrays, see `training/data/synthetic.py`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reposedm_core.errors import InputError
from reposedm_core.pose import coco_to_openpose, draw_joints

SPLITS = ("train", "val", "test")
ARRAYS = ("pictures", "joints", "masks", "flow", "visibility", "done")


def split_of(identity: int) -> str:
    """The fixed split by identity: one in 25 tests, one in 25 validates, the others train."""
    return {0: "test", 1: "val"}.get(identity % 25, "train")


def to_unit(pictures: np.ndarray | Tensor) -> Tensor:
    """uint8 (…, H, W, 3) → float32 (…, 3, H, W) in [-1, 1]."""
    return torch.as_tensor(np.ascontiguousarray(pictures)).movedim(-1, -3).float() / 127.5 - 1


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures of one person: identity, source index and target index, each (n,) int64."""

    identity: np.ndarray
    source: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.identity)

    def __getitem__(self, rows) -> Pairs:
        return Pairs(self.identity[rows], self.source[rows], self.target[rows])


class SyntheticPeople:
    """One split of the set. `pictures` and the other arrays stay on disk; batches are read as they are asked for.

    Args:
        root: folder written by `training/data/synthetic.py`.
        split: "train", "val" or "test".

    Raises:
        InputError: the folder is no such set, is of another version, or has no finished identity in the split.
    """

    def __init__(self, root: str | Path, split: str):
        self.root, self.split = Path(root), split
        if split not in SPLITS:
            raise InputError(f"split = {split!r}: known are {', '.join(SPLITS)}.")
        missing = [name for name in ARRAYS if not (self.root / f"{name}.npy").is_file()]
        if missing:
            raise InputError(f"{self.root} is no synthetic people set ({', '.join(missing)}.npy missing); make one "
                             "with python training/data/synthetic.py --out FOLDER.")
        self.description = json.loads((self.root / "dataset.json").read_text())
        self.arrays = {name: np.load(self.root / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        done = np.flatnonzero(self.arrays["done"][:])
        self.identities = np.array([i for i in done if split_of(i) == split], dtype=np.int64)
        if not len(self.identities):
            raise InputError(f"{self.root}: no finished identity in the split {split!r}; generate more identities.")
        self.poses, self.height, self.width = self.arrays["pictures"].shape[1:4]

    def pictures(self, identity: np.ndarray, index: np.ndarray) -> Tensor:
        """(n, 3, H, W) in [-1, 1]."""
        return to_unit(self._read("pictures", identity, index))

    def masks(self, identity: np.ndarray, index: np.ndarray) -> Tensor:
        """Person masks (n, 1, H, W), 0 or 1."""
        return torch.from_numpy(self._read("masks", identity, index)).float()[:, None]

    def joints(self, identity: np.ndarray, index: np.ndarray) -> np.ndarray:
        """COCO-17 joints (n, 17, 3): x, y in pixels and 0 outside the frame, 1 occluded, 2 visible."""
        return self._read("joints", identity, index)

    def skeletons(self, identity: np.ndarray, index: np.ndarray) -> Tensor:
        """Drawn OpenPose skeletons (n, 3, H, W) in [-1, 1]."""
        joints = coco_to_openpose(self.joints(identity, index))
        return draw_joints(joints, self.height, self.width).float() / 127.5 - 1

    def correspondence(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Exact sampling map (n, 2, H/2, W/2) and visibility (n, 1, H/2, W/2): 0 background, 1 occluded, 2 visible."""
        keys = list(zip(pairs.identity, pairs.source, pairs.target, strict=True))
        flow = np.stack([self.arrays["flow"][k] for k in keys]).astype(np.float32)
        visible = np.stack([self.arrays["visibility"][k] for k in keys])
        return torch.from_numpy(flow).movedim(-1, 1), torch.from_numpy(visible)[:, None]

    def random_pairs(self, rng: np.random.Generator, count: int) -> Pairs:
        """`count` ordered pairs of different pictures of one person."""
        identity = rng.choice(self.identities, count)
        source = rng.integers(0, self.poses, count)
        return Pairs(identity, source, (source + rng.integers(1, self.poses, count)) % self.poses)

    def fixed_pairs(self, count: int) -> Pairs:
        """The first `count` pairs of a fixed order that goes through every identity before it repeats one."""
        rng = np.random.default_rng(20231024)
        rounds = []
        for _ in range(-(-count // len(self.identities))):
            source = rng.integers(0, self.poses, len(self.identities))
            target = (source + rng.integers(1, self.poses, len(self.identities))) % self.poses
            rounds.append((self.identities, source, target))
        return Pairs(*(np.concatenate(column)[:count] for column in zip(*rounds, strict=True)))

    def _read(self, name: str, identity: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.stack([self.arrays[name][i, k] for i, k in zip(identity, index, strict=True)])
