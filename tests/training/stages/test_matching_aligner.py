"""The stage of the aligner of kind "matching": what it is shown, where iterations start, a step, what it measures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from reposedm_core.alignment import build_aligner, start_from
from reposedm_core.alignment.warp import identity_map
from reposedm_core.config import ModelConfig
from reposedm_core.errors import InputError
from training.data.groups import draw_moves, rows_of
from training.engine.loop import train
from training.engine.run import stage_class
from training.engine.settings import AlignerSettings
from training.stages.matching_aligner import Disturbance, MatchingAlignerStage
from training.stages.matching_losses import coarse_truth

H, W = 32, 24


def stage_of(config: ModelConfig, root: Path, out: Path, **settings) -> MatchingAlignerStage:
    assert stage_class("aligner", config) is MatchingAlignerStage
    options = {"steps": 2, "batch": 2, "group": 3, "warmup": 0, "workers": 0, **settings}
    stage = MatchingAlignerStage(config, AlignerSettings(**options), root, out, {}, torch.device("cpu"))
    stage.prepare(True)
    return stage


@pytest.fixture(scope="module")
def stage(second_config, people, tmp_path_factory) -> MatchingAlignerStage:
    return stage_of(second_config, people, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def batch(stage) -> dict[str, torch.Tensor]:
    return stage.load(stage.plan(np.random.default_rng(0), 4))


def test_a_batch_is_of_groups_and_all_their_pairs(stage, batch):
    """Four groups of three: twelve pictures of the size that the networks see, twenty-four pairs."""
    plan = stage.plan(np.random.default_rng(0), 4)
    assert {name: value.shape for name, value in plan.items()} == {"identity": (4,), "index": (4, 3), "seed": (4,)}
    for name, channels in (("pictures", 3), ("mask", 1), ("skeletons", 3), ("seen_skeletons", 3)):
        assert batch[name].shape == (12, channels, H, W), name
    assert batch["pictures"].abs().max() <= 1 and batch["joints"].shape == batch["target_joints"].shape == (12, 18, 3)
    assert batch["flow"].shape == (24, 2, H, W) and batch["visible"].shape == (24, 1, H, W)
    assert batch["surface"].shape == (12, 3, H // 4, W // 4) and batch["with_pose"].shape == (24,)
    assert batch["field0"].shape == batch["field1"].shape == (24, 2, 4, 3) and "field2" not in batch


def test_what_is_drawn_depends_on_the_seeds_alone(stage, batch):
    """With `test_stages.py`: nor on what is beside it."""
    plan = stage.plan(np.random.default_rng(0), 4)
    again, other = stage.load(plan), stage.load({**plan, "seed": plan["seed"] + 1})
    assert all(torch.equal(value, again[name]) for name, value in batch.items())
    assert {name for name, value in batch.items() if torch.equal(value, other[name])} == set()


def test_the_moved_correspondence_is_true_of_the_pictures(stage):
    """Before their looks are changed: what is visible has the colours, and is the body's point, where it leads."""
    plan = stage.plan(np.random.default_rng(1), 8)
    rngs = [np.random.default_rng(n) for n in range(24)]
    moves = draw_moves(rngs, np.repeat(np.arange(8) % 2 == 1, 3), W / H, 0.2, 12.0, 0.1)
    batch = stage._read(stage.people, plan["identity"], plan["index"], moves)
    source, target = rows_of(8, 3)
    seen = batch["visible"] == 2
    assert 0.02 < seen.float().mean() < 0.5 and set(batch["visible"].unique().tolist()) == {0, 1, 2}

    def off(name: str, sampling: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        shown = F.grid_sample(batch[name][source], sampling.movedim(1, -1), mode="nearest", align_corners=False)
        return (shown - batch[name][target]).norm(dim=1, keepdim=True)[seen].median()

    place, shown = coarse_truth(batch["flow"], batch["visible"], H // 4, W // 4)
    shown = (shown > 0) & (batch["surface"][target].abs().sum(1, keepdim=True) > 0)
    for mirrored in (False, True):
        of = torch.from_numpy(moves.flip[source] == mirrored)[:, None, None, None]
        for name, sampling, where, share in (
            ("pictures", batch["flow"], seen & of, 0.7),
            ("mask", batch["flow"], seen & of, 0.5),
            ("surface", place, shown & of, 0.6),
        ):
            here = identity_map(*sampling.shape[-2:]).expand_as(sampling)
            assert off(name, sampling, where) < share * off(name, here, where), (name, mirrored)
    assert (batch["mask"][target][batch["visible"] > 0] > 0.3).float().mean() > 0.95, "on the target's person"


def test_a_third_goes_without_the_pose_and_an_estimators_errors_are_only_in_what_is_seen(stage):
    batch = stage.load(stage.plan(np.random.default_rng(2), 24))
    assert batch["with_pose"].float().mean() == pytest.approx(2 / 3, abs=0.12)
    assert batch["chosen0"].float().mean() == pytest.approx(1 / 2, abs=0.12)
    noisy = (batch["joints"] != batch["target_joints"]).flatten(1).any(1)
    assert noisy.float().mean() == pytest.approx(0.67, abs=0.2)
    assert torch.equal(batch["seen_skeletons"][~noisy], batch["skeletons"][~noisy])
    assert not torch.equal(batch["seen_skeletons"][noisy], batch["skeletons"][noisy])
    pixels = batch["field0"] * torch.tensor([48.0, 64.0]).view(1, 2, 1, 1)
    size = pixels.square().mean((1, 2, 3)).sqrt()
    assert 1 < size.min() < 4 and 5 < size.max() < 12, "2 to 8 pixels of 128"


def test_a_blind_pair_is_shown_no_skeleton_and_a_chosen_one_starts_from_the_disturbed_truth(stage, batch):
    """What reaches the aligner in every iteration, seen by hooks."""
    torch.manual_seed(0)
    module = stage.build()
    encoded, started, chose = [], [], []
    module.network.source_encoder.register_forward_hook(lambda _, given, out: encoded.append(given[0]))
    for match in module.network.matches:
        match.register_forward_hook(lambda _, given, out: started.append(given[2:4]))
    for choice in module.network.choices:
        choice.register_forward_hook(lambda _, given, out: chose.append((given[3], given[5])))
    with torch.no_grad():
        stage.loss(module, batch, 10**6)
    source, target = (torch.from_numpy(rows) for rows in rows_of(4, 3))
    blind = ~batch["with_pose"]
    black = (encoded[0][:, 3:] == -1).flatten(1).all(1)
    assert len(encoded[0]) <= 24 and black.any() and not black.all(), "each picture with and without, once"
    assert torch.equal(torch.isclose(encoded[1][:, 3:], torch.tensor(-1.0)).flatten(1).all(1), blind)
    begin = start_from(batch["joints"][source], batch["target_joints"][target], batch["pictures"][source])
    first, trust = started[0]
    (_, near), (second, _) = chose[:2]
    assert not trust[blind].any() and torch.equal(trust[~blind], begin.share[~blind])
    torch.testing.assert_close(first[blind], identity_map(H // 4, W // 4).expand(int(blind.sum()), -1, -1, -1))
    assert torch.equal(first[~blind], begin.map[~blind])
    assert not near[blind].any() and torch.equal(near[~blind], begin.near[~blind])
    place, shown = coarse_truth(batch["flow"], batch["visible"], H // 2, W // 2)
    wrong = place + F.interpolate(batch["field0"], place.shape[-2:], mode="bicubic", align_corners=False)
    chosen = (batch["chosen0"][:, None, None, None] & (shown > 0)).expand_as(wrong)
    torch.testing.assert_close(second[chosen], wrong[chosen])
    assert not torch.isclose(second[~chosen], wrong[~chosen], atol=1e-3).all() and chosen.any()


def test_the_truth_costs_least(stage, batch):
    """A pass that found the exact map, masks, surfaces and cells, against one that stays where it is."""
    torch.manual_seed(0)
    module = stage.build()
    module.eval()
    source, target = (torch.from_numpy(rows) for rows in rows_of(4, 3))
    place, shown = coarse_truth(batch["flow"], batch["visible"], H // 4, W // 4)
    begin = start_from(None, None, batch["pictures"][source])
    half = coarse_truth(batch["flow"], batch["visible"], H // 2, W // 2)
    still = [Disturbance(torch.zeros(24, dtype=torch.bool), batch["field0"])] * 2
    with torch.no_grad():
        passes, more = module(
            torch.cat([batch["pictures"], batch["seen_skeletons"]], 1),
            batch["skeletons"],
            (source, target),
            begin,
            1,
            half[0],
            still,
        )
        before = stage._terms(passes, more, batch, source, target, (place, shown), half)
        exact = passes[0]
        exact.fine = torch.where(batch["visible"] > 0, batch["flow"], identity_map(H, W))
        exact.candidates = torch.where(half[1] > 0, half[0], identity_map(H // 2, W // 2))[:, None].expand_as(
            exact.candidates
        )
        masks = batch["mask"][target]
        exact.fine_logits = 20 * torch.cat([(batch["visible"] == 2).float(), masks], 1) - 10
        more["surfaces"], more["surface"] = batch["surface"][target][None], batch["surface"][source]
        more["mask"] = 20 * batch["mask"][source] - 10
        after = stage._terms(passes, more, batch, source, target, (place, shown), half)
    assert after["epe1"] == pytest.approx(0.1, abs=1e-3) and after["epe1"] < 0.1 * before["epe1"]
    assert after["choice1"] < 1e-4 < 0.1 < before["choice1"], "whatever it trusts is right"
    assert after["bent"] < 1e-3 and after["visibility"] < 1e-3 and after["person"] < 0.5 * before["person"]
    assert after["loss"] < 0.5 * before["loss"]


def test_training_steps_lower_the_loss(second_config, people, tmp_path):
    """The same batch a few times: every weight that is read moves, and the loss falls."""
    stage = stage_of(second_config, people, tmp_path)
    plan = stage.plan(np.random.default_rng(0), 2)
    batch = stage.load(plan)
    torch.manual_seed(0)
    module = stage.build()
    optimiser, losses = torch.optim.Adam(module.parameters(), 3e-3), []
    before = {name: value.clone() for name, value in module.named_parameters()}
    for _ in range(12):
        losses.append(stage.loss(module, batch, 10**6)["loss"])
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    unmoved = {name for name, value in module.named_parameters() if torch.equal(value, before[name])}
    assert {name.split(".")[3] for name in unmoved} <= {"merge_source"}


def test_first_steps_train_the_first_iteration_alone(second_config, people, tmp_path):
    stage = stage_of(second_config, people, tmp_path, first_steps=5)
    batch = stage.load(stage.plan(np.random.default_rng(0), 1))
    module = stage.build()
    one, all_three = (stage.loss(module, batch, step).keys() for step in (4, 5))
    assert "epe2" not in one and {"epe1", "epe2", "epe3"} <= all_three


def test_a_run_leaves_an_aligner_and_its_measures(second_config, people, tmp_path):
    """Two steps of the loop with averaged weights; what is exported is the network of the configuration."""
    stage = stage_of(second_config, people, tmp_path)
    network, log = train(stage, tmp_path, 0, Accelerator(cpu=True), resume=False)
    assert log["history"][-1]["step"] == 2 and np.isfinite(log["history"][-1]["loss"])
    values = log["validations"][-1]
    assert {
        "epe0",
        "epe1",
        "epe2",
        "epe3",
        "mistaken1",
        "blind1",
        "blind2",
        "blind3",
        "disturbed",
        "still2",
        "still3",
    } <= values.keys()
    assert all(np.isfinite(value) for value in values.values()) and values["disturbed"] > 3
    build_aligner(second_config.aligner).load_state_dict(network.state_dict())
    sheet = stage.sheet(network)
    assert sheet.width > 3 * W and np.asarray(sheet).std() > 5


def test_the_measure_of_the_skeleton_map_is_that_of_the_pairs_as_they_are(stage):
    pairs = stage.held_out.fixed_pairs(6)
    values = stage._check(stage.build().network.eval().requires_grad_(False), pairs)
    read = stage.unmoved(stage.held_out, pairs)
    begin = start_from(read["at"], read["to"], read["source"])
    flow, visible = stage.held_out.correspondence(pairs)
    assert torch.equal(read["visible"], visible) and (read["flow"] - flow).abs().max() < 1e-4
    fine = F.interpolate(begin.map - identity_map(8, 6), (H, W), mode="bilinear", align_corners=False)
    off = ((fine + identity_map(H, W) - flow) * torch.tensor([48.0, 64.0]).view(2, 1, 1)).norm(dim=1)
    mean = [float(each[seen[0] == 2].mean()) for each, seen in zip(off, visible, strict=True)]
    assert values["epe0"] == pytest.approx(np.mean(mean), rel=1e-3)


def test_a_set_that_lacks_something_is_refused_before_the_first_step(second_config, figures, people, tmp_path):
    with pytest.raises(InputError, match=r"correspondence and masks.*generate\.py"):
        stage_of(second_config, figures, tmp_path)
    bare = tmp_path / "bare"
    shutil.copytree(people, bare)
    (bare / "masks.npy").unlink()
    with pytest.raises(InputError, match="correspondence and masks"):
        stage_of(second_config, bare, tmp_path)
    with pytest.raises(InputError, match="has 4 pictures, but 3 at most"):
        stage_of(second_config, people, tmp_path, group=4)
