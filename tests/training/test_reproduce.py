"""The guides: every command of REPRODUCE.md is one that its program takes, and stops only at what is not there."""

from __future__ import annotations

import importlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reposedm_core import PRESETS
from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.config import FieldConfig
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.tiny import TinyAutoencoder
from training.engine.run import completes, stages_of
from training.engine.settings import load_settings, model_of
from training.train import DEFAULT

ROOT = Path(__file__).parents[2]
GUIDE, README = (ROOT / "training" / name for name in ("REPRODUCE.md", "README.md"))
PLACES = ("originals/", "data/", "weights/", "runs/", "pictures/")
"""Where the guide puts things: what a command misses lies in one of them."""


def lines(guide: Path) -> list[str]:
    """The lines of a guide's blocks, continued ones whole."""
    blocks = re.findall(r"^```\n(.*?)^```", guide.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def commands(guide: Path = GUIDE) -> list[list[str]]:
    """Program and arguments of every command in a guide's blocks."""
    assert guide != GUIDE or all(line.startswith("python training/") for line in lines(guide))
    return [shlex.split(line)[1:] for line in lines(guide) if line.startswith("python training/")]


def made_by_training(command: list[str]) -> set[str]:
    """Files that a command of train.py leaves: the model, and the result of every stage."""
    file, overrides = DEFAULT, command[1:]
    if overrides and "=" not in overrides[0]:
        file, overrides = ROOT / overrides[0], overrides[1:]
    settings = load_settings(file, overrides)
    config = model_of(settings)
    stages = settings.stages or list(stages_of(config))
    whole = {settings.name} if completes(stages, config) else set()
    return {f"{settings.out}/{name}.safetensors" for name in {*stages, *whole}}


@pytest.mark.parametrize("guide", [GUIDE, README], ids=lambda guide: guide.name)
def test_what_a_command_reads_of_a_run_another_one_makes(guide):
    made, read = set(), set()
    for program, *arguments in commands(guide):
        if program == "training/train.py":
            made |= made_by_training([program, *arguments])
        read |= set(re.findall(r"runs/[^ =]*\.safetensors", " ".join(arguments)))
    assert len(read) > 3
    assert read <= made, read - made


def test_the_training_guide_has_no_blanks_to_fill_in():
    """FILE or FOLDER stand for other people's files alone: what --pictures and --method of another program name."""
    for line in lines(README):
        known = re.sub(r"--(pictures|method) \w+=FOLDER", "", line)
        assert not re.search(r"\b(FILE|FOLDER|ANOTHER|[A-Z]+-256)\b", known), line


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[9:60])
def test_a_command_misses_nothing_but_its_data(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    program, *arguments = command
    module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
    assert module.main(arguments) == 2, "argparse would have raised SystemExit for an option that is none"
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "unknown" not in error
    assert any(place in error for place in PLACES), error


def test_every_table_and_figure_is_there():
    text = GUIDE.read_text(encoding="utf-8")
    for number in (1, 2, 3, 4):
        assert re.search(rf"^## .*Tables? .*{number}", text, re.MULTILINE)
    for number in range(2, 8):
        assert re.search(rf"^## .*Figures? .*{number}", text, re.MULTILINE)
    programs = {command[0] for command in commands()}
    assert {"training/figures.py", "training/study_reid.py", "training/study_perception.py"} <= programs


def test_the_hours_are_those_that_the_counts_give():
    """The table in the guide is what benchmarks/hours.py prints."""
    found = importlib.import_module("benchmarks.hours")
    assert found.table(found.PEAK, found.SHARE) in GUIDE.read_text(encoding="utf-8")


def test_an_alignment_is_counted_as_it_is_made():
    """In training, there and back, by real calls on the meta device."""
    found = importlib.import_module("benchmarks.hours")
    config = PRESETS["market-128x64"]
    with torch.device("meta"):
        vae = KLAutoencoder(config.autoencoder).requires_grad_(False)
        tiny = TinyAutoencoder(config.tiny).requires_grad_(False)
        aligner, picture = RecurrentPoseAligner(config.aligner), torch.zeros(1, 3, config.height, config.width)
    channels = config.denoiser.latent_channels
    with FlopCounterMode(display=False) as counter:
        aligned = aligner(picture, picture, encode=lambda x: vae.vae.encoder(x)[:, :channels], inner=tiny.encoder)
        aligned.features.sum().backward()
    counted = found.count(config).aligning_trained(again=0)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_field_costs_what_it_does_in_the_steps_in_which_it_acts():
    found = importlib.import_module("benchmarks.hours")
    counts = found.Counts(denoiser=7, encode=0, decode=5, estimator=3, inner=(0, 2))
    whole, late = FieldConfig(1, 0, 1), FieldConfig(1, 0.75, 1, every=2)
    assert [found.guided_steps(each, 20) for each in (whole, late)] == [20, 3]
    plain = found.sample(counts, 10, 20, None)
    assert plain == 10 * (20 * 14 + 5)
    assert found.sample(counts, 10, 20, whole) - plain == 10 * 20 * 2 * (2 + 3)
    assert found.sample(counts, 10, 20, replace(whole, size=0.5)) - plain == 10 * 20 * 2 * (2 + 3) / 4
    assert found.sample(counts, 10, 20, replace(late, space="features")) - plain == 10 * (3 * 2 * (2 + 3) + 3), "once"
    names = [row[0] for row in found.ROWS]
    assert all(f"| {name} |" in GUIDE.read_text(encoding="utf-8") for name in names)
