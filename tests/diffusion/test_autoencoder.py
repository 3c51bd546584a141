"""The linear encoder and its decoder."""

import pytest
import torch

from reposedm_core import InputError
from reposedm_core.config import AutoencoderConfig
from reposedm_core.diffusion.autoencoder import Autoencoder, patches_of


@pytest.fixture
def fitted():
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(channels=4, widths=(8, 8, 8))).eval()
    low_rank = torch.randn(500, 4) * torch.tensor([4.0, 2.0, 1.0, 0.5]) @ torch.randn(4, 192) * 0.05 + 0.1
    kept = model.fit(low_rank)
    return model, low_rank, kept


def test_as_many_components_as_the_data_has_lose_nothing(fitted):
    model, patches, kept = fitted
    assert kept.sum() == pytest.approx(1, abs=1e-6)
    from einops import rearrange

    images = rearrange(patches[:6], "(h w) (c p q) -> 1 c (h p) (w q)", h=2, w=3, p=8, q=8)
    torch.testing.assert_close(model.decode_linear(model.encode(images)), images, rtol=0, atol=1e-4)
    assert torch.equal(patches_of(images, 8)[0].reshape(6, 192), patches[:6])


def test_latents_have_unit_variance_overall_and_keep_the_order_of_components(fitted):
    model, patches, _ = fitted
    latents = (patches - model.mean) @ model.basis.T / model.scale
    assert latents.var(0).mean() == pytest.approx(1, rel=0.02)
    assert (latents.std(0).diff() < 0).all(), "a large component stays larger than a small one"


def test_the_decoder_adds_to_the_linear_inverse(fitted):
    model, _, _ = fitted
    latents = torch.randn(1, 4, 2, 3)
    expected = model.decode_linear(latents) + model.decoder(latents)
    torch.testing.assert_close(model.decode(latents), expected)
    assert model.decode(latents).shape == (1, 3, 16, 24)


@pytest.mark.parametrize(("shape", "wanted"), [((1, 3, 20, 16), "divisible by 8"), ((1, 3, 16, 12), "divisible by 8"),
                                               ((1, 1, 16, 16), "expected (B, 3, H, W)"), ((3, 16, 16), "4 axes")])
def test_wrong_sizes_are_named(fitted, shape, wanted):
    with pytest.raises(InputError) as refused:
        fitted[0].encode(torch.zeros(shape))
    assert wanted in str(refused.value) and str(shape) in str(refused.value)
