"""What is trained on: a share of the real pictures, filled up to the whole number again with others (section 4.5).

All choices follow from the names of the pictures, the share and a seed. A smaller share is part of every larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reposedm_core.errors import InputError
from training.preparation.plan import files_below

JOIN = "__"
"""Between the names of source and target in a generated picture's name: SOURCE__TARGET.png."""


@dataclass(frozen=True)
class Share:
    """A part of the training set.

    Attributes:
        percent: of the real pictures, 1 to 100.
        kept: (k,) numbers of the pictures that are kept, ascending; everybody keeps one at least.
        lacking: how many pictures bring the set back to its whole size.
        seed: of everything drawn.
    """

    percent: int
    kept: np.ndarray
    lacking: int
    seed: int

    @property
    def name(self) -> str:
        return f"share-{self.percent}-seed-{self.seed}"

    def rng(self, purpose: int) -> np.random.Generator:
        """Random numbers for one purpose."""
        return np.random.default_rng((self.seed, self.percent, purpose))


def keep_share(person: np.ndarray, percent: int, seed: int) -> Share:
    """Keep so many percent of the pictures; person (n,) is who each shows.

    Everybody's first picture in a random order comes before all second ones, so that nobody is lost; the rest is drawn
    from all.
    """
    if not 1 <= percent <= 100:
        raise InputError(f"share = {percent}: give a percentage from 1 to 100.")
    order = np.random.default_rng(seed).permutation(len(person))
    firsts = np.sort(np.unique(person[order], return_index=True)[1])
    order = np.concatenate([order[firsts], np.delete(order, firsts)])
    count = max(round(len(person) * percent / 100), len(firsts))
    return Share(percent, np.sort(order[:count]), len(person) - count, seed)


def planned_pairs(share: Share, posed: np.ndarray) -> np.ndarray:
    """Random sources and target poses, (lacking, 2) numbers of pictures, no pair twice.

    Both are among the kept pictures (**ours**: no pose of a picture that is left out), and of any two people.

    Args:
        posed: (n,) bool, the pictures whose pose is known.

    Raises:
        InputError: too few kept pictures have a pose.
    """
    usable = share.kept[posed[share.kept]]
    if len(usable) * (len(usable) - 1) < share.lacking:
        raise InputError(
            f"{share.percent} % of the pictures: {len(usable)} of the {len(share.kept)} kept ones have a pose, too few "
            f"for {share.lacking} pairs of source and pose: prepare the set with an estimator, or keep more."
        )
    number = share.rng(1).choice(len(usable) * (len(usable) - 1), share.lacking, replace=False)
    source, step = np.divmod(number, max(len(usable) - 1, 1))
    return np.column_stack([usable[source], usable[step + (step >= source)]])


def pair_name(source: str, target: str) -> str:
    """Name of the picture of `source`'s person in `target`'s pose."""
    return f"{source}{JOIN}{target}.png"


def copies(share: Share) -> np.ndarray:
    """The control: (lacking,) numbers of kept pictures, each about as often as any other."""
    rounds = -(-share.lacking // len(share.kept))
    rng = share.rng(2)
    drawn = [rng.permutation(share.kept) for _ in range(rounds)]
    return np.concatenate([*drawn, np.empty(0, np.int64)])[: share.lacking].astype(np.int64)


def folder_pictures(folder: Path, share: Share, names: list[str]) -> tuple[list[Path], np.ndarray]:
    """Another method's pictures: (lacking) files, and the numbers of their sources.

    Their names begin with the name of the source, as in 0002_c1s1_000451_03__… or 0002_c1s1_000451_03.jpg___…; only
    those whose source is kept are drawn from. A folder inside, called as the share (share-20-seed-0), goes first.

    Raises:
        InputError: no such folder, or too few such pictures.
    """
    folder = folder / share.name if (folder / share.name).is_dir() else folder
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name one with a method's pictures.")
    number = {names[n]: n for n in share.kept}
    length = {len(name) for name in number}
    found = []
    for path in files_below(folder):
        source = next((number[path.name[:size]] for size in length if path.name[:size] in number), None)
        if source is not None:
            found.append((path, source))
    if len(found) < share.lacking:
        raise InputError(
            f"{folder}: {len(found)} pictures there begin with the name of a source that {share.name} keeps, such as "
            f"{names[share.kept[0]]}, and {share.lacking} are needed: add pictures."
        )
    chosen = np.sort(share.rng(3).permutation(len(found))[: share.lacking])
    return [found[n][0] for n in chosen], np.array([found[n][1] for n in chosen], np.int64)
