"""Measures of pictures on cases worked out by hand, the perceptual distance, and the sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reposedm_core.errors import InputError
from training import metrics
from training.engine.sheets import MOST_WIDE, comparison_sheet
from training.evaluation.generate import to_pictures
from training.metrics.perceptual import PerceptualDistance, load_network
from training.metrics.pictures import MOST_DECIBELS, REGIONS
from training.metrics.statistics import interval_of_runs

HEIGHT, WIDTH = 64, 48


def plain(*colour: int, count: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Pictures of one colour, uint8 (n, H, W, 3)."""
    return np.broadcast_to(np.array(colour, np.uint8), (count, *size, 3)).copy()


def textured(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, uint8 (n, H, W, 3)."""
    coarse = torch.rand(count, 3, 8, 6, generator=torch.Generator().manual_seed(seed))
    return to_pictures(F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic") * 2 - 1)


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
    truth, brighter = plain(102, 102, 102), plain(153, 153, 153)  # 0.4 and 0.6
    assert metrics.psnr(brighter, truth) == pytest.approx([-10 * np.log10(0.2**2)])
    masks = np.zeros((1, HEIGHT, WIDTH))
    masks[:, :10] = 1
    half = truth.copy()
    half[:, 5:30] = brighter[:, 5:30]  # half of the mask, and much outside it
    assert metrics.foreground_l1(half, truth, masks) == pytest.approx([0.1])
    assert np.isnan(metrics.foreground_l1(half, truth, 0 * masks)).all()
    blurred = textured(1).mean((1, 2), keepdims=True).round().astype(np.uint8) + np.zeros_like(textured(1))
    assert metrics.ssim_256(blurred, textured(1)) < 0.7


def test_psnr_and_ssim_51_are_the_formulas():
    """SSIM with a uniform window, in the middle of a picture that is one window large: one number a channel."""
    truth, other = (np.random.default_rng(seed).integers(0, 256, (1, 51, 51, 3), np.uint8) for seed in (0, 1))
    other = (0.6 * truth + 0.4 * other).astype(np.uint8)
    x, y = truth[0] / 255, other[0] / 255
    assert metrics.psnr(other, truth) == pytest.approx([10 * np.log10(1 / np.mean((x - y) ** 2))])
    means = x.mean((0, 1)), y.mean((0, 1))
    count = x.shape[0] * x.shape[1]
    spread = count / (count - 1)  # scikit-image's sample covariance
    variances = spread * x.var((0, 1)), spread * y.var((0, 1))
    covariance = spread * ((x - means[0]) * (y - means[1])).mean((0, 1))
    expected = (
        (2 * means[0] * means[1] + 1e-4)
        * (2 * covariance + 9e-4)
        / ((means[0] ** 2 + means[1] ** 2 + 1e-4) * (variances[0] + variances[1] + 9e-4))
    ).mean()
    assert metrics.ssim_51(other, truth) == pytest.approx([expected])


def test_ssim_51_refuses_pictures_smaller_than_its_window():
    with pytest.raises(InputError, match="window of 51 pixels cannot measure pictures of 48×64"):
        metrics.ssim_51(plain(1, 2, 3), plain(1, 2, 3))


@pytest.mark.parametrize("sigma", [1.2, 1.5])
def test_ssim_256_is_the_formula(sigma):
    """One window of Wang et al. by hand: at the centre of a picture that is just as large as the window."""
    radius = int(3.5 * sigma + 0.5)
    side = 2 * radius + 1
    truth, other = (np.random.default_rng(seed).integers(0, 256, (1, side, side, 3), np.uint8) for seed in (2, 3))
    line = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    window = np.outer(line, line)[..., None] / line.sum() ** 2
    x, y = truth[0].astype(float), other[0].astype(float)
    mx, my = (window * x).sum((0, 1)), (window * y).sum((0, 1))
    vx, vy = (window * x * x).sum((0, 1)) - mx**2, (window * y * y).sum((0, 1)) - my**2
    cov = (window * x * y).sum((0, 1)) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert metrics.ssim_256(other, truth, sigma) == pytest.approx([expected])


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
    garments[2, 40, :10] = REGIONS["bottom"]  # 10 of 3072 pixels: too few to be judged
    garments[3] = 0
    pictures = truth.copy()
    pictures[0, :20] = (133, 128, 124)  # a little off
    pictures[1, 40:] = (190, 60, 60)  # the trousers are red
    pictures[2, 40, :10] = (255, 0, 0)
    pictures[3] = (255, 0, 0)  # no garment to judge
    found = metrics.colour_measures(pictures, truth, garments)
    assert found["colour_right"][:3].tolist() == [1, 0, 1] and np.isnan(found["colour_right"][3])
    assert found["colour_difference"][1] == pytest.approx(delta_e((190, 60, 60), (128, 128, 128)) / 2)
    assert found["colour_difference"][2] == 0 and np.isnan(found["colour_difference"][3])


def delta_e(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """CIE76 of two sRGB colours, from the definitions (D65, 2°)."""

    def lab(colour):
        c = np.array(colour) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        xyz = (
            np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
            @ linear
            / (0.95047, 1.0, 1.08883)
        )
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return float(np.linalg.norm(lab(first) - lab(second)))


def test_the_limit_of_a_right_colour_lies_where_it_is_said():
    truth = plain(128, 128, 128)
    garments = np.full((1, HEIGHT, WIDTH), REGIONS["top"], np.uint8)
    for red in range(128, 200, 4):
        right = metrics.colour_measures(plain(red, 128, 128), truth, garments)["colour_right"][0]
        assert right == (delta_e((red, 128, 128), (128, 128, 128)) <= 20)


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


def test_of_one_training_the_interval_over_trainings_is_that_over_people():
    rng = np.random.default_rng(0)
    people, values = np.repeat(np.arange(20), 3), rng.normal(size=60)
    values[7] = np.nan
    assert interval_of_runs(values[None], people) == pytest.approx(metrics.interval(values, people))
    assert interval_of_runs(np.stack([values, values]), people) == pytest.approx(metrics.interval(values, people))
    _, low, high = metrics.interval(values, people)
    mean, lower, higher = interval_of_runs(np.stack([values - 1, values + 1]), people)
    assert mean == pytest.approx(np.nanmean(values)) and lower < low - 0.5 and higher > high + 0.5
    assert np.isnan(interval_of_runs(values[None, :3], np.zeros(3))[1:]).all()
    assert np.isnan(interval_of_runs(np.full((2, 1), np.nan), np.zeros(1))).all()


def test_a_ratio_of_means_is_sure_where_its_parts_go_together():
    rng = np.random.default_rng(0)
    people, base = np.arange(200), rng.uniform(0.5, 1.5, 200)
    mean, low, high = metrics.interval(0.8 * base, people, base)
    assert mean == pytest.approx(0.8) == pytest.approx(low) == pytest.approx(high), "pair by pair the same share"
    mean, low, high = metrics.interval(0.8 * rng.permutation(base), people, base)
    assert mean == pytest.approx(0.8) and 0.7 < low < 0.77 and 0.83 < high < 0.9
    with_gaps = metrics.interval(np.array([1.0, 5.0, 2.0]), np.arange(3), np.array([2.0, np.nan, 4.0]))
    assert with_gaps == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(metrics.interval(np.ones(2), np.arange(2), np.zeros(2))).all(), "nothing to be a share of"


# sharpness, background


def dressed(values: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures (1, 128, 96, 3) of `values` in a garment's box on `ground`, and the garment's labels."""
    labels = np.zeros((1, 128, 96), np.uint8)
    labels[0, 20:110, 20:80] = REGIONS["top"]
    grey = np.where(labels > 0, values, ground).round().clip(0, 255).astype(np.uint8)
    return grey[..., None].repeat(3, -1), labels


def test_sharpness_is_the_energy_that_a_blur_leaves():
    """White noise under a Gaussian of σ: exp(-4π²σ²f²) of its energy at f."""
    rng = np.random.default_rng(0)
    noise, ground = rng.normal(0, 30, (128, 96)), rng.uniform(0, 255, (128, 96))
    truth, garments = dressed(128 + noise, ground)
    f = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(96))
    for sigma in (0.2, 0.4, 0.6):
        kept = np.exp(-2 * np.pi**2 * sigma**2 * np.square(f))
        blurred, _ = dressed(128 + np.fft.ifft2(np.fft.fft2(noise) * kept).real, 0 * ground)
        expected = np.square(kept[f > 0.25]).mean()
        assert metrics.sharpness(blurred, truth, garments)[0] == pytest.approx(expected, rel=0.1)
    louder, _ = dressed(128 + 1.5 * noise, ground)
    assert metrics.sharpness(louder, truth, garments)[0] == pytest.approx(1.5**2, rel=0.02)


