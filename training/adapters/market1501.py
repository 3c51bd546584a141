"""Market-1501, pedestrians of 1,501 identities before six cameras."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from training.preparation.adapter import Adapter
from training.preparation.lists import read_keypoints, read_pairs
from training.preparation.plan import Item, Plan, Shares, Skip, files_below, hold_out, need

FOLDERS = (("train", ("bounding_box_train", "train")), ("test", ("bounding_box_test", "test")), ("test", ("query",)))
NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")
DISTRACTORS = ("-1", "0000")


class Market1501(Adapter):
    """The identity is the number that a name begins with, and the camera follows it: 0002_c1s1_000451_03.jpg."""

    name = "market1501"
    title = "Market-1501"
    licence = "Market-1501: for academic research; its pictures may not be passed on."
    size = (128, 64)
    resize = "stretch"
    estimator = "ours"

    def plan(self, root: Path, shares: Shares, cache: Path) -> Plan:
        need(root, *FOLDERS[0][1])
        keypoints: dict[str, np.ndarray] = {}
        skipped: list[Skip] = []
        pairs: list[tuple[str, str]] | None = None
        for split in ("train", "test"):
            file = root / f"market-annotation-{split}.csv"
            for entry in read_keypoints(file) if file.is_file() else ():
                if isinstance(entry, Skip):
                    skipped.append(entry)
                else:
                    keypoints.setdefault(*entry)
            file = root / f"market-pairs-{split}.csv"
            for pair in read_pairs(file) if file.is_file() else ():
                pairs = [] if pairs is None else pairs
                if isinstance(pair, Skip):
                    skipped.append(pair)
                else:
                    pairs.append(pair)
        found: dict[str, tuple[str, Path]] = {}
        for split, names in FOLDERS:
            for folder in (root / name for name in names if (root / name).is_dir()):
                for path in files_below(folder):
                    match = NAME.fullmatch(path.name)
                    if match is None:
                        skipped.append(Skip(path.name, "unknown name"))
                    elif match[1] in DISTRACTORS:
                        skipped.append(Skip(path.name, "distractor"))
                    elif path.name in found:
                        skipped.append(Skip(path.name, "duplicate", f"again in {folder.name}"))
                    else:
                        found[path.name] = split, path
        held = hold_out({name[:4] for name, (split, _) in found.items() if split == "train"}, shares.val)
        items = [
            Item(
                name, int(name[:4]), held[name[:4]] if split == "train" else split, path, keypoints.get(name), self.size
            )
            for name, (split, path) in sorted(found.items())
        ]
        if pairs is not None:
            pairs, listed = [], pairs
            for source, target in listed:
                if source[:4] == target[:4]:
                    pairs.append((source, target))
                else:
                    skipped.append(Skip(f"{source}, {target}", "pair of two people"))
        return Plan(items, pairs, skipped, annotated=bool(keypoints))
