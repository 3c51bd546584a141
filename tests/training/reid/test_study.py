"""The whole experiment on Market-1501's layout: prepared, generated, trained, retrieved, resumed, reported."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reposedm_core.errors import InputError
from training import study_reid
from training.engine.signals import Stopped
from training.evaluation.generate import open_contender
from training.metrics.retrieval import Retrieval
from training.reid import experiment, generate
from training.reid.augment import pair_name
from training.reid.generate import PosedPictures, generate_pairs
from training.reid.market import GALLERY, QUERY, TRAIN, read_pictures, read_shots
from training.reid.network import Net, Recipe
from training.reid.report import results_of

ROWS = ["real only", "+ copies of real ones", "+ ours", "+ theirs"]


@pytest.fixture
def theirs(market: Path, tmp_path: Path) -> Path:
    """Another method's pictures, three of every training picture."""
    folder = tmp_path / "their pictures"
    folder.mkdir()
    for n, path in enumerate(sorted((market / "bounding_box_train").glob("*.jpg"))):
        for m in range(3):
            Image.new("RGB", (64, 128), (40 * n, 80 * m, 90)).save(folder / f"{path.stem}__{m}.png")
    return folder


@pytest.fixture
def command(market, prepared, theirs, weights, tmp_path) -> list[str]:
    given = {"root": market, "data": prepared, "out": tmp_path / "out", "weights": f"ours={weights}"}
    given |= {"pictures": f"theirs={theirs}", "shares": 50, "backbone": "test_resnet", "size": "32x16", "steps": 2}
    given |= {"people": 3, "each": 2, "sampling-steps": 2}
    return ["run", *(str(part) for name, value in given.items() for part in (f"--{name}", value)), "--seeds", "0", "1"]


