"""measure_clip.py: rendered clips made anew by a tiny model, and the numbers of their rows."""

from __future__ import annotations

import json

import pytest
from PIL import Image

pytest.importorskip("anny", reason="the synthetic people need anny")

from training import measure_clip
from training.evaluation import clip
from training.evaluation.clip import FACE, FOUND, ONE, OWN, ROWS, SMOOTH, TRUTH


def test_rows_of_a_clip(weights_256, tmp_path, capsys):
    arguments = ["--weights", str(weights_256), "--out", str(tmp_path), "--clips", "1", "--frames", "3", "--steps", "1"]
    assert measure_clip.main(arguments) == 0
    found = json.loads((tmp_path / "clip.json").read_text("utf-8"))
    rows = found["rows"]
    assert list(rows) == list(ROWS) == [
        TRUTH, OWN, ONE, f"{ONE}, {FACE}", FOUND, f"{FOUND}, {SMOOTH}", f"{FOUND}, {SMOOTH}, {FACE}"
    ]  # fmt: skip
    assert rows[TRUTH]["off the truth, person"] == 0 and rows[TRUTH]["warp error, person"] > 0
    assert all(values["off the truth, person"] > 0 for row, values in rows.items() if row != TRUTH)
    assert rows[ONE] != rows[OWN]
    table = (tmp_path / "clip.md").read_text("utf-8")
    assert table.count("\n|") == len(ROWS) + 2 and table in capsys.readouterr().out
    with Image.open(tmp_path / "clip-0.png") as sheet:
        height, width = sheet.height // len(ROWS), sheet.width // 3
    assert sheet.size == (3 * width, len(ROWS) * height) and height > width > 10


def test_what_cannot_be_measured_is_said(weights_256, tmp_path, capsys):
    assert measure_clip.main(["--weights", str(weights_256), "--out", str(tmp_path), "--frames", "5000"]) == 2
    assert capsys.readouterr().err.startswith("error: motion: walk has ")
    assert measure_clip.main(["--weights", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    for wrong in (("--clips", "0"), ("--frames", "1")):
        with pytest.raises(SystemExit):
            measure_clip.main(["--out", str(tmp_path), *wrong])


def test_what_no_clip_shows_is_no_number(weights_256, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "find_face", lambda pose: None)
    monkeypatch.setattr(clip, "keep_face", lambda picture, *_: (picture, None))
    arguments = ["--weights", str(weights_256), "--out", str(tmp_path), "--clips", "1", "--frames", "2", "--steps", "1"]
    assert measure_clip.main(arguments) == 0

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    rows = json.loads((tmp_path / "clip.json").read_text("utf-8"), parse_constant=refused)["rows"]
    assert all(values["off the truth, face"] is None for values in rows.values())
    assert all(values["off the truth, person"] is not None for values in rows.values())
    assert "| – |" in (tmp_path / "clip.md").read_text("utf-8")
