"""Makes a human perception study (section 4.2 of the paper): one page for every rater, and the key that only we have.

Two schemes, each of which may be left out: *real or generated*, single pictures; and *the best one*, sets of source,
target pose and one picture a method. The page knows pictures by numbers that say nothing, and brings all pictures to
one format and size; the key says what each is. Attention checks (**ours**) are pictures whose tiles are out of order.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reposedm_core.errors import InputError, shortened
from reposedm_core.files import make_folder, write_json, write_text
from reposedm_core.images import to_rgb
from training.preparation.plan import PICTURES

TEMPLATE = Path(__file__).with_name("page.html")
PAGE, KEY = "study.html", "study.key.json"
KEY_FORMAT = "perception study key"
REAL, GENERATED, CHECK = "real", "generated", "check"
MOST = 9
"""Methods in a set at most: one key each."""
TILES = 4
"""An attention check's picture is cut into TILES × TILES tiles."""


@dataclass
class Study:
    """What a study shows.

    Attributes:
        real, generated: folders of the first scheme, or None without it.
        methods: name → folder of its pictures in the second scheme; empty without it. The same file name, whatever
            its ending, is the same set in all of them, in `sources` and in `poses`.
        reals, fakes, sets: how many of each are drawn; the paper's are 30, 20 and 30.
        checks: attention checks in each scheme, 0 for none, of pictures and sets that are not asked about: a check
            would tell of those which method's picture is the whole one.
        size: height and width that all pictures are brought to; None: they must have one size already.
        seed: of what is drawn, and, with the rater's name, of every rater's order and sides.
    """

    real: Path | None = None
    generated: Path | None = None
    sources: Path | None = None
    poses: Path | None = None
    methods: dict[str, Path] = field(default_factory=dict)
    reals: int = 30
    fakes: int = 20
    sets: int = 30
    checks: int = 2
    size: tuple[int, int] | None = None
    seed: int = 0
    title: str = "Which picture is real?"

    def check(self) -> None:
        """InputError for what makes no study."""
        if (self.real is None) != (self.generated is None):
            raise InputError("--real and --generated belong together: give a folder for each, or neither.")
        if bool(self.methods) != (self.sources is not None) or bool(self.methods) != (self.poses is not None):
            raise InputError("--method, --sources and --poses belong together: give all three, or none.")
        if self.real is None and not self.methods:
            raise InputError(
                "There is nothing to show: give --real and --generated, or --method, --sources and --poses."
            )
        if len(self.methods) == 1:
            raise InputError("The best of one method is no question: give --method at least twice.")
        if len(self.methods) > MOST:
            raise InputError(
                f"{len(self.methods)} methods: keys 1 to {MOST} choose among them; give at most {MOST}, or make two "
                "studies."
            )
        if min(self.reals, self.fakes, self.sets) < 1 or not 0 <= self.checks <= 20 or self.seed < 0:
            raise InputError("Pictures and sets must be at least 1, checks 0 to 20, and the seed at least 0.")


