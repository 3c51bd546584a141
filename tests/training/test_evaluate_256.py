"""Evaluations of the second generation: rows, the source's pose, sampling maps, more pairs for KID, what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation

from reposedm_core.alignment.skeleton_map import skeleton_map
from reposedm_core.alignment.warp import resize_map
from reposedm_core.pipeline import RePoseDMPipeline
from training import evaluate, metrics
from training.data.people_set import Pairs, People, to_unit
from training.evaluate import Options
from training.evaluation.generate import OURS, Batch, align, find_source, open_contender
from training.evaluation.picture_files import folder_name
from training.evaluation.recurrence import map_errors
from training.evaluation.sets import more_pairs
from training.metrics.distribution import kid, open_extractor

HEIGHT, WIDTH = 64, 48
PLATE = "warp on its plate"


@pytest.fixture(scope="module")
def results(data: Path, weights_256: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("results-256")
    options = Options(data, {OURS: weights_256}, pairs=3, batch=2, field_strength=0, save_pictures=out / "pictures")
    return evaluate.evaluate(options, out), out


def saved(out: Path, row: str) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in sorted((out / "pictures" / folder_name(row)).iterdir())])


def test_rows_of_the_second_generation(results):
    found, out = results
    assert list(found["rows"]) == [
        "copy the source",
        "skeleton map",
        "warp only",
        PLATE,
        OURS,
        "autoencoder reconstruction",
        "ground truth",
    ]
    assert f"{OURS} − {PLATE}" in found["differences"]
    assert "sharpness" in found["rows"][OURS] and "sharpness" not in found["differences"][f"{OURS} − {PLATE}"]
    warped, plated = saved(out, "warp only"), saved(out, PLATE)
    assert (warped != plated).any()
    text = (out / "results.md").read_text(encoding="utf-8")
    assert "as an estimator finds it" in text and "| Sampling maps |" in text and "filled in" in text


def test_new_columns_are_those_of_the_pictures(results, data):
    found, out = results
    people = People(data, "test")
    given = Batch.read(people, people.fixed_pairs(3), 0, 3)
    near = np.maximum(given.masks, given.source_masks) > 0
    near = np.stack([binary_dilation(mask, np.ones((5, 5))) for mask in near])  # 2 pixels: 8 of 256
    for row in ("copy the source", "skeleton map", PLATE, OURS):
        pictures, cells = saved(out, row), found["rows"][row]
        far = np.abs(pictures.astype(int) - given.source).max(-1)
        largest = [difference[~mask].max() for difference, mask in zip(far, near, strict=True)]
        assert cells["background"]["mean"] == pytest.approx(np.mean(largest), rel=1e-5)
        sharp = metrics.sharpness(pictures, given.truth, given.garments)
        assert cells["sharpness"]["mean"] == pytest.approx(np.exp(np.nanmean(np.log(sharp))), rel=1e-4)
    rows = found["rows"]
    assert rows["copy the source"]["background"]["mean"] == 0
    truth = rows["ground truth"]["pck@0.1"]["mean"]
    assert truth and "pck_ratio" not in rows["ground truth"]


def test_the_skeleton_map_is_the_source_under_it(results, data):
    _, out = results
    people = People(data, "test")
    given = Batch.read(people, people.fixed_pairs(3), 0, 3)
    pipe = RePoseDMPipeline.from_pretrained(next(out.parent.glob("weights*/tiny-256.safetensors")))
    joints = torch.cat([torch.from_numpy(pipe.find(picture[None]).joints) for picture in to_unit(given.source)])
    size = HEIGHT, WIDTH
    sampling = skeleton_map(joints, torch.from_numpy(given.target_pose), size, size, size)[0]
    x, y = (
        ((sampling.numpy() + 1) * np.array([WIDTH, HEIGHT])[:, None, None] / 2 - 0.5)
        .clip(0, np.array([WIDTH - 1, HEIGHT - 1])[:, None, None])
        .swapaxes(0, 1)
    )
    left, top = np.floor(x).astype(int).clip(0, WIDTH - 2), np.floor(y).astype(int).clip(0, HEIGHT - 2)
    n, (u, v) = np.arange(3)[:, None, None], (x - left, y - top)
    at = [
        given.source[n, top + j, left + i] * ((u if i else 1 - u) * (v if j else 1 - v))[..., None]
        for i in (0, 1)
        for j in (0, 1)
    ]
    assert np.abs(sum(at) - saved(out, "skeleton map")).max() < 0.51


def test_what_the_aligner_is_told_of_the_source_s_pose(data, weights_256, tmp_path):
    def run(source_pose: str) -> dict:
        options = Options(data, {OURS: weights_256}, pairs=3, field_strength=0, real="none", source_pose=source_pose)
        return evaluate.evaluate(options, tmp_path / source_pose)

    found = {name: run(name) for name in ("estimated", "true", "none")}
    for part, row in (("rows", OURS), ("maps", f"{OURS}, iteration 1")):
        cells = [json.dumps(one[part][row]) for one in found.values()]
        assert len(set(cells)) == 3, "each is another result"
    assert "skeleton map" not in found["none"]["rows"] and "skeleton map" not in found["none"]["maps"]
    told = {name: (tmp_path / name / "results.md").read_text(encoding="utf-8") for name in found}
    assert "pose is the true one" in told["true"] and "pose is not given" in told["none"]


def test_without_checkpoint_there_is_what_needs_none(data, tmp_path):
    found = evaluate.evaluate(Options(data, pairs=3, real="none", source_pose="true"), tmp_path)
    assert list(found["rows"]) == ["copy the source", "skeleton map", "ground truth"]
    assert list(found["maps"]) == ["copy the source", "skeleton map"] and found["differences"] == {}
    for name in ("results.md", "results.html", "sheet.jpg", "recurrence.png"):
        assert (tmp_path / name).stat().st_size > 1000


# -- sampling maps


def test_end_point_errors_are_those_of_the_arrays(results, data, weights_256):
    found, _ = results
    people = People(data, "test")
    pairs = people.fixed_pairs(3)
    given = Batch.read(people, pairs, 0, 3)
    contender = open_contender(weights_256, people, strength=0)
    joints = find_source(contender.pipe, given, "estimated")
    aligned = align(contender.pipe, given, joints)
    flow, visible = (values.numpy() for values in people.correspondence(pairs))
    h, w = flow.shape[-2:]
    y, x = (np.mgrid[:h, :w] + 0.5) * 2 / np.array([h, w])[:, None, None] - 1

    def expected(places: np.ndarray) -> dict[str, float]:
        off = np.linalg.norm((places - flow) * np.array([50 * WIDTH / HEIGHT, 50])[:, None, None], axis=1)
        cells = [off[n][visible[n, 0] == 2] for n in range(3)]
        return {
            "epe": np.mean([c.mean() for c in cells]),
            "epe_median": np.mean([np.median(c) for c in cells]),
            "epe_90": np.mean([np.quantile(c, 0.9) for c in cells]),
        }

    size = HEIGHT, WIDTH
    phi = skeleton_map(joints, torch.from_numpy(given.target_pose), size, size, (h, w))[0].numpy()
    rows = {
        "copy the source": np.stack([x, y])[None],
        "skeleton map": phi,
        f"{OURS}, iteration 3": resize_map(aligned.alignment.maps[2], h, w).numpy(),
    }
    for row, places in rows.items():
        for name, value in expected(places).items():
            assert found["maps"][row][name]["mean"] == pytest.approx(value, rel=1e-4), (row, name)
    assert list(found["maps"]) == [
        "copy the source",
        "skeleton map",
        f"{OURS}, disturbed",
        *(f"{OURS}, iteration {n}" for n in (1, 2, 3)),
    ]


def test_a_disturbance_is_as_large_as_it_is_said_whatever_the_batch(results, data, weights_256):
    found, _ = results
    maps = found["maps"]
    for pixels in (2, 4, 8):
        assert maps[f"{OURS}, disturbed"][f"left@{pixels}"]["mean"] == pytest.approx(100 * pixels / 128, rel=1e-4)
    people = People(data, "test")
    contender, pairs = open_contender(weights_256, people, strength=0), people.fixed_pairs(3)
    parts = []
    for first in range(3):
        given = Batch.read(people, pairs, first, 1)
        joints = find_source(contender.pipe, given, "estimated")
        parts.append(map_errors(people, given, [contender], joints, [align(contender.pipe, given, joints)]))
    for row in (f"{OURS}, iteration 2", f"{OURS}, iteration 3"):
        for name in ("epe", "left@2", "left@8"):
            values = [float(part[row][name][0]) for part in parts]
            assert maps[row][name]["mean"] == pytest.approx(np.nanmean(values), rel=1e-3)
        assert maps[row]["left@2"]["mean"] != maps[row]["left@8"]["mean"]
    assert "left@2" not in maps[f"{OURS}, iteration 1"]


def test_first_generation_maps_are_measured_without_disturbances(data, weights, tmp_path):
    maps = evaluate.evaluate(Options(data, {OURS: weights}, pairs=3, field_strength=0, real="none"), tmp_path)["maps"]
    assert list(maps) == ["copy the source", "skeleton map", f"{OURS}, iteration 1", f"{OURS}, iteration 2"]
    assert maps[f"{OURS}, iteration 2"]["epe"]["mean"] > 0 and "left@2" not in maps[f"{OURS}, iteration 2"]
    assert (tmp_path / "recurrence.png").is_file()


# -- KID on more pairs


def test_more_pairs_are_other_pairs_and_no_two_the_same(figures):
    people = People(figures, "train")  # 6 people, 36 pairs
    few, twice = people.fixed_pairs(4), people.fixed_pairs(40)

    def names(pairs: Pairs) -> list[tuple]:
        return list(zip(pairs.identity.tolist(), pairs.source.tolist(), pairs.target.tolist(), strict=True))

    more = names(more_pairs(people, few, 20))
    assert len(more) == 16 == len(set(more)) and not set(more) & set(names(few))
    assert names(more_pairs(people, few, 20)) == more
    assert len(set(names(few)) | set(names(more_pairs(people, few, 1000)))) == 36
    assert len(set(names(twice))) < 36 and set(names(more_pairs(people, twice, 1000))).isdisjoint(names(twice))
    assert len(more_pairs(people, few, 0)) == len(more_pairs(people, few, 4)) == 0


def test_kid_is_that_of_more_pairs_and_all_else_of_the_same(figures, tmp_path):
    few, many = (
        evaluate.evaluate(Options(figures, split="train", pairs=5, kid_pairs=count), tmp_path) for count in (0, 20)
    )
    people = People(figures, "train")
    pairs = people.fixed_pairs(5)
    more = more_pairs(people, pairs, 20)
    every = Pairs(
        *(np.concatenate([getattr(part, name) for part in (pairs, more)]) for name in ("identity", "source", "target"))
    )
    extractor = open_extractor("efficientnet")
    targets = np.unique(np.stack([every.identity, every.target]), axis=1)
    expected = kid(
        extractor(people.pictures(*targets)).numpy(),
        extractor(people.pictures(every.identity, every.source)).numpy(),
        targets[0],
        every.identity,
    )
    cells = many["rows"]["copy the source"]["kid"]
    assert [cells[end] for end in ("mean", "low", "high")] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert cells["low"] < cells["mean"] < cells["high"]
    assert many["protocol"]["kid_pairs"] == 20 and many["protocol"]["kid_real_pictures"] == targets.shape[1]
    assert "KID: on 20 pairs" in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert few["rows"]["copy the source"].pop("kid") != many["rows"]["copy the source"].pop("kid")
    assert few["rows"]["copy the source"] == many["rows"]["copy the source"]


# -- what is shown


def test_page_and_sheet_show_plate_visibility_and_person(results):
    _, out = results
    page = json.loads((out / "results.html").read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])
    assert page["given"] == ["source", "pose", "ground truth", "plate", "visibility", "person"]
    assert set(page["pairs"][0]["pictures"]) == {
        *page["given"],
        "copy the source",
        "skeleton map",
        "warp only",
        PLATE,
        OURS,
        "autoencoder reconstruction",
    }
    assert page["figure"] and [table["name"] for table in page["tables"]][-1] == "Sampling maps"
    with Image.open(out / "sheet.jpg") as sheet:  # 3 blocks of 9 columns, twice as large
        assert sheet.width == 2 * 16 + 3 * (9 * (2 * WIDTH + 4) - 4 + 24) - 24
