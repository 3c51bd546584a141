"""`bf16: auto`: the quicker precision is taken, told and kept, and timing it changes nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from training.engine.loop import train
from training.engine.signals import Stopped
from training.engine.state import save_atomically
from workflows.comfy_server import free_port

from .test_loop import STEPS, Toy, assert_same_training, state, toy

NAMES = {False: "float32", True: "bfloat16"}
PRECISIONS = pytest.mark.parametrize("quick", NAMES, ids=NAMES.values())


class Uneven(Toy):
    """A stage with work that only one of the precisions has to do, as if the processor did not know it."""

    slow, work = None, 10

    def loss(self, model, batch, step):
        if torch.is_autocast_enabled("cpu") == self.slow:
            matrix = torch.ones(500, 500, dtype=torch.float64)
            for _ in range(self.work):
                matrix = matrix @ matrix / 500
        return super().loss(model, batch, step)


def uneven(out: Path, quick: bool | None, **changes) -> Uneven:
    stage = toy(out, Uneven, **changes)
    stage.slow = None if quick is None else not quick
    return stage


def run(out: Path, quick: bool | None, **changes) -> dict:
    """The log of a run on a machine where one precision is quicker."""
    return train(uneven(out, quick, **{"bf16": "auto", **changes}), out, 11, Accelerator(cpu=True))[1]


@PRECISIONS
def test_the_quicker_one_is_taken_and_told_and_no_weight_knows_of_the_trial(tmp_path, quick, capsys):
    log = run(tmp_path / "auto", quick)
    told = re.search(
        rf"toy is trained in {NAMES[quick]}, the quicker one here: bfloat16 is (\S+) times as fast",
        capsys.readouterr().out,
    )
    seconds = log["precision"]
    assert seconds["chosen"] == NAMES[quick] and seconds[NAMES[quick]] < seconds[NAMES[not quick]]
    assert float(told[1]) == pytest.approx(seconds["float32"] / seconds["bfloat16"], rel=0.02), "three digits are kept"
    run(tmp_path / "given", None, bf16=quick)
    assert "trained in" not in capsys.readouterr().out
    assert_same_training(state(tmp_path / "auto"), state(tmp_path / "given"))


@PRECISIONS
def test_a_run_that_goes_on_keeps_its_precision_on_whatever_machine(tmp_path, quick, capsys):
    for _ in range(2):
        with pytest.raises(Stopped):
            run(tmp_path, quick, minutes=1e-9)
    log = run(tmp_path, not quick)
    assert capsys.readouterr().out.count("is trained in") == 1 and log["precision"]["chosen"] == NAMES[quick]
    assert "changes" not in log and log["step"] == STEPS
    run(tmp_path, not quick)
    assert "settings" not in capsys.readouterr().out, "a finished stage is as it was made"
    run(tmp_path / "whole", None, bf16=quick)
    assert_same_training(state(tmp_path), state(tmp_path / "whole"))


@PRECISIONS
def test_a_run_that_was_begun_with_a_given_precision_keeps_it(tmp_path, quick, capsys):
    with pytest.raises(Stopped):
        run(tmp_path, None, bf16=quick, minutes=1e-9)
    with pytest.raises(Stopped):
        run(tmp_path, not quick, minutes=1e-9)
    printed = capsys.readouterr().out
    assert "is trained in" not in printed and "other settings" not in printed
    run(tmp_path, None, bf16=not quick)
    assert f"bf16: {quick} → {not quick}" in capsys.readouterr().out


def test_a_state_that_does_not_tell_its_precision_is_timed(tmp_path, capsys):
    with pytest.raises(Stopped):
        run(tmp_path, None, bf16=False, minutes=1e-9)
    save_atomically({**state(tmp_path), "made_of": None}, tmp_path / "toy.state.pt")
    assert run(tmp_path, True)["precision"]["chosen"] == "bfloat16"


def test_nothing_to_train_is_not_timed(tmp_path, capsys):
    assert "precision" not in run(tmp_path, True, steps=0)
    assert "is trained in" not in capsys.readouterr().out


def one_of_two(rank: int, out: Path, port: int) -> None:
    """A training process to which bfloat16 is a little slow, and another to which float32 is very slow."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        CUDA_VISIBLE_DEVICES="",
    )
    torch.set_num_threads(1)
    stage = uneven(out, rank == 1, batch=2, bf16="auto")
    stage.work = (2, 20)[rank]
    _, log = train(stage, out, 11, Accelerator(cpu=True))
    save_atomically(log, out / f"{rank}.pt")


def test_all_processes_take_the_same(tmp_path, processes, capfd):
    port = free_port()
    both = [processes.start(one_of_two, rank, tmp_path, port) for rank in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0], capfd.readouterr().err
    logs = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert logs[0]["precision"] == logs[1]["precision"] and logs[0]["precision"]["chosen"] == "bfloat16"
    assert capfd.readouterr().out.count("is trained in") == 1
