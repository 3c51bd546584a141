"""A small checkpoint for the nodes inside this process, for what cannot be seen through the server."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def tiny(pack, tmp_path_factory):
    """Path of a RePoseDM checkpoint with the layout of the real ones, random weights and next to no size."""
    from reposedm_core import config
    from reposedm_core.alignment import RecurrentPoseAligner
    from reposedm_core.checkpoint import save_model
    from reposedm_core.diffusion.autoencoder import Autoencoder
    from reposedm_core.diffusion.denoiser import Denoiser
    from reposedm_core.field import HigherHRNet

    model = config.ModelConfig(
        name="tiny", height=64, width=48, autoencoder=config.AutoencoderConfig(channels=16, widths=(8, 8, 8)),
        aligner=config.AlignerConfig(kernels=(0, 5), channels=16, dim=32, heads=2, height=64, width=48),
        denoiser=config.DenoiserConfig(block_channels=(32,), attention=(True,), layers=1, heads_dim=16,
                                       context_dim=32, height=8, width=6),
        estimator=config.EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), blocks=1,
                                         deconv_channels=8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {"autoencoder": Autoencoder(model.autoencoder), "estimator": HigherHRNet(model.estimator),
                    "aligner": RecurrentPoseAligner(model.aligner), "denoiser": Denoiser(model.denoiser)}
        with torch.no_grad():
            # Layers that start at zero would hide what the others do.
            for network in networks.values():
                for weight in network.parameters():
                    weight += 0.02 * torch.randn_like(weight)
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_model(path, networks, config.to_dict(model), dtype=torch.float32)
    return path
