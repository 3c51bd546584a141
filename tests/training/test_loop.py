"""The optimisation loop and its settings: resumed runs, lost runs, refused settings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from reposedm_core.checkpoint import save_model
from reposedm_core.errors import InputError
from training.loop import OutOfTime, learning_rate, optimise, save_atomically
from training.settings import Settings, StageSettings, load_settings

STEPS = 12
SETTINGS = {"steps": STEPS, "batch": 4, "lr": 1e-2, "warmup": 3, "save_every": 4, "ema": 0.9}


class Stopped(Exception):
    """A kill, as far as the loop can see it."""


def network() -> nn.Module:
    """With weights, and with buffers that change while training."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 2))


def step(model: nn.Module, number: int, rng: np.random.Generator, generator: torch.Generator) -> dict:
    """Draws from both generators, so that a resumed run must see the same numbers."""
    x = torch.randn(4, 5, generator=generator)
    y = torch.from_numpy(rng.normal(size=(4, 2)).astype(np.float32)) + x[:, :2]
    loss = (model(x) - y).square().mean()
    return {"loss": loss, "mse": loss}


def train(out: Path, resume: bool = True, step_fn=step, **changes) -> tuple[nn.Module, dict]:
    settings = StageSettings(**{**SETTINGS, **changes})
    return optimise("toy", network(), settings, step_fn, out, 11, resume, Accelerator(cpu=True))


def state(out: Path) -> dict:
    return torch.load(out / "toy.state.pt", weights_only=True)


def assert_same_training(first: dict, second: dict) -> None:
    """Bit-identical weights, average, optimiser state and step."""
    assert first["step"] == second["step"]
    assert first["log"]["examples"] == second["log"]["examples"]
    for part in ("network", "average"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items()), part
    moments = first["optimiser"]["state"]
    assert moments, "the optimiser has a state"
    for key, values in moments.items():
        assert all(torch.equal(value, second["optimiser"]["state"][key][name]) for name, value in values.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    return out, train(out)[0]


@pytest.mark.parametrize("killed_at", [0, 5, 8])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, whole, killed_at):
    seen = []

    def dying(model, number, *generators):
        if number == killed_at and not seen:
            seen.append(number)
            raise Stopped
        return step(model, number, *generators)

    with pytest.raises(Stopped):
        train(tmp_path, step_fn=dying)
    last = killed_at // 4 * 4
    assert (state(tmp_path)["step"] if last else (tmp_path / "toy.state.pt").exists()) == last
    average, log = train(tmp_path, step_fn=dying)
    assert_same_training(state(tmp_path), state(whole[0]))
    assert log["step"] == STEPS
    for mine, other in zip(average.state_dict().values(), whole[1].state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_a_run_stopped_by_the_clock_again_and_again_reaches_the_same_weights(tmp_path, whole):
    for number in range(1, STEPS):
        with pytest.raises(OutOfTime, match=f"at step {number}; run again"):
            train(tmp_path, minutes=1e-9, save_every=1000)
        assert state(tmp_path)["step"] == number
    _, log = train(tmp_path, minutes=1e-9, save_every=1000)
    assert log["step"] == STEPS, "the last step ends the stage, whatever the clock says"
    assert_same_training(state(tmp_path), state(whole[0]))


def test_a_finished_run_is_not_trained_further_and_a_fresh_one_starts_over(tmp_path, whole):
    train(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))
    train(tmp_path, step_fn=None)      # calling it would fail
    assert_same_training(state(tmp_path), state(whole[0]))
    train(tmp_path, resume=False, steps=5)
    assert state(tmp_path)["step"] == 5


def test_training_starts_from_the_weights_of_an_exported_checkpoint(tmp_path):
    file, given = tmp_path / "given.safetensors", network()
    nn.init.ones_(given[0].weight)
    save_model(file, {"toy": given}, {}, dtype=torch.float32)
    # One step at a learning rate of nothing: what comes out is what went in.
    trained, _ = train(tmp_path / "run", steps=1, lr=0.0, warmup=0, init=str(file))
    assert torch.equal(trained[0].weight, given[0].weight)
    assert torch.equal(trained[3].weight, given[3].weight)
    save_model(file, {"other": given}, {})
    with pytest.raises(InputError, match=r"toy\.init.*other"):
        train(tmp_path / "second", init=str(file))


