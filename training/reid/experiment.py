"""The experiment of section 4.5, Table 4: what generated pictures are worth to a network that re-identifies people.

rows × shares × seeds: keep a share of the real pictures, fill it up, train, retrieve. Every run leaves one file; runs
whose file is there are not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reposedm_core.errors import InputError
from reposedm_core.files import checksum, make_folder, read_json, write_json
from training.evaluation.generate import Contender, open_contender
from training.evaluation.picture_files import folder_name
from training.metrics.retrieval import retrieve
from training.reid.augment import Share, copies, folder_pictures, keep_share, pair_name, planned_pairs
from training.reid.generate import PosedPictures, generate_pairs
from training.reid.market import GALLERY, QUERY, TRAIN, Shots, read_pictures, read_shots
from training.reid.network import Net, Recipe, features, train

ALONE, COPIES = "real only", "+ copies of real ones"
WITH, WITHOUT = "with distractors", "without distractors"
"""Every run is measured in both galleries."""
BLOCK = 512
"""Gallery pictures that are read and sent through the network at once."""


@dataclass
class Experiment:
    """What is compared.

    Attributes:
        root: folder in Market-1501's layout. data: people set prepared of it, with the poses; None without weights.
        weights: row → checkpoint. pictures: row → folder of another method's pictures, see `folder_pictures`.
        shares: percentages of the real pictures; at 100 there is nothing to fill up, and only `ALONE` is run.
        seeds: of the share, of what fills it up and of the training.
        source_pose: see `evaluation.generate.SOURCE_POSES`.
        distractors: they are in the gallery, as wrong answers, as published; False leaves them out.
        remark: said under the tables, e.g. that a set is no real one.
    """

    root: Path
    out: Path
    data: Path | None = None
    weights: dict[str, Path] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    shares: tuple[int, ...] = (20, 40, 60, 80)
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: Recipe = field(default_factory=Recipe)
    source_pose: str = "true"
    sampling_steps: int | None = None
    device: str = "cpu"
    batch: int = 16
    distractors: bool = True
    remark: str = ""

    def check(self) -> None:
        """InputError for what cannot be run."""
        self.recipe.check()
        if self.weights and self.data is None:
            raise InputError("--weights needs --data, the people set with the poses of the training pictures.")
        names = [ALONE, COPIES, *self.weights, *self.pictures]
        if len({folder_name(name) for name in names}) < len(names):
            raise InputError(f"Two rows have one name ({', '.join(names)}): give each its own.")
        if not all(folder_name(name) for name in names):
            raise InputError(f"Rows ({', '.join(names)}): each name needs a letter from a to z or a digit.")
        for what, given in (("share", self.shares), ("seed", self.seeds)):
            if not given or len(set(given)) < len(given) or min(given) < 0:
                raise InputError(f"Give one {what} at least, 0 or more, none twice.")
        if self.batch < 1:
            raise InputError(f"batch = {self.batch}: pictures that are generated at once must be 1 or more.")
        if self.sampling_steps is not None and self.sampling_steps < 1:
            raise InputError(f"sampling steps = {self.sampling_steps}: must be 1 or more.")

    def settings(self) -> dict[str, Any]:
        """What decides the numbers of a run, but for row, share and seed; rows by the folder they have in `out`.

        Raises:
            InputError: a checkpoint or the backbone's weights cannot be read.
        """
        given = {
            folder_name(name): {"name": name, "file": path.name, "sha256": checksum(path)}
            for name, path in self.weights.items()
        }
        given |= {folder_name(name): {"name": name, "folder": str(path)} for name, path in self.pictures.items()}
        start = self.recipe.weights
        return {
            "root": str(self.root),
            "data": None if self.data is None else str(self.data),
            "recipe": asdict(self.recipe),
            "backbone_sha256": None if start is None else checksum(Path(start)),
            "rows": given,
            "source_pose": self.source_pose,
            "sampling_steps": self.sampling_steps,
        }

    def rows(self, percent: int) -> list[str]:
        """The rows that a share has."""
        return [ALONE] if percent == 100 else [ALONE, COPIES, *(f"+ {n}" for n in (*self.weights, *self.pictures))]


def run(experiment: Experiment) -> dict[str, Any]:
    """Run what is missing; returns what results.json holds (see `report.results_of`'s argument `runs`).

    Raises:
        InputError: a folder, a file or a number that does not fit, or runs of other settings in `out`.
        Stopped: interrupted; the same command goes on.
    """
    experiment.check()
    Net(experiment.recipe, 2)  # an unknown backbone or weights of another one are reported before hours of sampling
    shots, query = read_shots(experiment.root, TRAIN, 1), read_shots(experiment.root, QUERY, 1)
    gallery = read_shots(experiment.root, GALLERY)
    shares = [keep_share(shots.person, percent, seed) for percent in experiment.shares for seed in experiment.seeds]
    for folder in experiment.pictures.values():
        for share in shares:
            folder_pictures(folder, share, shots.names)
    posed = PosedPictures(experiment.data) if experiment.weights and experiment.data is not None else None
    settings = experiment.settings()
    make_folder(experiment.out, "out")
    _same_settings(experiment.out, settings)
    if posed is not None:
        for name, path in experiment.weights.items():
            _generate(experiment, name, path, posed, shots, shares)
    recipe, runs = experiment.recipe, []
    real = None
    for share in shares:
        for row in experiment.rows(share.percent):
            file = experiment.out / "runs" / folder_name(row) / f"{share.name}.json"
            if not file.is_file():
                if real is None:
                    real = read_pictures(shots.files, recipe.height, recipe.width)
                pictures, people = training_set(experiment, row, share, shots, real, posed)
                print(f"{row}, {share.name}: {len(pictures)} pictures, {recipe.steps} steps", flush=True)
                labels = np.unique(people, return_inverse=True)[1]
                state = file.with_suffix(".state.pt")
                net = train(recipe, pictures, labels, share.seed, state, experiment.device)
                write_json(
                    file,
                    {
                        "row": row,
                        "percent": share.percent,
                        "seed": share.seed,
                        "real": len(share.kept),
                        "pictures": len(pictures),
                        **measure(net, recipe, query, gallery, experiment.device),
                    },
                )
                state.unlink(missing_ok=True)
            known = read_json(file, str(file), "delete it, and run the same command again")
            runs.append({**known, **known[WITH if experiment.distractors else WITHOUT]})
    return {
        "protocol": {
            **settings,
            "distractors": experiment.distractors,
            "device": experiment.device,
            "remark": experiment.remark,
            "seeds": list(experiment.seeds),
            "generators": list(experiment.weights),
            "people": len(np.unique(shots.person)),
            "train": len(shots),
            "queries": len(query),
            "gallery": len(gallery) if experiment.distractors else int((gallery.person > 0).sum()),
        },
        "persons": query.person.tolist(),
        "runs": runs,
    }


def training_set(
    experiment: Experiment, row: str, share: Share, shots: Shots, real: np.ndarray, posed: PosedPictures | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, H, W, 3) of a row, and who is on each (n,): the kept ones, then what fills up."""
    kept, people, recipe = real[share.kept], shots.person[share.kept], experiment.recipe
    if row == ALONE:
        return kept, people
    name = row.removeprefix("+ ")
    if row == COPIES:
        which = copies(share)
        more = real[which]
    elif name in experiment.weights and posed is not None:
        pairs = _pairs(share, shots, posed)
        folder = picture_folder(experiment, name)
        more = read_pictures([folder / pair_name(*pair) for pair in pairs], recipe.height, recipe.width)
        number = {stem: n for n, stem in enumerate(shots.names)}
        which = np.array([number[source] for source, _ in pairs], np.int64)
    else:
        files, which = folder_pictures(experiment.pictures[name], share, shots.names)
        more = read_pictures(files, recipe.height, recipe.width)
    return np.concatenate([kept, more]), np.concatenate([people, shots.person[which]])


def measure(net: Any, recipe: Recipe, query: Shots, gallery: Shots, device: str) -> dict[str, dict[str, list]]:
    """Retrieve every query by the cosine of features: `WITH` the gallery's distractors and junk, and `WITHOUT` them."""

    def seen(shots: Shots) -> Iterator[np.ndarray]:
        for start in range(0, len(shots), BLOCK):
            yield features(net, read_pictures(shots.files[start : start + BLOCK], recipe.height, recipe.width), device)

    asked, found = (np.concatenate(list(seen(shots))) for shots in (query, gallery))
    measured = {}
    for name, part in ((WITH, slice(None)), (WITHOUT, gallery.person > 0)):
        people, cameras = gallery.person[part], gallery.camera[part]
        result = retrieve(1 - asked @ found[part].T, query.person, query.camera, people, cameras)
        measured[name] = {key: _listed(getattr(result, key)) for key in ("ap", "ap_toolkit", "first")}
    return measured


def picture_folder(experiment: Experiment, name: str) -> Path:
    """Where a checkpoint's pictures are."""
    return experiment.out / "pictures" / folder_name(name)


def _pairs(share: Share, shots: Shots, posed: PosedPictures) -> list[tuple[str, str]]:
    names = shots.names
    known = np.array([name in posed.row for name in names])
    return [(names[a], names[b]) for a, b in planned_pairs(share, known)]


def _generate(
    experiment: Experiment, name: str, path: Path, posed: PosedPictures, shots: Shots, shares: list[Share]
) -> None:
    folder, contender = picture_folder(experiment, name), None
    for share in shares:
        pairs = _pairs(share, shots, posed)
        if all((folder / pair_name(*pair)).is_file() for pair in pairs):
            continue
        if contender is None:
            contender = _open(experiment, name, path, posed)
        print(f"{name}, {share.name}: {len(pairs)} pictures", flush=True)
        generate_pairs(contender, posed, pairs, folder, experiment.batch)


def _open(experiment: Experiment, name: str, path: Path, posed: PosedPictures) -> Contender:
    return open_contender(
        path,
        posed.people,
        name,
        steps=experiment.sampling_steps,
        device=experiment.device,
        source_pose=experiment.source_pose,
    )


def _same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Runs of one folder are of one recipe; more rows, shares and seeds may join later."""
    file, now = out / "settings.json", json.loads(json.dumps(settings))
    if file.is_file():
        before = read_json(file, str(file), "give another --out")
        known = before.get("rows", {})
        if now["data"] is None or before.get("data") is None:  # rows without checkpoints need none
            now["data"] = before["data"] = now["data"] or before.get("data")
        other = [key for key, value in now.items() if key != "rows" and before.get(key, ...) != value]
        other += [f"row {row['name']}" for key, row in now["rows"].items() if known.get(key, row) != row]
        if other:
            raise InputError(
                f"{out} holds runs of other settings ({', '.join(other)}; see settings.json): give another --out."
            )
        now["rows"] = {**known, **now["rows"]}
    write_json(file, now)


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
