"""The study of the paper's equations: its numbers are those of plain forms of the same, and it writes its tables."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from reposedm_core.checkpoint import save_model
from reposedm_core.config import FieldConfig, to_dict
from reposedm_core.networks import load_networks
from training import study_fidelity
from training.data.people_set import People
from training.evaluation import fidelity
from training.evaluation.measure import load_detector
from training.stages.estimates import Estimates


@pytest.fixture(scope="module")
def probe(figures, weights, tmp_path_factory):
    held = People(figures, "val")
    return fidelity.Probe(Estimates(weights, held, 4, tmp_path_factory.mktemp("cache"), torch.device("cpu")), held)


@torch.no_grad()
def test_bits_of_the_first_step_are_the_density_of_a_normal(probe):
    """At t = 1 the bound is -log2 of the density of y_0, by hand for β; the learned one lies between β and β̃."""
    found = fidelity.bits_per_dimension(probe)
    assert list(found) == ["t = 1", "t = 11", "t = 101", "t = 301", "t = 601", "t = 901"]
    ((batch, z, _, prediction, _, t),) = probe.at(0)
    mean = probe.schedule.posterior_mean(probe.schedule.predict_x0(z, prediction, t), z, t)
    spread = math.sqrt(probe.config.schedule.beta_start)
    bits = -torch.distributions.Normal(mean.double(), spread).log_prob(batch["target"].double()) / math.log(2)
    assert found["t = 1"]["β"] == pytest.approx(float(bits.mean()), rel=1e-4)
    again = fidelity.bits_per_dimension(probe)
    assert again == found, "the same noise in every call"


@torch.no_grad()
def test_a_learned_variance_of_the_right_logits_is_beta_s(probe, monkeypatch):
    at = probe.at

    def upper(level):
        for batch, z, noise, prediction, logits, t in at(level):
            yield batch, z, noise, prediction, torch.ones_like(logits), t

    monkeypatch.setattr(probe, "at", upper)
    for cells in fidelity.bits_per_dimension(probe).values():
        assert cells["learned"] == pytest.approx(cells["β"], rel=1e-4)


def test_cosines_are_those_of_gradients_and_the_error(probe, monkeypatch):
    monkeypatch.setattr(fidelity, "LEVELS", (0, 300))
    found = fidelity.target_cosines(probe)
    assert set(found) == {"heatmaps, t = 301", "features, t = 301"}
    for cells in found.values():
        assert set(cells) == {"both targets", "skeleton, error", "picture, error"}
        assert all(-1 <= value <= 1 for value in cells.values())
    monkeypatch.setattr(fidelity, "TARGETS", ("picture", "picture"))
    same = fidelity.target_cosines(probe)["features, t = 301"]
    assert same["both targets"] == pytest.approx(1, abs=1e-4) or same["both targets"] == 0  # no joint, no gradient


def test_both_steps_are_compared_with_and_without_the_bound():
    own = FieldConfig(0.1, 0.75, 1.0, limit=0.2)
    off, *kinds = fidelity.steps_to_compare(own)
    assert off.strength == 0 and len(kinds) == 8
    assert {(kind.update, kind.limit, kind.start) for kind in kinds} == {
        (update, limit, start) for update in ("eq15", "eq14") for limit in (0.2, 0.0) for start in (0.75, 0.0)
    }
    assert len({fidelity.label(kind) for kind in (off, *kinds)}) == 9
    assert fidelity.steps_to_compare(replace(own, strength=0.0))[1].strength == 1


def test_the_command_writes_its_tables(figures, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fidelity, "LEVELS", (0, 300))
    code = study_fidelity.main(
        ["--weights", str(weights), "--data", str(figures), "--out", str(tmp_path), "--pairs", "2"]
    )
    text = capsys.readouterr().out
    assert code == 0 and "| t = 301 |" in text and "eq14" in text and "the guiding estimator itself" in text
    results = json.loads((tmp_path / "fidelity.json").read_text())
    assert results["protocol"]["pairs"] == 2 and len(results["steps"]) == 5  # its field acts in all of the sampling
    off, *guided = results["steps"].values()
    assert len(guided) == len(results["step_differences"]) and " − off | " in text
    for row, less in zip(guided, results["step_differences"].values(), strict=True):
        assert less["joint_error"]["mean"] == pytest.approx(
            row["joint_error"]["mean"] - off["joint_error"]["mean"], abs=1e-4
        )
    for judge, guides in (("own", True), ("other", False)):
        network = load_networks(weights).estimator
        if judge == "other":
            next(network.parameters()).data.add_(0.01)
        file = tmp_path / f"{judge}.safetensors"
        save_model(file, {"estimator": network}, to_dict(load_networks(weights).config), dtype=torch.float32)
        found = load_detector(file).estimator
        assert fidelity.same_weights(found, load_networks(weights).estimator) == guides
        told = {**results, "protocol": {**results["protocol"], "judge": file.name, "judge_guides": guides}}
        said = "the guiding estimator itself (own" if guides else "another estimator than the guiding one (other"
        assert said in fidelity.markdown(told)
    assert results["protocol"]["judge_guides"]
    assert study_fidelity.main(["--weights", str(weights), "--data", str(figures), "--out", "x", "--pairs", "0"]) == 2
    assert "pairs = 0: must be at least 1" in capsys.readouterr().err
