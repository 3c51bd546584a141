"""`make gpu-check`: a dry run on the CPU, what it says is missing, and, where there is a GPU, the check itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def check(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(FOLDER)
    import gpu_check

    return gpu_check


@pytest.fixture
def checks(check):
    """The checks of a dry run, with torch's settings as they were afterwards."""
    import gpu_checks

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield gpu_checks.Checks(torch.device("cpu"), tiny=True, compiles=False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def later():
    return time.monotonic() + 600


def test_every_network_is_tried_in_three_precisions(checks, later):
    lines = list(checks.precisions(later))
    assert all(good for _, good in lines), [line for line, good in lines if not good]
    tried = {tuple(line.split()[:3]) for line, _ in lines}
    parts = {"mini": 4, "deepfashion-256x176": 5}
    assert len(tried) == len(lines) == 3 * sum(parts.values())
    assert {precision for _, _, precision in tried} == {"float32", "float16", "bfloat16"}
    off = {tuple(line.split()[:3]): float(line.split()[-1]) for line, _ in lines}
    assert all(value == 0 for (_, _, precision), value in off.items() if precision == "float32")
    assert all(value > 1e-5 for (_, _, precision), value in off.items() if precision != "float32"), "they do something"


def test_a_network_that_is_wrong_is_said_to_be(checks, later, monkeypatch):
    import gpu_checks

    class Wrong(gpu_checks.PARTS["estimator"]):
        def forward(self, picture):
            found = super().forward(picture)
            return found._replace(features=found.features * (1 if picture.dtype == torch.float32 else 2))

    monkeypatch.setitem(gpu_checks.PARTS, "estimator", Wrong)
    failed = [line.split()[1:3] for line, good in checks.precisions(later) if not good]
    assert failed == [["estimator", "float16"], ["estimator", "bfloat16"]] * 2


def test_windows_by_flex_attention_are_tried_in_two_precisions(checks, later, monkeypatch):
    import gpu_compilers

    lines = list(gpu_compilers.windows(checks, later))
    assert all(good for _, good in lines) and len(lines) == 2
    off = [float(line.split()[-1]) for line, _ in lines]
    assert off[0] < 1e-6 < off[1] < 1e-2, "bfloat16 is coarse, and the two do not round alike"
    monkeypatch.setattr(gpu_compilers, "tiled_attention", lambda q, k, v, size, kernel: v)
    assert not any(good for _, good in gpu_compilers.windows(checks, later))


def test_a_compiled_pass_is_one_graph_and_gives_the_same(checks, later, monkeypatch):
    """By torch's compiler without its last part, which writes the code: that needs one for C++, and a minute."""
    import gpu_compilers

    checks.compiles, checks.backend = True, "aot_eager"
    lines = list(gpu_compilers.compiling(checks, later))
    assert len(lines) == 1 and lines[0][1] and "1 graph(s)" in lines[0][0]
    assert checks.ratios["compiled / eager, a pass of the denoiser in sampling, mini-256, float32"] > 0
    use = checks.uses(checks.config("mini-256"))["denoiser"]
    broken = {"denoiser": lambda network, given: use(network, given) * (1 + hasattr(network, "_orig_mod"))}
    monkeypatch.setattr(checks, "uses", lambda config: broken)
    assert not next(gpu_compilers.compiling(checks, later))[1]


def test_a_training_step_of_each_network_and_the_ratio_of_the_field(checks, later):
    lines = list(checks.training(later))
    assert all(good for _, good in lines) and len(lines) == 4
    assert checks.ratios["training example with the field / without"] > 0


def test_without_diffusers_the_rest_runs_and_what_is_missing_is_said(check, later, capsys, monkeypatch):
    found = check.lacking(lambda name: None if name in ("diffusers", "einops") else name)
    assert found == (["einops"], ["diffusers"])
    monkeypatch.setattr(check, "lacking", lambda: found)
    assert check.main(["--device", "cpu", "--tiny"]) == 2
    printed = capsys.readouterr().out
    assert "missing: einops: nothing can be checked" in printed and "missing: diffusers: left out: the deno" in printed
    import gpu_checks

    without = gpu_checks.Checks(torch.device("cpu"), tiny=True, whole=False, compiles=False)
    assert {line.split()[1] for line, _ in without.precisions(later)} == {"estimator", "aligner"}
    assert not list(without.sampling(later)) and len(list(without.training(later))) == 2


def test_what_is_not_begun_in_time_is_left_out(check, capsys):
    assert check.main(["--device", "cpu", "--tiny", "--no-compile", "--minutes", "0"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("left out, 0 minutes are over") == 6 and "TINY: no number counts" in printed


def test_only_what_is_asked_for_is_tried(check, capsys):
    assert check.main(["--device", "cpu", "--tiny", "--no-compile", "--only", "training"]) == 0
    printed = capsys.readouterr().out
    assert "one training step of each network" in printed and "table" in printed
    assert "in float32" not in printed and "flex_attention" not in printed
    with pytest.raises(SystemExit):
        check.main(["--only", "everything"])


def test_a_device_that_is_not_there_is_named(check, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check.main([]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpu_does_what_the_cpu_does(check, capsys):
    assert check.main([]) == 0, capsys.readouterr().out