def pictures_of(folder: Path) -> dict[str, Path]:
    """Name without ending → picture file, of the files right in a folder, sorted.

    Raises:
        InputError: no such folder, no picture in it, or two of one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name one with the pictures in it.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PICTURES and path.is_file():
            if path.stem in found:
                raise InputError(f"{folder}: {found[path.stem].name} and {path.name} have one name; remove one.")
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder}: no picture ({', '.join(PICTURES)}) is right in this folder.")
    return found


def make_study(study: Study, out: Path) -> dict[str, int]:
    """Write `PAGE` and `KEY` into the folder `out`; returns how many items of each kind the page has.

    Raises:
        InputError: too few pictures, unreadable ones, or ones of different sizes.
    """
    study.check()
    rng, reader = np.random.default_rng(study.seed), _Reader(study.size)
    page: dict[str, Any] = {"title": study.title, "seed": study.seed, "singles": [], "sets": []}
    key: dict[str, Any] = {"format": KEY_FORMAT, "version": 1, "seed": study.seed, "singles": {}, "sets": {}}
    if study.real is not None and study.generated is not None:
        shown = pictures_of(study.real), pictures_of(study.generated)
        page["singles"], key["singles"] = _singles(study, *shown, rng, reader)
    if study.sources is not None and study.poses is not None:
        page["sets"], key["sets"] = _sets(study, pictures_of(study.sources), pictures_of(study.poses), rng, reader)
        key["methods"] = list(study.methods)
    page["study"] = key["study"] = hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()[:12]
    make_folder(out, "out")
    text = json.dumps(page, ensure_ascii=False).replace("</", "<\\/")
    write_text(out / PAGE, TEMPLATE.read_text(encoding="utf-8").replace("DATA", text, 1))
    write_json(out / KEY, key)
    kinds = [item["kind"] for item in key["singles"].values()]
    return {
        REAL: kinds.count(REAL),
        GENERATED: kinds.count(GENERATED),
        "sets": len([item for item in key["sets"].values() if not item["check"]]),
        "checks": kinds.count(CHECK) + sum(item["check"] for item in key["sets"].values()),
    }


def _drawn(names: list[str], count: int, rng: np.random.Generator, what: str) -> list[str]:
    if len(names) < count:
        raise InputError(
            f"{what}: {len(names)} pictures, and the study wants {count}, checks included: add pictures, "
            "or ask for fewer."
        )
    return [names[n] for n in rng.permutation(len(names))[:count]]


def _singles(
    study: Study, real: dict[str, Path], generated: dict[str, Path], rng: np.random.Generator, reader: _Reader
) -> tuple[list[dict], dict[str, dict]]:
    # one name is one scene: who has seen it in both folders may know it again, so that none is drawn from both
    order = _drawn(list(generated), max(study.fakes, len(generated)), rng, f"--generated {study.generated}")
    made = sorted(order, key=lambda name: name in real)[: study.fakes]
    left = [name for name in real if name not in made]
    shared = f" without the {len(real) - len(left)} drawn from --generated" if len(left) < len(real) else ""
    taken = _drawn(left, study.reals + study.checks, rng, f"--real {study.real}{shared}")
    chosen = [(REAL if n < study.reals else CHECK, real[name]) for n, name in enumerate(taken)]
    chosen += [(GENERATED, generated[name]) for name in made]
    items, key = [], {}
    for number, n in enumerate(rng.permutation(len(chosen))):
        kind, path = chosen[n]
        name = f"s{number}"
        picture = reader.read(path)
        items.append({"id": name, "picture": encoded(disordered(picture, rng) if kind == CHECK else picture)})
        key[name] = {"kind": kind, "file": path.name}
    return items, key


def _sets(
    study: Study, sources: dict[str, Path], poses: dict[str, Path], rng: np.random.Generator, reader: _Reader
) -> tuple[list[dict], dict[str, dict]]:
    folders = {"source": sources, "pose": poses}
    made = {name: pictures_of(folder) for name, folder in study.methods.items()}
    common = set.intersection(*(set(found) for found in (*folders.values(), *made.values())))
    where = "pictures whose name is in --sources, --poses and the folder of every --method"
    taken = _drawn(sorted(common), study.sets + study.checks, rng, where)
    chosen = [(name, n >= study.sets) for n, name in enumerate(taken)]
    items, key = [], {}
    for number, n in enumerate(rng.permutation(len(chosen))):
        stem, check = chosen[n]
        options, meaning = [], {}
        methods = [list(made)[m] for m in rng.permutation(len(made))]
        for place, method in enumerate(methods):
            picture = reader.read(made[method][stem])
            if check and place:  # the first of a mixed order is the one that is left whole
                picture = disordered(picture, rng)
            options.append({"id": f"o{place}", "picture": encoded(picture)})
            meaning[f"o{place}"] = method
        given = {part: encoded(reader.read(found[stem])) for part, found in folders.items()}
        items.append({"id": f"b{number}", **given, "options": options})
        key[f"b{number}"] = {"check": check, "file": stem, "options": meaning}
    return items, key


class _Reader:
    """Reads pictures (H, W, 3) uint8 that must all have one size: the given one, or that of the first."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self.size, self.resize = size, size is not None
        self.first: Path | None = None

    def read(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as opened:
                picture = to_rgb(opened)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a picture ({shortened(error)}): write it again.") from None
        size = (picture.height, picture.width)
        if self.size is None:
            self.size, self.first = size, path
        elif self.resize and size != self.size:
            picture = picture.resize(self.size[::-1], Image.Resampling.LANCZOS)
        elif size != self.size:
            raise InputError(
                f"{path} has {size[1]}×{size[0]} pixels, {self.first} {self.size[1]}×{self.size[0]}: a size must not "
                "tell who made a picture. Give --size HEIGHTxWIDTH to bring all to one."
            )
        return np.array(picture)


def disordered(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The tiles of a picture (H, W, 3) in another order; none stays in its place."""
    height, width = (side // TILES for side in picture.shape[:2])
    places = [(y * height, x * width) for y in range(TILES) for x in range(TILES)]
    order = rng.permutation(len(places))
    result = picture.copy()
    for a, b in zip(order, np.roll(order, 1), strict=True):  # one circle through all of them
        (y, x), (v, u) = places[a], places[b]
        result[y : y + height, x : x + width] = picture[v : v + height, u : u + width]
    return result


def encoded(picture: np.ndarray) -> str:
    """A picture as JPEG in base64, in one quality whoever made it, without what its file said beside the pixels."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()
