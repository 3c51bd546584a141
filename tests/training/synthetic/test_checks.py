"""Every check of the synthetic people passes on a small set, and fails on the same set spoiled in its own way."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("anny", reason="the synthetic people need anny")

from reposedm_core.errors import InputError
from training.synthetic import checks, generate

SIZE = {"identities": 3, "poses": 3, "seed": 3, "correspondence": True, "second_person": 0.4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people")
    generate.generate(out, **SIZE, workers=1)
    return out


@pytest.fixture
def spoil(folder: Path, tmp_path: Path) -> Callable[..., checks.PeopleSet]:
    """Give the set with arrays changed: spoil(name=function of the writable array)."""

    def spoiled(**changes: Callable[[np.ndarray], None]) -> checks.PeopleSet:
        shutil.copytree(folder, tmp_path / "set")
        for name, change in changes.items():
            array = np.lib.format.open_memmap(tmp_path / "set" / f"{name}.npy", mode="r+")
            change(array)
            array.flush()
        return checks.PeopleSet(tmp_path / "set")

    return spoiled


def test_a_fresh_set_passes(folder: Path) -> None:
    found = checks.run_checks(folder)
    assert len(found) == 8
    assert [check for check in found if not check.passed] == []


def test_there_is_a_second_person_in_the_set_that_passes(folder: Path) -> None:
    assert (np.load(folder / "masks.npy") == 2).any()


def _set(index: object, value: object) -> Callable[[np.ndarray], None]:
    return lambda array: array.__setitem__(index, value)


SPOILED = {
    "an unfinished row": (checks.check_whole, {"done": _set(4, 0)}),
    "a row of somebody else": (checks.check_whole, {"identity": _set(4, 2)}),
    "an identity in two splits": (checks.check_split, {"split": _set(8, 2)}),
    "an identity in the wrong split": (checks.check_split, {"split": _set(slice(0, 3), 0)}),
    "a blank picture": (checks.check_pictures, {"pictures": _set(5, 127)}),
    "nobody in a picture": (checks.check_pictures, {"masks": _set(2, 0)}),
    "a visible joint beside the person": (checks.check_masks, {"joints": _set((slice(None), 5), (1, 1, 2))}),
    "a garment beside the person": (checks.check_masks, {"garments": _set((1, 0, 0), 3)}),
    "a joint a tenth of a pixel off": (checks.check_projection, {"joints": lambda a: a[0, 3].__iadd__((0.1, 0, 0))}),
    "a joint in the frame that is outside": (checks.check_projection, {"joints": _set((0, 3, 2), 0)}),
    "a skeleton two pixels off": (checks.check_skeleton, {"openpose": lambda a: a[..., 0].__iadd__(2)}),
    "left and right exchanged": (checks.check_skeleton, {"openpose": lambda a: a[:].__setitem__(
        (slice(None), [4, 7]), a[:, [7, 4]])}),
    "a flow of another picture": (checks.check_correspondence, {"flow": lambda a: a.__setitem__(
        slice(None), np.roll(a, 1, 0))}),
    "a flow a few pixels off": (checks.check_return, {"flow": lambda a: a[:, 1].__iadd__(0.08)}),
    "nothing visible": (checks.check_correspondence, {"visibility": _set(slice(None), 1)}),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_set_fails_its_check(what: str, spoil: Callable[..., checks.PeopleSet]) -> None:
    check, changes = SPOILED[what]
    assert not check(spoil(**changes)).passed


def test_sets_that_cannot_be_posed_again_are_refused(folder: Path, tmp_path: Path) -> None:
    description = json.loads((folder / "dataset.json").read_text())
    for changed, text in (({"revision": 1}, "another version"), ({"generator": "adapter"}, "no synthetic people")):
        shutil.copytree(folder, tmp_path / text)
        again = {**description, "source": {**description["source"], **changed}}
        (tmp_path / text / "dataset.json").write_text(json.dumps(again))
        with pytest.raises(InputError, match=text):
            checks.PeopleSet(tmp_path / text)


def test_the_command_prints_a_table_and_exits_with_one_on_failure(
    spoil: Callable[..., checks.PeopleSet], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["checks.py", str(spoil(done=_set(0, 0)).folder)])
    with pytest.raises(SystemExit) as exit_:
        checks.main()
    assert exit_.value.code == 1
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("ok", "FAIL"))]
    assert len(table) == 8 and table[0].startswith("FAIL  rows")
    assert all(line.startswith("ok") for line in table[1:])
