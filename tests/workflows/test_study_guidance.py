"""The study of guidance on a user's own checkpoint, on Stable Diffusion 1.5 with random weights in the real server."""

from __future__ import annotations

import argparse
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workflows.checkpoints import SD15
from workflows.comfy_server import ROOT

STRENGTHS = (0.0, 1.0, 50.0)


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:  # the script's folder is first on the path when it runs
        patch.syspath_prepend(ROOT / "workflows")
        yield importlib.import_module("study_guidance")


@pytest.fixture(scope="module")
def rows(script, comfy, checkpoints):
    shipped = script.SHIPPED, script.SHIPPED
    return script.study(comfy, SD15, shipped, STRENGTHS, (48, 64), 2, 1, {"steps": 4, "cfg": 2.0})


def test_every_pose_at_every_strength_from_the_same_noise(rows):
    assert len(rows) == 2 and all(len(row) == len(STRENGTHS) for row in rows)
    for off, *guided in rows:
        assert off.change == 0 and all(run.change > 0 for run in guided)
        assert all(0 <= run.pck <= 1 and run.picture.size == (48, 64) for run in (off, *guided))
        assert all(math.isnan(run.distance) or run.distance >= 0 for run in guided)
    first, second = (np.asarray(row[1].picture).astype(int) for row in rows)
    assert (first != second).any(), "another pose guides to another picture"


def test_summary(script):
    def runs(*values):
        return [script.Run(pck, distance, change, None) for pck, distance, change in values]

    rows = [runs((0.2, 8, 0), (0.5, 4, 3)), runs((0.4, math.nan, 0), (0.5, math.nan, 5))]
    off, on = script.summary(rows, (0.0, 2.0))
    assert off["pck"] == pytest.approx(0.3) and off["gain"] == off["error"] == off["change"] == 0
    assert on["gain"] == pytest.approx(0.2) and on["error"] == pytest.approx(0.1) and on["change"] == 4
    assert on["distance"] == 4
    assert "| 2 | 0.500 | +0.200 ± 0.100 | 4.0 | 4.0 |" in script.table((off, on))


def test_report(script, rows, tmp_path, capsys):
    options = argparse.Namespace(checkpoint=Path(SD15), out=tmp_path, estimator=None, judge=None)
    script.report(rows, STRENGTHS, options)
    text = (tmp_path / "guidance.md").read_text("utf-8")
    assert text in capsys.readouterr().out and text.count("\n| ") == 1 + len(STRENGTHS)
    assert "2 pictures per strength" in text and "which guides, too" in text
    assert [row["strength"] for row in json.loads((tmp_path / "guidance.json").read_text())["rows"]] == list(STRENGTHS)
    with Image.open(tmp_path / "guidance.png") as curve, Image.open(tmp_path / "guidance.jpg") as sheet:
        assert curve.width > 600 and sheet.width > 3 * 288


def test_what_is_not_there_is_told(script, tmp_path, capsys):
    assert script.main([str(tmp_path / "none.safetensors"), str(tmp_path), "--poses", "0"]) == 1
    assert "poses = 0, seeds = 4: must be at least 1" in capsys.readouterr().err
