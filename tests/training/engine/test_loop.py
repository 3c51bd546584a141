"""The optimisation loop: resumed runs, lost runs, accumulated batches, what is logged."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from reposedm_core.checkpoint import save_model
from reposedm_core.errors import InputError
from tests.fixtures.waiting import until
from training.engine import loop
from training.engine.loader import Steps
from training.engine.loop import learning_rate, train
from training.engine.settings import StageSettings
from training.engine.signals import Interrupted, Interrupts, Stopped
from training.engine.stage import Stage
from training.engine.state import save_atomically

STEPS = 12
SETTINGS = {"steps": STEPS, "batch": 4, "lr": 1e-2, "warmup": 3, "save_every": 4, "ema": 0.9, "workers": 0}


class Killed(BaseException):
    """A kill, as far as the loop can see it."""


class Toy(Stage):
    """Weights, buffers that change while training, dropout, and random choices of both kinds in the plan."""

    name, part = "toy", "toy"
    fails = None  # called as fails(step) before each loss

    def build(self):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.2), nn.Linear(7, 2))

    def plan(self, rng, count):
        return {"x": torch.from_numpy(rng.standard_normal((count, 5), np.float32)), "seed": rng.integers(0, 99, count)}

    def load(self, plan):
        noise = np.stack([np.random.default_rng(seed).normal(size=2) for seed in plan["seed"]]).astype(np.float32)
        return {"x": plan["x"], "y": torch.from_numpy(0.2 * noise) + plan["x"][:, :2]}

    def loss(self, model, batch, step):
        factor = self.fails(step) if self.fails else 1.0
        loss = (model(batch["x"]) - batch["y"]).square().mean()
        return {"loss": loss * factor, "mse": loss, **({"late": 0 * loss + 3} if step >= 3 else {})}


def toy(out: Path, kind: type[Stage] = Toy, fails=None, **changes) -> Stage:
    stage = kind(None, StageSettings(**{**SETTINGS, **changes}), out, out, {}, torch.device("cpu"))
    stage.fails = fails
    return stage


def run(out: Path, kind: type[Stage] = Toy, resume: bool = True, fails=None, **changes):
    return train(toy(out, kind, fails, **changes), out, 11, Accelerator(cpu=True), resume)


def state(out: Path) -> dict:
    return torch.load(out / "toy.state.pt", weights_only=True)


def assert_same_training(first: dict, second: dict) -> None:
    """Bit-identical weights, average, optimiser state and step."""
    assert first["step"] == second["step"] and first["log"]["examples"] == second["log"]["examples"]
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
    return out, run(out)[0]


@pytest.mark.parametrize("killed_at", [0, 5, 8])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, whole, killed_at):
    def dying(step):
        if step == killed_at:
            raise Killed
        return 1.0

    with pytest.raises(Killed):
        run(tmp_path, fails=dying)
    last = killed_at // 4 * 4
    assert (state(tmp_path)["step"] if last else (tmp_path / "toy.state.pt").exists()) == last
    torch.manual_seed(99)  # nothing depends on what the new process has drawn before
    average, log = run(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))
    assert log["step"] == STEPS
    for mine, other in zip(average.state_dict().values(), whole[1].state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_a_run_stopped_by_the_clock_again_and_again_reaches_the_same_weights(tmp_path, whole):
    for number in range(1, STEPS):
        with pytest.raises(Stopped, match=f"at step {number}, .* again to go on"):
            run(tmp_path, minutes=1e-9, save_every=1000)
        assert state(tmp_path)["step"] == number
    _, log = run(tmp_path, minutes=1e-9, save_every=1000)
    assert log["step"] == STEPS, "the last step ends the stage, whatever the clock says"
    assert_same_training(state(tmp_path), state(whole[0]))


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_with_its_state_saved(tmp_path, whole, number):
    before = signal.getsignal(number)

    def interrupted(step):
        if step == 6:
            os.kill(os.getpid(), number)
        return 1.0

    with pytest.raises(Stopped, match="interrupted at step 7, its state is saved; run the same command") as stopped:
        run(tmp_path, fails=interrupted)
    assert stopped.value.number == number and state(tmp_path)["step"] == 7
    assert signal.getsignal(number) is before
    run(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))


@pytest.mark.processes
def test_a_second_interrupt_does_not_wait(tmp_path):
    def impatient(step):
        if step == 5:
            noted = signal.getsignal(signal.SIGINT).__self__
            # Two that come before Python looks at the first are one.
            signal.raise_signal(signal.SIGINT)
            until(lambda: noted.number)
            signal.raise_signal(signal.SIGINT)
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, fails=impatient)
    assert state(tmp_path)["step"] == 4


@pytest.mark.processes
def test_a_signal_in_the_last_step_is_not_lost(tmp_path):
    def interrupted(step):
        if step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    with pytest.raises(Interrupted) as stopped, Interrupts(at_once=True):
        run(tmp_path, fails=interrupted)
    assert stopped.value.number == signal.SIGTERM and state(tmp_path)["step"] == STEPS


def test_a_finished_run_is_not_trained_further_and_a_fresh_one_starts_over(tmp_path, whole):
    def never(step):
        raise AssertionError(step)

    run(tmp_path)
    run(tmp_path, fails=never)
    assert_same_training(state(tmp_path), state(whole[0]))
    run(tmp_path, resume=False, steps=5)
    assert state(tmp_path)["step"] == 5


def test_no_steps_keep_the_first_weights(tmp_path):
    network, log = run(tmp_path, steps=0)
    assert log["step"] == 0 and torch.equal(network[0].weight, toy(tmp_path).build()[0].weight)


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(tmp_path, whole, workers):
    run(tmp_path, workers=workers)
    assert_same_training(state(tmp_path), state(whole[0]))


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Without batch norm and dropout, which see one batch at a time."""

    class Plain(Toy):
        def build(self):
            torch.manual_seed(3)
            return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))

    large, _ = run(tmp_path / "large", Plain, batch=12)
    small, log = run(tmp_path / "small", Plain, batch=4, accumulate=3)
    for mine, other in zip(small.state_dict().values(), large.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert log["examples"] == 12 * STEPS


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_shares_of_all_processes_are_the_batch_of_one(tmp_path, world):
    whole = Steps(toy(tmp_path, batch=8), StageSettings(steps=3, batch=8), 5)
    shares = [Steps(toy(tmp_path), StageSettings(steps=3, batch=8 // world), 5, rank, world) for rank in range(world)]
    for step in range(3):
        together = [share[step][0] for share in shares]
        assert torch.equal(torch.cat([batch["y"] for batch in together]), whole[step][0]["y"])
        assert shares[0].examples == whole.examples == 8
    assert not torch.equal(whole[0][0]["x"], whole[1][0]["x"])


def test_training_starts_from_the_weights_of_an_exported_checkpoint(tmp_path):
    file, given = tmp_path / "given.safetensors", toy(tmp_path).build()
    nn.init.ones_(given[0].weight)
    save_model(file, {"toy": given}, {}, dtype=torch.float32)
    # One step at a learning rate of nothing: what comes out is what went in.
    trained, _ = run(tmp_path / "run", steps=1, lr=0.0, warmup=0, init=str(file))
    assert torch.equal(trained[0].weight, given[0].weight)
    assert torch.equal(trained[4].weight, given[4].weight)
    save_model(file, {"other": given}, {})
    with pytest.raises(InputError, match=r"toy\.init.*other"):
        run(tmp_path / "second", init=str(file))


def test_other_settings_than_before_are_reported_and_kept_in_the_log(tmp_path, capsys):
    with pytest.raises(Stopped):
        run(tmp_path, minutes=1e-9)
    _, log = run(tmp_path, lr=2e-2, batch=2, accumulate=2, save_every=3)
    assert "toy goes on from step 1 with other settings" in capsys.readouterr().out
    assert log["changes"] == [{"step": 1, "changed": ["lr: 0.01 → 0.02"]}], "the same examples a step"


def test_a_finished_stage_that_does_not_fit_is_reported(tmp_path, capsys):
    """A denoiser that was trained on the latents of another autoencoder, say."""
    run(tmp_path)
    run(tmp_path)
    assert "is finished" not in capsys.readouterr().out
    stage = toy(tmp_path)
    stage.networks = {"other": nn.Linear(2, 2)}
    _, log = train(stage, tmp_path, 12, Accelerator(cpu=True))
    told = capsys.readouterr().out
    assert "toy is finished, and was made by other settings" in told and "resume=false" in told
    assert "seed: 11 → 12" in told and "finished other: nothing → " in told
    assert log["changes"][0]["step"] == STEPS


def test_validation_and_sheets_come_while_it_trains_and_see_the_average(tmp_path):
    shown = []

    class Watched(Toy):
        def validate(self, network):
            shown.append(network)
            return {"answer": float(len(shown))}

        def sheet(self, network):
            return Image.new("RGB", (8, 6), "red")

    average, log = run(tmp_path, Watched, steps=10, validate_every=4, log_every=5)
    assert [entry["step"] for entry in log["history"]] == [5, 10]
    assert {"loss", "mse", "pictures_per_second", "waiting"} < set(log["history"][0])
    assert log["history"][0]["late"] == 3, "the mean of the steps that gave it"
    assert log["validations"] == [{"step": s, "answer": n} for s, n in ((4, 1.0), (8, 2.0), (10, 3.0))]
    assert log["validation"] == {"answer": 3.0} and all(network is average for network in shown)
    assert log["examples"] == 40
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    assert sorted(file.name for file in (tmp_path / "samples").iterdir()) == [
        f"toy-00000{step}.jpg" for step in ("04", "08", "10")
    ]
    curves = Image.open(tmp_path / "toy.png")
    assert curves.width > 400 and len(np.unique(np.asarray(curves.convert("L")))) > 10
    json.dumps(log)


def test_training_lowers_the_loss(tmp_path):
    _, log = run(tmp_path, steps=200, warmup=5, save_every=1000)
    assert log["history"][1]["loss"] < log["history"][0]["loss"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, whole, value):
    with pytest.raises(FloatingPointError, match=r"toy: the loss is (nan|inf) at step 9.*toy\.state\.pt.*toy\.lr"):
        run(tmp_path, fails=lambda step: value if step == 9 else 1.0)
    kept = state(tmp_path)
    assert kept["step"] == 8
    assert all(torch.isfinite(v).all() for v in kept["network"].values())
    run(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))


def test_a_gradient_that_is_no_number_is_not_applied(tmp_path):
    class Steep(Toy):
        def loss(self, model, batch, step):
            values = super().loss(model, batch, step)
            root = (values["loss"] - values["loss"].detach()).abs().sqrt()  # 0, and its slope is not
            return {**values, "loss": values["loss"] + root} if step == 5 else values

    with pytest.raises(FloatingPointError, match=r"its gradient is (nan|inf) at step 5"):
        run(tmp_path, Steep)
    assert state(tmp_path)["step"] == 4


# -- the disk


@pytest.fixture
def full_disk():
    """From its call on no file may grow beyond so many bytes: writes fail half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path, whole, full_disk):
    def filling(step):
        if step == 6:
            full_disk(3000)
        return 1.0

    with pytest.raises(
        InputError,
        match=r"toy\.state\.pt could not be written \(File too large\); the previous file "
        r"is intact\. Make room, .*same command",
    ):
        run(tmp_path, fails=filling)
    assert state(tmp_path)["step"] == 4
    assert not list(tmp_path.glob("*.part"))
    full_disk(resource.RLIM_INFINITY)
    run(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))


def test_a_disk_that_is_full_at_a_validation_is_told(tmp_path, whole, full_disk):
    class Watched(Toy):
        def sheet(self, network):
            full_disk(3000)
            return Image.effect_noise((300, 300), 90)

    with pytest.raises(InputError, match=r"toy-0000006\.jpg could not be written.*Make room, or"):
        run(tmp_path, Watched, validate_every=6)
    full_disk(resource.RLIM_INFINITY)
    assert state(tmp_path)["step"] == 4
    run(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))


def test_a_torn_file_of_a_killed_write_is_ignored(tmp_path, whole):
    with pytest.raises(Stopped):
        run(tmp_path, minutes=1e-9)
    torn = (tmp_path / "toy.state.pt").read_bytes()[:1000]
    (tmp_path / "toy.state.pt.part").write_bytes(torn)
    run(tmp_path)
    assert_same_training(state(tmp_path), state(whole[0]))


def test_a_checkpoint_is_replaced_whole_and_on_the_disk_before_it_is_named(tmp_path, monkeypatch):
    path, calls = tmp_path / "toy.state.pt", []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a))[1])
    save_atomically({"value": torch.arange(5)}, path)
    assert calls == ["fsync", "replace", "fsync"], "the file, its name, the folder that has the name"
    assert torch.equal(torch.load(path, weights_only=True)["value"], torch.arange(5))
    assert [file.name for file in tmp_path.iterdir()] == ["toy.state.pt"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no state"])
def test_a_damaged_state_is_named(tmp_path, damage):
    path = tmp_path / "toy.state.pt"
    with pytest.raises(Stopped):
        run(tmp_path, minutes=1e-9)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"toy\.state\.pt cannot be read.*resume=false"):
        run(tmp_path)
    run(tmp_path, resume=False)


def test_a_state_of_another_network_is_refused(tmp_path):
    class Wider(Toy):
        def build(self):
            return nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 2))

    run(tmp_path)
    with pytest.raises(InputError, match=r"toy\.state\.pt \(give another out=, or resume=false\) does not fit"):
        run(tmp_path, Wider)


@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_cannot_be_read_is_named_and_the_last_checkpoint_kept(tmp_path, workers):
    class Torn(Toy):
        def load(self, plan):
            if plan["x"].sum() == torn["x"].sum():
                raise OSError("bad sector")
            return super().load(plan)

    torn = Steps(toy(tmp_path), StageSettings(**SETTINGS), 11).plan(6)
    before = set(multiprocessing.active_children())
    with pytest.raises(InputError, match=r"^toy: an example of step 6 cannot be read \(OSError: bad sector\)") as error:
        run(tmp_path, Torn, workers=workers)
    assert state(tmp_path)["step"] == 4
    assert set(multiprocessing.active_children()) <= before, f"{error} keeps no worker alive"


# -- small things


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    settings = StageSettings(steps=1000, lr=2.0, lr_end=0.1, warmup=100)
    rates = [learning_rate(settings, number) for number in range(1000)]
    assert rates[0] == pytest.approx(0.02) and rates[99] == pytest.approx(2.0) == max(rates)
    assert np.allclose(np.diff(rates[:100]), 0.02)
    assert rates[550] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5)), "half way down the cosine"
    assert np.all(np.diff(rates[100:]) < 0) and rates[999] == pytest.approx(0.2, rel=1e-3)
    assert learning_rate(settings, 5000) == pytest.approx(0.2)


def test_settings_without_influence_are_settings():
    assert set(loop.MAY_CHANGE_ON_RESUME) <= set(asdict(StageSettings()))


def test_a_network_that_cannot_compute_activations_again_is_named(tmp_path):
    with pytest.raises(InputError, match=r"toy\.checkpointing: the toy cannot"):
        run(tmp_path, checkpointing=True)
