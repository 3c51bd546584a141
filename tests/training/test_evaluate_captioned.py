"""Folders of pictures measured against a captioned set, with the shipped estimator, on the example people."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core.networks import SHIPPED
from training import evaluate_captioned
from training.data.captioned_set import Captioned
from training.data.people_set import to_unit
from training.evaluation.measure import load_detector
from training.evaluation.protocols import PROTOCOLS, scene_of

EXAMPLES = Path(__file__).parents[2] / "workflows" / "examples"
PEOPLE = ("teal_trousers.png", "lime_top.png", "red_trousers.png", "blue_shirt.png")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people of 96×128 pixels, their joints as the shipped estimator finds them."""
    root = tmp_path_factory.mktemp("captioned")
    (root / "images").mkdir()
    detector, offsets, lines = load_detector(SHIPPED), [], b""
    for name in PEOPLE:
        picture = Image.open(EXAMPLES / name).convert("RGB").resize((96, 128), Image.Resampling.BICUBIC)
        picture.save(root / "images" / name)
        joints = detector(to_unit(np.array(picture))[None])[0]
        offsets.append(len(lines))
        lines += (
            json.dumps(
                {"image": name, "caption": "a person", "height": 128, "width": 96, "joints": joints.tolist()}
            ).encode()
            + b"\n"
        )
    (root / "captions.jsonl").write_bytes(lines)
    np.save(root / "offsets.npy", np.array(offsets))
    np.save(root / "split.npy", np.full(len(PEOPLE), 2, np.uint8))
    (root / "dataset.json").write_text(
        json.dumps(
            {
                "format": "captioned set",
                "version": 1,
                "name": "examples",
                "images": str(root / "images"),
                "height": 128,
                "width": 96,
            }
        )
    )
    assert len(Captioned(root, "test")) == 4
    return root


def test_right_pictures_are_right_and_others_are_not(captioned, tmp_path, capsys):
    for name, order in (("same", range(4)), ("mixed", (1, 2, 3, 0))):
        (tmp_path / name).mkdir()
        for number, place in enumerate(order):
            Image.open(captioned / "images" / PEOPLE[place]).save(tmp_path / name / f"{number:05d}.png")
    (tmp_path / "grey").mkdir()
    for number in range(4):
        Image.new("RGB", (96, 128), (128, 128, 128)).save(tmp_path / "grey" / f"{number:05d}.png")
    folders = [part for name in ("same", "mixed", "grey") for part in ("--pictures", f"{name}={tmp_path / name}")]
    out = tmp_path / "out"
    assert evaluate_captioned.main(["--data", str(captioned), "--out", str(out), "--batch", "3", *folders]) == 0
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    rows = {row: {name: cell["mean"] for name, cell in cells.items()} for row, cells in found["rows"].items()}
    assert list(rows) == ["same", "mixed", "grey", "ground truth"]
    for row in ("same", "ground truth"):
        assert [rows[row][name] for name in ("ap", "ap_m", "cap", "pce")] == pytest.approx([1, 1, 1, 0], abs=1e-6)
    assert rows["same"]["fid"] == pytest.approx(0, abs=1e-3) == rows["mixed"]["fid"], "the same pictures, as a set"
    assert rows["mixed"]["ap"] < 0.5 and rows["mixed"]["pce"] == 0
    assert rows["grey"]["ap"] == 0 and rows["grey"]["pce"] == 1 and rows["grey"]["fid"] > 10 * rows["mixed"]["fid"] + 1
    assert "fid" not in rows["ground truth"]
    text = (out / "results.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out and "FID, EfficientNet-Lite0 ↓" in text and "| – | – |" in text
    assert found["protocol"]["pictures"] == 4


def test_the_protocol_of_humansd_goes_scene_by_scene(captioned, tmp_path):
    """Human-Art's names: two scenes of two pictures each; FID of all is 0, that of each scene is not."""
    for name in ("offsets.npy", "split.npy"):
        (tmp_path / name).write_bytes((captioned / name).read_bytes())
    lines, offsets, text = (captioned / "captions.jsonl").read_text().splitlines(), [], ""
    for number, line in enumerate(lines):
        entry = json.loads(line)
        scene = ("cartoon", "acrobatics")[number % 2]
        place = f"images/real_human/{scene}/{entry['image']}"
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.open(captioned / "images" / entry["image"]).save(tmp_path / place)
        offsets.append(len(text))
        text += json.dumps({**entry, "image": place}) + "\n"
    (tmp_path / "captions.jsonl").write_text(text)
    np.save(tmp_path / "offsets.npy", np.array(offsets))
    about = json.loads((captioned / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**about, "images": str(tmp_path)}))
    (tmp_path / "made").mkdir()
    for number, place in enumerate((1, 0, 3, 2)):
        Image.open(captioned / "images" / PEOPLE[place]).save(tmp_path / "made" / f"{number:05d}.png")
    given = ["--data", str(tmp_path), f"--pictures=made={tmp_path / 'made'}", "--out", str(tmp_path / "out")]
    assert evaluate_captioned.main([*given, "--protocol", "humansd"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert list(found["scenes"]) == ["acrobatics", "cartoon"]
    scenes = [table["made"]["fid"]["mean"] for table in found["scenes"].values()]
    assert found["rows"]["made"]["fid"]["mean"] == pytest.approx(np.mean(scenes), abs=1e-5) and min(scenes) > 1
    assert all(table["made"]["pictures"]["mean"] == 2 for table in found["scenes"].values())
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "## made, scene by scene" in text and "| cartoon | 2 |" in text and "“humansd”" in text
    assert "Of 2 scenes 2 have the two pictures that FID needs, 0 the four" in text
    assert evaluate_captioned.main(given) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert found["rows"]["made"]["fid"]["mean"] == pytest.approx(0, abs=1e-3), "the same pictures, as a set"


def test_humansd_asks_for_three_people_and_averages_over_tens():
    protocol, rng = PROTOCOLS["humansd"], np.random.default_rng(0)
    crowd = np.concatenate([rng.uniform(10, 200, (5, 17, 2)), np.full((5, 17, 1), 2.0)], -1)
    assert np.array_equal(protocol.asked_for(crowd), crowd[:3])
    assert len(PROTOCOLS["ours"].asked_for(crowd)) == 5
    truth = [crowd[:1]] * 12
    found = [crowd[:1]] * 10 + [crowd[:0]] * 2  # ten right, then two pictures of nobody
    assert protocol.people_measures(found, truth)["ap"] == pytest.approx((1 + 0) / 2)
    assert PROTOCOLS["ours"].people_measures(found, truth)["ap"] == pytest.approx(10 / 12, abs=0.01)
    assert scene_of("images/real_human/acrobatics/1.jpg") == "acrobatics"
    assert scene_of("images/00000/000000000.jpg") is None and scene_of("0/1") is None


def test_bad_input_is_one_clear_line(captioned, tmp_path, capsys):
    def refused(folder: Path, *more: str) -> str:
        given = ["--data", str(captioned), "--out", str(tmp_path / "out"), "--pictures", f"mine={folder}", *more]
        assert evaluate_captioned.main(given) == 2
        return capsys.readouterr().err

    assert "00000.png cannot be read" in refused(tmp_path / "none")
    Image.fromarray(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()).save(tmp_path / "00000.png")
    assert "is 8×8, the set has 96×128" in refused(tmp_path, "--count", "1")
    assert "count = -1" in refused(tmp_path, "--count", "-1")
    assert "inception_v3_google" in refused(tmp_path, "--extractor", "inception", "--backbones", str(tmp_path))
