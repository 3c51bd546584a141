"""What the denoiser's stage does to cached latents."""

import itertools

import numpy as np
import torch

from reposedm_core.config import AutoencoderConfig
from reposedm_core.diffusion.autoencoder import Autoencoder, patches_of
from training.data.dataset import Pairs
from training.stages.denoiser import ColourShuffle, fingerprint


def test_recolouring_latents_is_recolouring_pictures():
    torch.manual_seed(0)
    images = torch.rand(24, 3, 16, 16) * 2 - 1
    autoencoder = Autoencoder(AutoencoderConfig(channels=192, widths=(8, 8, 8)))       # every component: exact
    autoencoder.fit(patches_of(torch.rand(64, 3, 16, 16), 8).flatten(0, 2))
    latents = autoencoder.encode(images)
    batch = {"target": latents, "source": latents, "aligned": latents, "pose": latents}
    shuffled = ColourShuffle(autoencoder, torch.device("cpu"))(batch, np.random.default_rng(0), 1.0)
    assert torch.equal(shuffled["pose"], latents)
    assert torch.equal(shuffled["target"], shuffled["aligned"])
    orders = list(itertools.permutations(range(3)))[1:]
    recoloured = torch.stack([autoencoder.encode(images[:, list(order)]) for order in orders])
    error = (recoloured - shuffled["target"]).abs().flatten(2).amax(2)
    assert (error.amin(0) < 1e-3).all(), "each example is one of the five permutations"
    assert len(error.argmin(0).unique()) > 2, "not always the same one"
    untouched = ColourShuffle(autoencoder, torch.device("cpu"))(batch, np.random.default_rng(0), 0.0)
    torch.testing.assert_close(untouched["target"], latents)


def test_fingerprint_sees_every_weight_and_pair():
    layer = torch.nn.Linear(3, 3)
    pairs = Pairs(*(np.arange(4) + i for i in range(3)))
    before = fingerprint(pairs, layer)
    assert before == fingerprint(pairs, layer)
    assert before != fingerprint(pairs[:3], layer)
    with torch.no_grad():
        layer.bias[1] += 1e-6
    assert before != fingerprint(pairs, layer)
