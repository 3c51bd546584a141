"""Settings: file, then command line; what does not exist or cannot be meant is refused by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from reposedm_core import PRESETS
from reposedm_core.errors import InputError
from reposedm_core.networks import SHIPPED
from training.engine.run import CLASSES, stage_class, stages_of
from training.engine.settings import STAGES, Settings, load_settings, model_of
from training.train import CONFIGS, DEFAULT


def test_settings_come_from_the_file_and_then_from_the_command(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: mini\nseed: 5\nreposedm: {steps: 7, dropout: 0.2}\n")
    settings = load_settings(file, ["reposedm.steps=9", "data=elsewhere", "stages=[aligner]"])
    assert isinstance(settings, Settings)
    assert (settings.seed, settings.data, settings.stages) == (5, "elsewhere", ["aligner"])
    assert (settings.reposedm.steps, settings.reposedm.dropout) == (9, 0.2)
    assert settings.vae == Settings().vae


@pytest.mark.parametrize(
    ("text", "overrides", "named"),
    [
        ("reposedm: {stpes: 7}", [], "stpes"),
        ("optimizer: adam", [], "optimizer"),
        ("denoiser: {steps: 7}", [], "denoiser"),
        ("", ["aligner.first_stpes=3"], "first_stpes"),
        ("", ["reposedm.steps=many"], "many"),
        ("", ["stages=[vae,refiner]"], "refiner"),
        ("", ["vae.batch=0"], r"vae\.batch = 0: must be 1 or more"),
        ("", ["reposedm.dropout=1.5"], r"reposedm\.dropout = 1\.5: must be 0 to 1"),
        ("", ["vae.lr=.nan"], r"vae\.lr = nan"),
        ("", ["reposedm.noise_power=-1"], r"reposedm\.noise_power = -1\.0: must be 0 or more"),
        ("", ["threads=-1"], "threads = -1"),
        ("", ["tracker=paper"], "tracker: unknown .*paper.*tensorboard"),
        ("", ["device=gpu"], "device = 'gpu'"),
        ("", ["vae.bf16=fp16"], r"vae\.bf16 = 'fp16': must be true, false or auto"),
        ("vae: [", [], "Configuration"),
        ("- a\n- b", [], "Configuration"),
    ],
)
def test_settings_that_do_not_exist_or_cannot_be_meant_are_refused_by_name(tmp_path, text, overrides, named):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=named):
        load_settings(file, overrides)


@pytest.mark.parametrize(("given", "meant"), [("true", True), ("false", False), ("auto", "auto")])
def test_a_precision_is_given_or_left_open(given, meant):
    assert load_settings(None, [f"vae.bf16={given}"]).vae.bf16 == meant


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load_settings(tmp_path / "nowhere.yaml", [])


def test_a_preset_can_be_changed_in_the_settings():
    settings = load_settings(None, ["preset=mini-b2", "model.denoiser.layers=2", "model.aligner.kernels=[0,3]"])
    model = model_of(settings)
    assert model.denoiser.layers == 2 and model.aligner.kernels == (0, 3)
    assert model.denoiser.channel_condition is False and model.denoiser.context_dim == 96, "the rest is the preset's"
    with pytest.raises(InputError, match=r"model\.denoiser: unknown keys \['layer'\]"):
        model_of(load_settings(None, ["model.denoiser.layer=2"]))
    with pytest.raises(InputError, match=r"model\.height = 'tall'"):
        model_of(load_settings(None, ["model.height=tall"]))
    with pytest.raises(InputError, match="preset = 'maxi': known are mini, "):
        model_of(load_settings(None, ["preset=maxi"]))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_configuration_is_valid_and_says_all_stages_of_its_preset(file):
    settings = load_settings(file, [])
    text = Path(file).read_text()
    model = model_of(settings)
    assert all(f"\n{stage}:" in text for stage in settings.stages or stages_of(model)), "steps for each stage"
    for stage in stages_of(model):
        kind = stage_class(stage, model)
        known = {item.name for item in fields(getattr(settings, stage))}
        assert kind.name == stage and known >= {"steps", "batch", "lr"}


def test_the_default_is_the_second_generation_under_the_shipped_file_s_name():
    settings = load_settings(DEFAULT, [])
    assert (settings.preset, settings.name) == ("mini-256", SHIPPED.stem)
    first = load_settings(CONFIGS / "mini.yaml", [])
    assert first.preset == "mini" and {first.data, first.out, first.name}.isdisjoint(
        {settings.data, settings.out, settings.name}
    ), "neither goes on where the other was stopped"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_stages_in_order_whose_needs_are_met(preset):
    model, made = PRESETS[preset], set()
    stages = stages_of(model)
    assert list(stages) == [stage for stage in STAGES if stage in stages]
    for name in stages:
        kind = stage_class(name, model)
        assert set(kind.needs(model)) <= made
        made.add(kind.part)
    assert ("aligner" in stages) == (not preset.endswith("-b1") and preset != "sd21")
    assert {name.split()[0] for name in CLASSES} == set(STAGES)
