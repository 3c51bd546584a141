"""`make bench`: a quick run through its entry point, and how rows are judged and shown."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"

# The budgets of section 7 of the design, by name.
DESIGN = (
    "local correlation and windowed attention",
    "whole aligner, N iterations",
    "cross-attention keys and values of the fixed context",
    "guided step / unguided step",
    "256×176 picture, paper preset, one denoiser pass",
    "a picture of the shipped model, all in",
    "ComfyUI's start with the pack / without",
    "make demo after installation",
    "make test after installation",
)


@pytest.fixture
def here(monkeypatch):
    """The scripts import each other by name, as they do when one of them is run."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[str, dict, str]:
    """What a quick run prints, its JSON and the README it rewrote."""
    folder = tmp_path_factory.mktemp("bench")
    readme = folder / "README.md"
    readme.write_text("above\n<!-- bench -->\nold table\n<!-- /bench -->\nbelow\n")
    run = subprocess.run(
        [sys.executable, FOLDER / "bench.py", "--quick", "--busy", "--out", folder / "bench.json", "--readme", readme],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout, json.loads((folder / "bench.json").read_text()), readme.read_text()


@pytest.mark.processes
def test_every_budget_of_the_design_has_a_row(quick):
    printed, report, _ = quick
    named = [row["design"] for row in report["rows"]]
    assert set(DESIGN) <= set(named)
    for design in DESIGN:
        assert any(row["budget"] for row in report["rows"] if row["design"] == design), design
        assert design in printed
    # one block a budget, growth last
    assert [d for i, d in enumerate(named) if i == 0 or named[i - 1] != d] == [
        *DESIGN,
        "training, each stage",
        "how cost grows",
    ]


@pytest.mark.processes
def test_every_stage_of_the_training_has_its_pictures_per_second_and_its_waiting_judged(quick):
    rows = {row["what"]: row for row in quick[1]["rows"] if row["design"].startswith("training")}
    for stage in ("vae", "estimator", "parser", "aligner", "layout", "reposedm", "decoder"):
        assert rows[f"{stage}: pictures per second"]["value"] > 0
        waiting = rows[f"{stage}: share of its time spent waiting for data"]
        assert 0 <= waiting["value"] <= 1 and waiting["budget"] == ["≤", 0.1]


@pytest.mark.processes
def test_json_has_the_machine_and_judged_rows(quick):
    _, report, _ = quick
    assert report["version"] == 1 and report["quick"] is True and report["clock"] == "processor"
    assert {"cpu", "cores", "threads", "ram_gib", "load", "torch", "device"} <= set(report["machine"])
    assert report["machine"]["torch"] == torch.__version__ and report["machine"]["threads"] == 1
    for row in report["rows"]:
        assert set(row) == {"design", "what", "value", "unit", "budget", "spread", "milliseconds", "note", "verdict"}
        measured, (sign, limit) = row["value"], row["budget"] or (None, 0)
        if measured is None:
            assert row["verdict"] == "not measured" and "--full" in row["note"]
        elif sign is None:
            assert row["verdict"] == "–"
        else:
            assert row["verdict"] == ("met" if (measured >= limit if sign == "≥" else measured <= limit) else "MISSED")
        if row["spread"]:
            assert row["spread"][0] <= measured <= row["spread"][1]
    assert report["missed"] == sum(row["verdict"] == "MISSED" for row in report["rows"])


@pytest.mark.processes
def test_a_picture_is_timed_and_operators_are_judged_in_a_training_step(quick):
    rows = {row["what"]: row for row in quick[1]["rows"]}
    (picture,) = (row for what, row in rows.items() if "one picture, all in" in what)
    assert picture["unit"] == "s" and 0 < picture["value"] < 60 and picture["budget"] == ["≤", 2]
    (step,) = (row for what, row in rows.items() if what.endswith("of the aligner alone: faster than with the loops"))
    assert step["value"] > 0 and set(step["milliseconds"]) == {"ours", "loops", "neither"}


@pytest.mark.processes
def test_counts_are_exact_whatever_the_machine(quick):
    _, report, _ = quick
    counts = {row["what"]: row["value"] for row in report["rows"] if row["unit"] == "calls"}
    assert len(counts) == 3 and set(counts.values()) == {1}  # the aligner, and the context over 4 and 16 steps
    memory = [row["value"] for row in report["rows"] if "peak memory, 64×44 / 32×22" in row["what"]]
    assert len(memory) == 2 and all(2 < value < 5 for value in memory)


@pytest.mark.processes
def test_the_table_names_what_is_missed_and_the_readme_gets_it(quick):
    printed, report, readme = quick
    assert report["date"] in printed and report["machine"]["cpu"] in printed and "QUICK" in printed
    lost = [row for row in report["rows"] if row["verdict"] == "MISSED"]
    assert printed.count("MISSED: ") == len(lost) and readme.count("**MISSED**") == len(lost)
    assert readme.startswith("above\n<!-- bench -->\n") and readme.endswith("\n<!-- /bench -->\nbelow\n")
    assert "old table" not in readme and "| budget of | what |" in readme


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("sign", "limit", "value", "verdict"),
    [
        ("≥", 5, 4.99, "MISSED"),
        ("≥", 5, 5, "met"),
        ("≤", 1, 1.01, "MISSED"),
        ("≤", 1, 1, "met"),
        ("≤", 1, math.nan, "MISSED"),
        ("≤", 1, None, "not measured"),
    ],
)
def test_judging(sign, limit, value, verdict):
    from table import Row, evaluate

    assert evaluate(Row("design", "what", value, budget=(sign, limit))) == verdict
    assert evaluate(Row("design", "what", value)) == ("not measured" if value is None else "–")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("strict", "code"), [([], 0), (["--strict"], 1)])
