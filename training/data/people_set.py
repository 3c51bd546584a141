"""Reading a people set: pictures of known people, several each, with their joints (layout: training/data/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reposedm_core.errors import InputError, quoted
from reposedm_core.images import from_uint8
from reposedm_core.pose import coco_to_openpose, draw_joints

SPLITS = ("train", "val", "test")
VERSION = 2
ARRAYS = ("pictures", "joints", "openpose", "identity", "split", "done")
"""Arrays that every set has; of version 1, the first synthetic sets, only those that do not follow from its shape."""
OPTIONAL = ("masks", "garments", "others", "flow", "visibility", "surface")
OLD_ARRAYS = ("pictures", "joints", "done")
ORDER_SEED = 20231024


def split_of(identity: int) -> str:
    """The fixed split of the synthetic people: one in 25 tests, one in 25 validates, the others train."""
    return {0: "test", 1: "val"}.get(identity % 25, "train")


def to_unit(pictures: np.ndarray | Tensor) -> Tensor:
    """uint8 (…, H, W, 3) → float32 (…, 3, H, W) in [-1, 1]."""
    return from_uint8(torch.as_tensor(np.ascontiguousarray(pictures)).movedim(-1, -3))


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


@dataclass(frozen=True)
class Example:
    """One pair: pictures (3, H, W) float32 in [-1, 1], poses OpenPose-18 (18, 3) float32 (x, y in pixels, and 0 absent,
    1 hidden, 2 visible), the person's label, and which two of the person's pictures they are."""

    source: Tensor
    target: Tensor
    source_pose: np.ndarray
    target_pose: np.ndarray
    identity: int
    source_index: int
    target_index: int


class People:
    """One split of a people set; arrays stay on disk, and what is asked for is read.

    Pictures are named by a person's label and a number within the finished pictures of that person: `identity` and
    `index` are (n,) int64 everywhere. As a sequence or an iterable it gives every pair as an `Example`: the set's
    official pairs where it has some for the split, else all ordered pairs of different pictures of a person.

    Args:
        root: folder of a set (version 2), or of synthetic people of version 1.
        split: "train", "val" or "test".

    Attributes:
        identities: (P,) int64 labels of the split's people, ascending.
        counts: (P,) int64, finished pictures of each.
        height, width: of every picture, in pixels.

    Raises:
        InputError: the folder is no such set, is of another version, or has no finished picture in the split.
    """

    def __init__(self, root: str | Path, split: str = "train"):
        self.root, self.split = Path(root), split
        if split not in SPLITS:
            raise InputError(f"split = {split!r}: known are {', '.join(SPLITS)}.")
        self.description = describe(self.root)
        self.name = self.description.get("name") or self.description.get("generator", self.root.name)
        self.arrays = self._open()
        self.height, self.width = self.arrays["pictures"].shape[1:3]
        label, kind = self.arrays["identity"], self.arrays["split"][:]
        done = self.arrays["done"][:] != 0
        self._rows = np.flatnonzero(done & (kind == SPLITS.index(split)))
        if not len(self._rows):
            left = f"; {int((~done).sum())} of its {len(done)} pictures are not finished" if not done.all() else ""
            raise InputError(
                f"{self.root}: no finished picture in the split {split!r}{left}. Let the command that "
                "makes the set run to its end, with more people if need be."
            )
        self.identities, self._first, self.counts = np.unique(label[self._rows], return_index=True, return_counts=True)
        if (np.diff(label[self._rows]) < 0).any():
            raise InputError(f"{self.root}: identity.npy is not in order, so this is no people set as it was written.")
        self._paired = np.flatnonzero(self.counts > 1)

    def _open(self) -> dict[str, np.ndarray]:
        old = self.description["version"] == 1
        missing = [name for name in (OLD_ARRAYS if old else ARRAYS) if not (self.root / f"{name}.npy").is_file()]
        if missing:
            raise InputError(f"{self.root} is no whole people set ({', '.join(missing)}.npy missing); make it again.")
        arrays = {
            name: open_array(self.root / f"{name}.npy")
            for name in (*ARRAYS, *OPTIONAL)
            if (self.root / f"{name}.npy").is_file()
        }
        if old:  # (I, K, …) → (I·K, …)
            identities, poses = arrays["pictures"].shape[:2]
            done = arrays.pop("done")
            arrays = {name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.items()}
            arrays["identity"] = np.repeat(np.arange(identities), poses)
            arrays["done"] = np.repeat(done, poses)
            arrays["split"] = np.repeat([SPLITS.index(split_of(i)) for i in range(identities)], poses)
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) > 1:
            raise InputError(f"{self.root}: arrays of different lengths ({sizes}); make the set again.")
        return arrays

    def __reduce__(self):  # a loader's worker opens the files itself: a pickled memory map would be read whole
        return type(self), (self.root, self.split)

    @property
    def has_masks(self) -> bool:
        return "masks" in self.arrays

    @property
    def has_garments(self) -> bool:
        return "garments" in self.arrays

    @property
    def has_correspondence(self) -> bool:
        return "flow" in self.arrays and "visibility" in self.arrays

    # -- pictures and what belongs to them

    def rows(self, identity: np.ndarray, index: np.ndarray) -> np.ndarray:
        """(n,) rows of the set's arrays.

        Raises:
            IndexError: no such person in the split, or no such picture of that person.
        """
        identity, index = np.atleast_1d(identity), np.atleast_1d(index)
        place = np.searchsorted(self.identities, identity).clip(max=len(self.identities) - 1)
        wrong = (self.identities[place] != identity) | (index < 0) | (index >= self.counts[place])
        if wrong.any():
            n = int(wrong.argmax())
            raise IndexError(f"{self.root}: no picture {index[n]} of person {identity[n]} in the split {self.split!r}")
        return self._rows[self._first[place] + index]

    def read(self, name: str, identity: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Rows (n, …) of the array `name`, as stored; KeyError for an optional array that the set has not."""
        return np.array(self.arrays[name][self.rows(identity, index)])

    def pictures(self, identity: np.ndarray, index: np.ndarray) -> Tensor:
        """(n, 3, H, W) in [-1, 1]."""
        return to_unit(self.read("pictures", identity, index))

    def joints(self, identity: np.ndarray, index: np.ndarray) -> np.ndarray:
        """COCO-17 joints (n, 17, 3): x, y in pixels and 0 outside the frame or unknown, 1 hidden, 2 visible."""
        return self.read("joints", identity, index)

    def openpose(self, identity: np.ndarray, index: np.ndarray) -> np.ndarray:
        """OpenPose-18 joints (n, 18, 3), as `joints`: the set's own where it has them."""
        if "openpose" in self.arrays:
            return self.read("openpose", identity, index)
        return coco_to_openpose(self.joints(identity, index))

    def skeletons(self, identity: np.ndarray, index: np.ndarray) -> Tensor:
        """Drawn OpenPose skeletons (n, 3, H, W) in [-1, 1]."""
        return from_uint8(draw_joints(self.openpose(identity, index), self.height, self.width))

    def masks(self, identity: np.ndarray, index: np.ndarray) -> Tensor | None:
        """Masks of the person, not of a second one, (n, 1, H, W), 0 or 1; None for a set without them."""
        if not self.has_masks:
            return None
        return torch.from_numpy(self.read("masks", identity, index) == 1).float()[:, None]

    def garments(self, identity: np.ndarray, index: np.ndarray) -> np.ndarray | None:
        """Garment labels (n, H, W) uint8; None for a set without them."""
        return self.read("garments", identity, index) if self.has_garments else None

    def others(self, identity: np.ndarray, index: np.ndarray) -> np.ndarray | None:
        """COCO-17 joints (n, 17, 3) of the second person in the picture; None for a set without second people."""
        return self.read("others", identity, index) if "others" in self.arrays else None

    def surface(self, identity: np.ndarray, index: np.ndarray) -> Tensor | None:
        """Points of the body that the cells of the correspondence show, (n, 3, h, w) float32: rest coordinates x to the
        person's left, y backwards, z up, in about metres, 0 off the person; None for a set without them."""
        if "surface" not in self.arrays:
            return None
        return torch.from_numpy(self.read("surface", identity, index).astype(np.float32)).movedim(-1, 1)

    def correspondence(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Exact sampling map (n, 2, h, w) and visibility (n, 1, h, w): 0 background, 1 occluded, 2 visible.

        h × w are the set's cells of the correspondence, each of the same whole number of pixels.

        Raises:
            InputError: a set without correspondence.
        """
        if not self.has_correspondence:
            raise InputError(
                f"{self.root} ({self.name}) holds no correspondence (flow.npy, visibility.npy); only "
                "synthetic people have it."
            )
        source, target = self.rows(pairs.identity, pairs.source), self.rows(pairs.identity, pairs.target)
        # Stored by source row and by the target's place among all pictures of the person, finished or not.
        place = target - self._starts[np.searchsorted(self.identities, pairs.identity)]
        flow = np.asarray(self.arrays["flow"][source, place]).astype(np.float32)
        visible = np.array(self.arrays["visibility"][source, place])
        return torch.from_numpy(flow).movedim(-1, 1), torch.from_numpy(visible)[:, None]

    @cached_property
    def _starts(self) -> np.ndarray:
        """First row of each of the split's people; rows that were never written may carry the label 0."""
        labels, first = np.unique(self.arrays["identity"], return_index=True)
        return first[np.searchsorted(labels, self.identities)]

    # -- choosing

    def random_pictures(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` pictures, every person as likely as another: identity and index."""
        place = rng.choice(len(self.identities), count)
        return self.identities[place], rng.integers(0, self.counts[place])

    def random_pairs(self, rng: np.random.Generator, count: int) -> Pairs:
        """`count` ordered pairs of different pictures of one person; official ones where the set has them."""
        if self._official is not None:
            return self._official[rng.integers(0, len(self._official), count)]
        return self._draw(rng, self._people_in_pairs()[rng.integers(0, len(self._paired), count)])

    def fixed_pairs(self, count: int) -> Pairs:
        """The first `count` pairs of a fixed order that goes through every person before it repeats one.

        Official pairs come in a fixed mixed order, each once: there are no more than the set has.
        """
        rng = np.random.default_rng(ORDER_SEED)
        if self._official is not None:
            return self._official[rng.permutation(len(self._official))[:count]]
        people = self._people_in_pairs()
        rounds = [self._draw(rng, people) for _ in range(-(-count // len(people)))]
        return Pairs(
            *(
                np.concatenate([getattr(part, name) for part in rounds] or [np.empty(0, np.int64)])[:count]
                for name in ("identity", "source", "target")
            )
        )

    def _draw(self, rng: np.random.Generator, place: np.ndarray) -> Pairs:
        source = rng.integers(0, self.counts[place])
        return Pairs(
            self.identities[place], source, (source + rng.integers(1, self.counts[place])) % self.counts[place]
        )

    def _people_in_pairs(self) -> np.ndarray:
        """Places of those who have two pictures or more."""
        if not len(self._paired):
            raise InputError(f"{self.root}: nobody in the split {self.split!r} has two pictures, so there is no pair.")
        return self._paired

    @cached_property
    def _official(self) -> Pairs | None:
        """Pairs of the set's own list both of whose pictures are finished."""
        file = self.root / f"pairs_{self.split}.npy"
        if not file.is_file():
            return None
        position = np.full(len(self.arrays["done"]), -1)
        position[self._rows] = np.arange(len(self._rows))
        source, target = position[np.load(file).reshape(-1, 2)].T
        found = (source >= 0) & (target >= 0)
        source, target = source[found], target[found]
        place = np.searchsorted(self._first, source, side="right") - 1
        if not len(source):
            raise InputError(f"{file}: no pair with both pictures finished; let the preparation run to its end.")
        if (np.searchsorted(self._first, target, side="right") - 1 != place).any():
            raise InputError(f"{file}: pairs of two different people, so this is no people set as it was written.")
        return Pairs(self.identities[place], source - self._first[place], target - self._first[place])

    # -- every pair

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.counts * (self.counts - 1))

    def pairs(self, number: np.ndarray) -> Pairs:
        """The pairs with these numbers (n,), from 0 to len(self) - 1, in the order of the set."""
        number = np.atleast_1d(number)
        if self._official is not None:
            return self._official[number]
        place = np.searchsorted(self._ends, number, side="right")
        others = self.counts[place] - 1
        source, step = np.divmod(number - self._ends[place] + self.counts[place] * others, others)
        return Pairs(self.identities[place], source, step + (step >= source))

    def __len__(self) -> int:
        """How many pairs the split has."""
        return len(self._official) if self._official is not None else int(self._ends[-1])

    def __getitem__(self, number: int) -> Example:
        if not -len(self) <= number < len(self):
            raise IndexError(f"pair {number} of {len(self)}")
        pair = self.pairs(np.array([number % len(self)]))
        both = pair.identity.repeat(2), np.concatenate([pair.source, pair.target])
        return Example(*self.pictures(*both), *self.openpose(*both), *map(int, (both[0][0], *both[1])))

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))


def open_array(file: Path) -> np.ndarray:
    """An array on disk, memory-mapped.

    Raises:
        InputError: the file is cut short or is no array.
    """
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{file} cannot be read ({error}): put a whole copy in its place, or make the set again."
        ) from error


def describe(root: Path) -> dict:
    """The dataset.json of a people set.

    Raises:
        InputError: no such folder, no such file, one of something else or of another version.
    """
    file = root / "dataset.json"
    if not file.is_file():
        why = "it has no dataset.json" if root.is_dir() else "there is no such folder"
        raise InputError(
            f"{root} is no people set ({why}); make one with python training/generate.py --out "
            "FOLDER, or from a set of pictures with python training/prepare.py."
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        version = description["version"]
        known = {2: description.get("format"), 1: description.get("generator")}.get(version)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{file} describes no people set: it does not say which version.") from None
    if known not in ("people set", "synthetic people"):
        if description.get("format") == "captioned set":
            raise InputError(
                f"{root} is a set of captioned pictures, not of people in several pictures; only the "
                "stage reposesd trains on it."
            )
        raise InputError(
            f"{file} describes no people set of version 1 or {VERSION}, but "
            f"{quoted(description.get('format'))} of version {quoted(version)}: make the set again."
        )
    return description
