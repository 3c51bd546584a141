"""Gradients through large decodings: the same ones in less memory."""

from __future__ import annotations

import pytest
import torch

from reposedm_core.config import AutoencoderConfig
from reposedm_core.diffusion import checkpointing
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.checkpointing import LARGE, blocks_of, checkpointed
from reposedm_core.presets import STABLE_DIFFUSION_VAE
from tests.field.test_field_memory import Peak

SMALL = AutoencoderConfig(kind="kl", channels=4, widths=(16, 32, 32, 32))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return KLAutoencoder(SMALL).eval().requires_grad_(False)


def gradient(network, z, mode=torch.inference_mode):
    """Picture and gradient as the field takes them, under a host's inference mode."""
    with mode(), torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        picture = network.decode(z)
        return picture.detach(), *torch.autograd.grad(picture.square().sum(), z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_it_is_the_same_bit_for_bit(network, monkeypatch, dtype, mode):
    network, z = network.to(dtype), torch.randn(2, 4, 8, 6, dtype=dtype)
    plain = gradient(network, z, mode)
    ran = []
    monkeypatch.setattr(checkpointing, "LARGE", 64 * 48)
    block = blocks_of(network.vae.decoder)[0].norm1
    block.register_forward_hook(lambda *_: ran.append(1))
    again = gradient(network, z, mode)
    assert len(ran) == 2, "there, and once more on the way back"
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)) and again[1].any()


def test_without_a_gradient_or_of_small_pictures_nothing_is_computed_twice(network, monkeypatch):
    opened = []

    def spy(decoder, pixels):
        opened.append(pixels >= LARGE)
        return checkpointed(decoder, pixels)

    monkeypatch.setattr("reposedm_core.diffusion.autoencoder.checkpointed", spy)
    z = torch.zeros(1, 4, 96, 96, device="meta")
    network = network.to("meta")
    with torch.no_grad():
        network.decode(z.clone().requires_grad_())
    network.decode(z)
    network.decode(z[..., :95].clone().requires_grad_())
    network.decode(z.clone().requires_grad_())
    assert opened == [False, False, False, True]
    assert not any("forward" in vars(layer) for layer in network.modules()), "nothing is left behind"


def test_an_error_leaves_nothing_behind(network):
    def fail():
        with checkpointed(network.vae.decoder, LARGE) as blocks:
            assert len(blocks) == 17 and all("forward" in vars(block) for block in blocks)
            with checkpointed(network.vae.decoder, LARGE) as inner:
                assert not inner, "one within another leaves the first one's work alone"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any("forward" in vars(layer) for layer in network.modules())


def test_other_decoders_are_left_alone():
    class Upsample(torch.nn.Upsample):
        """As in the host's VAEs of videos."""

    with checkpointed(torch.nn.Sequential(Upsample(scale_factor=2), torch.nn.Conv2d(3, 3, 3)), LARGE) as blocks:
        assert blocks == []


def kept(side: int, large: int, monkeypatch) -> float:
    """GiB that autograd holds at most for Stable Diffusion's decoder in float32; shapes alone are computed with."""
    monkeypatch.setattr(checkpointing, "LARGE", large)
    with torch.device("meta"):
        network = KLAutoencoder(STABLE_DIFFUSION_VAE).eval().requires_grad_(False)
    measured, z = Peak(), torch.zeros(1, 4, side // 8, side // 8, device="meta", requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(measured.pack, measured.unpack):
        torch.autograd.grad(network.decode(z).sum(), z)
    return measured.most / 2**30


def test_sdxl_s_picture_keeps_less_than_a_third(monkeypatch):
    """What benchmarks/decoder_memory.py measures: 1024×1024, weights included."""
    plain, again = (kept(1024, large, monkeypatch) for large in (10**9, LARGE))
    assert 20 < plain < 25 and 5 < again < 7