def test_an_impossible_budget_is_printed_as_missed(strict, code, tmp_path, capsys):
    import bench
    from table import Row

    def impossible(bench_):
        timings = bench_.compare("a product", {"a": lambda: torch.ones(8, 8) @ torch.ones(8, 8), "b": lambda: None})
        value, spread = timings.ratio("a", "b")
        yield Row("faster than nothing", "a product / nothing", value, budget=("≤", 1e-9), spread=spread)

    out = tmp_path / "deep" / "bench.json"
    assert bench.main(["--quick", "--out", str(out), *strict], [impossible]) == code
    printed = capsys.readouterr().out
    assert "0 of 1 budgets met" in printed and "MISSED: faster than nothing: a product / nothing" in printed
    assert json.loads(out.read_text())["missed"] == 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "text",
    ["no markers", "<!-- bench -->", "<!-- /bench --> <!-- bench -->", "<!-- bench --><!-- bench --><!-- /bench -->"],
)
def test_a_readme_without_its_markers_is_left_alone(text, tmp_path, capsys):
    import bench

    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert bench.main(["--quick", "--out", str(tmp_path / "b.json"), "--readme", str(readme)], []) == 2
    assert "<!-- bench -->" in capsys.readouterr().err and readme.read_text() == text


@pytest.mark.usefixtures("here")
def test_loops_are_the_equations_read_cell_by_cell():
    from operators import attention_loop, correlation_loop

    torch.manual_seed(0)
    (h, w), k, c = (3, 4), 3, 5
    target, source = torch.randn(2, 1, c, h, w, dtype=torch.float64)
    out = correlation_loop(target, source, k // 2)
    q, key, value = torch.randn(3, 1, 2, h * w, c, dtype=torch.float64)
    attended = attention_loop(q, key, value, (h, w), k)
    for y in range(h):
        for x in range(w):
            near = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            inside = [0 <= ny < h and 0 <= nx < w for ny, nx in near]
            want = [
                max(0.0, float(target[0, :, y, x] @ source[0, :, ny, nx]) / c**0.5) if ok else 0.0
                for (ny, nx), ok in zip(near, inside, strict=True)
            ]
            torch.testing.assert_close(out[0, :, y, x], torch.tensor(want, dtype=torch.float64))
            seen = [ny * w + nx for (ny, nx), ok in zip(near, inside, strict=True) if ok]
            for head in range(2):
                weights = (key[0, head, seen] @ q[0, head, y * w + x] / c**0.5).softmax(0)
                torch.testing.assert_close(attended[0, head, y * w + x], weights @ value[0, head, seen])


@pytest.mark.usefixtures("here")
def test_peak_memory_counts_what_is_held_at_once():
    from timing import peak_bytes

    mega = 2**20

    def two_then_one() -> torch.Tensor:
        a, b = torch.empty(mega, dtype=torch.uint8), torch.empty(2 * mega, dtype=torch.uint8)
        del a, b
        return torch.empty(mega, dtype=torch.uint8)

    assert peak_bytes(two_then_one, torch.device("cpu")) == pytest.approx(3 * mega, rel=0.01)


@pytest.mark.usefixtures("here")
def test_sides_take_turns_and_ratios_are_of_one_round():
    from timing import Effort, Timings

    order: list[str] = []
    Effort(seconds=0, rounds=9, least=1).compare(torch.device("cpu"), {s: lambda s=s: order.append(s) for s in "ab"})
    assert order == ["a", "b"] * 2  # a warm-up and one round
    timings = Timings({"a": [2.0, 40.0, 6.0], "b": [1.0, 10.0, 2.0]})
    assert timings.ratio("a", "b") == (3.0, (2.0, 4.0))
    assert timings.milliseconds() == {"a": 6000.0, "b": 2000.0}
