"""The demo: what it takes as input, what it measures, and a whole run on a real ComfyUI."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from reposedm_core import PRESETS, InputError, Pose
from reposedm_core.pose import load_pose_file
from reposedm_core.presets import SHIPPED_PRESET
from tests.fixtures.waiting import CEILING, until

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "workflows" / "demo.py"
VIDEO = ROOT / ".host" / "vtest.avi"
MODEL = PRESETS[SHIPPED_PRESET].height, PRESETS[SHIPPED_PRESET].width


@pytest.fixture(scope="module")
def demo():
    """workflows/demo.py as a module; it imports its neighbours by their plain names, as a script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module("demo")


@pytest.fixture
def person(tmp_path):
    """A picture and a pose in 0..1 as OpenPose of controlnet_aux writes it, without face and hands."""
    source = next(path for path in sorted(SCRIPT.parent.glob("examples/*_target.png")))
    pose = load_pose_file(source.with_name(source.name.replace("_target.png", "_pose.json")))[0]
    points = pose.joints[0] / (pose.width, pose.height, 1)
    data = {"people": [{"pose_keypoints_2d": points.flatten().tolist(), "face_keypoints_2d": None}]}
    (tmp_path / "pose.json").write_text(json.dumps([{**data, "canvas_width": 96, "canvas_height": 128}]))
    Image.open(source).convert("RGB").save(tmp_path / "me & you.JPEG", quality=95)
    return {"SOURCE": str(tmp_path / "me & you.JPEG"), "POSE": str(tmp_path / "pose.json")}


class Sees:
    """Stands for the pipeline: finds one given pose in any picture."""

    def __init__(self, pose: Pose) -> None:
        self.pose = pose

    def estimate(self, picture: Image.Image) -> Pose:
        return self.pose.resized(picture.height, picture.width)


def test_measure(demo):
    joints = np.ones((1, 18, 3), np.float32)
    joints[..., :2] = np.random.default_rng(0).uniform(20, 70, (1, 18, 2))
    target, picture = Pose(joints, 128, 96), Image.new("RGB", (192, 256))
    exact = demo.measure(Sees(target), picture, target)
    assert exact.pck == 1 and exact.distance == pytest.approx(0, abs=1e-4)
    moved = joints.copy()
    moved[..., 0] += 5
    moved[:, 4, 0] += 5  # the right wrist is off by 10 pixels of 128, more than 5 %
    moved[:, 7, 2] = 0  # the left one is not found
    found = demo.measure(Sees(Pose(moved, 128, 96)), picture, target)
    assert found.pck == pytest.approx(15 / 17)
    assert found.distance == pytest.approx((15 * 5 + 10) / 16, rel=1e-4)
    nobody = demo.measure(Sees(Pose(np.zeros((0, 18, 3)), 128, 96)), picture, target)
    assert nobody.pck == 0 and "no joint found" in str(nobody)


def test_input_of_ones_own(demo, person, tmp_path):
    real = demo.real_input(person, tmp_path)
    assert real.picture == Path(person["SOURCE"])
    assert "me & you.JPEG" in real.title and "pose.json" in real.title
    assert (real.pose.height, real.pose.width) == MODEL
    ys = real.pose.joints[0, real.pose.joints[0, :, 2] > 0, 1]
    assert 0.3 < np.ptp(ys) / MODEL[0] <= 0.69, "the pose fills the frame, and no more"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("SOURCE", b"no picture", r"SOURCE=.*cannot be read.*give a JPEG or PNG"),
        ("SOURCE", None, r"SOURCE=.*cannot be read.*give a JPEG or PNG"),
        ("POSE", b"no json", r"JSON"),
        ("POSE", b'[{"animals": [[[1, 2, 1]]], "canvas_width": 9, "canvas_height": 9}]', r"animal"),
        ("POSE", b'[{"people": [], "canvas_width": 9, "canvas_height": 9}]', r"nobody|no person"),
    ],
)
def test_bad_input_is_named(demo, person, tmp_path, name, content, message):
    file = tmp_path / "bad"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        demo.real_input({**person, name: str(file)}, tmp_path)


