"""Making a study: what is drawn, what the page does not tell, and what makes no study."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.training.perception.conftest import METHODS, arguments, write_pictures
from training import study_perception
from training.perception.make import disordered


def data_of(page) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def decoded(picture: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture)))


def test_the_page_has_what_was_asked_for_and_the_key_says_what_it_is(study):
    page, known = data_of(study.page), study.known
    kinds = [each["kind"] for each in known["singles"].values()]
    assert [kinds.count(kind) for kind in ("real", "generated", "check")] == [4, 3, 1]
    assert sum(each["check"] for each in known["sets"].values()) == 1 and len(known["sets"]) == 4
    assert page["study"] == known["study"] and known["methods"] == list(METHODS)
    assert {item["id"] for item in page["singles"]} == set(known["singles"])
    for item in page["singles"]:
        each = known["singles"][item["id"]]
        folder = "made" if each["kind"] == "generated" else "photographs"
        original = np.asarray(Image.open(study.root / folder / each["file"]).convert("RGB")).astype(int)
        shown = np.asarray(decoded(item["picture"])).astype(int)
        assert (np.abs(shown - original).mean() < 8) == (each["kind"] != "check")
    for item in page["sets"]:
        each = known["sets"][item["id"]]
        assert sorted(each["options"].values()) == sorted(METHODS)
        whole = []
        for option in item["options"]:
            folder = study.root / each["options"][option["id"]]
            original = np.asarray(Image.open(folder / f"{each['file']}.png")).astype(int)
            whole.append(np.abs(np.asarray(decoded(option["picture"])).astype(int) - original).mean() < 8)
        assert whole == ([True, False, False] if each["check"] else [True] * 3)


def test_no_check_and_no_generated_picture_repeats_what_is_asked(study, tmp_path):
    shutil.copytree(study.root / "photographs", tmp_path / "made")  # every name in both folders
    write_pictures(tmp_path / "real", [f"camera{n}" for n in range(8)], 1)
    for seed in range(5):
        given = {"real": tmp_path / "real", "generated": tmp_path / "made", "seed": seed, "checks": 1}
        assert study_perception.main(arguments(study.root, **given, out=tmp_path / f"out{seed}")) == 0
        known = json.loads((tmp_path / f"out{seed}" / "study.key.json").read_text())
        stems = [each["file"].split(".")[0] for each in known["singles"].values()]
        assert len(stems) == 8 == len(set(stems))
        assert len({each["file"] for each in known["sets"].values()}) == len(known["sets"]) == 4
    few = {"real": study.root / "photographs", "generated": tmp_path / "made"}
    assert study_perception.main(arguments(study.root, **few, out=tmp_path / "few")) == 2
    only = {**few, "reals": 2, "fakes": 3, "checks": 1}
    assert study_perception.main(arguments(study.root, **only, out=tmp_path / "six")) == 0


def test_nothing_on_the_page_tells_who_made_a_picture(study):
    page, text = data_of(study.page), study.page.read_text()
    for word in ("camera", "sampled", "pair", *METHODS):
        assert f'"{word}' not in text and f"/{word}" not in text
    assert {key for item in page["singles"] for key in item} == {"id", "picture"}
    assert {key for item in page["sets"] for key in item} == {"id", "source", "pose", "options"}
    pictures = [decoded(item["picture"]) for item in page["singles"]]
    assert {(picture.format, picture.size, tuple(sorted(picture.info))) for picture in pictures} == {
        ("JPEG", (12, 16), tuple(sorted(pictures[0].info)))
    }
    order = [study.known["singles"][item["id"]]["kind"] for item in page["singles"]]
    assert order != sorted(order) and order != sorted(order, reverse=True)


def test_the_seed_decides(study, tmp_path):
    made = {}
    for name, seed in (("same", 0), ("other", 1)):
        assert study_perception.main(arguments(study.root, out=tmp_path / name, seed=seed)) == 0
        made[name] = (tmp_path / name / "study.html").read_bytes()
    assert made["same"] == study.page.read_bytes() != made["other"]


def test_no_tile_of_a_check_stays():
    picture = np.arange(16 * 12 * 3, dtype=np.uint16).reshape(16, 12, 3)
    moved = disordered(picture, np.random.default_rng(0))
    assert sorted(moved.ravel()) == sorted(picture.ravel()) and (moved != picture).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--fakes", "6"], "5 pictures, and the study wants 6"),
        (["--sets", "9"], "5 pictures, and the study wants 10"),
        (["--reals", "6"], "6 pictures, and the study wants 7, checks included"),
        (["--sets", "5"], "5 pictures, and the study wants 6, checks included"),
        ([part for n in range(7) for part in ("--method", f"m{n}={{root}}/theirs")], "10 methods: keys 1 to 9"),
        (["--checks", "-1"], "checks 0 to 20"),
        (["--real", "{root}/nowhere"], "there is no such folder"),
        (["--real", "{root}"], "no picture"),
        (["--real", "{root}/large"], "bring all to one"),
        (["--real", "{root}/damaged"], "cannot be read as a picture"),
        (["--method", "ours={root}/theirs"], "two methods have one name"),
    ],
)
def test_what_makes_no_study_is_told_in_one_line(study, tmp_path, capsys, change, words):
    write_pictures(tmp_path / "damaged", list("abcdef"), 9)
    for path in (tmp_path / "damaged").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    shutil.copytree(study.root / "photographs", tmp_path / "large")
    for path in (tmp_path / "large").iterdir():
        Image.open(path).resize((24, 32)).save(path)
    change = [part.format(root=tmp_path if "large" in part or "damaged" in part else study.root) for part in change]
    assert study_perception.main([*arguments(study.root, out=tmp_path / "out"), *change]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and words in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_size_for_all_on_request(study, tmp_path):
    shutil.copytree(study.root / "photographs", tmp_path / "large")
    for path in (tmp_path / "large").iterdir():
        Image.open(path).resize((24, 32)).save(path)
    more = {"real": tmp_path / "large", "out": tmp_path / "out", "size": "32x24"}
    assert study_perception.main(arguments(study.root, **more)) == 0
    assert {decoded(item["picture"]).size for item in data_of(tmp_path / "out" / "study.html")["singles"]} == {(24, 32)}


def test_either_scheme_alone(study, tmp_path):
    root = study.root
    single = ["make", "--real", str(root / "photographs"), "--generated", str(root / "made"), "--reals", "4"]
    assert study_perception.main([*single, "--fakes", "3", "--out", str(tmp_path / "a")]) == 0
    assert not data_of(tmp_path / "a" / "study.html")["sets"]
    half = single[:3] + ["--out", str(tmp_path / "b")]
    assert study_perception.main(half) == 2
    assert study_perception.main(["make", "--out", str(tmp_path / "c")]) == 2
