"""What the tiny autoencoder costs: nothing where it is the large one itself, and the command writes its table."""

from __future__ import annotations

import json

import pytest
import torch

from reposedm_core.checkpoint import save_model
from reposedm_core.config import to_dict
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.networks import PARTS
from training import study_inner
from training.engine.settings import load_settings, model_of
from training.evaluation import inner
from training.evaluation.inner import Compared
from training.evaluation.measure import Detector

SMALL = {
    "height": 64,
    "width": 48,
    "autoencoder.widths": "[8, 8, 8, 16]",
    "tiny.widths": "[8, 8, 8, 8]",
    "tiny.blocks": "[1, 1, 1, 1]",
    "aligner.kernels": "[0, 3]",
    "aligner.dim": 16,
    "aligner.height": 64,
    "aligner.width": 48,
    "denoiser.block_channels": "[16, 32]",
    "denoiser.heads_dim": 16,
    "denoiser.context_dim": 16,
    "denoiser.norm_groups": 8,
}
STAGES = {"vae": "autoencoder", "tiny": "tiny", "estimator": "estimator", "aligner": "aligner", "reposedm": "denoiser"}


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    """The settings of a small run, and its folder with all parts, which are random."""
    out = tmp_path_factory.mktemp("run")
    arguments = [f"data={people}", f"out={out}", *(f"model.{name}={value}" for name, value in SMALL.items())]
    config = model_of(load_settings("training/configs/kl-128.yaml", arguments))
    torch.manual_seed(0)
    for stage, part in STAGES.items():
        network = PARTS[part](getattr(config, part)).requires_grad_(False)
        for weight in network.parameters():  # a fresh aligner leaves every picture where it is
            weight.add_(0.05 * torch.randn_like(weight))
        save_model(out / f"{stage}.safetensors", {part: network}, to_dict(config), dtype=torch.float32)
    return arguments


def test_nothing_is_lost_where_the_tiny_one_is_the_large_one(run):
    known = Compared(load_settings("training/configs/kl-128.yaml", run), 3)
    errors = inner.latent_errors(known)
    assert errors["pictures"] > 0.1
    cosines, _ = inner.gradients(known, 0)
    assert all(abs(value) < 0.9 for value in cosines.values())
    known.sides["tiny"] = known.autoencoder
    assert inner.latent_errors(known) == {"pictures": 0, "skeletons": 0}
    cosines, moved = inner.gradients(known, 0)
    assert list(cosines.values()) == pytest.approx([1, 1], abs=1e-5)
    assert moved["exact"]["G"] == moved["tiny"]["G"] < moved["before"]["G"], "steps down the gradient come nearer"
    ends = inner.end_point_errors(known)
    assert ends["exact"] == ends["tiny"] and set(ends["exact"]) == {"epe1", "epe2"}


def test_whole_runs_differ_by_what_encodes_and_decodes_on_the_way(run, monkeypatch):
    """Unguided ones by the aligner's encodings alone; with the large one on both sides all are the same."""
    monkeypatch.setattr(inner, "SAMPLED", 2)
    known = Compared(load_settings("training/configs/kl-128.yaml", run), 3, chunk=2)
    judge = Detector(HigherHRNet(known.config.estimator).eval(), "another")
    runs = inner.guided_runs(known, judge)
    assert list(runs) == ["unguided", "unguided, by another", "guided", "guided, by another"]
    assert all(sides.keys() == {"exact", "tiny"} for sides in runs.values())
    assert runs["guided"]["exact"] != runs["guided, by another"]["exact"]
    assert runs["guided"]["exact"] != runs["unguided"]["exact"] and runs["guided"]["tiny"] != runs["guided"]["exact"]
    monkeypatch.setattr(known, "pipeline", lambda side: Compared.pipeline(known, "exact"))
    runs = inner.guided_runs(known)
    assert all(runs[name]["exact"] == runs[name]["tiny"] for name in runs)


def test_the_command_writes_its_table(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inner, "STEPS", 1)
    monkeypatch.setattr(inner, "SAMPLED", 2)
    out = next(value.removeprefix("out=") for value in run if value.startswith("out="))
    judge = ["--judge", f"{out}/estimator.safetensors"]
    assert study_inner.main(["training/configs/kl-128.yaml", "--out", str(tmp_path), "--pairs", "2", *judge, *run]) == 0
    found = json.loads((tmp_path / "inner.json").read_text())
    table = (tmp_path / "inner.md").read_text()
    assert table in capsys.readouterr().out
    one, other = (found["end_point"][side]["epe2"] for side in ("exact", "tiny"))
    assert "guided, by estimator.safetensors, px |" in table
    assert f"| end-point error, iteration 2, px | {one:.4g} | {other:.4g} |" in table and one != other


def test_what_cannot_be_compared_is_refused(run, tmp_path, capsys):
    command = ["--out", str(tmp_path / "study"), *run]
    assert study_inner.main(["training/configs/kl-128.yaml", "--pairs", "0", *command]) == 2
    assert "pairs = 0" in capsys.readouterr().err
    with pytest.raises(InputError, match="no tiny autoencoder for its inner work"):
        Compared(load_settings(None, ["preset=mini"]), 1)
    assert study_inner.main(["training/configs/kl-128.yaml", *command, f"out={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "study").exists()
