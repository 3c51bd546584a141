"""DeepFashion In-shop Clothes Retrieval, with the split, pairs and keypoints of PATN and GFLA."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reposedm_core.errors import InputError
from training.preparation.adapter import Adapter
from training.preparation.lists import read_keypoints, read_pairs
from training.preparation.plan import Item, Plan, Shares, Skip, files_below, hold_out, need

CANVAS = (256, 176)
"""Height and width of the pictures on which the keypoints were marked."""
PREFIXES = ("fasion-resize-", "fashion-resize-")  # as published, and as some mirrors correct it
LISTED = ("train", "test")


def listed_name(path: Path) -> tuple[str, str, str]:
    """A path below img_highres, GENDER/CATEGORY/id_…/NN_V_view.jpg, as the lists spell it, and outfit and person.

    Raises:
        ValueError: a path of another form.
    """
    gender, category, number, file = path.parts
    variant, *view = file.split("_")
    if not view:
        raise ValueError(file)
    name = f"fashion{gender}{category}{number.replace('_', '')}{variant}_{''.join(view)}"
    return name, f"{gender}/{category}/{number}/{variant}", number


class DeepFashion(Adapter):
    """One identity is a person in one outfit, as in the lists' pairs; a person, with all outfits, is in one split."""

    name = "deepfashion"
    title = "DeepFashion In-shop Clothes Retrieval"
    licence = "DeepFashion agreement: non-commercial research only; its pictures may not be passed on."
    size = CANVAS
    resize = "stretch"
    estimator = "none"
    paper_pairs = {"train": 101_966, "test": 8_570}  # noqa: RUF012

    def plan(self, root: Path, shares: Shares, cache: Path) -> Plan:
        base = need(root, "img_highres")
        files, outfits = {}, {}
        skipped: list[Skip] = []
        for path in files_below(base):
            relative = path.relative_to(base)
            try:
                name, outfit, person = listed_name(relative)
            except ValueError:
                skipped.append(Skip(str(relative), "unknown name"))
                continue
            files[name], outfits[name] = path, (outfit, person)
        keypoints, split_of, pairs = self._lists(root, skipped)
        wanted: dict[str, list[str]] = {}
        for name in split_of:
            if name in outfits:
                wanted.setdefault(outfits[name][0], []).append(name)
            else:
                skipped.append(Skip(name, "missing file", "not below img_highres"))
        skipped += [Skip(name, "in no list") for name in files if name not in split_of]
        person_of = {outfit: outfits[names[0]][1] for outfit, names in wanted.items()}
        # A person of both lists is a test person: nobody is trained on and tested.
        tested = {person_of[outfit] for outfit, names in wanted.items() if any(split_of[n] == "test" for n in names)}
        held = hold_out(set(person_of.values()) - tested, shares.val)
        items = []
        for identity, outfit in enumerate(sorted(wanted)):
            split = "test" if person_of[outfit] in tested else held[person_of[outfit]]
            for name in sorted(wanted[outfit]):
                if split == "test" and split_of[name] != "test":
                    skipped.append(Skip(name, "person of both lists", "left out of training"))
                    continue
                items.append(Item(name, identity, split, files[name], keypoints.get(name), CANVAS))
        kept = {item.name: item.identity for item in items}
        same = None
        if pairs is not None:
            same = []
            for source, target in pairs:
                if source in kept and target in kept and kept[source] != kept[target]:
                    skipped.append(Skip(f"{source}, {target}", "pair of two outfits"))
                else:
                    same.append((source, target))
        return Plan(items, same, skipped)

    def _lists(self, root: Path, skipped: list[Skip]) -> tuple[dict[str, np.ndarray], dict[str, str], list | None]:
        """Keypoints and split by name, in the lists' order, and the pairs."""
        keypoints: dict[str, np.ndarray] = {}
        split_of: dict[str, str] = {}
        pairs: list[tuple[str, str]] | None = None
        for split in LISTED:
            for file in (root / f"{prefix}annotation-{split}.csv" for prefix in PREFIXES):
                for entry in read_keypoints(file) if file.is_file() else ():
                    if isinstance(entry, Skip):
                        skipped.append(entry)
                    elif entry[0] in keypoints:
                        skipped.append(Skip(entry[0], "duplicate", f"again in {file.name}"))
                    else:
                        keypoints[entry[0]], split_of[entry[0]] = entry[1], split
            names = [f"{prefix}pairs-{split}.csv" for prefix in PREFIXES] + [f"{split}_pairs.txt"]
            listed = next((root / name for name in names if (root / name).is_file()), None)
            for pair in read_pairs(listed) if listed else ():
                pairs = [] if pairs is None else pairs
                if isinstance(pair, Skip):
                    skipped.append(pair)
                    continue
                source, target = map(_as_listed, pair)
                pairs.append((source, target))
                for name in (source, target):
                    split_of.setdefault(name, split)
        if not split_of:
            raise InputError(
                f"{root}: none of fasion-resize-annotation-{{train,test}}.csv, "
                "fasion-resize-pairs-{train,test}.csv and {train,test}_pairs.txt is there, which say what "
                "is trained on; see training/data/README.md."
            )
        return keypoints, split_of, pairs


def _as_listed(name: str) -> str:
    """A name of a pair list, which some mirrors give as a path (…/WOMEN/Dresses/id_…/02_1_front.jpg)."""
    parts = Path(name).parts
    if len(parts) < 4:
        return name
    try:
        return listed_name(Path(*parts[-4:]))[0]
    except ValueError:
        return name
