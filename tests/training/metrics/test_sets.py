"""FID, KID and their features, and LPIPS: against closed forms, plain computation and the networks themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from scipy.linalg import sqrtm
from scipy.stats import norm
from torchvision.models import alexnet, inception_v3

from reposedm_core.errors import InputError
from training.metrics import backbones
from training.metrics.distribution import FeatureExtractor, fid, kid, open_extractor
from training.metrics.perceptual import LPIPS


def gaussian(count: int, mean: torch.Tensor, factor: torch.Tensor, seed: int) -> torch.Tensor:
    """Samples (count, D) whose own mean and covariance are exactly `mean` and `factor` factorᵀ."""
    noise = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = noise - noise.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(noise.T.cov()), noise.T, upper=False)
    return (factor @ white).T + mean


def test_fid_of_gaussians_is_the_closed_form():
    """|m|² + Σ (σ₁ − σ₂)² where both covariances are diagonal."""
    zero, mean = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    one, other = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64)
    real, fake = gaussian(40, zero, one.diag(), 0), gaussian(60, mean, other.diag(), 1)
    expected = float(mean.square().sum() + (one - other).square().sum())
    assert fid(real, fake) == pytest.approx(expected, rel=1e-6)
    assert fid(real, real) == pytest.approx(0, abs=1e-6)
    assert fid(real.float(), fake.float()) == pytest.approx(expected, rel=1e-4)
    assert fid(real[:1], fake) is None


def test_fid_of_fewer_samples_than_features_is_that_of_all_axes():
    """tr(√(Σ₁Σ₂)) by scipy in all 30 dimensions."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(1, 1, (8, 30)), rng.normal(0, 2, (6, 30))
    root = sqrtm(np.cov(real.T) @ np.cov(fake.T) + 0j)
    expected = (
        np.square(real.mean(0) - fake.mean(0)).sum()
        + np.trace(np.cov(real.T))
        + np.trace(np.cov(fake.T))
        - 2 * np.trace(root).real
    )
    assert fid(torch.from_numpy(real), torch.from_numpy(fake)) == pytest.approx(expected, rel=1e-4)


def test_kid_of_gaussians_is_the_closed_form():
    """Of (xy + 1)³ between N(0, 1) and N(1, 1): E k(x,x') = 4, E k(y,y') = 32, E k(x,y) = 7, so 4 + 32 − 14."""
    real = norm.ppf((np.arange(500) + 0.5) / 500)[:, None]  # quantiles: no luck of the draw
    fake, again = real + 1, np.random.default_rng(0).normal(size=(500, 1))
    value, low, high = kid(real, fake)
    assert value == pytest.approx(22, rel=0.05) and low < value < high and high - low < 16
    assert abs(kid(real, again)[0]) < 0.3, "unbiased: nothing between samples of one distribution"
    assert kid(real, fake) == (value, low, high), "seeded"


def test_kid_is_plain_arithmetic():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(5, 3)), rng.normal(1, 2, size=(7, 3))

    def expected(ours: np.ndarray, theirs: np.ndarray) -> float:
        def mean(a: np.ndarray, whose: np.ndarray, b: np.ndarray, others: np.ndarray) -> float:
            return np.mean(
                [
                    (x @ y / 3 + 1) ** 3
                    for x, p in zip(a, whose, strict=True)
                    for y, q in zip(b, others, strict=True)
                    if p != q
                ]
            )

        return mean(real, ours, real, ours) + mean(fake, theirs, fake, theirs) - 2 * mean(real, ours, fake, theirs)

    persons = np.array([3, 1, 1, 2, 3]), np.array([1, 5, 3, 3, 9, 1, 2])
    assert kid(real, fake)[0] == pytest.approx(expected(np.arange(5), np.arange(5, 12)))
    assert kid(real, fake, *persons)[0] == pytest.approx(expected(*persons)), "no two pictures of one person"
    assert kid(np.full((4, 1), 1.0), np.full((5, 1), 2.0)) == pytest.approx((8 + 125 - 2 * 27,) * 3)
    assert kid(real[:3], fake) is None
    assert kid(real, fake, np.zeros(5), np.arange(7)) is None, "of one person"


