"""Evaluation: its measures on cases worked out by hand, and a whole run on a tiny generated set."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from reposedm_core import Pose, RePoseDMPipeline
from reposedm_core.pose import coco_to_openpose
from training import evaluate, metrics
from training.data.dataset import People
from training.metrics.perceptual import PerceptualDistance, load_network
from training.metrics.pictures import MOST_DECIBELS, REGIONS
from training.sheet import comparison_sheet

HEIGHT, WIDTH = 64, 48    # of the set in conftest.py
PICTURES = {"perceptual", "psnr", "ssim", "foreground_l1", "colour_right", "colour_difference"}
FIELD = 3e-6
"""A field strength that does not throw an untrained network off the scale."""


def plain(*colour: int, count: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Pictures of one colour, uint8 (n, H, W, 3)."""
    return np.broadcast_to(np.array(colour, np.uint8), (count, *size, 3)).copy()


def textured(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, uint8 (n, H, W, 3)."""
    coarse = torch.rand(count, 3, 8, 6, generator=torch.Generator().manual_seed(seed))
    return evaluate.to_pictures(F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic") * 2 - 1)


def joints_at(*points: tuple[float, float, float]) -> np.ndarray:
    """One picture's COCO joints (1, 17, 3): the given ones, the others outside the frame."""
    joints = np.zeros((1, 17, 3), np.float32)
    joints[0, :len(points)] = points
    return joints


# measures

def test_identical_pictures_are_perfect():
    pictures = textured(2)
    masks = np.ones((2, HEIGHT, WIDTH))
    garments = np.full((2, HEIGHT, WIDTH), REGIONS["top"], np.uint8)
    assert metrics.psnr(pictures, pictures).tolist() == [MOST_DECIBELS] * 2
    assert metrics.ssim_256(pictures, pictures) == pytest.approx([1, 1])
    assert metrics.foreground_l1(pictures, pictures, masks).tolist() == [0, 0]
    colours = metrics.colour_measures(pictures, pictures, garments)
    assert colours["colour_right"].tolist() == [1, 1] and colours["colour_difference"].tolist() == [0, 0]


def test_differences_by_hand():
    truth, brighter = plain(102, 102, 102), plain(153, 153, 153)          # 0.4 and 0.6
    assert metrics.psnr(brighter, truth) == pytest.approx([-10 * np.log10(0.2**2)])
    masks = np.zeros((1, HEIGHT, WIDTH))
    masks[:, :10] = 1
    half = truth.copy()
    half[:, 5:30] = brighter[:, 5:30]                                      # half of the mask, and much outside it
    assert metrics.foreground_l1(half, truth, masks) == pytest.approx([0.1])
    assert np.isnan(metrics.foreground_l1(half, truth, 0 * masks)).all()
    blurred = textured(1).mean((1, 2), keepdims=True).round().astype(np.uint8) + np.zeros_like(textured(1))
    assert metrics.ssim_256(blurred, textured(1)) < 0.7


def test_ssim_of_a_constant_shift_is_the_formula():
    """Without texture only the luminance term is left: (2ab + c) / (a² + b² + c), c = 0.01²."""
    a, b, c = 0.4, 0.6, 1e-4
    found = metrics.ssim_256(plain(153, 153, 153), plain(102, 102, 102))
    assert found == pytest.approx([(2 * a * b + c) / (a * a + b * b + c)])


def test_a_colour_shift_is_flagged_where_it_is_a_garment():
    truth = plain(128, 128, 128, count=4)
    garments = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    garments[:, :20] = REGIONS["top"]
    garments[:2, 40:] = REGIONS["bottom"]
    garments[2, 40, :10] = REGIONS["bottom"]      # 10 of 3072 pixels: too few to be judged
    garments[3] = 0
    pictures = truth.copy()
    pictures[0, :20] = (133, 128, 124)                     # a little off
    pictures[1, 40:] = (190, 60, 60)                       # the trousers are red
    pictures[2, 40, :10] = (255, 0, 0)
    pictures[3] = (255, 0, 0)                              # no garment to judge
    found = metrics.colour_measures(pictures, truth, garments)
    assert found["colour_right"][:3].tolist() == [1, 0, 1] and np.isnan(found["colour_right"][3])
    assert found["colour_difference"][1] == pytest.approx(delta_e((190, 60, 60), (128, 128, 128)) / 2)
    assert found["colour_difference"][2] == 0 and np.isnan(found["colour_difference"][3])


def delta_e(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """CIE76 of two sRGB colours, from the definitions (D65, 2°)."""
    def lab(colour):
        c = np.array(colour) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
                        [0.019334, 0.119193, 0.950227]]) @ linear / (0.95047, 1.0, 1.08883)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return float(np.linalg.norm(lab(first) - lab(second)))


def test_the_limit_of_a_right_colour_lies_where_it_is_said():
    truth = plain(128, 128, 128)
    garments = np.full((1, HEIGHT, WIDTH), REGIONS["top"], np.uint8)
    for red in range(128, 200, 4):
        right = metrics.colour_measures(plain(red, 128, 128), truth, garments)["colour_right"][0]
        assert right == (delta_e((red, 128, 128), (128, 128, 128)) <= 20)


