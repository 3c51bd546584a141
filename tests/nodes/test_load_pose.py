"""Load Pose's own part: which files are listed, text before files, the size of the picture, and what it tells."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil

import pytest

from workflows.comfy_server import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "poses"
WALK = (FIXTURES / "walk_without_canvas.json").read_text()


@pytest.fixture
def inputs(monkeypatch, tmp_path, pack):
    import folder_paths

    folder = tmp_path / "input"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(folder))
    return folder


@pytest.fixture
def node(pack):
    return pack.nodes.pose_io.LoadPose


@pytest.fixture
def error(pack):
    return pack.reposedm_core.InputError


def test_files_folders_and_links_are_listed(pack, inputs, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place in (
        inputs / "one.JSON",
        inputs / "walk" / "1.json",
        inputs / "walk" / "2.jsonl",
        elsewhere / "far.json",
        inputs / "walk" / "single" / "3.json.gz",
        inputs / "picture.png",
        inputs / "notes.txt",
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(gzip.compress(WALK.encode()) if place.suffix == ".gz" else WALK.encode())
    os.symlink(elsewhere, inputs / "linked")
    os.symlink(inputs, elsewhere / "round")  # and round, and round
    os.symlink(elsewhere / "far.json", inputs / "link.json")
    os.symlink(tmp_path / "gone", inputs / "broken.json")
    assert pack.nodes.host.folders.pose_files() == [
        "link.json",
        "linked/far.json",
        "one.JSON",
        "walk/",
        "walk/1.json",
        "walk/2.jsonl",
        "walk/single/3.json.gz",
    ]
    for name in ("walk/", "linked/far.json", "walk/single/3.json.gz", "link.json"):
        assert pack.nodes.pose_io.LoadPose.validate_inputs(name) is True
        assert len(pack.nodes.pose_io.LoadPose.execute(name, "").args[0]) == 4 * (2 if name == "walk/" else 1)
    for name in ("../elsewhere/far.json", "picture.png", "walk", "linked/round/one.JSON", "/etc/passwd"):
        assert "there is no pose file" in pack.nodes.pose_io.LoadPose.validate_inputs(name)


def test_every_file_is_loaded_by_the_node(node, inputs):
    for path in FIXTURES.iterdir():
        shutil.copy(path, inputs / path.name)
        (frames,) = node.execute(path.name, "").args
        assert any(frame["people"] for frame in frames), path.name
        json.dumps(frames, allow_nan=False)


def test_text_wins_over_a_file_that_is_gone(node, inputs, error):
    assert node.validate_inputs("gone.json", WALK) is True
    assert len(node.execute("gone.json", WALK).args[0]) == 4
    assert node.fingerprint_inputs("gone.json", WALK) == node.fingerprint_inputs("none", WALK)
    assert node.validate_inputs("gone.json", None) is True, "the text comes from another node, and may be there"
    for text in ("", "  \n"):
        assert "there is no pose file" in node.validate_inputs("gone.json", text)
        with pytest.raises(error, match=r"file: there is no pose file 'gone.json'"):
            node.execute("gone.json", text)


def test_changed_files_are_read_again(node, inputs):
    (inputs / "walk").mkdir()
    for name in ("1.json", "2.json"):
        (inputs / "walk" / name).write_text(WALK)
    (inputs / "one.json").write_text(WALK)
    names = ("one.json", "walk/")
    before = [node.fingerprint_inputs(name, "") for name in names]
    assert before == [node.fingerprint_inputs(name, "", width=3, height=4) for name in names]
    (inputs / "one.json").write_text(WALK + " ")
    (inputs / "walk" / "3.json").write_text(WALK)
    assert all(old != node.fingerprint_inputs(name, "") for old, name in zip(before, names, strict=True))
    assert node.fingerprint_inputs("none", "\ud800") != node.fingerprint_inputs("none", "\ud801")
    assert node.fingerprint_inputs(None, "x") == node.fingerprint_inputs("gone.json", None) == "linked"
    assert node.fingerprint_inputs("none", None) == "linked"
    text_from_another_node = node.fingerprint_inputs("one.json", None)
    (inputs / "one.json").write_text(WALK)
    assert node.fingerprint_inputs("one.json", None) != text_from_another_node, "that text may be empty"


def test_width_and_height(node, caplog):
    with caplog.at_level(logging.WARNING):
        (frames,) = node.execute("none", WALK).args
    assert {(frame["canvas_width"], frame["canvas_height"], frame["canvas_guessed"]) for frame in frames} == {
        (416, 404, "size")
    }
    assert [record.getMessage() for record in caplog.records] == [
        "Load Pose: text: the size of the picture is not given; 416 × 404 is guessed from where people are. Give width "
        "and height to Load Pose, or connect the picture where a node takes it."
    ]
    caplog.clear()
    (given,) = node.execute("none", WALK, 640, 480).args
    assert {(frame["canvas_width"], frame["canvas_height"]) for frame in given} == {(640, 480)}
    assert [frame["people"] for frame in given] == [frame["people"] for frame in frames]
    assert not caplog.records and "canvas_guessed" not in given[0]
    inputs = {each.id: (bool(each.optional), each.default) for each in node.define_schema().inputs}
    assert list(inputs)[2:] == ["width", "height"] and inputs["width"] == inputs["height"] == (True, 0)
    (normalised,) = node.execute("none", json.dumps({"people": [{"keypoints": [0.5, 0.25, 1] * 18}]}), 640, 480).args
    assert normalised[0]["people"][0]["pose_keypoints_2d"][:2] == [320, 120]


def test_what_was_left_out_is_logged_once(node, caplog):
    with caplog.at_level(logging.WARNING):
        node.execute("none", (FIXTURES / "face_of_69.json").read_text())
    assert [record.getMessage() for record in caplog.records] == [
        "Load Pose: text: frame 0, person 0 has a face of 207 values, which is not 68 or 70 points of x, y, score; the "
        "face is left out."
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("standing", "1 frame, 1 person, 512 × 768"),
        ("walk_without_canvas", "4 frames, 1 person, 416 × 404"),
        ("null_frame", "3 frames, 0 to 1 people, 512 × 768"),
        ("one_person_normalised", "1 frame, 2 people, 512 × 768"),
    ],
)
def test_summary_on_the_node(pack, name, line):
    from reposedm_core.pose import load_pose_file

    poses = load_pose_file(FIXTURES / f"{name}.json")
    assert pack.nodes.pose_io._summary(poses) == line
    two = [*poses, poses[0].resized(10, 10)]
    assert pack.nodes.pose_io._summary(two).endswith(", 2 sizes")
