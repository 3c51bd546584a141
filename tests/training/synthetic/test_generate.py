"""Making synthetic people as a command: killed, out of room, asked for every option."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("anny", reason="the synthetic people need anny")

from reposedm_core.errors import InputError
from tests.fixtures.waiting import until
from training import generate as command
from training.data.row_files import RowFiles
from training.synthetic import generate

SMALL = {"identities": 30, "poses": 2, "seed": 4, "height": 48, "width": 32}
COMMAND = [sys.executable, command.__file__, "--workers", "2"]


def _options(out: Path, **arguments: object) -> list[str]:
    words = [str(word) for name, value in arguments.items() for word in ("--" + name.replace("_", "-"), value)]
    return [*COMMAND, "--out", str(out), *words]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    generate.generate(out, **SMALL, workers=1)
    return out


def _finished(folder: Path) -> int:
    """Rows that a reader would take; 0 before there is a file."""
    return int(np.load(folder / "done.npy").sum()) if (folder / "done.npy").exists() else 0


def _killed(out: Path) -> np.ndarray:
    """Start a run and kill it once rows are finished; which ones are. Its workers notice, and end by themselves."""
    run = subprocess.Popen(_options(out, **SMALL), stderr=subprocess.DEVNULL, start_new_session=True)
    until(lambda: _finished(out), run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: not _is_there(run.pid))
    return np.load(out / "done.npy") == 1


def _is_there(session: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, 0)
        return True
    return False


@pytest.mark.processes
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    while (done := _killed(tmp_path)).all():  # before the kill came: on a busy machine it may be late
        shutil.rmtree(tmp_path)
    before = np.load(tmp_path / "pictures.npy")
    assert np.array_equal(before[done], np.load(whole / "pictures.npy")[done])
    generate.generate(tmp_path, **SMALL, workers=1)
    assert _bytes(tmp_path) == _bytes(whole)


def test_a_disk_that_refuses_keeps_what_is_finished(whole: Path, tmp_path: Path) -> None:
    """The files are there, then the system lets them be written only up to a size: the first people fit."""
    arguments = generate.Arguments(**SMALL)
    generate.describe(tmp_path, arguments)
    RowFiles(tmp_path, generate.layout(arguments)).close()
    limit = 10 * 2 * 48 * 32 * 3 + 128
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(InputError, match=r"could not be written \(File too large\).* run the same"):
            generate.generate(tmp_path, **SMALL, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.load(tmp_path / "done.npy").tolist() == [1] * 20 + [0] * 40
    generate.generate(tmp_path, **SMALL, workers=1)
    assert _bytes(tmp_path) == _bytes(whole)


def test_a_set_larger_than_the_disk_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"GB in .* are free"):
        generate.generate(tmp_path, **{**SMALL, "identities": 10**9}, workers=1)
    assert not list(tmp_path.glob("*.npy"))


def test_a_file_of_another_shape_is_refused(whole: Path) -> None:
    layout = generate.layout(generate.Arguments(**SMALL))
    with pytest.raises(InputError, match=r"joints\.npy holds float32"):
        RowFiles(whole, {**layout, "joints": ((60, 18, 3), "float32")})


@pytest.mark.parametrize(
    "wrong",
    [{"identities": 0}, {"poses": 0}, {"height": 47}, {"width": 8}, {"cell": 0}, {"cell": 3}, {"second_person": 1.5},
     {"seed": -1}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused_by_name(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        generate.generate(tmp_path, **{**SMALL, **wrong}, workers=1)


def test_the_command_with_every_option_writes_card_and_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**SMALL, "identities": 2, "second_person": 1, "sheet": tmp_path / "people.png", "workers": 1}
    monkeypatch.setattr(sys, "argv", [*_options(tmp_path / "set", **options)[1:], "--correspondence"])
    command.main()
    assert (tmp_path / "people.png").stat().st_size > 1000
    card = (tmp_path / "set" / "README.md").read_text()
    options = "--identities 2 --poses 2 --seed 4 --height 48 --width 32 --correspondence --second-person 1.0 --cell 4"
    assert f"python training/generate.py {options} --out FOLDER" in card
    assert "| val | 1 | 2 |" in card and "| test | 1 | 2 |" in card and "| train | 0 | 0 |" in card
    assert "| second person | in 100.0% of the pictures |" in card
    for name in generate.layout(generate.Arguments(**SMALL, correspondence=True, second_person=1)):
        assert f"| `{name}.npy` | `" in card


def test_the_command_tells_a_user_error_in_one_line(whole: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", _options(whole, **{**SMALL, "seed": 5})[1:])
    with pytest.raises(SystemExit):
        command.main()
    assert capsys.readouterr().err.splitlines()[-1].endswith("give another --out or the same arguments.")
