"""The audit in the core's README: every name in it exists, every equation is there, its numbers are the code's."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from reposedm_core import PRESETS
from reposedm_core.alignment.mapformer import PoseMappingAggregator
from reposedm_core.config import AlignerConfig, ScheduleConfig
from reposedm_core.diffusion.guidance import clean_factor
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.field import PoseInteractionField
from reposedm_core.field.field import heatmap_mask
from reposedm_core.presets import ESTIMATORS

ROOT = Path(__file__).parents[1]
README = (ROOT / "reposedm_core" / "README.md").read_text(encoding="utf-8")
TABLE = re.search(r"<!-- audit -->\n(.*?)\n<!-- /audit -->", README, re.DOTALL).group(1)
ROWS = {
    place: (re.findall(r"`([\w/]+\.py):([\w.]+)`", code), verdict)
    for place, code, verdict in (
        [cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in TABLE.splitlines()[2:]
    )
}
PAPERS = [PRESETS[name] for name in ("market-128x64", "deepfashion-256x176", "deepfashion-512x352")]


def verdict(place: str) -> str:
    return ROWS[place][1]


@pytest.mark.parametrize("place", ROWS)
def test_names_exist_and_a_verdict_is_given(place):
    names, said = ROWS[place]
    assert names and re.match(r"as printed|\*\*ours\*\*", said), "as printed, or ours"
    for file, name in names:
        path = ROOT / file if file.startswith("training/") else ROOT / "reposedm_core" / file
        assert path.is_file(), file
        found = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for part in name.split("."):
            found = getattr(found, part)


def test_every_equation_is_there():
    assert {f"eq. {n}" for n in range(1, 18)} == {
        re.match(r"eq\. \d+", place).group() for place in ROWS if "eq." in place
    }


def test_schedule():
    schedule = ScheduleConfig()
    values = (
        f"T = {schedule.timesteps}, β from {schedule.beta_start:.4f} to {schedule.beta_end:g}, {schedule.beta_schedule}"
    )
    assert values in verdict("eq. 1")
    assert all((own.schedule.timesteps, own.schedule.beta_end) == (1000, 0.02) for own in PAPERS)
    assert all(f"{own.steps} steps" in verdict("eq. 2") for own in PAPERS)


def test_training():
    from training.engine.settings import RePoseDMSettings, load_settings

    defaults = RePoseDMSettings()
    assert f"p = {100 * defaults.dropout:g}" in verdict("§3.1, Ø")
    assert f"`vlb_weight` = {defaults.vlb_weight:g} " in verdict("eq. 4")
    assert f"`field_limit` = {defaults.field_limit:g}" in verdict("eq. 3")
    for own in PAPERS:
        settings = load_settings(ROOT / "training" / "configs" / f"{own.name}.yaml", [])
        assert settings.reposedm.train_aligner and settings.aligner.steps == 0 and settings.reposedm.checkpointing
        assert settings.reposedm.dropout == 0.1 and settings.reposedm.vlb_weight == 1
        assert settings.estimator.steps == 0 and settings.estimator.init
    captioned = load_settings(ROOT / "training" / "configs" / "reposesd.yaml", [])
    assert "laion" in captioned.data and captioned.reposesd.pictures == 200_000
    assert captioned.reposesd.train == "attention" and "the attention alone" in verdict("eq. 17, §4.4")


def test_aligner():
    for own in PAPERS:
        aligner: AlignerConfig = own.aligner
        windows = ", ".join(map(str, aligner.kernels))
        assert f"N = {len(aligner.kernels)}, windows {windows}" in verdict("eq. 5")
        assert f"D = {aligner.dim}" in verdict("eq. 5") and aligner.blocks == 1
        assert f"R = {aligner.first_radius}, then {aligner.radius};" in verdict("eq. 6")
        assert aligner.warp == "image" and aligner.encoder == "latent"
        assert (own.denoiser.height, own.denoiser.channel_condition) == (0, False)
    aggregator = PoseMappingAggregator(8, 2, (8, 8))
    hidden = [layer for layer in (aggregator.first, aggregator.second) if isinstance(layer, nn.Conv2d)]
    pools = inspect.getsource(PoseMappingAggregator.forward).count("max_pool2d")
    assert f"{len(hidden)} convolutions, {pools} max-pool" in verdict("eq. 6")


def test_field():
    for default in (inspect.signature(f).parameters["threshold"].default for f in (heatmap_mask, PoseInteractionField)):
        assert f"threshold {default:g} " in verdict("§3.3, W_h")
    for own in [*PAPERS, PRESETS["sd21"]]:
        field = own.field
        for place, setting in (
            ("eq. 10", field.estimate),
            ("§3.3, W_h", field.mask),
            ("eq. 11", field.space),
            ("eq. 11", field.target),
            ("eq. 15", field.update),
        ):
            assert f'"{setting}"' in verdict(place).split("**ours**")[0], f"{place}: as printed is {setting}"
        assert f"`limit` = {field.limit:g}" in verdict("eq. 15")
        printed, ours = zip(*(verdict(place).split("**ours**", 1) for place in ("eq. 10", "eq. 15")), strict=True)
        assert not any("`size`" in text or "`every`" in text for text in printed)
        assert field.size == 1 or f"`size` = {field.size:g}" in ours[0]
        assert field.every == 1 or f"`every` = {field.every}" in ours[1]
        assert own.estimator == ESTIMATORS["w48"] and "W48" in verdict("§3.3, P_φ")


def test_steps_of_equations_14_and_15():
    alpha_bar = DiffusionSchedule(ScheduleConfig()).alpha_bar
    largest = {update: float(clean_factor(alpha_bar, update).max()) for update in ("eq14", "eq15")}
    assert largest["eq14"] <= 1 and "at most 1" in verdict("eq. 14")
    assert int(largest["eq15"]) == 157 and "up to 157" in verdict("eq. 15")


def test_guidance():
    assert all(f"w_c = {own.guidance_scale:.1f} " in verdict("eq. 16") for own in PAPERS)
    torch.manual_seed(0)
    from reposedm_core.reposesd.network import RePoseSD

    with torch.device("meta"):
        network = RePoseSD(PRESETS["sd21"].denoiser)
    assert f"{network.unet.conv_in.in_channels} input channels" in verdict("eq. 17, §4.4")


def test_pairs_and_table_2():
    from reposedm_core.presets import VARIANTS
    from training.adapters.deepfashion import DeepFashion

    assert "{train:,} and {test:,}".format(**DeepFashion.paper_pairs) in verdict("Table 1, pairs")
    assert VARIANTS == ("b1", "b2", "b2-field") and "B1, B2, and B2 with the field" in verdict("Table 2")


def test_perception_study_and_re_identification():
    from training.perception.make import Study
    from training.reid.experiment import Experiment
    from training.reid.network import Recipe

    study = Study()
    numbers = f"{study.reals} real and {study.fakes} generated pictures, {study.sets} sets"
    assert numbers in verdict("§4.2, Fig. 7") and study.checks
    shares = ", ".join(map(str, Experiment.shares))
    assert f"{shares} %" in verdict("§4.5, Table 4") and Recipe.backbone in verdict("§4.5, Table 4")
