"""LAION-Human and Human-Art in their true layout, and the reader of captioned pictures."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from reposedm_core.errors import InputError
from training.data.captioned_set import Captioned, CaptionedExample
from training.preparation.captioning import read_pose_file
from training.preparation.plan import Shares
from training.prepare import main, prepare

from .conftest import DOTS, NOSE, centre_of, save_figure

NOSE_AT, SIZES = (50.0, 40.0), ((120, 90), (90, 160), (100, 100), (64, 110), (130, 70), (80, 80))


def people_of(*noses: tuple[float, float], score: float = 0.9) -> np.ndarray:
    """Poses as HumanSD's files hold them: an object array of dicts, the people of mmpose's bottom-up estimator."""
    people = np.empty(len(noses), object)
    for n, (x, y) in enumerate(noses):
        keypoints = np.zeros((17, 3), np.float32)
        keypoints[:] = (x, y, score)
        keypoints[1:, 0] += np.linspace(0, 10 + n, 16)
        people[n] = {"keypoints": keypoints, "score": np.float32(score), "area": 3.5}
    return people


@pytest.fixture
def laion(tmp_path: Path) -> Path:
    """Aesthetics_Human: images/00000/000000000.jpg, pose/00000/000000000.npz and the mapping file."""
    root, mapping = tmp_path / "Laion/Aesthetics_Human", {}
    for n, size in enumerate(SIZES):
        stem = f"{n // 3:05d}/{n:09d}"
        save_figure(root / f"images/{stem}.jpg", size, {NOSE: NOSE_AT})
        (root / f"pose/{stem}.npz").parent.mkdir(parents=True, exist_ok=True)
        np.savez(root / f"pose/{stem}.npz", people_of((70.0, 30.0), NOSE_AT) if n == 1 else people_of(NOSE_AT))
        mapping[stem.replace("/", "_")] = {
            "img_path": f"Aesthetics_Human/images/{stem}.jpg",
            "pose_path": f"Aesthetics_Human/pose/{stem}.npz",
            "prompt": f"a person, number {n} é",
        }
    (root / "mapping_file_training.json").write_text(json.dumps(mapping))
    return root


@pytest.fixture
def human_art(tmp_path: Path) -> Path:
    """Human-Art's own annotations: COCO's format with descriptions, and a file a split."""
    root = tmp_path / "HumanArt"
    for split, scene, first in (
        ("training", "2D_virtual_human/cartoon", 1),
        ("validation", "real_human/acrobatics", 11),
    ):
        images, people = [], []
        for number in range(first, first + 4):
            name = f"images/{scene}/{number:012d}.jpg"
            save_figure(root / name, (90, 120), {NOSE: (NOSE_AT[0] + 0.5, NOSE_AT[1] + 0.5)})
            images.append(
                {
                    "file_name": f"HumanArt/{name}",
                    "height": 90,
                    "width": 120,
                    "id": number,
                    "page_url": "",
                    "image_url": "",
                    "picture_name": f"picture {number}",
                    "author": "",
                    "description": "a dancer" if number % 2 else "",
                    "category": scene.split("/")[1],
                }
            )
            for person, there in ((0, 2), (1, 1)):
                points = np.zeros((17, 3), int)
                points[:5] = (int(NOSE_AT[0]) + 30 * person, int(NOSE_AT[1]), there)
                people.append(
                    {
                        "keypoints": points.ravel().tolist(),
                        "keypoints_21": [0] * 63,
                        "iscrowd": 0,
                        "num_keypoints": 5,
                        "image_id": number,
                        "area": 10.0,
                        "bbox": [0, 0, 9, 9],
                        "category_id": 1,
                        "id": 2 * number + person,
                        "annotator": 1,
                    }
                )
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/{split}_humanart.json").write_text(
            json.dumps({"info": {}, "images": images, "annotations": people, "categories": []})
        )
    return root


def leftmost(example: CaptionedExample) -> np.ndarray:
    """The nose (x, y) of the person who stands furthest left."""
    return min(example.joints[:, 0, :2], key=lambda nose: nose[0])


def dot_in(example: CaptionedExample) -> np.ndarray:
    """Centre (x, y) of the dot in the picture, which is at that person's nose."""
    return centre_of(((example.picture + 1) * 127.5).movedim(0, -1).numpy(), DOTS[NOSE])


