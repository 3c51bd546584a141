"""Every adapter of people: order, splits, joints where the dots are, and what is left out and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reposedm_core.pose.skeleton import OPENPOSE_TO_COCO
from training.data.people_set import People
from training.preparation.plan import Item, Shares, hold_out, inside
from training.preparation.reading import open_picture
from training.prepare import main, prepare, table

from .conftest import DEEPFASHION, DOTS, MARKET, NOSE, centre_of, keypoint_line, save_figure


def names(out: Path) -> list[str]:
    return (out / "names.txt").read_text().splitlines()


def array(out: Path, name: str) -> np.ndarray:
    return np.load(out / f"{name}.npy")


def reasons(report: dict) -> dict[str, str]:
    """Name of each file that was left out: why."""
    return {skip["name"]: skip["reason"] for skip in report["skipped_files"]}


def assert_dots_at_joints(out: Path, within: float = 1.0) -> None:
    """The coloured dots in every picture are where the arrays say, in both orders of joints."""
    pictures, openpose, joints = (array(out, name) for name in ("pictures", "openpose", "joints"))
    assert (array(out, "done") == 1).all()
    for picture, points, coco in zip(pictures, openpose, joints, strict=True):
        for joint, colour in DOTS.items():
            assert points[joint, 2] == 2
            assert np.abs(centre_of(picture, colour) - points[joint, :2]).max() < within
            assert np.array_equal(coco[OPENPOSE_TO_COCO.index(joint)], points[joint])
        assert not points[[j for j in range(18) if j not in DOTS]].any() and (coco[:, 2] > 0).sum() == len(DOTS)


# -- DeepFashion


@pytest.mark.parametrize(("size", "within"), [((256, 176), 1.0), ((512, 352), 1.2)])
def test_deepfashion(deepfashion, tmp_path, size, within):
    out = tmp_path / "set"
    report = prepare("deepfashion", deepfashion, out, size, shares=Shares(val=0))
    assert report["written"] == 9 and report["skipped"] == {}
    assert sorted(names(out)) == sorted(name for name, _ in DEEPFASHION.values())
    assert array(out, "pictures").shape == (9, *size, 3)
    assert_dots_at_joints(out, within)
    # A person in an outfit is an identity; what the train list holds trains.
    outfits = {name: (Path(path).parent, Path(path).name[:2]) for path, (name, _) in DEEPFASHION.items()}
    grouped: dict = {}
    for name, label in zip(names(out), array(out, "identity"), strict=True):
        grouped.setdefault(label, []).append(outfits[name])
    assert len(grouped) == 5 and all(len(set(group)) == 1 for group in grouped.values())
    lists = dict(DEEPFASHION.values())
    assert [("train", "val", "test")[code] for code in array(out, "split")] == [lists[name] for name in names(out)]
    train, test = People(out, "train"), People(out, "test")
    assert (len(train), len(test)) == (6, 2), "the official pairs, source and target of one outfit"
    assert report["splits"]["train"] == {"people": 4, "pictures": 7, "pairs": 6, "official pairs": 6}
    assert report["paper's pairs"] == {
        "listed": True,
        "train": {"here": 6, "paper": 101_966, "difference": -101_960},
        "test": {"here": 2, "paper": 8_570, "difference": -8_568},
    }
    assert "    test   2 of 8,570, a difference of -8,568" in table(report)
    pair = np.load(out / "pairs_test.npy")[0]
    assert [names(out)[row] for row in pair] == [
        "fashionMENDenimid0000008001_1front.jpg",
        "fashionMENDenimid0000008001_4full.jpg",
    ]


def test_deepfashion_holds_out_whole_persons(deepfashion, tmp_path):
    report = prepare("deepfashion", deepfashion, tmp_path / "set", (64, 44), shares=Shares(val=0.4))
    split = dict(zip(names(tmp_path / "set"), array(tmp_path / "set", "split"), strict=True))
    persons: dict[str, set] = {}
    for name, code in split.items():
        persons.setdefault(name.split("id")[1][:8], set()).add(int(code))
    assert all(len(codes) == 1 for codes in persons.values()), "all outfits of a person are in one split"
    assert sorted(code for codes in persons.values() for code in codes) == [0, 0, 1, 2]
    assert len(People(tmp_path / "set", "val")) == 2
    assert report["paper's pairs"]["train"]["here"] == 6, "they are of the list that the paper trains on"


def test_deepfashion_reads_mended_names_paths_and_pair_lists_without_keypoints(deepfashion, tmp_path):
    for split in ("train", "test"):
        (deepfashion / f"fasion-resize-annotation-{split}.csv").rename(
            deepfashion / f"fashion-resize-annotation-{split}.csv"
        )
        (deepfashion / f"fasion-resize-pairs-{split}.csv").unlink()
    a, b = "WOMEN/Tees_Tanks/id_00007962/09_1_front.jpg", "WOMEN/Tees_Tanks/id_00007962/09_7_additional.jpg"
    (deepfashion / "train_pairs.txt").write_text(f"img/{a},img/{b}\n")
    report = prepare("deepfashion", deepfashion, tmp_path / "set", (64, 44), shares=Shares(val=0))
    assert report["written"] == 9 and report["splits"]["train"]["official pairs"] == 1
    assert len(People(tmp_path / "set", "train")) == 1


def test_deepfashion_says_what_it_leaves_out(deepfashion, tmp_path):
    base, annotation = deepfashion / "img_highres", deepfashion / "fasion-resize-annotation-train.csv"
    (base / "WOMEN/Dresses/id_00002629/02_1_front.jpg").unlink()
    broken = base / "WOMEN/Dresses/id_00002629/02_3_back.jpg"
    broken.write_bytes(broken.read_bytes()[:3000])
    (base / "WOMEN/Skirts/id_00001771/02_2_side.jpg").write_bytes(b"no picture")
    (base / "WOMEN/loose.jpg").write_bytes(b"")
    save_figure(base / "WOMEN/Skirts/id_00001771/05_1_front.jpg", (20, 20), {})
    first, *lines = annotation.read_text().splitlines(keepends=True)
    without = DEEPFASHION["WOMEN/Dresses/id_00002629/01_1_front.jpg"][0]
    lines = [keypoint_line(without, {}) if line.startswith(without) else line for line in lines]
    annotation.write_text(
        "".join(
            [
                first,
                *lines,
                lines[-1],
                "half a line: [1, 2\n",
                "x.jpg: [1]: [2]\n",
                keypoint_line("../../secret.jpg", {NOSE: (1, 1)}),
            ]
        )
    )
    with (deepfashion / "fasion-resize-pairs-train.csv").open("a") as pairs:
        pairs.write(
            "fashionWOMENDressesid0000262902_3back.jpg,fashionWOMENTees_Tanksid0000796209_1front.jpg\nonly_one\n"
        )
    found = reasons(report := prepare("deepfashion", deepfashion, tmp_path / "set", (64, 44), shares=Shares(val=0)))
    assert found == {
        "fashionWOMENDressesid0000262902_1front.jpg": "missing file",
        "fashionWOMENDressesid0000262902_3back.jpg": "corrupt picture",
        "fashionWOMENSkirtsid0000177102_2side.jpg": "corrupt picture",
        "WOMEN/loose.jpg": "unknown name",
        "fashionWOMENSkirtsid0000177105_1front.jpg": "in no list",
        without: "no keypoints",
        lines[-1].split(":")[0]: "duplicate",
        "half a line": "unreadable line",
        "x.jpg": "unreadable line",
        "../../secret.jpg": "missing file",
        "fashionWOMENDressesid0000262902_3back.jpg, fashionWOMENTees_Tanksid0000796209_1front.jpg": "pair of two outfits",  # noqa: E501
        "only_one": "unreadable line",
    }
    assert report["written"] == 5 and People(tmp_path / "set", "train").counts.tolist() == [1, 2]
    assert json.loads((tmp_path / "set/report.json").read_text()) == report
    # What is mended is taken up by another run.
    save_figure(broken, (1101, 750), {NOSE: (300, 300)})
    again = prepare("deepfashion", deepfashion, tmp_path / "set", (64, 44), shares=Shares(val=0))
    assert again["written"] == 6 and again["skipped"]["corrupt picture"] == 1


# -- Market-1501


def test_market1501(market, tmp_path):
    out = tmp_path / "set"
    report = prepare("market1501", market, out, shares=Shares(val=0))
    assert "paper's pairs" not in report, "the paper names none of this set"
    assert reasons(report) == {
        "-1_c1s1_000401_03.jpg": "distractor",
        "0000_c1s1_000151_01.jpg": "distractor",
        "0001_c3s1_000551_00.jpg": "no keypoints",
    }
    assert names(out) == sorted((*MARKET["bounding_box_train"], *MARKET["bounding_box_test"][2:], *MARKET["query"]))
    whole = array(out, "done") == 1
    assert array(out, "identity")[whole].tolist() == [1, 1, 2, 2, 7, 7, 10, 10]
    assert array(out, "split")[whole].tolist() == [2, 2, 0, 0, 0, 0, 0, 0]
    for name in ("pictures", "openpose", "joints", "done"):
        np.save(out / f"{name}.npy", array(out, name)[whole])
    assert_dots_at_joints(out, 0.6)
    original = np.asarray(Image.open(market / "bounding_box_train/0002_c1s1_000451_03.jpg"))
    assert np.array_equal(array(out, "pictures")[2], original), "pictures of that size stay as they are"


def test_market1501_estimates_what_is_not_annotated_if_asked_and_takes_official_pairs(market, tmp_path):
    (market / "market-pairs-train.csv").write_text(
        "from,to\n0007_c3s3_077419_03.jpg,0007_c1s6_028546_01.jpg\n0007_c3s3_077419_03.jpg,0010_c6s4_002427_07.jpg\n"
    )
    report = prepare("market1501", market, tmp_path / "set", estimator="ours", least_joints=1, shares=Shares(val=0))
    assert reasons(report)["0007_c3s3_077419_03.jpg, 0010_c6s4_002427_07.jpg"] == "pair of two people"
    assert len(People(tmp_path / "set", "train")) == 1
    # The grey query picture, not annotated, was given to the estimator: it has a pose of a joint or more, or none.
    row = names(tmp_path / "set").index("0001_c3s1_000551_00.jpg")
    found = (array(tmp_path / "set", "joints")[row, :, 2] > 0).sum()
    assert found >= 1 or reasons(report)["0001_c3s1_000551_00.jpg"] in ("no keypoints", "too few visible joints")


# -- a folder of one's own


def test_a_folder_of_people(folder, tmp_path):
    example = Path(__file__).parents[3] / "workflows/examples/red_trousers.png"
    for person in ("anna", "berta", "carla"):
        shutil.copy(example, folder / person / "portrait.png")
    shutil.copy(example, folder / "anna/again.png")
    shutil.copy(example, folder / "in no folder.png")
    (folder / "berta/notes.txt").write_text("no picture")
    (folder / "dora").symlink_to(tmp_path)
    (folder / "berta/link.jpg").symlink_to(example)
    out = tmp_path / "set"
    report = prepare("folder", folder, out, (256, 192), shares=Shares(0.3, 0.3))
    found = reasons(report)
    assert {name: found.pop(name) for name in ("anna/portrait.png", "in no folder.png", "dora", "berta/link.jpg")} == {
        "anna/portrait.png": "duplicate",
        "in no folder.png": "not in a person's folder",
        "dora": "outside of the root",
        "berta/link.jpg": "outside of the root",
    }
    assert set(found.values()) <= {"no keypoints", "too few visible joints"}, "grey pictures with a dot show nobody"
    assert names(out) == [
        f"{person}/{file}"
        for person in ("anna", "berta", "carla")
        for file in sorted(
            ["again.png" if person == "anna" else "portrait.png", "holiday 0.jpg", "holiday 1.png", "holiday 2.JPG"]
        )
    ]
    assert sorted(set(array(out, "split"))) == [0, 1, 2]
    done = array(out, "done") == 1
    assert np.array_equal(array(out, "identity")[done], np.repeat([0, 1, 2], 4)[done])
    portraits = [n for n, name in enumerate(names(out)) if name.endswith(("again.png", "portrait.png"))]
    assert (array(out, "done")[portraits] == 1).all()
    true = json.loads((example.parent / "red_trousers_pose.json").read_text())  # of another picture: not compared
    assert true and (array(out, "joints")[portraits, :, 2] > 0).sum(1).min() >= 12
    assert np.array_equal(array(out, "pictures")[portraits[0]], np.asarray(Image.open(example).convert("RGB")))


def test_estimated_joints_lie_on_the_person_wherever_the_letterbox_puts_it(tmp_path):
    """A wide and a high picture around one person: the joints move with the person."""
    examples = Path(__file__).parents[3] / "workflows/examples"
    person = np.asarray(Image.open(examples / "striped_shirt.png").convert("RGB"))
    height, width = person.shape[:2]
    wide = np.pad(person, ((0, 0), (40, 40), (0, 0)), mode="edge")
    for name, picture in (("a.png", person), ("b.png", wide)):
        (tmp_path / "own/p").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "own/p" / name)
    prepare("folder", tmp_path / "own", tmp_path / "set", (height, width))
    joints, scale = array(tmp_path / "set", "joints").astype(float), width / (width + 80)
    top = (height - round(height * scale)) // 2
    back = (joints[1, :, :2] - (0, top)) / scale - (40, 0)
    both = (joints[0, :, 2] > 0) & (joints[1, :, 2] > 0)
    assert both.sum() >= 10 and np.median(np.linalg.norm(back - joints[0, :, :2], axis=1)[both]) < 4


# -- common ground


def test_names_that_lead_out_of_the_root_are_refused(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "base/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "base/loop.jpg").symlink_to(tmp_path / "base/loop.jpg")
    for name in ("../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "link.jpg", "nul\0.jpg"):
        assert inside(tmp_path / "base", name) is None, name[:30]
    assert inside(tmp_path / "base", "a/./b.jpg") == (tmp_path / "base/a/b.jpg").resolve()


def test_grey_of_sixteen_bits_is_scaled_and_not_cut_off():
    path = Path(__file__).parents[2] / "fixtures/pictures/grey_16_bits.png"
    picture = open_picture(Item("grey", 0, "train", path))
    expected = np.asarray(Image.open(path)) / 65535 * 255
    assert picture.dtype == np.uint8 and np.abs(picture - expected[..., None]).max() <= 1


def test_held_out_people_are_fixed_by_their_names():
    people = {f"person {n}" for n in range(200)}
    split = hold_out(people, 0.1, 0.05)
    assert [list(split.values()).count(kind) for kind in ("train", "val", "test")] == [170, 20, 10]
    more = hold_out(people | {"somebody new"}, 0.1, 0.05)
    assert sum(more[person] != kind for person, kind in split.items()) <= 2, "a new person moves hardly anybody"
    assert set(hold_out({"a", "b"}, 0.1, 0.1).values()) == {"train"}, "two are too few to hold one out"
    assert sorted(hold_out({"a", "b", "c"}, 0.01, 0.01).values()) == ["test", "train", "val"]


def test_bad_arguments_are_one_clear_line(deepfashion, folder, tmp_path, capsys):
    def refused(name: str, root: Path, *options: str) -> str:
        assert main([name, "--root", str(root), "--out", str(tmp_path / "out"), "--workers", "1", *options]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and message.count("\n") == 1
        return message

    assert "there is no such file or folder" in refused("folder", tmp_path / "none")
    assert "img_highres is missing" in refused("deepfashion", folder)
    assert "bounding_box_train or train is missing" in refused("market1501", folder)
    (tmp_path / "empty").mkdir()
    assert "no picture of A folder of people found there" in refused("folder", tmp_path / "empty")
    for file in deepfashion.glob("*.csv"):
        file.write_text("other,columns\n")
    assert "its first line is 'other,columns'" in refused("deepfashion", deepfashion)
    for file in deepfashion.glob("*.csv"):
        file.unlink()
    assert "none of fasion-resize-annotation" in refused("deepfashion", deepfashion)
    assert "val = 0.9, test = 0.2" in refused("folder", folder, "--val", "0.9", "--test", "0.2")
    assert "neither ours, openpose or none" in refused("folder", folder, "--estimator", "nothing.pth")
    message = refused(
        "folder", folder, "--estimator", "openpose", "--openpose-weights", str(tmp_path / "empty"), "--size", "32x24"
    )
    assert "body_pose_model.pth is missing" in message and "nothing is downloaded" in message