def test_training_lowers_the_loss_and_validation_sees_the_average(tmp_path):
    shown = []

    def validate(model: nn.Module) -> dict[str, float]:
        shown.append(model)
        return {"answer": 42.0}

    settings = StageSettings(steps=200, batch=4, lr=1e-2, warmup=5, save_every=1000, ema=0.9)
    average, log = optimise("toy", network(), settings, step, tmp_path, 11, True, Accelerator(cpu=True), validate)
    assert [entry["step"] for entry in log["history"]] == [100, 200]
    assert log["history"][1]["loss"] < log["history"][0]["loss"]
    assert log["validation"] == {"answer": 42.0} and shown == [average]
    assert log["examples"] == 800
    assert not average.training and not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, value):
    def exploding(model, number, *generators):
        values = step(model, number, *generators)
        return {**values, "loss": values["loss"] * value} if number == 9 else values

    with pytest.raises(FloatingPointError, match=r"toy: the loss is (nan|inf) at step 9.*toy\.state\.pt.*toy\.lr"):
        train(tmp_path, step_fn=exploding)
    kept = state(tmp_path)
    assert kept["step"] == 8
    assert all(torch.isfinite(v).all() for v in kept["network"].values())
    train(tmp_path)
    assert state(tmp_path)["step"] == STEPS


class BreaksOff:
    """Fails while it is being written, after the tensors before it."""

    def __reduce__(self):
        raise OSError("no space left on device")


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "toy.state.pt"
    save_atomically({"value": torch.arange(5)}, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="no space"):
        save_atomically({"value": torch.ones(100_000), "end": BreaksOff()}, path)
    assert path.read_bytes() == before
    assert torch.equal(torch.load(path, weights_only=True)["value"], torch.arange(5))
    save_atomically({"value": torch.zeros(2)}, path)
    assert torch.equal(torch.load(path, weights_only=True)["value"], torch.zeros(2))
    assert [file.name for file in tmp_path.iterdir()] == ["toy.state.pt"]


def test_a_torn_file_of_a_killed_write_is_ignored(tmp_path, whole):
    with pytest.raises(OutOfTime):
        train(tmp_path, minutes=1e-9)
    torn = (tmp_path / "toy.state.pt").read_bytes()[:1000]
    (tmp_path / "toy.state.part").write_bytes(torn)
    train(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    settings = StageSettings(steps=1000, lr=2.0, lr_end=0.1, warmup=100)
    rates = [learning_rate(settings, number) for number in range(1000)]
    assert rates[0] == pytest.approx(0.02) and rates[99] == pytest.approx(2.0) == max(rates)
    assert np.allclose(np.diff(rates[:100]), 0.02)
    assert rates[550] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5)), "half way down the cosine"
    assert np.all(np.diff(rates[100:]) < 0) and rates[999] == pytest.approx(0.2, rel=1e-3)
    assert learning_rate(settings, 5000) == pytest.approx(0.2)


def test_settings_come_from_the_file_and_then_from_the_command(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("preset: mini\nseed: 5\ndenoiser: {steps: 7, dropout: 0.2}\n")
    settings = load_settings(file, ["denoiser.steps=9", "data=elsewhere", "stages=[aligner]"])
    assert isinstance(settings, Settings)
    assert (settings.seed, settings.data, settings.stages) == (5, "elsewhere", ["aligner"])
    assert (settings.denoiser.steps, settings.denoiser.dropout) == (9, 0.2)
    assert settings.autoencoder == Settings().autoencoder


@pytest.mark.parametrize(("text", "overrides", "named"), [
    ("denoiser: {stpes: 7}", [], "stpes"),
    ("optimizer: adam", [], "optimizer"),
    ("", ["aligner.first_stpes=3"], "first_stpes"),
    ("", ["denoiser.steps=many"], "many"),
    ("", ["stages=[autoencoder,refiner]"], "refiner"),
])
def test_settings_that_do_not_exist_are_refused_by_name(tmp_path, text, overrides, named):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=named):
        load_settings(file, overrides)


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load_settings(tmp_path / "nowhere.yaml", [])


def test_the_shipped_configuration_is_valid():
    file = Path(__file__).parents[2] / "training" / "configs" / "mini.yaml"
    assert load_settings(file, []).preset == "mini"
