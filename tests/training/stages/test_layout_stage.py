"""The stage of the layout network: what it is shown, mirrored examples, its loss by hand, what it leaves."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from reposedm_core.alignment.multi_source import Seen
from reposedm_core.errors import InputError
from reposedm_core.layout import Layout, LayoutNetwork, parse_source, predict_layout
from reposedm_core.reference import on_plate
from training.data.people_set import People
from training.engine.loop import train
from training.engine.run import stage_class, stages_of
from training.engine.settings import DecoderSettings, LayoutSettings, load_settings, model_of
from training.stages.latent_cache import alignment_of, cache_latents, drawn_mistaken
from training.stages.layout import LayoutStage
from training.stages.parser import OTHER, true_labels
from training.stages.reference_decoder import ReferenceDecoderStage, reference_of
from training.train import main

CPU = torch.device("cpu")


def stage_of(networks, root, out, **settings) -> LayoutStage:
    assert stage_class("layout", networks.config) is LayoutStage
    options = {"steps": 2, "batch": 3, "pairs": 4, "warmup": 0, "workers": 0, **settings}
    parts = {part: getattr(networks, part) for part in LayoutStage.needs(networks.config)}
    stage = LayoutStage(networks.config, LayoutSettings(**options), root, out, parts, CPU)
    stage.prepare(True)
    return stage


@pytest.fixture(scope="module")
def stage(networks, people, tmp_path_factory):
    return stage_of(networks, people, tmp_path_factory.mktemp("out"))


def read(stage, rows, flip=False, unknown=False):
    rows = np.asarray(rows)
    each = (np.full(len(rows), value) for value in (flip, unknown))
    return stage._read(stage.people, stage.pairs, stage.cache, rows, *each)


def test_it_comes_before_what_reads_aligned_latents(networks):
    order = stages_of(networks.config)
    assert order.index("aligner") < order.index("layout") < order.index("reposedm") < order.index("decoder")


def test_it_is_shown_what_the_pipeline_shows_it(stage, networks, people):
    """The hook sees the arguments of the network's own call in `predict_layout`."""
    rows = np.arange(3)
    batch, pairs = read(stage, rows), stage.pairs[rows]
    data = People(people, "train")
    source, skeleton = data.pictures(pairs.identity, pairs.source), data.skeletons(pairs.identity, pairs.target)
    at, found = drawn_mistaken(data, pairs, 2), alignment_of(stage.cache.batch(rows), source)
    probable = found.visibility[0].sigmoid()
    seen, calls = Seen(found.image, probable, torch.ones_like(probable)[:, None]), []
    handle = networks.layout.register_forward_pre_hook(lambda _, given: calls.append(given))
    with torch.no_grad():
        labels = parse_source(networks.parser, source, at, found.source_person)
        predict_layout(networks.layout, source, skeleton, at, labels, found, seen)
    handle.remove()
    for mine, expected in zip(stage.inputs(batch), calls[0], strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
    assert torch.equal(batch["labels"], true_labels(data, pairs.identity, pairs.target))


def test_a_mirrored_example_is_the_mirrored_one_with_left_and_right_exchanged(stage):
    """Masks and labels as they are seen in a mirror, skeletons drawn anew, whose limbs have colours by side."""
    plain, turned = (read(stage, [0, 1], flip) for flip in (False, True))
    mine, theirs = stage.inputs(plain), stage.inputs(turned)
    for a, b in zip(mine[2:], theirs[2:], strict=True):
        torch.testing.assert_close(a.flip(-1), b, rtol=0, atol=1e-5)
    for a, b in zip(mine[:2], theirs[:2], strict=True):
        # the same strokes within a pixel, of other colours
        lit, other = ((x > -1).any(1, keepdim=True).float() for x in (a.flip(-1), b))
        assert (lit * (1 - F.max_pool2d(other, 3, 1, 1))).sum() <= 0.05 * lit.sum()
        assert not torch.allclose(a.flip(-1), b, atol=0.1)


def test_an_example_without_the_source_s_pose_has_a_black_one(stage):
    batch = read(stage, [0, 1], unknown=True)
    assert (batch["source_skeleton"] == -1).all() and (batch["parsed_with"] == -1).all()
    assert (batch["skeleton"] > -1).any()


def test_the_loss_is_the_mean_over_pixels_of_what_the_true_label_is_worth(stage):
    batch = read(stage, [0, 1, 2])
    torch.manual_seed(0)
    network = stage.build().eval()
    values = stage.loss(network, batch, 0)
    logits = F.interpolate(network(*stage.inputs(batch)), (64, 48), mode="bilinear")
    truth = batch["labels"].long()
    expected = -logits.log_softmax(1).gather(1, truth[:, None]).mean()
    torch.testing.assert_close(values["loss"], expected)
    person = truth > 0
    shares = [float((logits.argmax(1) == truth)[n][person[n]].float().mean()) for n in range(3)]
    assert float(values["right"]) == pytest.approx(np.mean(shares))
    turned = {**batch, "flip": torch.ones(3, dtype=torch.bool)}
    assert stage.loss(network, turned, 0)["loss"] != values["loss"]


def test_it_learns_and_what_is_frozen_has_no_gradient(stage):
    batch = read(stage, [0, 1, 2, 3])
    torch.manual_seed(0)
    network = stage.build()
    optimiser, losses = torch.optim.Adam(network.parameters(), 1e-2), []
    for _ in range(30):
        losses.append(stage.loss(network, batch, 0)["loss"])
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
    assert not any(p.requires_grad or p.grad is not None for part in stage.networks.values() for p in part.parameters())


def test_a_run_leaves_a_network_and_its_measures(networks, people, tmp_path):
    stage = stage_of(networks, people, tmp_path)
    network, log = train(stage, tmp_path, 0, Accelerator(cpu=True), resume=False)
    assert type(network) is LayoutNetwork
    values = log["validations"][-1]
    assert {"cross_entropy", "miou", "person", "person by the aligner", "background"} <= values.keys()
    assert all(0 <= value <= 1 for name, value in values.items() if name not in ("step", "cross_entropy"))
    assert any((tmp_path / "samples").glob("layout-*.jpg"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["model.layout.kind=none"], "flat"),
        (["model.parser.kind=none"], "layout"),
        (["preset=mini", "stages=[vae,estimator,aligner,layout]"], "makes no parser"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_trained(people, tmp_path, capsys, change, words):
    assert main(["preset=mini-256", f"data={people}", f"out={tmp_path}", "tracker=none", "device=cpu", *change]) == 2
    assert words in capsys.readouterr().err and not list(tmp_path.glob("*.state.pt"))


def test_the_ablation_s_whole_model_has_neither_layout_nor_flat_colours():
    """As the model card's command for the full row of Table 2 makes it."""
    none = [f"model.{part}.kind=none" for part in ("decoder", "parser", "layout")]
    config = model_of(load_settings(None, ["preset=mini-256", *none]))
    config.check_together()
    assert stages_of(config) == ("vae", "estimator", "aligner", "reposedm")


def test_a_set_without_labels_is_refused_before_anything_is_trained(people, tmp_path, capsys):
    root = tmp_path / "people"
    shutil.copytree(people, root)
    (root / "garments.npy").unlink()
    with pytest.raises(InputError, match=r"holds no garments\.npy.*model\.layout\.kind=none"):
        LayoutStage.check_data(root)
    run = ["preset=mini-256", f"data={root}", f"out={tmp_path / 'out'}", "tracker=none", "device=cpu"]
    assert main([*run, "decoder.perceptual=0"]) == 2
    assert "garments.npy" in capsys.readouterr().err and not list(tmp_path.glob("out/*.state.pt"))


def test_a_second_person_is_background(stage):
    batch = read(stage, [0, 1])
    torch.manual_seed(0)
    network = stage.build().eval()
    ground = batch["labels"].clone()
    ground[:, :20] = 0
    other = ground.clone()
    other[:, :20] = OTHER
    one, two = (stage.loss(network, {**batch, "labels": labels}, 0) for labels in (ground, other))
    assert one["loss"] == two["loss"] and one["right"] == two["right"]


def test_the_cache_holds_the_layout_and_the_latent_that_it_changes(networks, people, tmp_path):
    """Without it the same as before; with it the decoder is shown the person where the layout has it."""
    data = People(people, "train")
    pairs = data.fixed_pairs(4)
    own = data, pairs, networks.autoencoder, networks.aligner, CPU, tmp_path
    plain = cache_latents(*own, flipped=True, parser=networks.parser)
    more = cache_latents(*own, flipped=True, parser=networks.parser, layout=networks.layout)
    assert len(list(tmp_path.glob("latents.*"))) == len(list(tmp_path.glob("layouts.*"))) == 1
    assert more.tensors.keys() - plain.tensors.keys() == {"layout", "colours"}
    assert all(torch.equal(plain.tensors[name], more.tensors[name]) for name in plain.tensors if name != "aligned")
    assert not torch.equal(plain.tensors["aligned"], more.tensors["aligned"])
    parts = {part: getattr(networks, part) for part in ReferenceDecoderStage.needs(networks.config)}
    settings = DecoderSettings(steps=1, batch=2, pairs=4, workers=0, perceptual=0.0)
    stage = ReferenceDecoderStage(networks.config, settings, people, tmp_path, parts, CPU)
    stage.prepare(True)
    shown = reference_of(stage._read(data, pairs, stage.cache, np.arange(4)))
    person, colours = Layout(more.tensors["layout"].float(), more.tensors["colours"].float()).drawn((64, 48))
    torch.testing.assert_close(shown.person, person)
    torch.testing.assert_close(shown.flat, person * colours + (1 - person) * shown.plate)
    torch.testing.assert_close(
        networks.autoencoder.encode(on_plate(shown)), more.tensors["aligned"].float(), rtol=0, atol=0.1
    )
