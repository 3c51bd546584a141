"""Human-Art: people in twenty natural and artificial scenes, described and annotated by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from reposedm_core.errors import InputError
from training.preparation.captioning import Caption, CaptionedAdapter, Captions, below, read_mapping
from training.preparation.plan import Shares, Skip, hold_out, inside, need

MAPPINGS = (("train", "mapping_file_training.json"), ("test", "mapping_file_validation.json"))
ANNOTATIONS = (("train", "training_humanart.json"), ("test", "validation_humanart.json"))


class HumanArt(CaptionedAdapter):
    """Its validation pictures test, as in HumanSD's tables. HumanSD's mapping files are read where they are there, else
    the set's own annotations in COCO's format."""

    name = "human_art"
    title = "Human-Art"
    licence = "Human-Art's form: non-commercial research; every picture has the licence of its own page."

    def plan(self, root: Path, shares: Shares) -> Captions:
        skipped: list[Skip] = []
        if not any((root / name).is_file() for _, name in MAPPINGS):
            folder = need(root, "annotations")
            files = [(split, folder / name) for split, name in ANNOTATIONS if (folder / name).is_file()]
            if not files:
                raise InputError(
                    f"{root}: neither {MAPPINGS[0][1]} nor annotations/{ANNOTATIONS[0][1]} is there; see "
                    "training/data/README.md."
                )
            items = [item for split, file in files for item in read_coco(root, file, split, shares.val, skipped)]
        else:
            items = [
                item
                for split, name in MAPPINGS
                if (root / name).is_file()
                for item in read_mapping(root, root / name, split, shares.val, skipped)
            ]
        seen: set[str] = set()
        unique = []
        for item in items:
            if item.image in seen:
                skipped.append(Skip(item.name, "duplicate", item.image))
            else:
                seen.add(item.image)
                unique.append(item)
        return Captions(unique, skipped)


def read_coco(root: Path, file: Path, split: str, val: float, skipped: list[Skip]) -> list[Caption]:
    """The pictures of an annotation file in COCO's format, which also has "description" and "picture_name"."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        images, people = data["images"], defaultdict(list)
        for person in data["annotations"]:
            points = np.array(person["keypoints"], np.float32).reshape(-1, 3)
            if len(points) == 17 and not person.get("iscrowd", 0):
                points[:, :2] += 0.5  # indices of pixels → positions
                points[:, 2] = points[:, 2] > 0
                people[person["image_id"]].append(points)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: no annotations in COCO's format ({type(error).__name__}: {error}).") from error
    held = hold_out({str(image.get("file_name")) for image in images}, val) if split == "train" else {}
    found = []
    for image in images:
        name = str(image.get("file_name"))
        try:
            path = below(name)
        except ValueError:
            skipped.append(Skip(name, "unknown name"))
            continue
        text = str(image.get("description") or image.get("picture_name") or "").strip()
        if inside(root, path) is None:
            skipped.append(Skip(name, "outside of the root", path))
        elif not text:
            skipped.append(Skip(name, "no caption"))
        elif not people[image.get("id")]:
            skipped.append(Skip(name, "no keypoints"))
        else:
            found.append(Caption(name, held.get(name, split), path, text, np.stack(people[image["id"]])))
    return found