def test_sharpness_sees_neither_coarse_patterns_nor_what_lies_around_the_garment():
    rng = np.random.default_rng(0)
    noise, ground = rng.normal(0, 20, (128, 96)), rng.uniform(0, 255, (128, 96))
    wave = 40 * np.sin(2 * np.pi * np.arange(96) / 24)
    truth, garments = dressed(128 + noise, ground)
    waved, _ = dressed(110 + noise + wave, 255 - ground)
    assert metrics.sharpness(waved, truth, garments)[0] == pytest.approx(1, abs=0.01)
    plain_truth, _ = dressed(np.full((128, 96), 90.0), ground)
    other, _ = dressed(np.full((128, 96), 180.0), 0 * ground)
    assert metrics.sharpness(other, plain_truth, garments)[0] == pytest.approx(1), "no detail in either"
    assert metrics.sharpness(truth, plain_truth, garments)[0] > 100, "noise where there is none"
    assert np.isnan(metrics.sharpness(truth, truth, 0 * garments)[0])
    lines = 0 * garments
    lines[0, 20:110, ::4] = REGIONS["top"]
    assert np.isnan(metrics.sharpness(truth, truth, lines)[0]), "all of it is edge"


def test_background_is_the_largest_difference_away_from_both_persons():
    source = np.full((1, 128, 96, 3), 100, np.uint8)
    masks, source_masks = np.zeros((2, 1, 128, 96), np.uint8)
    masks[0, 40:60, 40:50] = source_masks[0, 80:90, 10:20] = 1
    picture = source.copy()
    picture[0, 36:64, 36:54] = picture[0, 76:94, 6:24] = 255  # up to 4 pixels off: 8 of 256 rows
    assert metrics.background_difference(picture, source, masks, source_masks)[0] == 0
    picture[0, 100, 90, 1] = 93
    assert metrics.background_difference(picture, source, masks, source_masks)[0] == 7
    picture[0, 64, 40] = 250
    assert metrics.background_difference(picture, source, masks, source_masks)[0] == 150
    assert np.isnan(metrics.background_difference(picture, source, masks + 1, source_masks)[0])


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
    columns = {
        "a": np.concatenate([plain(200, 0, 0), plain(0, 200, 0), plain(0, 0, 200)]),
        "b": plain(9, 9, 9, count=3),
    }
    sheet = np.asarray(comparison_sheet(columns, ["one", "two", "three"], across=2, zoom=1))
    found = {tuple(colour) for colour in sheet.reshape(-1, 3)}
    assert {(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9)} <= found
    red, blue = ([int(v.min()) for v in np.nonzero((sheet == colour).all(-1))] for colour in ((200, 0, 0), (0, 0, 200)))
    assert red[0] == blue[0] and blue[1] - red[1] > 2 * WIDTH, "the third pair starts the second block"


def test_a_sheet_of_larger_pictures_stays_of_a_size_to_be_read():
    def size(width: int, columns: int) -> tuple[int, int]:
        pictures = {str(n): np.zeros((6, 4 * width // 3, width, 3), np.uint8) for n in range(columns)}
        return comparison_sheet(pictures, [""] * 6).size

    assert size(96, 5)[0] > 15 * 2 * 96, "small pictures are enlarged, three blocks stand side by side"
    assert 9 * 192 < size(192, 9)[0] < MOST_WIDE < 27 * 192 and size(192, 9)[1] > 3 * 256
    assert size(384, 12)[0] > 12 * 384, "one block is always whole"
