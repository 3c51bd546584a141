"""The synthetic-people generator: two identities in two poses each, made once, then looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("anny", reason="the synthetic people need anny")

from reposedm_core.errors import InputError
from training.data import materials, synthetic
from training.data.people import render_background, sample_person

SIZE = {"identities": 2, "poses": 2, "seed": 7, "height": 128, "width": 96}
FILES = ("pictures", "joints", "masks", "garments", "flow", "visibility", "done")
SHOULDERS_AND_HIPS = [5, 6, 11, 12]


def _read(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy") for name in FILES}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.npy").read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people")
    synthetic.generate(out, **SIZE, workers=1)
    return out


def _bilinear(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Plain grid_sample (align_corners=False, border padding): picture (H, W, 3), flow (..., 2)."""
    height, width, _ = picture.shape
    x = ((flow[..., 0] + 1) * width - 1) / 2
    y = ((flow[..., 1] + 1) * height - 1) / 2
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    j, i = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    fx, fy = (x - j)[..., None], (y - i)[..., None]
    top = picture[i, j] * (1 - fx) + picture[i, j + 1] * fx
    bottom = picture[i + 1, j] * (1 - fx) + picture[i + 1, j + 1] * fx
    return top * (1 - fy) + bottom * fy


def test_smoke_shapes_types_and_ranges(folder: Path) -> None:
    data = _read(folder)
    for name, (shape, dtype) in synthetic.layout(2, 2, 128, 96).items():
        assert data[name].shape == shape and data[name].dtype == dtype, name
    assert data["done"].all()
    assert set(np.unique(data["masks"])) == {0, 1}
    assert set(np.unique(data["visibility"])) == {0, 1, 2}
    assert data["garments"].max() <= materials.LABEL_OTHER
    assert np.isfinite(data["flow"]).all() and np.abs(data["flow"]).max() <= 2
    assert set(np.unique(data["joints"][..., 2])) <= {0, 1, 2}
    assert 0.05 < data["masks"].mean() < 0.5


def test_bytes_do_not_depend_on_workers(folder: Path, tmp_path: Path) -> None:
    synthetic.generate(tmp_path, **SIZE, workers=2)
    assert _bytes(tmp_path) == _bytes(folder)


def test_resumes_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    done = np.lib.format.open_memmap(tmp_path / "done.npy", mode="r+")
    done[1] = 0
    done.flush()
    for name in ("pictures", "flow"):
        array = np.lib.format.open_memmap(tmp_path / f"{name}.npy", mode="r+")
        array[1] = 0
        array.flush()
    synthetic.generate(tmp_path, **SIZE, workers=1)
    assert _bytes(tmp_path) == _bytes(folder)


def test_a_folder_of_other_arguments_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="other arguments"):
        synthetic.generate(folder, **{**SIZE, "seed": 8}, workers=1)


def test_identity_does_not_depend_on_the_number_of_poses(folder: Path, tmp_path: Path) -> None:
    synthetic.generate(tmp_path, **{**SIZE, "identities": 1, "poses": 1}, workers=1)
    # The last bits of the skinned vertices may differ between batch sizes: compare pictures, not bytes.
    one, two = np.load(tmp_path / "pictures.npy")[0, 0], np.load(folder / "pictures.npy")[0, 0]
    assert (one != two).mean() < 0.01


def test_visible_torso_joints_are_on_the_person(folder: Path) -> None:
    data = _read(folder)
    checked = 0
    for i, k in np.ndindex(2, 2):
        for x, y, visible in data["joints"][i, k, SHOULDERS_AND_HIPS]:
            if visible == 2:
                assert data["masks"][i, k, int(y), int(x)] == 1
                checked += 1
    assert checked >= 6


def test_garment_labels_cover_exactly_the_mask(folder: Path) -> None:
    data = _read(folder)
    assert np.array_equal(data["garments"] > 0, data["masks"] == 1)
    for label in (materials.LABEL_SKIN, materials.LABEL_TOP, materials.LABEL_BOTTOM):
        assert ((data["garments"] == label).sum((2, 3)) > 0).all()


def test_background_of_flow_is_zero_and_matches_the_mask(folder: Path) -> None:
    data = _read(folder)
    for i, s, t in np.ndindex(2, 2, 2):
        empty = data["visibility"][i, s, t] == 0
        assert (data["flow"][i, s, t][empty] == 0).all()
        coarse = data["masks"][i, t].reshape(64, 2, 48, 2).mean((1, 3))
        assert ((coarse > 0.5) != ~empty).mean() < 0.03  # outline cells only


def test_warping_by_flow_gives_the_target(folder: Path) -> None:
    """Mean absolute colour error of visible cells, of the full range: below 3 % within a picture (outlines),
    below 12 % between pictures (light, foreshortened patterns) and clearly below not moving anything."""
    data = _read(folder)
    pictures = data["pictures"].astype(np.float64) / 255
    moved, unmoved = [], []
    for i, s, t in np.ndindex(2, 2, 2):
        target = pictures[i, t].reshape(64, 2, 48, 2, 3).mean((1, 3))
        visible = data["visibility"][i, s, t] == 2
        warped = _bilinear(pictures[i, s], data["flow"][i, s, t].astype(np.float64))
        error = np.abs(warped - target)[visible].mean()
        if s == t:
            assert error < 0.03
        else:
            moved.append(error)
            unmoved.append(
                np.abs(pictures[i, s].reshape(64, 2, 48, 2, 3).mean((1, 3)) - target)[visible].mean()
            )
    assert np.mean(moved) < 0.12 and np.mean(moved) < 0.7 * np.mean(unmoved)


def test_background_is_the_same_in_every_picture(folder: Path) -> None:
    data = _read(folder)
    for i in range(2):
        person = sample_person(np.random.default_rng([SIZE["seed"], i]))
        expected = render_background(person.background, 128, 96) * 255
        for k in range(2):
            corner = data["masks"][i, k] == 0
            corner[8:-8, 8:-8] = False  # well away from the blended outline
            difference = np.abs(data["pictures"][i, k].astype(float) - expected)[corner]
            assert np.median(difference) <= 1.5


def test_people_differ() -> None:
    people = [sample_person(np.random.default_rng([1, i])) for i in range(20)]
    assert len({person.palette.tobytes() for person in people}) == 20
    assert len({person.background.kind for person in people}) >= 3
    assert any(person.style[materials.SKIRT_HEM] < materials.NO_SKIRT for person in people)
    assert any(person.style[materials.SKIRT_HEM] == materials.NO_SKIRT for person in people)
