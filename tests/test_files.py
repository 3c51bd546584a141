"""Files are written whole or not at all, and what cannot be written or read is said in the project's own words."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import InputError
from reposedm_core.checkpoint import save_model, save_weights
from reposedm_core.files import checksum, read_json, replacing, write_array, write_picture, write_text
from training.data.row_files import RowFiles
from training.engine.state import save_atomically
from training.train import main

WRITERS = {
    "weights": lambda path: save_weights(path, {"a": torch.zeros(2)}, {"kind": "x"}, torch.float16),
    "model": lambda path: save_model(path, {"part": torch.nn.Linear(2, 2)}, {}),
    "state": lambda path: save_atomically({"step": 1}, path),
    "shared": lambda path: save_atomically({}, path, True),
    "text": lambda path: write_text(path, "text"),
    "array": lambda path: write_array(path, np.zeros(3)),
}


def folder_in_the_way(root: Path) -> Path:
    (root / "model.npy").mkdir()
    return root / "model.npy"


def part_in_the_way(root: Path) -> Path:
    (root / "model.npy.part").mkdir()
    return root / "model.npy"


def file_as_folder(root: Path) -> Path:
    (root / "a file").write_text("")
    return root / "a file" / "new" / "model.npy"


PLACES = {
    "a folder of that name": folder_in_the_way,
    "a folder of the temporary name": part_in_the_way,
    "a file instead of the folder": file_as_folder,
    "a long name": lambda root: root / f"{'n' * 300}.npy",
    "no place for files": lambda root: Path("/proc/self/new/model.npy"),
}


@pytest.mark.parametrize(
    ("writer", "place"),
    [
        (writer, place)
        for writer in WRITERS
        for place in PLACES
        if (writer, place) != ("shared", "a folder of the temporary name")
    ],
)  # each has a temporary name of its own
def test_what_cannot_be_written_is_said(tmp_path, writer, place):
    path = PLACES[place](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"could not be written \(.+\); there is no previous file\. Make room, or"):
        WRITERS[writer](path)
    assert len(sorted(tmp_path.rglob("*.part"))) == len([one for one in before if one.name.endswith(".part")])


def test_rows_that_cannot_be_written_are_said(tmp_path):
    (tmp_path / "pictures.npy.part").mkdir()
    with pytest.raises(InputError, match=r"pictures\.npy could not be written \(.+\); there is no previous file"):
        RowFiles(tmp_path, {"pictures": ((2, 2), "uint8"), "done": ((2,), "uint8")})


def test_an_error_of_writing_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "text"
    write_text(path, "first")

    def write(error):
        with replacing(path) as fresh:
            fresh.write_text("half")
            raise error

    with pytest.raises(InputError, match=r"text could not be written \(No space left\); the previous file is intact"):
        write(OSError(28, "No space left"))
    with pytest.raises(ZeroDivisionError):
        write(ZeroDivisionError())
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]
    write_text(path, "half a character: \udc80")
    assert path.read_bytes() == rb"half a character: \udc80"


def test_a_picture_that_does_not_fit_leaves_the_one_of_before(tmp_path):
    path, limit = tmp_path / "new" / "sheet.jpg", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_picture(path, Image.new("RGB", (20, 10), "red"), quality=90)
    with Image.open(path) as found:
        assert (found.format, found.size) == ("JPEG", (20, 10))
    before = path.read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(InputError, match=r"sheet\.jpg could not be written \(.+\); the previous file is intact"):
            write_picture(path, Image.effect_noise((300, 300), 90))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("out", ["a file/new", "n" * 300, "/proc/self/new"])
def test_training_into_a_place_that_cannot_be_is_refused(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("")
    assert main([f"out={out}", "stages=[vae]"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out: the folder ") and "cannot be made" in error and "another place" in error


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b'{"a": NaN',
        b"9" * 5000,
        "\ud800".encode("utf-8", "surrogatepass"),
    ],
    ids=lambda text: str(text[:12]),
)
def test_settings_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=r"^the thing cannot be read \(.+\); mend it\.$") as refused:
        read_json(tmp_path / "config.json", "the thing", "mend it")
    assert len(str(refused.value)) < 400


def test_settings_that_are_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"a": [1]}))
    assert read_json(tmp_path / "config.json", "it") == {"a": [1]}
    with pytest.raises(InputError, match="No such file"):
        read_json(tmp_path / "other.json", "it")


def test_a_file_of_settings_without_end_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(InputError, match="more than 64 MiB"):
        read_json(tmp_path / "config.json", "it")


def test_a_checksum_is_of_content_and_of_the_names_in_a_folder(tmp_path):
    one, folder = tmp_path / "one", tmp_path / "folder"
    one.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(one) == known == checksum(one.rename(tmp_path / "two"))
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(b"abc")
    before = checksum(folder)
    assert before == checksum(folder) != known
    (folder / "unet" / "weights").write_bytes(b"abd")
    changed = checksum(folder)
    (folder / "unet" / "weights").rename(folder / "weights")
    assert len({before, changed, checksum(folder)}) == 3
    with pytest.raises(InputError, match="one cannot be read"):
        checksum(one)