def test_joints_by_hand():
    truth = joints_at((10, 10, 2), (20, 20, 2), (30, 30, 1), (40, 40, 2), (5, 50, 2))
    predicted = joints_at((10, 13, 1), (25, 20, 1), (0, 0, 1), (40, 40, 0.2), (5, 57, 1))   # 3, 5, hidden, 0, 7
    found = metrics.pck_measures(predicted, truth, height=100)
    assert found["pck@0.05"].tolist() == [0.75] and found["joint_error"].tolist() == [15 / 4]
    assert metrics.pck(predicted, truth, 4) == 0.5 and metrics.joint_error(predicted, truth) == 15 / 4
    both = np.concatenate([truth, joints_at((1, 1, 1))]), np.concatenate([predicted, joints_at((1, 1, 1))])
    assert np.isnan(metrics.pck_measures(both[1], both[0], 100)["pck@0.05"][1]), "no visible joint, no measure"
    assert metrics.pck(both[1], both[0], 5) == 0.75


def test_interval_is_that_of_the_normal_distribution_and_of_people_not_pairs():
    values = np.random.default_rng(0).normal(5, 2, 400)
    people = np.arange(400)
    mean, low, high = metrics.interval(values, people)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert metrics.interval(values, people) == (mean, low, high), "seeded"
    again = metrics.interval(np.tile(values, 5), np.tile(people, 5))
    assert again == pytest.approx((mean, low, high)), "more pairs of the same people tell nothing new"
    with_gaps = metrics.interval(np.append(values, np.nan), np.append(people, 7))
    assert with_gaps == pytest.approx((mean, low, high))
    assert np.isnan(metrics.interval(values[:3], np.zeros(3))[1:]).all(), "one person gives no interval"
    assert np.isnan(metrics.interval(np.array([np.nan]), np.zeros(1))).all()


# perceptual distance

@pytest.fixture(scope="module")
def perceptual() -> PerceptualDistance:
    return PerceptualDistance()


def test_perceptual_weights_are_where_they_belong():
    """Mean features of a grey ramp; efficientnet_lite_pytorch, the weights' own code, has the same."""
    ramp = torch.linspace(-1, 1, 96).expand(1, 3, 128, 96)
    means = [float(features.mean()) for features in load_network()(ramp)]
    assert means == pytest.approx([2.30668, 0.57070, 0.45946, 0.25287, 0.56352], rel=1e-4)


def test_perceptual_distance_grows_with_what_is_wrong(perceptual):
    picture = torch.from_numpy(textured(1)).movedim(-1, 1).float() / 127.5 - 1
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    assert perceptual(picture, picture) == 0
    for spoilt in ([picture + s * noise for s in (0.05, 0.1, 0.2, 0.4)], [picture.roll(s, -1) for s in (1, 2, 4, 8)]):
        distances = [float(perceptual(picture, other)) for other in spoilt]
        assert distances == sorted(distances) and distances[0] > 0 and distances[-1] < 2
    other = torch.from_numpy(textured(1, seed=1)).movedim(-1, 1).float() / 127.5 - 1
    torch.testing.assert_close(perceptual(picture, other), perceptual(other, picture))
    both = perceptual(torch.cat([picture, other]), torch.cat([other, other]))
    torch.testing.assert_close(both, torch.cat([perceptual(picture, other), perceptual(other, other)]))


def test_sheet_has_the_pictures_where_they_belong():
    columns = {"a": np.concatenate([plain(200, 0, 0), plain(0, 200, 0), plain(0, 0, 200)]),
               "b": plain(9, 9, 9, count=3)}
    sheet = np.asarray(comparison_sheet(columns, ["one", "two", "three"], across=2, zoom=1))
    found = {tuple(colour) for colour in sheet.reshape(-1, 3)}
    assert {(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)} <= found
    red, blue = ([int(v.min()) for v in np.nonzero((sheet == colour).all(-1))] for colour in ((200, 0, 0), (0, 0, 200)))
    assert red[0] == blue[0] and blue[1] - red[1] > 2 * WIDTH, "the third pair starts the second block"


# a whole run