def test_without_the_video_it_says_so(demo, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "VIDEO", tmp_path / "none.avi")
    assert demo.real_input({}, tmp_path) is None
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "SOURCE=picture POSE=keypoints.json" in printed


def test_pedestrian_of_the_video(demo, tmp_path):
    if not VIDEO.is_file():
        pytest.skip("no .host/vtest.avi here (Debian's opencv-doc): no photograph was seen")
    real = demo.real_input({}, tmp_path)
    pixels = np.asarray(Image.open(real.picture).convert("RGB")).astype(int)
    assert pixels.shape == (124, 93, 3)
    jacket = pixels[38:52, 40:52].reshape(-1, 3)  # she wears red
    assert (jacket[:, 0] > 100).mean() > 0.9 and (jacket[:, 0] > 2 * jacket[:, 2]).mean() > 0.9
    assert (real.pose.joints[0, :, 2] > 0).all()


def test_both_runs(demo, comfy, person, tmp_path, capsys):
    paths = demo.transfer(comfy, demo.real_input(person, tmp_path), tmp_path / "out")
    assert [path.name for path in paths] == ["pose_transfer_synthetic.png", "pose_transfer_photograph.png"]
    five, four = (Image.open(path) for path in paths)
    panel = five.width - four.width - 12
    assert 288 <= panel < 288 + MODEL[1] and panel % MODEL[1] == 0, "the synthetic person's also has the true target"
    printed = capsys.readouterr().out
    for path in paths:
        assert str(path) in printed
    assert printed.count("s a step") == 2 and printed.count("PCK: share of") == 2
    assert "trained on synthetic people only and are weak on photographs" in printed


def test_every_workflow_has_a_recipe_for_its_thumbnail(demo):
    paths = {path.stem: path for path in SCRIPT.parent.glob("*.json")}
    assert {*demo.SHOWN, *demo.UNSHOWN} == set(paths) and not set(demo.SHOWN) & set(demo.UNSHOWN)
    for name, titles in {**demo.SHOWN, **{name: (title,) for name, (title, _) in demo.UNSHOWN.items()}}.items():
        there = {node.get("title") for node in json.loads(paths[name].read_text("utf-8"))["nodes"]} | {"Drawn pose"}
        assert {title.rstrip(" 0123456789") for title in titles} <= there, name


def test_what_a_graph_shows(demo, comfy):
    """Pictures by title and number in the batch, and the pose of an editor, which has none of its own."""
    prompt = demo.to_api(demo.load_workflow(SCRIPT.parent / "03 Pose drawn by hand.json"), comfy.object_info())
    editor = demo.find(prompt, "RePoseDMPoseEditor")
    pictures = demo.shown(comfy, demo.part(prompt, editor))
    assert {name: picture.size for name, picture in pictures.items()} == {"Drawn pose 0": (192, 256)}


def run_script(**environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.processes
def test_script_refuses_bad_input_in_one_line(tmp_path):
    script = run_script(SOURCE=str(tmp_path / "none.png"), OUT=str(tmp_path))
    _, errors = script.communicate(timeout=CEILING)
    assert script.returncode == 1
    assert errors.startswith("error: SOURCE=") and errors.count("\n") == 1


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_interrupt_ends_the_server(person, tmp_path):
    script = run_script(**person, OUT=str(tmp_path))
    assert script.stdout.readline() == "Starting ComfyUI ...\n"
    try:
        until(
            lambda: any(
                "main.py" in server.cmdline() and any("libtorch" in each.path for each in server.memory_maps())
                for server in psutil.Process(script.pid).children()
            ),
            script,
        )  # the server, which was no more than forked at first, is being imported
        script.send_signal(signal.SIGINT)
        _, errors = script.communicate(timeout=CEILING)
        assert (script.returncode, errors) == (130, "interrupted\n")
        with pytest.raises(ProcessLookupError):
            os.killpg(script.pid, 0)  # nobody of its session is left
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
