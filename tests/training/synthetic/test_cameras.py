"""Synthetic people before cameras: the layout, what a camera does, and keypoints that come back where they were."""

from __future__ import annotations

import numpy as np
import pytest

from reposedm_core.errors import InputError
from training import prepare, study_reid
from training.data.people_set import People
from training.reid.market import GALLERY, QUERY, TRAIN, read_pictures, read_shots
from training.synthetic.cameras import cut, person_box, place_camera, seen_by, write_cameras


@pytest.fixture(scope="module")
def people(figures, tmp_path_factory):
    """The stick figures, with masks: the left half of every picture is the person."""
    root = tmp_path_factory.mktemp("masked")
    for path in figures.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    garments = np.load(figures / "garments.npy")
    masks = np.zeros_like(garments)
    masks[:, :, : garments.shape[2] // 2] = 1
    np.save(root / "masks.npy", masks)
    return root


def test_the_layout_and_the_way_back(people, tmp_path):
    command = ["cameras", "--data", str(people), "--out", str(tmp_path / "cameras"), "--cameras", "2"]
    assert study_reid.main(command) == 0
    train, gallery, query = (read_shots(tmp_path / "cameras", names) for names in (TRAIN, GALLERY, QUERY))
    assert (len(train), len(gallery), len(query)) == (4 * 3, 4, 4 * 2)
    assert set(train.person) == {1, 2, 3, 4} and set(gallery.person) == set(query.person) == {5, 6, 7, 8}
    assert set(query.camera) == {1, 2}
    out = tmp_path / "set"
    arguments = ["market1501", "--root", str(tmp_path / "cameras"), "--out", str(out), "--size", "64x48"]
    assert prepare.main([*arguments, "--workers", "1"]) == 0
    names = (out / "names.txt").read_text().splitlines()
    came, label = np.load(out / "openpose.npy"), np.load(people / "identity.npy")
    known, masks = np.load(people / "openpose.npy"), np.load(people / "masks.npy")
    order = [i for split in ("train", "val", "test") for i in People(people, split).identities]
    done = np.load(out / "done.npy").astype(bool)
    assert done.sum() == 16  # the query has no keypoints
    for n, name in enumerate(names):
        if not done[n]:
            continue
        rows = np.flatnonzero(label == sorted(order)[int(name[:4]) - 1])
        row = rows[int(name.split("_")[2])]
        left, top, size = person_box(masks[row] == 1)
        moved = (known[row, :, :2] - (left, top)) * (48 / (size / 2), 64 / size)
        seen = (known[row, :, 2] > 0) & ((moved > 1) & (moved < (47, 63))).all(1)
        assert seen.sum() >= 6
        assert np.abs(came[n, seen, :2] - moved[seen]).max() < 0.05


def test_a_camera_keeps_its_place_and_the_person(people):
    one, other = (place_camera(0, number, 64, 48) for number in (0, 1))
    rng = np.random.default_rng(0)
    black = np.zeros((64, 48, 3), np.uint8)
    white = np.full((64, 48, 3), 255, np.uint8)
    mask = np.zeros((64, 48), bool)
    mask[:, :24] = True
    dark, bright = (np.asarray(seen_by(one, picture, 1.0 * mask, rng)).astype(float) for picture in (black, white))
    assert bright[:, :20].mean() > dark[:, :20].mean() + 100
    assert abs(bright[:, 28:].mean() - dark[:, 28:].mean()) < 40
    assert one.scene.shape == (64, 96, 3) and np.abs(one.scene - other.scene).mean() > 0.05


@pytest.mark.parametrize(("rows", "columns"), [((8, 56), (20, 28)), ((30, 40), (2, 46)), ((0, 64), (0, 48))])
def test_a_picture_is_cut_to_its_person(rows, columns):
    """The person is whole, in the middle, and fills the height or the width but for the margin."""
    mask = np.zeros((64, 48), np.uint8)
    mask[slice(*rows), slice(*columns)] = 255
    box = person_box(mask > 0)
    seen = cut(mask, box, 128) > 127
    assert seen.shape == (128, 64)
    for axis, side in ((1, 128), (0, 64)):
        found = np.flatnonzero(seen.any(axis))
        assert abs(found[0] + found[-1] - (side - 1)) <= 2
        part = rows if axis else columns
        assert np.isclose(len(found), (part[1] - part[0]) * 128 / box[2], atol=2)
    shares = [len(np.flatnonzero(seen.any(axis))) / side for axis, side in ((1, 128), (0, 64))]
    assert np.isclose(max(shares), 1 / 1.08, atol=0.03)


def test_the_same_command_writes_the_same_pictures(people, tmp_path):
    for name in ("a", "b"):
        write_cameras(people, tmp_path / name, 2)
    files = [read_shots(tmp_path / name, TRAIN).files for name in ("a", "b")]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))
    assert read_pictures(files[0][:2], 64, 48).std() > 5


def test_what_cannot_stand_before_cameras_is_told(people, figures, tmp_path, capsys):
    with pytest.raises(InputError, match="has no masks"):
        write_cameras(figures, tmp_path)
    with pytest.raises(InputError, match="2 to 6"):
        write_cameras(people, tmp_path, 1)
    with pytest.raises(InputError, match="none is there to be found"):
        write_cameras(people, tmp_path, 3)
    assert study_reid.main(["cameras", "--data", str(tmp_path / "no"), "--out", str(tmp_path)]) == 2
    assert "is no people set" in capsys.readouterr().err
