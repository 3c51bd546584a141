"""Reading people sets: people with any number of pictures, rows that are not finished, official pairs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from reposedm_core.errors import InputError
from training.data.people_set import SPLITS, Pairs, People

COUNTS = {3: 2, 8: 1, 9: 4, 20: 3}  # label: pictures of the training people
H, W = 16, 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A set of version 2; every number in a row is the number of the row, and one row of person 9 is not finished."""
    identity = np.repeat([*COUNTS, 21, 22], [*COUNTS.values(), 2, 2])
    split = np.array([SPLITS.index({21: "val", 22: "test"}.get(i, "train")) for i in identity], np.uint8)
    n = len(identity)
    row = np.arange(n)
    joints = np.zeros((n, 17, 3), np.float32)
    joints[..., 0], joints[..., 2] = row[:, None] % W, 2
    arrays = {
        "pictures": np.broadcast_to(row[:, None, None, None], (n, H, W, 3)).astype(np.uint8),
        "joints": joints,
        "openpose": joints[:, [0, *range(17)]],
        "identity": identity,
        "split": split,
        "done": (row != 4).astype(np.uint8),
    }
    for name, value in arrays.items():
        np.save(tmp_path / f"{name}.npy", value)
    (tmp_path / "dataset.json").write_text(json.dumps({"format": "people set", "version": 2, "name": "numbers"}))
    return tmp_path


def rows(people: People, identity, index) -> list[int]:
    return people.read("pictures", identity, index)[:, 0, 0, 0].tolist()


def test_pictures_are_found_by_person_and_number(root):
    people = People(root, "train")
    assert people.identities.tolist() == list(COUNTS) and people.counts.tolist() == [2, 1, 3, 3]
    assert (people.height, people.width, people.split, people.name) == (H, W, "train", "numbers")
    identity, index = np.array([20, 3, 9, 9, 9, 8]), np.array([2, 1, 0, 1, 2, 0])
    assert rows(people, identity, index) == [9, 1, 3, 5, 6, 2], "the unfinished row 4 is not there"
    assert people.pictures(identity, index).shape == (6, 3, H, W)
    assert torch.equal(people.pictures(identity, index)[:, 0, 0, 0], torch.tensor([9, 1, 3, 5, 6, 2]) / 127.5 - 1)
    assert people.joints(identity, index)[:, 0, 0].tolist() == [9, 1, 3, 5, 6, 2]
    assert people.openpose(identity, index).shape == (6, 18, 3)
    assert people.skeletons(identity, index).shape == (6, 3, H, W)
    for wrong in ((8, 1), (9, 3), (9, -1), (21, 0), (5, 0), (99, 0)):
        with pytest.raises(IndexError, match=f"picture {wrong[1]} of person {wrong[0]} "):
            people.pictures(np.array([3, wrong[0]]), np.array([0, wrong[1]]))


def test_what_a_set_has_not_is_none_and_correspondence_is_refused(root):
    people = People(root, "train")
    where = np.array([9]), np.array([0])
    assert not (people.has_masks or people.has_garments or people.has_correspondence)
    assert people.masks(*where) is people.garments(*where) is people.others(*where) is None
    with pytest.raises(InputError, match="no correspondence"):
        people.correspondence(Pairs(*np.array([[9], [0], [1]])))
    np.save(root / "masks.npy", np.arange(14, dtype=np.uint8)[:, None, None] % 3 * np.ones((1, H, W), np.uint8))
    masks = People(root, "train").masks(np.array([3, 3, 8]), np.array([0, 1, 0]))
    assert people.surface(*where) is None
    np.save(root / "surface.npy", np.arange(14 * 4 * 3 * 3).reshape(14, 4, 3, 3).astype(np.float16) / 8)
    surface = People(root, "train").surface(np.array([3, 9]), np.array([1, 0]))
    assert surface.shape == (2, 3, 4, 3) and surface.dtype == torch.float32
    assert surface[:, :, 1, 2].tolist() == [[(36 * row + 15 + c) / 8 for c in range(3)] for row in (1, 3)]
    assert masks.shape == (3, 1, H, W) and masks[:, 0, 0, 0].tolist() == [0, 1, 0], "2 is another person"


def test_correspondence_is_found_past_an_unfinished_picture(root):
    flow = np.zeros((14, 4, 2, 2, 2), np.float16)
    flow[...] = (np.arange(14)[:, None] * 10 + np.arange(4))[..., None, None, None]  # source row, target's place
    np.save(root / "flow.npy", flow)
    np.save(root / "visibility.npy", np.full((14, 4, 2, 2), 2, np.uint8))
    label, done = np.load(root / "identity.npy"), np.load(root / "done.npy")
    label[2] = done[2] = 0  # as a row that was never written
    np.save(root / "identity.npy", label)
    np.save(root / "done.npy", done)
    found, visible = People(root, "train").correspondence(Pairs(np.array([9, 20]), np.array([0, 2]), np.array([1, 0])))
    assert found.shape == (2, 2, 2, 2) and visible.shape == (2, 1, 2, 2)
    assert found[:, 0, 0, 0].tolist() == [32, 90], "row 3 to the third of person 9's pictures; row 9 to the first"


def test_every_pair_is_an_example_once(root):
    people = People(root, "train")
    expected = {(i, a, b) for i, n in {3: 2, 9: 3, 20: 3}.items() for a in range(n) for b in range(n) if a != b}
    examples = list(people)
    assert len(people) == len(examples) == len(expected) == 14
    assert {(e.identity, e.source_index, e.target_index) for e in examples} == expected, "nobody alone"
    last = people[-1]
    assert (last.identity, last.source_index, last.target_index) == (20, 2, 1)
    assert torch.equal(last.source, people.pictures(np.array([20]), np.array([2]))[0])
    assert np.array_equal(last.target_pose, people.openpose(np.array([20]), np.array([1]))[0])
    with pytest.raises(IndexError):
        people[14]


