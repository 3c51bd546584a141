"""The study of pose field guidance: what it compares, on whom, and that its numbers are those of its pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core.checkpoint import save_model
from reposedm_core.config import EstimatorConfig, FieldConfig, to_dict
from reposedm_core.estimator import HigherHRNet
from reposedm_core.networks import NETWORKS, load_networks
from training import evaluate, study_guidance
from training.evaluation import guidance, guidance_curve


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
    new, known = (
        guidance.settings_to_compare(FieldConfig(strength, 0.0, 1.0, training=1.0)) for strength in (7.0, 1.0)
    )
    names = [guidance.label(kind) for kind in new]
    assert len(set(names)) == len(names) == len(known) + 1 == 2 + 5 + (2 + 2) * 5 * 3
    assert names[:2] == ["off", "heatmaps, strength 7, 0 to 1, limit 0.1"]
    assert "heatmaps, strength 7, 0 to 1, limit 0.1, one step of 3, decoded at 0.5 of the size" in names
    assert "features, strength 0.1, 0.5 to 1, limit 0.2" in names


def test_study_measures_the_default_on_test_people_with_another_judge(
    both_splits, weights, judge, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(guidance, "STRENGTHS", {"heatmaps": (1.0,), "features": (1.0,)})
    monkeypatch.setattr(guidance, "WINDOWS", ((0.0, 1.0),))
    monkeypatch.setattr(guidance, "LIMITS", (0.1,))
    monkeypatch.setattr(guidance, "EVERY", (1,))
    monkeypatch.setattr(guidance, "SIZES", (1.0,))
    arguments = [
        "--weights",
        str(weights),
        "--data",
        str(both_splits),
        "--out",
        str(tmp_path),
        "--pairs",
        "2",
        "--judge",
        str(judge),
    ]
    assert study_guidance.main(arguments) == 0
    found = json.loads((tmp_path / "guidance.json").read_text(encoding="utf-8"))
    assert list(found["validation"]) == [
        "off",
        "heatmaps, strength 1, 0 to 1, limit 0.1",
        "features, strength 1, 0 to 1, limit 0.1",
    ]
    assert list(found["test"]) == ["off", "heatmaps, strength 1, 0 to 1, limit 0.1"]
    off, on = (row["joint_error"]["mean"] for row in found["test"].values())
    assert found["difference"]["on − off"]["joint_error"]["mean"] == pytest.approx(on - off, abs=1e-5)
    table = (tmp_path / "guidance.md").read_text(encoding="utf-8")
    assert "estimator.safetensors" in table and table in capsys.readouterr().out
    with Image.open(tmp_path / "guidance.jpg") as sheet:
        assert sheet.height > 64
    # The rows without guidance and of the default are those of an evaluation with the same pairs and judge.
    options = evaluate.Options(
        both_splits, {"RePoseDM": weights}, pairs=2, field_strength=1.0, judge=judge, real="none"
    )
    whole = evaluate.evaluate(options, tmp_path / "whole")
    assert whole["rows"]["RePoseDM"]["joint_error"] == found["test"]["off"]["joint_error"]
    assert whole["rows"]["RePoseDM + field 1"]["joint_error"]["mean"] == pytest.approx(on, abs=1e-5)
    assert any("found by estimator.safetensors:" in note for note in whole["protocol"]["notes"])
    assert not any("flatters" in note for note in whole["protocol"]["notes"])


@pytest.fixture
def without_guidance(weights: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint as B1 and B2 are: it samples without the field."""
    networks = load_networks(weights)
    field = replace(networks.config.field, strength=0.0, mask="predicted")
    save_model(
        tmp_path / "b2.safetensors",
        {name: getattr(networks, name) for name in NETWORKS},
        to_dict(replace(networks.config, field=field)),
    )
    return tmp_path / "b2.safetensors"


def test_a_checkpoint_that_samples_without_guidance_is_studied_at_strength_1(
    both_splits, without_guidance, tmp_path, monkeypatch
):
    monkeypatch.setattr(guidance, "STRENGTHS", {"heatmaps": (1.0,)})
    monkeypatch.setattr(guidance, "WINDOWS", ((0.0, 1.0),))
    monkeypatch.setattr(guidance, "LIMITS", (0.1,))
    monkeypatch.setattr(guidance, "EVERY", (1,))
    monkeypatch.setattr(guidance, "SIZES", (1.0,))
    found = guidance.study(str(without_guidance), str(both_splits), str(tmp_path / "out"), pairs=2)
    assert list(found["test"]) == list(found["validation"]) == ["off", "heatmaps, strength 1, 0 to 1, limit 0.1"]
    assert found["protocol"]["default"]["mask"] == "predicted", "all else is the checkpoint's"
    assert found["difference"]["on − off"]["perceptual"]["mean"] != 0
    table = (tmp_path / "out" / "guidance.md").read_text(encoding="utf-8")
    assert "strength 1 (the checkpoint samples without guidance)" in table


