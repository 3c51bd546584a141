"""Two processes train to the weights of one with twice the batch: every stage, under accelerate launch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DynamoBackend
from safetensors.torch import load_file
from torch import nn

from tests.fixtures.launching import in_two_processes
from training import train
from training.engine.distributed import GlobalBatchNorm2d, open_accelerator, use_global_batch_norm
from training.train import CONFIGS

pytestmark = pytest.mark.processes

STAGES = ("vae", "estimator", "aligner", "reposedm")

ROUNDING = 1e-4
"""By how much weights may differ that were trained on the same examples, added up in another order.

Three steps of Adam at a learning rate of 1e-3 move a weight by 3e-3, and half of the batch in place of all of it
changes the weights of each stage by 5e-3 or more (measured). A gradient is off by some 2^-24 of what it is added up
from, and moves a weight by at most lr / eps = 10 times as much in a step; a network passes on and enlarges what its
weights are off by: 4e-6 in the worst case (measured over six steps: the aligner, whose iterations sample what the last
one has moved). The bound is a fiftieth of the steps, far from both. There are only three, for a value that rounding
takes across a ReLU's kink changes a gradient by much more: seen once, in the fourth step of the estimator.
"""


def settings(out: Path, data: Path, batch: int, stages: str, *more: str) -> list[str]:
    """A few steps, with weights that move by much more than what is compared."""
    each = [
        f"{stage}.{key}"
        for stage in STAGES
        for key in (
            "steps=3",
            f"batch={batch}",
            "warmup=0",
            "lr=1e-3",
            "lr_end=1",
            "eps=1e-4",
            "bf16=false",  # the bound is float32's
            "validate_every=0",
            "workers=0",
        )
    ]
    return [
        str(CONFIGS / "tiny.yaml"),
        f"data={data}",
        f"out={out}",
        f"stages=[{stages}]",
        "tracker=none",
        "threads=1",
        "aligner.first_steps=2",
        "reposedm.pairs=6",
        *each,
        *more,
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, figures) -> tuple[Path, Path]:
    """Folders of the same training in one process and in two; both denoisers train on the same latents."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    assert train.main(settings(one, figures, 4, ",".join(STAGES))) == 0
    in_two_processes("train.py", *settings(two, figures, 2, "vae,estimator,aligner"))
    in_two_processes("train.py", *settings(two / "reposedm", figures, 2, "reposedm", f"parts={one}"))
    for path in (two / "reposedm").glob("reposedm*"):
        path.rename(two / path.name)
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_to_the_weights_of_one_with_twice_the_batch(runs, stage):
    one, two = (load_file(folder / f"{stage}.safetensors") for folder in runs)
    states = [torch.load(folder / f"{stage}.state.pt", weights_only=True) for folder in runs]
    assert states[0]["log"]["examples"] == states[1]["log"]["examples"] == 12
    for mine, other in ((two, one), (states[1]["network"], states[0]["network"])):
        assert mine.keys() == other.keys()
        worst = {key: float((value.double() - other[key].double()).abs().max()) for key, value in mine.items()}
        assert max(worst.values()) < ROUNDING, {key: value for key, value in worst.items() if value > ROUNDING}
    moved = max(
        float((value - states[0]["average"][key]).abs().max())
        for key, value in states[0]["network"].items()
        if value.is_floating_point()
    )
    assert moved > 1e-4, "the weights have moved"
    logs = [state["log"]["history"][-1] for state in states]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-5), "what is logged is the mean of both"


@pytest.mark.slow
def test_only_the_first_process_writes(runs):
    assert {file.name for file in runs[1].iterdir()} >= {"vae.safetensors", "reposedm-tiny.safetensors"}
    assert not list(runs[1].glob("*.part"))
    assert json.loads((runs[1] / "vae.json").read_text())["examples"] == 12


def test_what_accelerate_was_configured_to_does_not_mix_in(monkeypatch, tmp_path):
    """Its launcher hands its own configuration on by the environment; a scaled loss or fp16 would change it."""
    for name, value in (
        ("MIXED_PRECISION", "bf16"),
        ("GRADIENT_ACCUMULATION_STEPS", "4"),
        ("DYNAMO_BACKEND", "INDUCTOR"),
    ):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        accelerator = open_accelerator(True, ["none"], tmp_path)
        assert accelerator.mixed_precision == "no" and accelerator.gradient_accumulation_steps == 1
        assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def test_global_batch_norm_is_batch_norm_in_one_process():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.BatchNorm2d(4))
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), inner)
    x, state = torch.randn(5, 3, 6, 6), {key: value.clone() for key, value in plain.state_dict().items()}
    expected = plain(x)
    after = {key: value.clone() for key, value in plain.state_dict().items()}
    plain.load_state_dict(state)
    use_global_batch_norm(plain)
    assert type(plain[1]) is type(plain[2][0]) is GlobalBatchNorm2d
    assert torch.equal(plain(x), expected)
    assert all(torch.equal(value, after[key]) for key, value in plain.state_dict().items())
