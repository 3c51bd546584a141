"""A tiny generated set of people and an untrained checkpoint for it, made once for all tests of the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reposedm_core.checkpoint import save_model
from reposedm_core.config import AlignerConfig, AutoencoderConfig, DenoiserConfig, FieldConfig, ModelConfig, to_dict
from reposedm_core.pipeline import NETWORKS
from training.data import synthetic

HEIGHT, WIDTH = 64, 48


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, one of them in the test split."""
    pytest.importorskip("anny", reason="the synthetic people need anny")
    out = tmp_path_factory.mktemp("people")
    synthetic.generate(out, identities=2, poses=3, seed=1, workers=1, height=HEIGHT, width=WIDTH)
    return out


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny checkpoint; every weight is random, so that every condition has an influence."""
    config = ModelConfig(name="tiny", height=HEIGHT, width=WIDTH, steps=2,
                         autoencoder=AutoencoderConfig(widths=(8, 8, 16)),
                         aligner=AlignerConfig(kernels=(0, 3), radius=1, channels=16, dim=16, heads=2, height=HEIGHT,
                                               width=WIDTH),
                         denoiser=DenoiserConfig(block_channels=(16, 32), layers=1, heads_dim=16, context_dim=16,
                                                 height=HEIGHT // 8, width=WIDTH // 8),
                         field=FieldConfig(1.0, 0.0, 1.0))
    torch.manual_seed(0)
    networks = {name: kind(getattr(config, name)) for name, kind in NETWORKS.items()}
    for network in networks.values():
        for parameter in network.parameters():
            parameter.data.add_(0.03 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, networks, to_dict(config))
    return path
