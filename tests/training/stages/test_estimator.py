"""The estimator's stage starts from public weights, which the paper's presets take as they are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reposedm_core.config import ModelConfig
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet
from reposedm_core.presets import ESTIMATORS
from tests.estimator.test_official import FIXTURES, fill, flat_state
from tests.field.conftest import MICRO as SMALL
from training.engine.settings import EstimatorSettings, load_settings, model_of
from training.stages.estimator import EstimatorStage
from training.train import CONFIGS

MICRO = replace(SMALL, sigma=2.0)
"""As every public file has it."""


def stage_of(tmp_path, estimator=MICRO):
    config = replace(ModelConfig(), estimator=estimator)
    return EstimatorStage(config, EstimatorSettings(), tmp_path, tmp_path, {}, torch.device("cpu"))


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_it_takes_the_weights_of_a_public_file(tmp_path, form):
    torch.manual_seed(0)
    public, file = HigherHRNet(MICRO), tmp_path / f"pose_higher_hrnet.{form}"
    (save_file if form == "safetensors" else torch.save)(flat_state(public), file)
    stage = stage_of(tmp_path)
    module = stage.build()
    stage.start_from(module, str(file))
    for name, value in public.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_a_file_of_other_sizes_is_refused_with_what_would_take_it(tmp_path):
    file = tmp_path / "small.pth"
    torch.save(flat_state(HigherHRNet(MICRO)), file)
    stage = stage_of(tmp_path, replace(MICRO, stem=2 * MICRO.stem))
    with pytest.raises(InputError, match=rf"small\.pth is of other sizes .* say model\.estimator\.stem={MICRO.stem}\."):
        stage.start_from(stage.build(), str(file))
    with pytest.raises(InputError, match="nowhere"):
        stage.start_from(stage.build(), str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("name", ["deepfashion-256x176", "deepfashion-512x352", "market-128x64"])
def test_the_papers_configurations_take_one_and_train_none(name):
    settings = load_settings(CONFIGS / f"{name}.yaml", [])
    assert settings.estimator.init.endswith("pose_higher_hrnet_w48_640.pth") and settings.estimator.steps == 0
    assert model_of(settings).estimator == ESTIMATORS["w48"] and model_of(settings).name == name
    assert settings.reposedm.vlb_weight == 1


def test_w32_is_an_estimator_of_the_papers_presets_by_name(tmp_path):
    """It takes a file in the official layout; the rest of the preset stays."""
    layout = json.loads((FIXTURES / "w32_keys.json").read_text())
    save_file(
        {key: fill(key, shape) for key, shape in layout.items()}, tmp_path / "pose_higher_hrnet_w32_512.safetensors"
    )
    config = str(CONFIGS / "deepfashion-256x176.yaml")
    settings = load_settings(config, ["model.estimator=w32"])
    model = model_of(settings)
    assert model == replace(model_of(load_settings(config, [])), estimator=ESTIMATORS["w32"])
    stage = EstimatorStage(model, EstimatorSettings(), tmp_path, tmp_path, {}, torch.device("cpu"))
    network = stage.build()
    stage.start_from(network, str(tmp_path / "pose_higher_hrnet_w32_512.safetensors"))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(28.6e6, rel=0.01), "Cheng et al. 2020, table 1"
    assert torch.equal(network.state_dict()["trunk.conv1.weight"], fill("conv1.weight", (64, 3, 3, 3)))
    with pytest.raises(InputError, match=r"^model\.estimator = 'w64': known are mini, w32, w48\.$"):
        model_of(load_settings(config, ["model.estimator=w64"]))


def test_one_picture_in_twenty_shows_nobody(people, tmp_path):
    """Its joints are absent, and which picture of a person it was makes no difference."""
    settings = EstimatorSettings(workers=0)
    stage = EstimatorStage(replace(ModelConfig(), estimator=MICRO), settings, people, tmp_path, {}, torch.device("cpu"))
    stage.prepare(True)
    plan = stage.plan(np.random.default_rng(0), 200)
    batch, other = stage.load(plan), stage.load({**plan, "index": (plan["index"] + 1) % stage.people.counts.min()})
    empty = ~(batch["joints"][..., 2] > 0).any(1)
    assert 0.01 < empty.float().mean() < 0.12
    same = (batch["images"] == other["images"]).flatten(1).all(1)
    assert same[empty].all() and not same[~empty].any()