def test_kid_resamples_people_not_pictures():
    """Twelve pictures that are all alike of each person say no more than one."""
    rng = np.random.default_rng(0)
    people = np.arange(30)
    real, fake = rng.normal(size=(30, 4)), rng.normal(0.5, 1, (30, 4))
    value, low, high = kid(real, fake, people, people)
    again_value, *again = kid(np.tile(real, (12, 1)), np.tile(fake, (12, 1)), np.tile(people, 12), np.tile(people, 12))
    _, *unaware = kid(np.tile(real, (12, 1)), np.tile(fake, (12, 1)))
    assert again_value == pytest.approx(value) and again == pytest.approx([low, high])
    paired, low_paired, high_paired = kid(real, real + 1e-3 * fake, people, people)
    assert abs(paired) < 0.02 and low_paired < paired < high_paired, "alike picture by picture: 0, not less"
    assert unaware[1] - unaware[0] < 0.6 * (high - low)


def test_features_of_efficientnet_are_its_pooled_ones():
    extractor = open_extractor("efficientnet")
    pictures = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = extractor(pictures)
    assert extractor.name == "EfficientNet-Lite0" and found.shape == (2, 1280) == (2, extractor.num_features)
    large = F.interpolate(pictures, size=(224, 224), mode="bilinear", align_corners=False)
    pooled = extractor.network.forward_features(large).mean((2, 3))
    torch.testing.assert_close(found, pooled)
    assert (found >= 0).all() and found.std() > 0.1


@pytest.fixture(scope="module")
def inception_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception-v3 with random weights, under the name that torchvision's file has."""
    folder = tmp_path_factory.mktemp("inception")
    torch.manual_seed(0)
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), folder / backbones.FILES["inception"])
    return folder


def test_features_of_inception_are_what_its_last_layer_reads(inception_folder):
    extractor = open_extractor("auto", inception_folder)
    assert extractor.name == "Inception-v3", "its weights are there, so they are used"
    whole = inception_v3(weights=None, init_weights=False).eval()
    whole.load_state_dict(torch.load(inception_folder / backbones.FILES["inception"], weights_only=True))
    seen = []
    whole.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pictures = torch.rand(1, 3, 40, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole(F.interpolate(pictures, size=(299, 299), mode="bilinear", align_corners=False))
    torch.testing.assert_close(extractor(pictures), seen[0])


def test_missing_or_wrong_weights_are_one_clear_error(tmp_path):
    assert open_extractor("auto", tmp_path).name == "EfficientNet-Lite0"
    with pytest.raises(InputError, match=r"inception_v3_google-0cc3c7bd\.pth.*--backbones"):
        FeatureExtractor("inception", tmp_path)
    with pytest.raises(InputError, match=r"alexnet-owt-7be5be79\.pth.*--backbones"):
        LPIPS(tmp_path)
    with pytest.raises(InputError, match="known are auto, inception, efficientnet"):
        open_extractor("vgg")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / backbones.FILES["alexnet"])
    with pytest.raises(InputError, match="AlexNet does not fit"):
        LPIPS(tmp_path)


def test_lpips_is_the_formula(tmp_path):
    """Zhang et al., eq. 1, with the learned weights that torchmetrics brings, on an AlexNet of random weights."""
    torch.manual_seed(0)
    features = alexnet(weights=None).features.eval()
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    torch.save(state, tmp_path / backbones.FILES["alexnet"])
    pictures = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    linear = torch.load(
        Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth",
        map_location="cpu",
        weights_only=True,
    )
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    layers = [[], []]
    for found, picture in zip(layers, pictures, strict=True):
        x = (picture - shift[:, None, None]) / scale[:, None, None]
        for number, layer in enumerate(features):
            x = layer(x).detach()
            if number in (1, 4, 7, 9, 11):  # the activations
                found.append((x / x.square().sum(1, keepdim=True).sqrt()).detach())
    expected = sum(
        ((a - b).square() * linear[f"lin{n}.model.1.weight"]).sum(1).mean((1, 2))
        for n, (a, b) in enumerate(zip(*layers, strict=True))
    )
    distance = LPIPS(tmp_path)
    torch.testing.assert_close(distance(*pictures), expected.detach(), rtol=1e-4, atol=1e-6)
    assert distance(pictures[0], pictures[0]).abs().max() == 0
