"""Denoisers compared: errors are those of a plain form, and a checkpoint differs from itself by nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reposedm_core.checkpoint import save_model
from reposedm_core.config import to_dict
from reposedm_core.networks import load_networks
from reposedm_core.presets import variant
from training import study_denoisers
from training.data.people_set import People
from training.evaluation import denoisers, fidelity
from training.stages.estimates import Estimates


@pytest.fixture
def levels(monkeypatch):
    """Two noise levels, to be quick."""
    for module in (denoisers, fidelity):
        monkeypatch.setattr(module, "LEVELS", (0, 300))


def changed(weights, file, field=None, denoiser=1.0, scale=1.0):
    """The checkpoint with another field, and with the denoiser's weights or the latents' scale multiplied."""
    networks = load_networks(weights)
    config = networks.config if field is None else replace(networks.config, field=field)
    parts = {name: getattr(networks, name) for name in ("autoencoder", "estimator", "aligner", "denoiser")}
    for tensor in networks.denoiser.parameters():
        tensor.data.mul_(denoiser)
    networks.autoencoder.scale.mul_(scale)
    save_model(file, parts, to_dict(config), dtype=torch.float32)
    return file


def probe_of(weights, figures, folder):
    held = People(figures, "val")
    return fidelity.Probe(Estimates(weights, held, 4, folder, torch.device("cpu")), held)


def test_errors_are_those_of_the_prediction_and_bits_those_of_the_bound(figures, weights, tmp_path, levels):
    probe = probe_of(weights, figures, tmp_path)
    found = denoisers.measure(probe, "A")
    assert list(found["error"]) == ["A"], "it was trained without the field"
    ((batch, z, _, prediction, _, _),) = probe.at(300)
    bar = float(probe.schedule.alpha_bar[300])
    x0 = bar**0.5 * z - (1 - bar) ** 0.5 * prediction  # of v
    by_hand = (x0 - batch["target"]).square().mean((1, 2, 3)).numpy()
    np.testing.assert_allclose(found["error"]["A"]["t = 301"], by_hand, rtol=1e-4)
    known = fidelity.bits_per_dimension(probe)
    for row, spread in (("A", "learned"), ("A, with β", "β")):
        bits = {step: pytest.approx(values.mean(), rel=1e-5) for step, values in found["bits"][row].items()}
        assert bits == {step: cells[spread] for step, cells in known.items()}


def test_a_field_of_the_training_has_a_row_whose_step_is_bounded(figures, weights, tmp_path, levels):
    field = replace(load_networks(weights).config.field, training=1.0)
    for target in ("skeleton", "picture"):
        file = changed(weights, tmp_path / "field.safetensors", replace(field, target=target))
        found = denoisers.measure(probe_of(file, figures, tmp_path), "A")["error"]
        assert list(found) == ["A", "A, with its field"]
        off, on = (np.sqrt(row["t = 301"]) for row in found.values())
        assert (off != on).any()
        probe = probe_of(file, figures, tmp_path)
        bar = float(probe.schedule.alpha_bar[300])
        most = 0.1 * (1 - bar) ** 0.5  # what a shift of v by a tenth of the noise moves ŷ_0 by
        assert (np.abs(on - off) <= most * (1 + 1e-4)).all()
        known = denoisers.field_of(probe)
        assert known.config.target == "skeleton", "in use there is no true picture"


def test_the_command_compares_pair_by_pair(figures, weights, tmp_path, capsys, levels):
    other = changed(weights, tmp_path / "other.safetensors", denoiser=1.05)
    command = ["--data", str(figures), "--out", str(tmp_path / "out"), "--pairs", "4"]
    rows = [f"--weights={name}={file}" for name, file in (("A", weights), ("B", weights), ("C", other))]
    assert study_denoisers.main([*rows, *command]) == 0
    text = capsys.readouterr().out
    assert "| B − A | +0.0000" in text and "Bits per dimension" in text
    results = json.loads((tmp_path / "out" / "denoisers.json").read_text())
    one, less = results["error"]["rows"], results["error"]["differences"]
    assert less["B − A"]["t = 301"]["mean"] == 0
    apart = one["C"]["t = 301"]["mean"] - one["A"]["t = 301"]["mean"]
    assert apart != 0 and less["C − A"]["t = 301"]["mean"] == pytest.approx(apart, abs=1e-5)


def test_other_latents_and_no_pairs_are_refused(figures, weights, tmp_path, capsys):
    other = changed(weights, tmp_path / "other.safetensors", scale=1.05)
    rows = [f"--weights=A={weights}", f"--weights=B={other}", "--data", str(figures), "--out", str(tmp_path / "out")]
    assert study_denoisers.main([*rows, "--pairs", "2"]) == 2
    assert "another autoencoder than the first" in capsys.readouterr().err
    assert study_denoisers.main([*rows, "--pairs", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_a_row_without_alignment_needs_no_aligner(figures, weights, tmp_path, levels):
    networks = load_networks(weights)
    config = variant(networks.config, "b1")
    denoiser = type(networks.denoiser)(config.denoiser)
    file = tmp_path / "b1.safetensors"
    parts = {"autoencoder": networks.autoencoder, "estimator": networks.estimator, "denoiser": denoiser}
    save_model(file, parts, to_dict(config))
    results = denoisers.study({"B2": weights, "B1": file}, str(figures), str(tmp_path / "out"), pairs=2)
    assert set(results["error"]["rows"]) == {"B2", "B1"} and results["protocol"]["people"] == 1
    assert results["error"]["rows"]["B1"]["t = 301"]["low"] is None, "one person has no interval"