def test_laion_human(laion, tmp_path):
    report = prepare("laion_human", laion, tmp_path / "set", (64, 64), shares=Shares(val=0))
    assert report["written"] == 6 and report["skipped"] == {}
    captioned = Captioned(tmp_path / "set", "train")
    examples = list(captioned)
    assert len(captioned) == len(examples) == 6 and captioned[5].name == examples[-1].name == captioned[-1].name
    assert [e.caption for e in examples] == [f"a person, number {n} é" for n in range(6)]
    assert [len(e.joints) for e in examples] == [1, 2, 1, 1, 1, 1]
    for example, (height, width) in zip(examples, SIZES, strict=True):
        assert example.picture.shape == (3, 64, 64) and example.poses.shape[1:] == (18, 3)
        scale = 64 / min(height, width)
        nose = (np.array(NOSE_AT) - (width / 2, height / 2)) * scale + 32  # the middle stays the middle
        assert np.abs(leftmost(example) - nose).max() < 0.7
        assert np.abs(dot_in(example) - nose).max() < 1
    assert examples[1].joints[0, 0, 0] != examples[1].joints[1, 0, 0], "two people, the wider one first"


def test_a_cut_at_another_place_takes_the_joints_with_it(laion, tmp_path):
    prepare("laion_human", laion, tmp_path / "set", (64, 64), shares=Shares(val=0))
    captioned = Captioned(tmp_path / "set", "train")
    left, right = (captioned.read(1, (x, 0.0)) for x in (0.0, 0.3))  # 90×160, scaled to 64×114
    assert np.allclose(left.joints[:, 0, 0] - right.joints[:, 0, 0], 15, atol=0.01), "0.3 of the 50 that are cut off"
    for example in (left, right):
        assert np.abs(dot_in(example) - leftmost(example)).max() < 1
    gone = captioned.read(1, (1.0, 0.0))
    assert (gone.joints[..., 2] > 0).sum() < (left.joints[..., 2] > 0).sum() and not (gone.joints[..., :2] < 0).any()


def test_splits_and_what_is_left_out(laion, tmp_path):
    mapping = json.loads((laion / "mapping_file_training.json").read_text())
    keys = list(mapping)
    (laion / "images/00000/000000000.jpg").write_bytes(b"not a picture")
    (laion / "pose/00000/000000001.npz").unlink()
    (laion / "pose/00000/000000002.npz").write_bytes(b"PK\3\4 broken")
    mapping[keys[3]]["prompt"] = "  "
    np.savez(laion / "pose/00001/000000004.npz", people_of(NOSE_AT, score=0.01))
    save_figure(tmp_path / "secret.jpg", (64, 64), {NOSE: (20.0, 20.0)})
    (laion / "images/00001/link.jpg").symlink_to(tmp_path / "secret.jpg")
    mapping["link"] = {**mapping[keys[5]], "img_path": "Aesthetics_Human/images/00001/link.jpg"}
    mapping["out"] = {"img_path": "images/../../../secret.jpg", "pose_path": "pose/a.npz", "prompt": "x"}
    mapping["half"] = {"img_path": "images/a.jpg"}
    mapping["elsewhere"] = {"img_path": "/etc/passwd", "pose_path": "pose/a.npz", "prompt": "x"}
    (laion / "mapping_file_training.json").write_text(json.dumps(mapping))
    report = prepare("laion_human", laion, tmp_path / "set", shares=Shares(val=0))
    assert {skip["name"]: skip["reason"] for skip in report["skipped_files"]} == {
        keys[0]: "corrupt picture",
        keys[1]: "missing pose file",
        keys[2]: "corrupt pose file",
        keys[3]: "no caption",
        keys[4]: "no keypoints",
        "out": "outside of the root",
        "link": "outside of the root",
        "half": "unreadable entry",
        "elsewhere": "unreadable entry",
    }
    assert len(Captioned(tmp_path / "set")) == report["written"] == 1
    # A finished set, and a picture that was mended: only that one is taken up, in its place.
    save_figure(laion / "images/00000/000000000.jpg", SIZES[0], {NOSE: NOSE_AT})
    assert prepare("laion_human", laion, tmp_path / "set", shares=Shares(val=0))["written"] == 2
    assert [e.caption[-3] for e in Captioned(tmp_path / "set", size=(32, 32))] == ["0", "5"]
    prepare("laion_human", laion, tmp_path / "held", shares=Shares(val=0.5))
    both = [Captioned(tmp_path / "held", split) for split in ("train", "val")]
    assert sum(map(len, both)) == 2


def test_human_art_from_its_annotations(human_art, tmp_path):
    report = prepare("human_art", human_art, tmp_path / "set", (90, 90), shares=Shares(val=0))
    assert report["splits"] == {"train": {"pictures": 4}, "val": {"pictures": 0}, "test": {"pictures": 4}}
    train, test = (Captioned(tmp_path / "set", split) for split in ("train", "test"))
    assert [e.caption for e in train] == ["a dancer", "picture 2", "a dancer", "picture 4"]
    assert test[0].name == "images/real_human/acrobatics/000000000011.jpg"
    example = test[0]
    assert len(example.joints) == 2 and (example.joints[..., 2] > 0).sum() == 10
    assert np.abs(dot_in(example) - leftmost(example)).max() < 0.7
    with pytest.raises(InputError, match="no picture in the split 'val'"):
        Captioned(tmp_path / "set", "val")


