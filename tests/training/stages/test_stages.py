"""What several processes rest on, for every stage: an example is loaded and judged the same whatever is beside it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reposedm_core.alignment import Alignment
from reposedm_core.alignment.warp import identity_map
from reposedm_core.networks import PARTS
from reposedm_core.pose import render_heatmaps
from training.data.people_set import People
from training.engine.run import stage_class
from training.engine.settings import load_settings, model_of
from training.stages.aligner import AlignerStage, alignment_loss, joint_loss
from training.stages.estimator import heatmap_loss, pull_loss
from training.train import CONFIGS

CPU = torch.device("cpu")
STAGES = ("vae", "estimator", "aligner", "reposedm")


def stage_of(name: str, root: Path, out: Path, config: str = "tiny"):
    settings = load_settings(
        CONFIGS / f"{config}.yaml",
        ["reposedm.pairs=4", "decoder.pairs=4", "reposedm.dropout=0.5", "aligner.first_steps=0"],
    )
    config = model_of(settings)
    torch.manual_seed(0)
    kind = stage_class(name, config)
    parts = {part: PARTS[part](getattr(config, part)).eval() for part in kind.needs(config)}
    stage = kind(config, getattr(settings, name), root, out, parts, CPU)
    stage.prepare(True)
    return stage


def rows(values: dict, chosen: slice) -> dict:
    return {name: value[chosen] for name, value in values.items()}


def example(values: dict, one: int, count: int) -> dict:
    """What belongs to one of `count` examples of a batch: one row, or several of an example that is a group."""
    return {name: value.unflatten(0, (count, -1))[one] for name, value in values.items()}


@pytest.fixture(
    scope="module",
    ids=lambda p: " of ".join(p[::2]) + f" on {p[1]}",
    params=[
        *(
            (name, kind, "tiny")
            for name in STAGES
            for kind in ("people", "figures")
            if name in ("estimator", "aligner") or kind == "people"
        ),
        *((name, "people", "tiny-256") for name in ("estimator", "aligner", "layout", "reposedm", "decoder")),
    ],
)
def stage(request, tmp_path_factory):
    name, root, config = request.param
    return stage_of(name, request.getfixturevalue(root), tmp_path_factory.mktemp("out"), config)


def test_an_example_is_loaded_the_same_whatever_is_beside_it(stage):
    plan = stage.plan(np.random.default_rng(0), 6)
    assert all(len(values) == 6 for values in plan.values())
    whole = stage.load(plan)
    for one in range(6):
        alone = stage.load(rows(plan, slice(one, one + 1)))
        assert alone.keys() == whole.keys()
        for name, value in example(whole, one, 6).items():
            torch.testing.assert_close(alone[name], value, rtol=0, atol=1e-6, msg=name)
    again = stage.load(stage.plan(np.random.default_rng(0), 6))
    other = stage.load(stage.plan(np.random.default_rng(1), 6))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert any(not torch.equal(value, other[name]) for name, value in whole.items())


def test_a_loss_is_the_mean_of_the_examples_losses_and_draws_nothing(stage):
    torch.manual_seed(0)
    module = stage.build()
    stage.initialise(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    batch = stage.load(stage.plan(np.random.default_rng(0), 5))
    module.eval()  # batch norm alone sees other examples
    before = torch.get_rng_state()
    with torch.no_grad():
        whole = stage.loss(module, batch, 10**6)
        each = [stage.loss(module, example(batch, one, 5), 10**6) for one in range(5)]
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in whole.items():
        if "chosen0" in batch and name.startswith("epe"):
            continue  # of the pairs alone whose iterations were not disturbed: to look at, not to learn from
        mean = torch.stack([values[name] for values in each]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6, msg=name)


# -- what the losses say


def test_the_joint_loss_is_least_where_joints_show_themselves():
    """A map that leads every joint of the target to the source's, against the identity and against one that is off."""
    generator = torch.Generator().manual_seed(0)
    source_joints = torch.cat(
        [torch.rand(2, 17, 2, generator=generator) * torch.tensor([40.0, 56.0]) + 4, torch.full((2, 17, 1), 2.0)], -1
    )
    shift = torch.tensor([6.0, -4.0])
    target_joints = source_joints.clone()
    target_joints[..., :2] += shift
    picture = torch.zeros(2, 3, 64, 48)
    here = identity_map(16, 12).expand(2, -1, -1, -1)

    def value(moved: torch.Tensor, logit: float = 5.0, **joints) -> dict:
        sampling = here + (moved / torch.tensor([24.0, 32.0])).view(1, 2, 1, 1)
        told = {"source_joints": source_joints, "target_joints": target_joints, **joints}
        alignment = Alignment([sampling], [torch.full((2, 1, 16, 12), logit)], picture)
        return joint_loss(alignment, picture, picture, **told)

    right, still, wrong = (value(moved) for moved in (-shift, 0 * shift, shift))
    assert right["epe1"] < 0.6 < still["epe1"] < wrong["epe1"]
    assert still["epe1"] == pytest.approx(float(shift.norm()), rel=0.1)
    assert right["loss"] < still["loss"] < wrong["loss"] and right["loss"] < value(-shift, logit=-5.0)["loss"]
    absent = target_joints.clone()
    absent[..., 2] = 0
    assert value(0 * shift, target_joints=absent)["epe1"] == 0, "what the target has not is not asked for"
    corrupt = target_joints.clone()
    corrupt[0, 3, 0] = torch.nan
    value(0 * shift, target_joints=corrupt)  # and does not read out of bounds
    corrupt = source_joints.clone()
    corrupt[0, 3, 0] = torch.nan
    assert not torch.isfinite(value(0 * shift, source_joints=corrupt)["loss"])