def test_random_and_fixed_pairs(root):
    people = People(root, "train")
    pairs = people.random_pairs(np.random.default_rng(0), 400)
    assert (pairs.source != pairs.target).all() and set(pairs.identity) == {3, 9, 20}
    assert (
        np.maximum(pairs.source, pairs.target) < people.counts[np.searchsorted(people.identities, pairs.identity)]
    ).all()
    assert len(set(zip(pairs.identity, pairs.source, pairs.target, strict=True))) == 14, "all of them, in the long run"
    again = people.random_pairs(np.random.default_rng(0), 400)
    assert np.array_equal(again.source, pairs.source)
    fixed = people.fixed_pairs(7)
    assert fixed.identity.tolist() == [3, 9, 20, 3, 9, 20, 3] and (fixed.source != fixed.target).all()
    assert np.array_equal(people.fixed_pairs(4).target, fixed.target[:4]) and len(people.fixed_pairs(0)) == 0
    identity, index = people.random_pictures(np.random.default_rng(1), 300)
    assert len(set(zip(identity, index, strict=True))) == 9, "also who has one picture"


def test_official_pairs_are_the_pairs(root):
    np.save(root / "pairs_train.npy", np.array([[3, 5], [9, 7], [4, 3], [1, 0], [6, 5]]))
    people = People(root, "train")
    wanted = [(9, 0, 1), (20, 2, 0), (3, 1, 0), (9, 2, 1)]  # [4, 3] has an unfinished picture
    assert [(e.identity, e.source_index, e.target_index) for e in people] == wanted and len(people) == 4
    for pairs, count in (
        (people.fixed_pairs(99), 4),
        (people.fixed_pairs(2), 2),
        (people.random_pairs(np.random.default_rng(0), 50), 50),
    ):
        assert len(pairs) == count
        assert set(zip(pairs.identity, pairs.source, pairs.target, strict=True)) <= set(wanted)
    assert len(People(root, "val")) == 2, "another split has no list of its own"
    np.save(root / "pairs_train.npy", np.array([[0, 9]]))
    with pytest.raises(InputError, match="pairs of two different people"):
        len(People(root, "train"))


def test_a_loader_s_worker_opens_the_files_itself(root):
    people = People(root, "train")
    stored = pickle.dumps(people)
    assert len(stored) < 500, "a pickled memory map would be the whole array"
    assert np.array_equal(
        pickle.loads(stored).joints(np.array([9]), np.array([2])), people.joints(np.array([9]), np.array([2]))
    )


def test_version_1_is_read_as_the_synthetic_people_of_then(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "pictures": rng.integers(0, 256, (3, 4, H, W, 3), np.uint8),
        "joints": np.zeros((3, 4, 17, 3), np.float32),
        "masks": np.ones((3, 4, H, W), np.uint8),
        "flow": rng.normal(size=(3, 4, 4, 8, 6, 2)).astype(np.float16),
        "visibility": np.full((3, 4, 4, 8, 6), 2, np.uint8),
        "done": np.array([1, 1, 1], np.uint8),
    }
    for name, value in arrays.items():
        np.save(tmp_path / f"{name}.npy", value)
    (tmp_path / "dataset.json").write_text(json.dumps({"generator": "synthetic people", "version": 1}))
    people = People(tmp_path, "train")
    assert people.identities.tolist() == [2], "0 tests, 1 validates"
    assert np.array_equal(people.read("pictures", [2, 2], [3, 0]), arrays["pictures"][2, [3, 0]])
    flow, _ = people.correspondence(Pairs(np.array([2]), np.array([1]), np.array([3])))
    assert np.array_equal(flow[0].movedim(0, -1).numpy(), arrays["flow"][2, 1, 3].astype(np.float32))
    # The order in which every earlier checkpoint was measured: drawn with NumPy's generator as it was then.
    draw = np.random.default_rng(20231024)
    expected = []
    for _ in range(3):
        source = draw.integers(0, 4, 1)
        expected.append((2, *source, *((source + draw.integers(1, 4, 1)) % 4)))
    fixed = people.fixed_pairs(3)
    assert list(zip(fixed.identity, fixed.source, fixed.target, strict=True)) == expected


def test_folders_that_are_no_set_say_why(root, tmp_path):
    def refused(match: str, folder: Path = root, split: str = "train") -> None:
        with pytest.raises(InputError, match=match):
            People(folder, split)

    refused("there is no such folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("no dataset.json", tmp_path / "empty")
    refused("split = 'all': known are train, val, test", split="all")
    np.save(root / "done.npy", np.zeros(14, np.uint8))
    refused("no finished picture in the split 'train'; 14 of its 14 pictures are not finished")
    (root / "joints.npy").rename(root / "hidden.npy")
    refused(r"no whole people set \(joints.npy missing\)")
    for text, match in (
        ("{", "does not say which version"),
        ("[]", "does not say which version"),
        ('{"format": "people set", "version": 3}', "of version 3: make the set again"),
        ('{"format": "captioned set", "version": 1}', "only the stage reposesd trains on it"),
    ):
        (root / "dataset.json").write_text(text)
        refused(match)


def test_a_set_of_single_pictures_has_no_pairs(root):
    np.save(root / "split.npy", np.array([2 if i == 8 else 0 for i in np.load(root / "identity.npy")], np.uint8))
    people = People(root, "test")
    assert len(people) == 0 and list(people) == [] and len(people.random_pictures(np.random.default_rng(0), 3)[0]) == 3
    with pytest.raises(InputError, match="nobody in the split 'test' has two pictures"):
        people.random_pairs(np.random.default_rng(0), 3)
