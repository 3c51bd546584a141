"""The synthetic people: two identities in two pictures each, made once, then looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

pytest.importorskip("anny", reason="the synthetic people need anny")

from reposedm_core.errors import InputError
from reposedm_core.pose import coco_to_openpose
from training.synthetic import generate, materials
from training.synthetic.backgrounds import render_background
from training.synthetic.body import load_body
from training.synthetic.render import render_identity, sample_identity, sample_views

SIZE = {"identities": 2, "poses": 2, "seed": 7, "height": 128, "width": 96, "correspondence": True, "cell": 2}
ARRAYS = generate.layout(generate.Arguments(**SIZE))
SHOULDERS_AND_HIPS = [5, 6, 11, 12]


def _read(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy") for name in ARRAYS}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("people")
    generate.generate(out, **SIZE, workers=1)
    return out


def test_shapes_types_and_ranges(folder: Path) -> None:
    data = _read(folder)
    for name, (shape, dtype) in ARRAYS.items():
        assert data[name].shape == shape and data[name].dtype == dtype, name
    assert data["done"].all()
    assert data["identity"].tolist() == [0, 0, 1, 1] and data["split"].tolist() == [2, 2, 1, 1]
    assert set(np.unique(data["masks"])) == {0, 1}
    assert set(np.unique(data["visibility"])) == {0, 1, 2}
    assert data["garments"].max() < len(materials.LABELS)
    assert np.isfinite(data["flow"]).all() and np.abs(data["flow"]).max() <= 2
    assert set(np.unique(data["joints"][..., 2])) <= {0, 1, 2}
    assert np.array_equal(data["openpose"], coco_to_openpose(data["joints"]))
    assert 0.05 < data["masks"].mean() < 0.5


@pytest.mark.processes
def test_bytes_do_not_depend_on_workers(folder: Path, tmp_path: Path) -> None:
    generate.generate(tmp_path, **SIZE, workers=2)
    assert _bytes(tmp_path) == _bytes(folder)


def test_resumes_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("done", "pictures", "flow"):
        array = np.lib.format.open_memmap(tmp_path / f"{name}.npy", mode="r+")
        array[3] = 0
        array.flush()
    generate.generate(tmp_path, **SIZE, workers=1)
    assert _bytes(tmp_path) == _bytes(folder)


def test_a_folder_of_other_arguments_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="other arguments"):
        generate.generate(folder, **{**SIZE, "seed": 8}, workers=1)


def test_identity_depends_neither_on_the_number_of_pictures_nor_on_what_else_is_written(folder: Path, tmp_path: Path):
    generate.generate(tmp_path, **{**SIZE, "identities": 1, "poses": 1, "correspondence": False}, workers=1)
    assert not (tmp_path / "flow.npy").exists()
    # The last bits of the skinned vertices may differ between batch sizes: compare pictures, not bytes.
    one, two = np.load(tmp_path / "pictures.npy")[0], np.load(folder / "pictures.npy")[0]
    assert (one != two).mean() < 0.01


def test_visible_torso_joints_are_on_the_person(folder: Path) -> None:
    data = _read(folder)
    checked = 0
    for row in range(4):
        for x, y, visible in data["joints"][row, SHOULDERS_AND_HIPS]:
            if visible == 2:
                assert data["masks"][row, int(y), int(x)] == 1
                checked += 1
    assert checked >= 6


def test_garment_labels_cover_exactly_the_mask(folder: Path) -> None:
    data = _read(folder)
    assert np.array_equal(data["garments"] > 0, data["masks"] == 1)
    shown = [(data["garments"] == label).sum((1, 2)) > 0 for label in range(len(materials.LABELS))]
    assert shown[materials.LABEL_SKIN].all()
    assert (shown[materials.LABEL_DRESS] | (shown[materials.LABEL_TOP] & shown[materials.LABEL_BOTTOM])).all()


def test_background_of_flow_is_zero_and_matches_the_mask(folder: Path) -> None:
    data = _read(folder)
    for source, target in np.ndindex(4, 2):
        empty = data["visibility"][source, target] == 0
        assert (data["flow"][source, target][empty] == 0).all()
        mask = data["masks"][2 * (source // 2) + target]
        coarse = mask.reshape(64, 2, 48, 2).mean((1, 3))
        assert ((coarse > 0.5) != ~empty).mean() < 0.03  # outline cells only


def test_surface_says_which_point_of_the_body_a_cell_shows(folder: Path) -> None:
    """The same points wherever the correspondence leads from one picture to another, about those of the joints."""
    data, near = _read(folder), []
    for source, target in np.ndindex(4, 2):
        row = 2 * (source // 2) + target
        surface, visible = data["surface"][row].astype(np.float32), data["visibility"][source, target]
        assert np.array_equal((surface != 0).any(-1), visible > 0)
        seen = visible == 2
        x, y = (((data["flow"][source, target].astype(np.float32) + 1) / 2) * [48, 64])[seen].astype(int).T
        distance = np.linalg.norm(data["surface"][source, y.clip(0, 63), x.clip(0, 47)] - surface[seen], axis=-1)
        near.append(np.median(distance))
        shoulders = data["joints"][row, [5, 6]]
        for (x, y, shown), rest in zip(shoulders, load_body().mesh.joints[[5, 6]], strict=True):
            if shown == 2 and data["masks"][row, int(y), int(x)]:
                assert np.linalg.norm(surface[int(y / 2), int(x / 2)] - rest) < 0.2
    assert max(near) < 0.03  # rest units: about a cell


def test_background_is_the_same_in_every_picture(folder: Path) -> None:
    data = _read(folder)
    for row in range(4):
        person = sample_identity(SIZE["seed"], row // 2)
        expected = render_background(person.background, 128, 96) * 255
        corner = data["masks"][row] == 0
        corner[8:-8, 8:-8] = False  # well away from the blended outline
        difference = np.abs(data["pictures"][row].astype(float) - expected)[corner]
        assert np.median(difference) <= 1.5


def test_a_shadow_falls_on_the_person_and_leaves_the_background_as_it_is() -> None:
    """Every byte off the person is that of the other pictures, in a person's every picture."""
    for identity in range(20):
        views = sample_views(load_body(), 7, identity, 4)
        shaded = [view.light.shadow is not None for view in views]
        if 0 < sum(shaded) < 4:
            break
    rows = render_identity(load_body(), 7, identity, 4, 128, 96)
    off = ~binary_dilation((rows["masks"] > 0).any(0), iterations=2)
    assert off.mean() > 0.2 and (rows["pictures"][:, off] == rows["pictures"][:1, off]).all()
    for k in np.flatnonzero(shaded):
        left = views[k].light.shadow.left(128, 96)
        assert left.min() > 0 and left.max() <= 1 and (left < 1).mean() > 0.02


def test_people_differ() -> None:
    people = [sample_identity(1, i) for i in range(60)]
    assert len({person.look.palette.tobytes() for person in people}) == 60
    for word, least in {"age": 3, "hair": 5, "background": 8, "lower": 6, "sleeves": 5, "neckline": 5, "shoes": 5,
                        "top pattern": 8, "print": 4, "light": 2}.items():  # fmt: skip
        assert len({person.words[word] for person in people}) >= least, word
