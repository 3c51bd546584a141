"""The study of pose field guidance: what it compares, on whom, and that its numbers are those of its pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from reposedm_core.checkpoint import save_model
from reposedm_core.config import EstimatorConfig, FieldConfig, to_dict
from reposedm_core.errors import InputError
from reposedm_core.field import HigherHRNet
from training import evaluate, guidance_study


@pytest.fixture(scope="module")
def both_splits(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set has one test and one validation person."""
    folder = tmp_path_factory.mktemp("both") / "set"
    shutil.copytree(data, folder)
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = EstimatorConfig(stem=16, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1, deconv_channels=8)
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("judge") / "estimator.safetensors"
    save_model(path, {"estimator": HigherHRNet(config)}, to_dict(config), dtype=torch.float32)
    return path


def test_settings_cover_strength_space_and_window_once():
    new, known = (guidance_study.settings_to_compare(FieldConfig(strength, 0.0, 1.0, training=1.0))
                  for strength in (7.0, 1.0))
    names = [guidance_study.label(kind) for kind in new]
    assert len(set(names)) == len(names) == len(known) + 1 == 2 + (5 + 4) * 4
    assert names[0] == "off" and "heatmaps, strength 7, 0 to 1" in names and "features, strength 0.1, 0.5 to 1" in names


def test_study_measures_the_default_on_test_people_with_another_judge(both_splits, weights, judge, tmp_path, capsys,
                                                                      monkeypatch):
    monkeypatch.setattr(guidance_study, "STRENGTHS", {"heatmaps": (1.0,), "features": (1.0,)})
    monkeypatch.setattr(guidance_study, "WINDOWS", ((0.0, 1.0),))
    arguments = ["--weights", str(weights), "--data", str(both_splits), "--out", str(tmp_path), "--pairs", "2",
                 "--judge", str(judge)]
    assert guidance_study.main(arguments) == 0
    found = json.loads((tmp_path / "guidance.json").read_text(encoding="utf-8"))
    assert list(found["validation"]) == ["off", "heatmaps, strength 1, 0 to 1", "features, strength 1, 0 to 1"]
    assert list(found["test"]) == ["off", "heatmaps, strength 1, 0 to 1"]
    off, on = (row["joint_error"]["mean"] for row in found["test"].values())
    assert found["difference"]["on − off"]["joint_error"]["mean"] == pytest.approx(on - off, abs=1e-5)
    table = (tmp_path / "guidance.md").read_text(encoding="utf-8")
    assert "estimator.safetensors" in table and table in capsys.readouterr().out
    with Image.open(tmp_path / "guidance.jpg") as sheet:
        assert sheet.height > 64
    # The rows without guidance and of the default are those of an evaluation with the same pairs and judge.
    whole = evaluate.evaluate(weights, both_splits, tmp_path / "whole", pairs=2, field_strength=1.0, judge=judge)
    assert whole["rows"]["RePoseDM"]["joint_error"] == found["test"]["off"]["joint_error"]
    assert whole["rows"]["RePoseDM + field 1"]["joint_error"]["mean"] == pytest.approx(on, abs=1e-5)
    assert any("another run" in note for note in whole["protocol"]["notes"])


def test_bad_input_is_one_clear_line(both_splits, weights, judge, tmp_path, capsys):
    assert guidance_study.main(["--weights", str(weights), "--data", str(both_splits), "--out", str(tmp_path),
                                "--pairs", "0"]) == 2
    assert "pairs = 0" in capsys.readouterr().err
    with pytest.raises(InputError, match="judge"):
        evaluate.load_judge(weights, "cpu")