def test_the_experiment(command, tmp_path, capsys):
    out = tmp_path / "out"
    assert study_reid.main(command) == 0
    results = json.loads((out / "results.json").read_text())
    assert list(results["rows"]) == ROWS and list(results["differences"]) == ROWS[1:]
    runs = {path.parent.name: json.loads(path.read_text()) for path in (out / "runs").rglob("*.json")}
    assert {name: (run["real"], run["pictures"]) for name, run in runs.items()} == {
        "real-only": (3, 3),
        "copies-of-real-ones": (3, 6),
        "ours": (3, 6),
        "theirs": (3, 6),
    }
    for cells in results["rows"].values():
        cell = cells["50"]["map"]
        # one query; two right pictures among three that count: the junk does not, the distractor does
        assert len(cell["seeds"]) == 2 and all(100 * 0.58 < value <= 100 for value in cell["seeds"])
    protocol = results["protocol"]
    assert (protocol["people"], protocol["train"], protocol["queries"], protocol["gallery"]) == (3, 6, 1, 4)
    report = (out / "results.md").read_text()
    assert "| + theirs | " in report and "from random weights, not ImageNet's" in report
    assert "ours: a generator that was trained on the whole training set" in report
    assert report in capsys.readouterr().out
    pictures = sorted((out / "pictures" / "ours").iterdir())
    assert len(pictures) == len({*pictures}) and all(Image.open(path).size == (48, 64) for path in pictures)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.parent.name not in ("out",)}
    assert study_reid.main([*command, "--remark", "said below"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "said below" in (out / "results.md").read_text() and not list(out.rglob("*.state.pt"))
    assert study_reid.main([*command, "--leave-out-distractors"]) == 0, "every run is measured in both galleries"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((out / "results.json").read_text())["protocol"]["gallery"] == 2
    assert "distractors are left out, too" in (out / "results.md").read_text()
    assert study_reid.main([*command, "--steps", "3"]) == 2
    assert "other settings (recipe;" in capsys.readouterr().err


def test_a_checkpoint_that_was_trained_again_has_no_part_in_runs_of_the_first(weights, theirs, tmp_path):
    own = tmp_path / weights.name
    own.write_bytes(weights.read_bytes())
    given = {"root": tmp_path, "out": tmp_path / "out", "data": tmp_path, "weights": {"Ours": own}}
    (tmp_path / "out").mkdir()

    def settle(**more) -> None:
        experiment._same_settings(tmp_path / "out", experiment.Experiment(**{**given, **more}).settings())

    settle()
    settle(weights={}, data=None, pictures={"theirs": theirs})
    settle()
    with pytest.raises(InputError, match="row ours"):
        settle(weights={"ours": own})  # one folder for both
    with pytest.raises(InputError, match="data"):
        settle(data=theirs)
    own.write_bytes(own.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"\(row Ours; see"):
        settle()
    backbone = replace(Recipe(), weights=str(own))
    with pytest.raises(InputError, match="recipe, backbone_sha256"):
        settle(recipe=backbone, weights={})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--shares", "0"], "from 1 to 100"),
        (["--seeds", "1", "1"], "none twice"),
        (["--pictures", "ours=x"], "Two rows have one name"),
        (["--pictures", "empty={root}"], "pictures there begin with"),
        (["--root", "{root}"], "is missing there"),
        (["--data", "{root}"], "is no people set"),
        (["--weights", "lost={root}/nothing.safetensors"], "nothing.safetensors"),
        (["--backbone", "resnet49"], "timm has no such model"),
        (["--backbone-weights", "{root}/nothing.pth"], "no such file"),
        (["--steps", "0"], "at least"),
        (["--batch", "0"], "batch = 0"),
        (["--batch", "-1"], "batch = -1"),
        (["--lr", "-0.1"], "above 0"),
        (["--sampling-steps", "0"], "must be 1 or more"),
        (["--shares", "20", "20"], "one share at least, 0 or more, none twice"),
        (["--weights", "ours={root}"], "two rows have one name"),
        (["--pictures", "?={root}"], "a letter from a to z"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(command, tmp_path, capsys, change, words):
    (tmp_path / "empty").mkdir()
    assert study_reid.main([*command, *(part.format(root=tmp_path / "empty") for part in change)]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and words in told
    assert not (tmp_path / "out").exists(), "told before anything is made"


def test_shots_have_their_people_and_cameras(market):
    train, gallery, query = (read_shots(market, names) for names in (TRAIN, GALLERY, QUERY))
    assert train.person.tolist() == [2, 2, 7, 7, 10, 10] and train.camera.tolist() == [1, 2, 1, 3, 3, 6]
    assert gallery.person.tolist() == [-1, 0, 1, 1] and gallery.camera.tolist() == [1, 1, 1, 2]
    assert query.names == ["0001_c3s1_000551_00"]
    assert read_shots(market, GALLERY, 1).person.tolist() == [1, 1]


def test_both_galleries_are_measured(monkeypatch, market, recipe):
    galleries = []

    def retrieved(distances, person, camera, gallery_person, gallery_camera):
        galleries.append((distances.shape, gallery_person.tolist(), gallery_camera.tolist()))
        return Retrieval(*np.full((3, len(distances)), float(len(galleries))))

    monkeypatch.setattr(experiment, "retrieve", retrieved)
    query, gallery = read_shots(market, QUERY, 1), read_shots(market, GALLERY)
    found = experiment.measure(Net(recipe, 2).eval(), recipe, query, gallery, "cpu")
    assert galleries == [((1, 4), [-1, 0, 1, 1], [1, 1, 1, 2]), ((1, 2), [1, 1], [1, 2])]
    assert [found[name]["ap"] for name in (experiment.WITH, experiment.WITHOUT)] == [[1.0], [2.0]]


def test_generation_stops_between_batches_and_goes_on(prepared, weights, tmp_path, monkeypatch):
    posed = PosedPictures(prepared)
    contender = open_contender(weights, posed.people, "ours", steps=2, source_pose="true")
    names = sorted(posed.row)
    pairs = [(names[0], name) for name in names[1:4]]
    real = generate.transfer

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(generate, "transfer", interrupted)
    with pytest.raises(Stopped, match="2 pictures left") as stopped:
        generate_pairs(contender, posed, pairs, tmp_path / "out", batch=1)
    assert stopped.value.number == signal.SIGTERM and len(list((tmp_path / "out").iterdir())) == 1
    monkeypatch.setattr(generate, "transfer", real)
    generate_pairs(contender, posed, pairs, tmp_path / "out", batch=1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {pair_name(*pair) for pair in pairs}


def test_a_picture_depends_on_its_own_pair_alone(prepared, weights, tmp_path):
    posed = PosedPictures(prepared)
    contender = open_contender(weights, posed.people, "ours", steps=2, source_pose="true")
    names = sorted(name for name in posed.row if not name.startswith("0001"))
    pairs = [(names[0], names[1]), (names[0], names[3]), (names[2], names[1])]
    generate_pairs(contender, posed, pairs, tmp_path / "together")
    generate_pairs(contender, posed, pairs[2:], tmp_path / "alone")
    generate_pairs(contender, posed, pairs, tmp_path / "alone", batch=1)
    together, alone = (
        read_pictures([tmp_path / folder / pair_name(*pair) for pair in pairs], 64, 48).astype(int)
        for folder in ("together", "alone")
    )
    assert np.abs(together - alone).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 5 and np.abs(together[0] - together[2]).max() > 5


def test_means_differences_and_intervals_of_known_runs():
    def a_run(row: str, seed: int, ap: list[float | None], first: list[float | None]) -> dict:
        return {"row": row, "percent": 20, "seed": seed, "ap": ap, "ap_toolkit": ap, "first": first}

    runs = [
        a_run("real only", 0, [0.2, 0.4, None], [3, 1, None]),
        a_run("real only", 1, [0.4, 0.4, None], [1, 1, None]),
        a_run("+ ours", 0, [0.5, 0.7, None], [1, 11, None]),
        a_run("+ ours", 1, [0.7, 0.7, None], [1, 5, None]),
    ]
    results = results_of({"protocol": {}, "persons": [1, 2, 3], "runs": runs})
    real, ours = (results["rows"][row]["20"] for row in ("real only", "+ ours"))
    assert real["map"]["mean"] == 35 and real["map"]["seeds"] == [30, 40]
    assert ours["cmc1"]["seeds"] == [50, 50] and ours["cmc5"]["seeds"] == [50, 100] and ours["cmc10"]["mean"] == 75
    difference = results["differences"]["+ ours"]["20"]["map"]
    assert difference["mean"] == difference["low"] == difference["high"] == 30


def test_the_luck_of_a_training_is_in_the_interval():
    """Fifty people who are all alike, and trainings that differ: the interval is that of the trainings alone."""

    def runs_of(row: str, levels: tuple[float, ...]) -> list[dict]:
        lists = ([level] * 50 for level in levels)
        return [
            {"row": row, "percent": 20, "seed": n, "ap": ap, "ap_toolkit": ap, "first": [1] * 50}
            for n, ap in enumerate(lists)
        ]

    runs = runs_of("real only", (0.2, 0.2, 0.2)) + runs_of("+ ours", (0.1, 0.2, 0.6))
    results = results_of({"protocol": {}, "persons": list(range(50)), "runs": runs})
    difference = results["differences"]["+ ours"]["20"]["map"]
    # of the 27 draws of three the outermost are three times one training, a 27th each
    assert (difference["mean"], difference["low"], difference["high"]) == pytest.approx((10, -10, 40))
    one = results_of({"protocol": {}, "persons": list(range(50)), "runs": [run for run in runs if run["seed"] == 2]})
    alone = one["differences"]["+ ours"]["20"]["map"]
    assert alone["mean"] == alone["low"] == alone["high"] == pytest.approx(40)
