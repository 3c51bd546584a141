"""A small study of coloured pictures, with its folders, page and key."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from training import study_perception

METHODS = ("ours", "theirs", "a third")
COUNTS = {"reals": 4, "fakes": 3, "sets": 3, "checks": 1}


def write_pictures(folder: Path, names: list[str], seed: int, ending: str = ".png") -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (16, 12, 3), np.uint8)).save(folder / (name + ending))
    return folder


def arguments(root: Path, **more: object) -> list[str]:
    """Of the command that makes the study of the folders in `root`."""
    given = {"real": root / "photographs", "generated": root / "made", "sources": root / "sources"}
    given |= {"poses": root / "poses", "out": root / "study", **COUNTS, **more}
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    methods = [part for name in METHODS for part in ("--method", f"{name}={root / name}")]
    return ["make", *options, *methods]


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> SimpleNamespace:
    """`root` with the folders; `page` and `key` files, and `known`, the key's content."""
    root = tmp_path_factory.mktemp("perception")
    write_pictures(root / "photographs", [f"camera{n}" for n in range(6)], 1, ".jpg")
    write_pictures(root / "made", [f"sampled{n}" for n in range(5)], 2)
    names = [f"pair{n}" for n in range(5)]
    for n, folder in enumerate(("sources", "poses", *METHODS)):
        write_pictures(root / folder, names, 3 + n)
    assert study_perception.main(arguments(root)) == 0
    key = root / "study" / "study.key.json"
    return SimpleNamespace(root=root, page=root / "study" / "study.html", key=key, known=json.loads(key.read_text()))