def test_the_true_map_has_the_least_alignment_loss(people, tmp_path):
    stage = stage_of("aligner", people, tmp_path)
    assert isinstance(stage, AlignerStage)
    batch = stage.load(stage.plan(np.random.default_rng(0), 4))
    assert not batch.keys() & {"source_joints", "target_joints"}, "the exact correspondence is what is learned from"
    told = {name: batch[name] for name in ("source", "target", "flow", "visible")}
    seen = torch.where(batch["visible"] == 2, 8.0, -8.0)

    def value(sampling):
        return alignment_loss(Alignment([sampling], [seen], batch["source"]), **told)

    true, still = value(batch["flow"]), value(identity_map(32, 24).expand(4, -1, -1, -1))
    assert float(true["epe1"]) == pytest.approx(0.1, abs=1e-3), "the square root's smoothing"
    assert still["epe1"] > 1 and true["loss"] < still["loss"]
    # where neither picture shows the person, what stays where it is costs least
    assert (batch["ground"] * (batch["visible"] > 0)).sum() == 0 < batch["ground"].sum()
    told["ground"] = batch["ground"]
    mixed = torch.where(batch["ground"] > 0, identity_map(*batch["flow"].shape[-2:]), batch["flow"])
    assert value(mixed)["loss"] < value(batch["flow"])["loss"] - 0.1


def test_tags_of_a_person_that_agree_pull_no_more():
    joints = torch.rand(2, 17, 3, generator=torch.Generator().manual_seed(0)) * 40 + 2
    assert pull_loss(torch.full((2, 17, 16, 12), 0.7), joints) < 1e-12
    tags = torch.randn(2, 17, 16, 12, generator=torch.Generator().manual_seed(1))
    assert pull_loss(tags, joints) > 0.1
    joints[..., 2] = 0
    assert pull_loss(tags, joints) == 0


@pytest.mark.parametrize("name", ["aligner", "reposedm"])
def test_activations_computed_again_give_the_same_gradient(people, tmp_path, name):
    stage = stage_of(name, people, tmp_path)
    batch = stage.load(stage.plan(np.random.default_rng(0), 2))

    def gradient(again: bool) -> list:
        torch.manual_seed(0)
        module = stage.build().train()
        if again:
            stage.checkpointed(module)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
            loss = stage.loss(module, batch, 10**6)["loss"]
        loss.backward()
        return [p.grad for p in module.parameters() if p.grad is not None], sum(saved)

    (plain, much), (again, little) = gradient(False), gradient(True)
    assert len(plain) == len(again) and little < 0.8 * much
    for mine, other in zip(again, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_estimator_is_shown_more_than_the_set_has(people, tmp_path):
    """Other backgrounds, places and colours; the joints move with the person."""
    stage = stage_of("estimator", people, tmp_path)
    plan = stage.plan(np.random.default_rng(0), 24)
    batch = stage.load(plan)
    data = People(people, "train")
    original = data.pictures(plan["identity"], plan["index"])
    joints = data.joints(plan["identity"], plan["index"])
    corner = (batch["images"] - original)[..., :6, :6].abs().mean((1, 2, 3))
    assert (corner > 0.15).float().mean() > 0.4
    moved = np.abs(batch["joints"].numpy() - joints)[..., :2].max((1, 2))
    assert (moved > 2).mean() > 0.9
    assert batch["images"].abs().max() <= 1


def test_the_heat_maps_truth_is_not_rounded_where_the_network_computes_in_bfloat16():
    joints = torch.tensor([[[11.3, 9.1, 2.0]] * 17])
    truths = [render_heatmaps(joints, 32, 24, 1.5, stride) for stride in (4, 2)]
    output = SimpleNamespace(
        heatmaps_quarter=torch.zeros_like(truths[0], dtype=torch.bfloat16),
        heatmaps_half=torch.zeros_like(truths[1], dtype=torch.bfloat16),
    )
    found = heatmap_loss(output, joints, 32, 24, 1.5)
    assert found.dtype == torch.float32
    expected = 100 * sum(((1 + 9 * truth.double()) * truth.double().square()).mean() for truth in truths)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