def test_human_art_from_humansd_s_mapping_files(human_art, tmp_path):
    for split in ("training", "validation"):
        entries = {}
        for image in json.loads((human_art / f"annotations/{split}_humanart.json").read_text())["images"]:
            path = image["file_name"].removeprefix("HumanArt/")
            pose = path.replace("images/", "pose/").replace(".jpg", ".npz")
            (human_art / pose).parent.mkdir(parents=True, exist_ok=True)
            np.savez(human_art / pose, people_of(NOSE_AT))
            entries[str(image["id"])] = {"img_path": path, "pose_path": pose, "prompt": "drawn"}
        entries["again"] = next(iter(entries.values()))
        (human_art / f"mapping_file_{split}.json").write_text(json.dumps(entries))
    report = prepare("human_art", human_art, tmp_path / "set", shares=Shares(val=0))
    assert report["written"] == 8 and report["skipped"] == {"duplicate": 2}
    assert {e.caption for e in Captioned(tmp_path / "set", "test", size=(16, 16))} == {"drawn"}


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm was done"),)


def test_a_pose_file_cannot_run_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    people = np.empty(1, object)
    people[0] = {"keypoints": Harmful()}
    np.savez(tmp_path / "pose.npz", people)
    with pytest.raises(ValueError, match=r"is no array of numbers"):
        read_pose_file(tmp_path / "pose.npz")
    assert not (tmp_path / "harm was done").exists()
    np.load(tmp_path / "pose.npz", allow_pickle=True)["arr_0"]
    assert (tmp_path / "harm was done").exists(), "the file is harmful to who unpickles it"
    for content in (
        np.zeros((2, 17, 3)),
        np.array([{"keypoints": np.zeros((5, 3))}], object),
        np.array([{"other": 1}], object),
        np.array(["x"], object),
    ):
        np.savez(tmp_path / "pose.npz", content)
        with pytest.raises(ValueError, match=r"."):
            read_pose_file(tmp_path / "pose.npz")
    np.savez(tmp_path / "pose.npz", np.empty(0, object))
    assert read_pose_file(tmp_path / "pose.npz").shape == (0, 17, 3)


@pytest.mark.processes
def test_workers_and_a_cut_off_line_change_nothing(laion, tmp_path):
    options = {"root": laion, "size": (64, 64), "shares": Shares(val=0)}
    prepare("laion_human", out=tmp_path / "one", **options)
    prepare("laion_human", out=tmp_path / "two", workers=2, **options)
    whole = (tmp_path / "one/captions.jsonl").read_bytes()
    assert (tmp_path / "two/captions.jsonl").read_bytes() == whole
    # What a kill leaves: the lines so far, in the order they were finished, and half a line.
    lines = whole.splitlines(keepends=True)
    (tmp_path / "two/captions.part.jsonl").write_bytes(lines[4] + lines[1] + lines[2][:25])
    for name in ("captions.jsonl", "offsets.npy", "split.npy", "report.json"):
        (tmp_path / "two" / name).unlink()
    with pytest.raises(InputError, match=r"captions.jsonl, offsets.npy, split.npy missing; let"):
        Captioned(tmp_path / "two")
    prepare("laion_human", out=tmp_path / "two", **options)
    for name in ("captions.jsonl", "offsets.npy", "split.npy", "report.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_bad_folders_are_refused(laion, human_art, tmp_path, capsys):
    prepare("laion_human", laion, tmp_path / "set")
    assert main(["laion_human", "--root", str(human_art), "--out", str(tmp_path / "out")]) == 2
    assert "mapping_file_training.json is missing" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds a set of other arguments"):
        prepare("laion_human", laion, tmp_path / "set", (32, 32))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds no set but other files"):
        prepare("laion_human", laion, tmp_path / "full")
    with pytest.raises(InputError, match="no captioned set of version 1"):
        Captioned(tmp_path / "full")
    moved = laion.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"not at .* any more"):
        Captioned(tmp_path / "set")
    captioned = Captioned(tmp_path / "set", images=moved, size=(40, 30))
    assert captioned[0].picture.shape == (3, 40, 30)
    assert pickle.loads(pickle.dumps(captioned))[1].caption == captioned[1].caption
    (moved / "images/00000/000000000.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read any more"):
        captioned[0]
    (moved / "mapping_file_training.json").write_text("[]")
    with pytest.raises(InputError, match="no mapping file of HumanSD"):
        prepare("laion_human", moved, tmp_path / "other")
