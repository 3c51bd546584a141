"""The estimator on nearly what guidance shows it: decoded estimates of a denoiser at all noise levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reposedm_core.config import ModelConfig
from reposedm_core.networks import load_networks
from training.data.people_set import People
from training.engine.settings import EstimatorSettings
from training.stages.estimates import Estimates
from training.stages.estimator import EstimatorStage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def estimates(weights: Path, figures: Path, tmp_path_factory: pytest.TempPathFactory) -> Estimates:
    return Estimates(weights, People(figures, "train"), 6, tmp_path_factory.mktemp("cache"), CPU)


def test_without_noise_the_estimate_is_the_picture(estimates: Estimates) -> None:
    rng = np.random.default_rng(0)
    plan = estimates.plan(rng, 4)
    plan["t"][:] = 0
    pictures, joints = estimates.pictures(estimates.load(plan))
    truth = estimates.networks.autoencoder.decode(estimates.cache.batch(plan["row"])["target"]).clamp(-1, 1)
    # at t = 0 ŷ_0 = √ᾱ y_0 - …: a hundredth of noise is left, whatever the denoiser says of it
    assert (pictures - truth).abs().mean() < 0.05
    assert torch.equal(joints, estimates.cache.batch(plan["row"])["joints"])


def test_more_noise_gives_other_pictures(estimates: Estimates) -> None:
    plan = estimates.plan(np.random.default_rng(0), 2)
    near, far = ({**plan, "t": np.full(2, t)} for t in (10, 900))
    assert not torch.allclose(estimates.pictures(estimates.load(near))[0], estimates.pictures(estimates.load(far))[0])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_stage_mixes_them_with_rendered_pictures(weights: Path, figures: Path, tmp_path: Path, share: float):
    config: ModelConfig = load_networks(weights).config
    settings = EstimatorSettings(steps=1, batch=8, estimates=str(weights), estimated=share, pairs=6)
    stage = EstimatorStage(config, settings, figures, tmp_path, {}, CPU)
    stage.prepare(True)
    batch = stage.load(stage.plan(np.random.default_rng(3), 8))
    assert batch["estimated"].sum() == {0.0: 0, 1.0: 8}.get(share, batch["estimated"].sum())
    shown: list[torch.Tensor] = []
    network = stage.build()
    handle = network.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    values = stage.loss(network, batch, 0)
    handle.remove()
    values["loss"].backward()
    assert all(value.isfinite() for value in values.values())
    changed = (shown[0] != batch["images"]).flatten(1).any(1)
    assert torch.equal(changed, batch["estimated"])
