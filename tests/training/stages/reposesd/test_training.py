"""RePoseSD's loss, with the pose field and without, and its training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from reposedm_core import PRESETS
from reposedm_core.errors import InputError
from tests.estimator.test_vitpose import save_tiny
from training.engine.loop import train
from training.engine.signals import Stopped
from training.stages.reposesd.stage import load_estimator

from .conftest import prepared, same, stage_of, started


@torch.no_grad()
def test_a_batch_s_loss_is_the_mean_of_its_examples(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    module = started(stage).eval()
    batch = stage.load(stage.plan(np.random.default_rng(0), 4))
    whole = stage.loss(module, batch, 0)["loss"]
    parts = [stage.loss(module, {name: value[i : i + 1] for name, value in batch.items()}, 0)["loss"] for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(parts).mean(), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_dropped_conditions_are_what_sampling_has_without_them(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    seen = []

    def model(z, t, pose, tokens):
        seen.append((pose, tokens))
        return torch.zeros_like(z)

    stage.loss(
        model, {**batch, "drop": torch.tensor([True, False, False]), "drop_text": torch.tensor([True, True, False])}, 0
    )
    ((pose, tokens),) = seen
    assert not pose[0].any() and torch.equal(pose[1:], batch["pose"][1:])
    empty = stage.text(stage.text.ids([""]))[0]
    assert torch.equal(tokens[0], empty) and torch.equal(tokens[1], empty)
    assert torch.equal(tokens[2], batch["tokens"][2]) and not torch.equal(tokens[2], empty)


@torch.no_grad()
@pytest.mark.parametrize("space", ["features", "heatmaps"])
def test_the_field_shifts_the_prediction_where_the_pose_is_told(folder, figures, tmp_path, estimator, space):
    guided = replace(PRESETS["sd21"], field=replace(PRESETS["sd21"].field, space=space))
    stage = prepared(folder, figures, tmp_path, guided, estimator=str(estimator), field_limit=0.5)
    plain = prepared(folder, figures, tmp_path)
    module = started(stage).eval()
    batch = stage.load(stage.plan(np.random.default_rng(0), 3))
    for drop, differs in ((False, True), (True, False)):
        told = {**batch, "drop": torch.full((3,), drop)}
        on, off = stage.loss(module, told, 0), plain.loss(module, told, 0)
        assert (abs(float(on["loss"] - off["loss"])) > 1e-4) == differs
        assert on["field"] > 0 and "field" not in off


def test_the_field_without_an_estimator_is_refused(folder, figures, tmp_path):
    with pytest.raises(InputError, match=r"field.training = 1: .*reposesd.estimator.*model.field.training=0"):
        stage_of(folder, figures, tmp_path, PRESETS["sd21"])


def test_an_estimator_of_another_size_alone_is_refused(folder, figures, tmp_path):
    save_tiny(tmp_path / "vitpose")
    config = replace(PRESETS["sd21"], field=replace(PRESETS["sd21"].field, space="heatmaps"))
    stage = stage_of(folder, figures, tmp_path, config, estimator=str(tmp_path / "vitpose"))
    stage.prepare(True)  # its size is the set's
    assert stage.field is not None
    with pytest.raises(InputError, match=r"vitpose sees pictures of 48×64 alone, and the field shows it 96×128 .*give"):
        load_estimator(str(tmp_path / "vitpose"), (128, 96), False, 1.0)
    assert load_estimator(str(tmp_path / "vitpose"), (128, 96), False, 0.5), "half of the set's size is its own"
    with pytest.raises(InputError, match=r"shows it 24×32 \(the set's 48×64, field.size = 0.5\)"):
        load_estimator(str(tmp_path / "vitpose"), (64, 48), False, 0.5)
    with pytest.raises(InputError, match=r"reposesd\.estimator: .*none\.pth: no such file"):
        load_estimator(str(tmp_path / "none.pth"), (128, 96), False, 1.0)


def test_attention_alone_is_trained_where_asked(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path, train="attention")
    before = {key: value.clone() for key, value in started(stage).state_dict().items()}
    network, _ = train(stage, tmp_path, 0, Accelerator(cpu=True))
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and all("attn" in key or "conv_in" in key for key in moved)
    assert any("conv_in" in key for key in moved) and any("attn2" in key for key in moved)
    with pytest.raises(InputError, match=r"reposesd.train = 'some': known are all, attention"):
        stage_of(folder, figures, tmp_path, train="some")


def test_a_few_examples_are_learnt(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path, pictures=2, dropout=0.0, steps=25, lr=2e-3, ema=0.5)
    batch = stage.load(stage.plan(np.random.default_rng(5), 8))
    with torch.no_grad():
        first = float(stage.loss(started(stage).eval(), batch, 0)["loss"])
    network, log = train(stage, tmp_path, 0, Accelerator(cpu=True))
    with torch.no_grad():
        last = float(stage.loss(network, batch, 0)["loss"])
    assert log["step"] == 25 and last < 0.6 * first


def test_activations_that_are_computed_again_give_the_same_gradient(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    batch, module, kept = stage.load(stage.plan(np.random.default_rng(0), 2)), started(stage).train(), []
    for again in (False, True):
        if again:
            stage.checkpointed(module)
        module.zero_grad()
        stage.loss(module, batch, 0)["loss"].backward()
        kept.append([weight.grad.clone() for weight in module.parameters()])
    for plain, repeated in zip(*kept, strict=True):
        torch.testing.assert_close(repeated, plain)
    assert any(getattr(part, "gradient_checkpointing", False) for part in module.modules())


def test_a_resumed_run_ends_as_an_uninterrupted_one(folder, figures, tmp_path):
    def run(name, **settings):
        return train(
            stage_of(folder, figures, tmp_path / name, steps=4, **settings), tmp_path / name, 0, Accelerator(cpu=True)
        )

    whole, _ = run("a")
    with pytest.raises(Stopped):
        run("b", minutes=1e-6)
    resumed, log = run("b")
    assert log["step"] == 4 and same(whole.state_dict(), resumed.state_dict())


def test_training_on_a_captioned_set_with_the_field(folder, crowd, tmp_path, estimator):
    stage = stage_of(folder, crowd, tmp_path, PRESETS["sd21"], estimator=str(estimator), steps=2)
    _, log = train(stage, tmp_path, 0, Accelerator(cpu=True))
    assert log["step"] == 2 and log["history"][-1]["field"] > 0