def test_people_of_another_size_are_refused(both_splits, weights, tmp_path, capsys):
    small = tmp_path / "small"
    shutil.copytree(both_splits, small)
    np.save(small / "pictures.npy", np.load(small / "pictures.npy")[:, :, :32])
    assert study_guidance.main(["--weights", str(weights), "--data", str(small), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "32×64" in message and "48×64" in message and "--height 64" in message
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_clear_line(both_splits, weights, judge, tmp_path, capsys):
    assert (
        study_guidance.main(
            ["--weights", str(weights), "--data", str(both_splits), "--out", str(tmp_path), "--pairs", "0"]
        )
        == 2
    )
    assert "pairs = 0" in capsys.readouterr().err


def test_test_people_alone_are_measured_alike(both_splits, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(guidance, "settings_to_compare", None)
    arguments = ["--weights", str(weights), "--data", str(both_splits), "--out", str(tmp_path), "--pairs", "2"]
    assert study_guidance.main([*arguments, "--test-only"]) == 0
    found = json.loads((tmp_path / "guidance.json").read_text(encoding="utf-8"))
    assert found["validation"] == {} and len(found["test"]) == 2
    assert "Validation people" not in (tmp_path / "guidance.md").read_text(encoding="utf-8")


def test_the_cost_of_guidance_is_compared_pair_by_pair(both_splits, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(guidance, "EVERY", (1, 2))
    monkeypatch.setattr(guidance, "SIZES", (1.0,))
    arguments = ["--weights", str(weights), "--data", str(both_splits), "--out", str(tmp_path), "--pairs", "2"]
    assert study_guidance.main([*arguments, "--cost", "--steps", "3"]) == 0
    found = json.loads((tmp_path / "guidance.json").read_text(encoding="utf-8"))
    whole = "heatmaps, strength 1, 0 to 1, limit 0.1"
    assert list(found["validation"]) == ["off", whole, f"{whole}, one step of 2"]
    assert list(found["validation_difference"]) == [f"{whole} − off", f"{whole}, one step of 2 − off"]
    off, *guided = (row["perceptual"]["mean"] for row in found["validation"].values())
    less = [row["perceptual"]["mean"] for row in found["validation_difference"].values()]
    assert less == pytest.approx([value - off for value in guided], abs=1e-5) and less[0] != less[1]
    assert found["protocol"]["steps"] == 3 and list(found["test"]) == ["off", whole]
    assert study_guidance.main([*arguments, "--cost", "--steps", "0"]) == 2


@pytest.mark.parametrize("judged", [False, True], ids=["by the guiding estimator", "by another one too"])
def test_the_curve_has_a_row_per_strength_and_judge(both_splits, weights, judge, tmp_path, monkeypatch, capsys, judged):
    monkeypatch.setattr(guidance_curve, "MULTIPLES", (1.0, 20.0))
    arguments = [
        "--weights",
        str(weights),
        "--data",
        str(both_splits),
        "--out",
        str(tmp_path / "curve"),
        "--pairs",
        "2",
    ]
    assert study_guidance.main([*arguments, "--curve", *(["--judge", str(judge)] if judged else [])]) == 0
    found = json.loads((tmp_path / "curve" / "guidance-curve.json").read_text(encoding="utf-8"))["judges"]
    assert list(found) == ["the guiding estimator", "another estimator"][: 1 + judged]
    assert all(list(rows) == ["1", "20"] for rows in found.values())
    assert capsys.readouterr().out.count("| 20 |") == 1 + judged
    with Image.open(tmp_path / "curve" / "guidance-curve.png") as curve:
        assert curve.width > 2 * curve.height and len(np.unique(np.asarray(curve.convert("L")))) > 20
    # strength 1 is what the study calls the default: the same pairs, noise and judge
    assert study_guidance.main([*arguments, "--test-only"]) == 0
    table = json.loads((tmp_path / "curve" / "guidance.json").read_text(encoding="utf-8"))["difference"]["on − off"]
    for name in ("joint_error", "pck@0.05", "perceptual"):
        assert found["the guiding estimator"]["1"][name] == pytest.approx(table[name], abs=1e-5)
