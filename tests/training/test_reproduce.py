"""REPRODUCE.md: every command in it is one that its program takes, and stops only at what is not there."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "training" / "REPRODUCE.md"
PLACES = ("originals/", "data/", "weights/", "runs/", "pictures/")
"""Where the guide puts things: what a command misses lies in one of them."""


def commands() -> list[list[str]]:
    """Program and arguments of every command in the guide's blocks."""
    blocks = re.findall(r"^```\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert all(line.startswith("python training/") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command)[9:60])
def test_a_command_misses_nothing_but_its_data(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    program, *arguments = command
    module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
    assert module.main(arguments) == 2, "argparse would have raised SystemExit for an option that is none"
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "unknown" not in error
    assert any(place in error for place in PLACES), error


def test_every_table_and_figure_is_there():
    text = GUIDE.read_text(encoding="utf-8")
    for number in (1, 2, 3, 4):
        assert re.search(rf"^## .*Tables? .*{number}", text, re.MULTILINE)
    for number in range(2, 8):
        assert re.search(rf"^## .*Figures? .*{number}", text, re.MULTILINE)
    programs = {command[0] for command in commands()}
    assert {"training/figures.py", "training/study_reid.py", "training/study_perception.py"} <= programs


def test_the_hours_are_those_that_the_counts_give():
    """The table in the guide is what benchmarks/hours.py prints (of its smallest row)."""
    found = importlib.import_module("benchmarks.hours")
    row = next(line for line in GUIDE.read_text(encoding="utf-8").splitlines() if "Table 4: Market-1501 |" in line)
    assert row in found.table(found.PEAK, found.SHARE, rows=[found.ROWS[2]])