@pytest.fixture(scope="module")
def results(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("results")
    return evaluate.evaluate(weights, data, out, pairs=3, batch=2, field_strength=FIELD, seed=5), out


@pytest.mark.parametrize("strength", [0.0, FIELD])
def test_a_batch_gives_what_the_pipeline_gives_one_by_one(data, weights, strength):
    people, pipe = People(data, "test"), RePoseDMPipeline.from_pretrained(weights)
    pairs = people.fixed_pairs(3)
    source, joints = people.pictures(pairs.identity, pairs.source), people.joints(pairs.identity, pairs.target)
    skeleton = people.skeletons(pairs.identity, pairs.target)
    condition, alignment = pipe.condition(source, skeleton)
    batch = evaluate.transfer(pipe, condition, skeleton, [7, 8, 9], 3, 1.5,
                              replace(pipe.config.field, strength=strength), torch.from_numpy(joints))
    for i in range(3):
        single = pipe(people.read("pictures", pairs.identity[i], pairs.source[i])[0],
                      Pose(coco_to_openpose(joints[i:i + 1]), HEIGHT, WIDTH), seed=7 + i, steps=3, guidance_scale=1.5,
                      field_strength=strength)
        for mine, theirs in ((batch[i], single.image[0]), (alignment.image[i], single.aligned[0])):
            assert ((mine.clamp(-1, 1) + 1) / 2 - theirs).abs().max() < 1e-3
    assert (batch[0] - batch[1]).abs().max() > 0.1, "the pairs differ"


def test_rows_and_columns(results):
    found, _ = results
    ours, baselines = ["RePoseDM", f"RePoseDM + field {FIELD:g}"], ["copy the source", "warp only"]
    assert list(found["rows"]) == [*baselines, *ours, "autoencoder of the truth", "the truth itself"]
    columns = {"perceptual", "psnr", "ssim", "foreground_l1", "colour_right", "colour_difference", "pck@0.05",
               "pck@0.1", "pck_torso@0.2", "pck_head@0.5", "joint_error"}
    for row, cells in found["rows"].items():
        assert set(cells) == (columns if row != "the truth itself" else columns - PICTURES)
    assert list(found["differences"]) == [f"{name} − {base}" for name in ours for base in baselines]
    assert found["protocol"]["identities"] == 1 and found["protocol"]["pairs"] == 3
    without, guided = (found["rows"][name]["perceptual"]["mean"] for name in ours)
    assert without != guided, "the field did something"


def test_numbers_are_those_of_the_pictures(results, data):
    found, _ = results
    people = People(data, "test")
    pairs = people.fixed_pairs(3)
    copies, truth = (people.read("pictures", pairs.identity, index) for index in (pairs.source, pairs.target))
    row = found["rows"]["copy the source"]
    assert row["psnr"]["mean"] == pytest.approx(metrics.psnr(copies, truth).mean(), abs=1e-5)
    garments = np.load(data / "garments.npy")[pairs.identity, pairs.target]
    colour = metrics.colour_measures(copies, truth, garments)["colour_difference"]
    assert row["colour_difference"]["mean"] == pytest.approx(np.nanmean(colour), abs=1e-5)
    difference = found["differences"]["RePoseDM − copy the source"]["psnr"]["mean"]
    assert difference == pytest.approx(found["rows"]["RePoseDM"]["psnr"]["mean"] - row["psnr"]["mean"], abs=1e-5)


def test_files_say_the_same_and_say_it_again(results, data, weights, tmp_path, capsys):
    found, out = results
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == found
    code = evaluate.main(["--weights", str(weights), "--data", str(data), "--out", str(tmp_path), "--pairs", "3",
                          "--batch", "2", "--field-strength", str(FIELD), "--seed", "5"])
    assert code == 0
    for name in ("results.json", "results.md", "sheet.jpg"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), f"{name} differs between two runs"
    table = (out / "results.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    psnr = found["rows"]["warp only"]["psnr"]["mean"]
    assert any(line.startswith("| warp only |") and f" {psnr:.2f} " in line for line in table.splitlines())
    assert "EfficientNet-Lite0" in table and "the checkpoint's own pose estimator" in table
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.width > 3 * 5 * 2 * WIDTH and sheet.height > 2 * HEIGHT


def test_another_seed_gives_other_pictures(results, data, weights, tmp_path):
    found, _ = results
    other = evaluate.evaluate(weights, data, tmp_path, pairs=3, batch=2, seed=6)
    for row in ("copy the source", "warp only", "autoencoder of the truth", "the truth itself"):
        assert other["rows"][row] == found["rows"][row]
    assert other["rows"]["RePoseDM"] != found["rows"]["RePoseDM"]


def test_a_set_without_garments_has_no_colour_columns(data, weights, tmp_path):
    shutil.copytree(data, tmp_path / "set", ignore=shutil.ignore_patterns("garments.npy"))
    found = evaluate.evaluate(weights, tmp_path / "set", tmp_path, pairs=1, steps=1, guidance_scale=1)
    assert not {"colour_right", "colour_difference"} & set(found["rows"]["RePoseDM"])
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "colours right" not in table and "PSNR" in table


def test_bad_input_is_one_clear_line(data, weights, tmp_path, capsys):
    def refused(**changes) -> str:
        options = {"weights": weights, "data": data, "out": tmp_path / "out", **changes}
        code = evaluate.main([part for name, value in options.items() for part in (f"--{name}", str(value))])
        assert code == 2 and not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "no such file" in refused(weights=tmp_path / "none.safetensors")
    assert "synthetic.py" in refused(data=tmp_path / "nothing")
    assert "pairs = 0" in refused(pairs=0)
    assert "steps = 2000" in refused(steps=2000)
    small = tmp_path / "small"
    shutil.copytree(data, small)
    pictures = np.load(small / "pictures.npy")
    np.save(small / "pictures.npy", pictures[:, :, :32])
    message = refused(data=small)
    assert message.startswith("error: ") and "48×32" in message and "48×64" in message and "--height 64" in message
