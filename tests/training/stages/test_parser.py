"""The stage of the garment parser: labels go with their pictures, second people, what is learnt and exported."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reposedm_core.checkpoint import read_header
from reposedm_core.crop import Crop
from reposedm_core.errors import InputError
from reposedm_core.garment_parser import LABELS, ParserConfig
from reposedm_core.garments import Parsed, load_parser
from reposedm_core.images import from_uint8, to_uint8
from reposedm_core.presets import PRESETS
from training.data.people_set import People
from training.engine.run import completes, stages_of
from training.engine.settings import StageSettings
from training.stages import parser
from training.stages.parser import COLOURS, OTHER, ParserStage, mask_overlap, overlap, pictures_of, true_labels
from training.synthetic.materials import LABELS as RENDERED
from training.train import main

SMALL = replace(PRESETS["mini-256"], parser=ParserConfig("none", widths=(8, 16, 16)))


def stage_of(root, **settings) -> ParserStage:
    stage = ParserStage(SMALL, StageSettings(**{"workers": 0, **settings}), root, Path("."), {}, torch.device("cpu"))
    stage.prepare(True)
    return stage


def batch_of(stage, count=16, seed=0):
    return stage.load(stage.plan(np.random.default_rng(seed), count))


@pytest.fixture(scope="module")
def crowd(people, tmp_path_factory) -> Path:
    """The generated people; the left half of each picture's upper half is a second person's."""
    root = tmp_path_factory.mktemp("crowd")
    shutil.copytree(people, root, dirs_exist_ok=True)
    masks, garments = (np.load(root / f"{name}.npy") for name in ("masks", "garments"))
    masks[:, :32, :24], garments[:, :32, :24] = 2, 0
    for name, values in (("masks", masks), ("garments", garments)):
        np.save(root / f"{name}.npy", values)
    return root


def test_the_generator_s_labels_are_the_parser_s():
    assert RENDERED == LABELS and len(COLOURS) == OTHER == len(LABELS)


def test_labels_go_where_their_pixels_go(figures, tmp_path, monkeypatch):
    """A set whose colours say the label; only light, blur and noise are left out."""
    shutil.copytree(figures, tmp_path, dirs_exist_ok=True)
    labels = np.zeros(np.load(tmp_path / "garments.npy").shape, np.uint8)
    labels[:, 8:40, 10:30], labels[:, 40:60, 12:40] = 3, 4
    np.save(tmp_path / "garments.npy", labels)
    np.save(tmp_path / "pictures.npy", COLOURS.numpy().astype(np.uint8)[labels])
    monkeypatch.setattr(parser, "random_look", lambda rngs, images: images)
    batch = batch_of(stage_of(tmp_path), 32)
    found = to_uint8(batch["images"]).movedim(1, -1)
    right = (found.int() - COLOURS[batch["labels"].long()]).abs().sum(-1) < 60
    assert right.float().mean() > 0.94 and set(batch["labels"].unique().tolist()) == {0, 3, 4}


def test_people_keep_their_labels_before_other_backgrounds(people):
    """Some backgrounds are replaced, all but the empty pictures show somebody, and about half have a skeleton."""
    batch = batch_of(stage_of(people), 100)
    somebody = (batch["labels"] > 0).flatten(1).any(1)
    posed = (batch["skeletons"] > 0).flatten(1).any(1)
    assert 0.85 < somebody.float().mean() < 1 and 0.3 < posed.float().mean() < 0.65
    assert not posed[~somebody].any() and batch["labels"].max() < OTHER


def test_a_second_person_is_background_beside_a_skeleton_and_left_out_without(crowd):
    stage = stage_of(crowd)
    chosen = pictures_of(stage.people, 2)
    assert (true_labels(stage.people, *chosen)[:, :32, :24] == OTHER).all()
    batch = batch_of(stage, 60)
    posed = (batch["skeletons"] > 0).flatten(1).any(1)
    other = (batch["labels"] == OTHER).flatten(1).any(1)
    assert not other[posed].any() and other[~posed].float().mean() > 0.8
    network, labels = stage.build().eval(), batch["labels"].clone()
    loss = stage.loss(network, batch, 0)["loss"]
    wrong = {**batch, "labels": torch.where(labels == OTHER, 0, labels)}
    assert stage.loss(network, wrong, 0)["loss"] > loss, "its pixels cost nothing"


def test_the_loss_is_a_mean_over_the_examples(people):
    stage = stage_of(people)
    network, batch = stage.build().eval(), batch_of(stage, 4)
    each = [stage.loss(network, {name: value[n : n + 1] for name, value in batch.items()}, 0)["loss"] for n in range(4)]
    torch.testing.assert_close(stage.loss(network, batch, 0)["loss"], torch.stack(each).mean())


def test_overlaps_of_the_truth_and_of_a_fault(people):
    held, number = People(people, "train"), 3

    class Truth(torch.nn.Module):
        """Gives the true labels of the pictures in order, `shift` pixels aside."""

        def __init__(self, shift):
            super().__init__()
            self.weight, self.shift = torch.nn.Parameter(torch.zeros(1)), shift

        def forward(self, images, skeletons):
            labels = true_labels(held, *pictures_of(held, number)).long().roll(self.shift, -1)
            return torch.nn.functional.one_hot(labels, len(LABELS)).movedim(-1, 1).float()

    right, aside = (overlap(Truth(shift), held, number, True) for shift in (0, 2))
    seen = {LABELS[n] for n in np.unique(true_labels(held, *pictures_of(held, number)))}
    assert {name for name, value in right.items() if value == 1} == seen and "skin" in seen
    assert all(np.isnan(value) for name, value in right.items() if name not in seen)
    assert all(aside[name] < 1 for name in seen) and aside["background"] > aside["shoes"]


def test_masks_overlap_as_their_labels_do(crowd, monkeypatch):
    """The true labels in place of what the network sees; a second person is seen as hair."""
    held, number = People(crowd, "train"), 2
    truth = true_labels(held, *pictures_of(held, number)).long()
    asked = []

    def seen(network, picture, pose):
        labels = truth[len(asked) % number].clone()
        asked.append(pose)
        labels[labels == OTHER] = LABELS.index("hair")
        shares = torch.nn.functional.one_hot(labels, len(LABELS)).movedim(-1, 0).float()
        return Parsed(LABELS, shares, Crop(0, 0, *picture.shape[1:], tuple(picture.shape[1:]), size=labels.shape))

    monkeypatch.setattr(parser, "parse", seen)
    kinds = {"person": LABELS[1:], "hair": ("hair",), "skin": ("skin",)}
    alone, posed = (mask_overlap(None, held, number, kinds, each) for each in (False, True))
    assert alone == {"person": 1, "hair": 1, "skin": 1} and asked[:number] == [None] * number
    assert all(pose.joints.shape == (1, 18, 3) for pose in asked[number:]) and len(asked) == 2 * number
    own, other = int(((truth > 0) & (truth < OTHER)).sum()), int((truth == OTHER).sum())
    assert posed["person"] == pytest.approx(own / (own + other)) and posed["skin"] == 1 > posed["hair"]


def test_training_brings_it_closer(people):
    torch.manual_seed(0)
    stage = stage_of(people)
    network, batch = stage.build(), batch_of(stage, 24)
    first = stage.loss(network.eval(), batch, 0)["loss"].detach()
    optimiser = torch.optim.Adam(network.train().parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        stage.loss(network, batch, 0)["loss"].backward()
        optimiser.step()
    values = stage.loss(network.eval(), batch, 0)
    assert values["loss"] < 0.4 * first and values["right"] > 0.5
    found = stage.validate(network)
    assert {"miou", "miou posed", "background", "skin"} <= set(found) and 0 < found["miou"] < 1
    assert stage.sheet(network).size == (2 + 3 * (48 + 2), 2 + 4 * (64 + 2)), "three pictures, four rows"


def test_it_is_exported_alone_and_completes_no_preset(people, tmp_path):
    assert [name for name, preset in PRESETS.items() if "parser" in stages_of(preset)] == ["mini-256"]
    assert not completes(["parser"], PRESETS["mini-256"])
    arguments = ["preset=mini", "stages=[parser]", f"data={people}", f"out={tmp_path}", "device=cpu"]
    steps = ["tracker=none", "parser.steps=2", "parser.batch=4", "model.parser.widths=[4,8,8]", "parser.workers=0"]
    assert main([*arguments, *steps]) == 0
    file = tmp_path / "parser.safetensors"
    network, header = load_parser(file), read_header(file)
    assert header["parts"] == ["parser"] and header["card"]["parser"]["steps"] == 2
    assert network.config.widths == (4, 8, 8) and (network.config.height, network.config.width) == (64, 48)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {file.name}
    with torch.no_grad():
        assert network(from_uint8(torch.zeros(1, 3, 64, 48))).isfinite().all()


def test_a_set_without_garments_is_refused(figures, tmp_path):
    shutil.copytree(figures, tmp_path, dirs_exist_ok=True)
    (tmp_path / "garments.npy").unlink()
    with pytest.raises(InputError, match=r"holds no garments\.npy, which stage parser learns from"):
        ParserStage.check_data(tmp_path)
