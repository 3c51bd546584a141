"""Stage `autoencoder`: the linear encoder in closed form, then the decoder by gradient descent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from reposedm_core.config import AutoencoderConfig
from reposedm_core.diffusion.autoencoder import Autoencoder, patches_of
from training.data.dataset import People
from training.loop import optimise
from training.settings import StageSettings

CROP = 64
SKELETONS = 0.2
"""Share of skeleton pictures: the denoiser sees the pose through the same encoder."""


def fit_encoder(network: Autoencoder, data: People, pictures: int = 1500) -> Tensor:
    """Principal components of the patches of `pictures` pictures and a fifth as many skeletons."""
    rng = np.random.default_rng(0)
    patches = []
    for count, read in ((pictures, data.pictures), (int(pictures * SKELETONS), data.skeletons)):
        patches.append(patches_of(read(*data.random_pictures(rng, count)), network.stride).flatten(0, 2))
    return network.fit(torch.cat(patches))


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def train(config: AutoencoderConfig, settings: StageSettings, root: str, out: Path, seed: int, resume: bool,
          accelerator: Accelerator) -> tuple[Autoencoder, dict]:
    """Train on crops of pictures and skeletons; the latent is noised a little, as sampled latents are."""
    data = People(root, "train")
    network = Autoencoder(config)
    kept = fit_encoder(network, data)
    print(f"autoencoder: {config.channels} components keep {kept.sum():.1%} of the patches' variance", flush=True)

    def step(model, _, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        read = data.skeletons if rng.random() < SKELETONS else data.pictures
        images = read(*data.random_pictures(rng, settings.batch))
        y = 8 * int(rng.integers(0, (data.height - CROP) // 8 + 1))
        x = 8 * int(rng.integers(0, (data.width - CROP) // 8 + 1))
        images = images[..., y:y + CROP, x:x + CROP]
        if rng.random() < 0.5:
            images = images.flip(-1)
        images = images.to(accelerator.device)
        inner = accelerator.unwrap_model(model)
        latents = inner.encode(images)
        noise = torch.randn(latents.shape, generator=generator).to(latents) * 0.08 * float(rng.random())
        difference = inner.decode(latents + noise) - images
        dx, dy = gradients(difference)
        loss = difference.abs().mean() + 2 * difference.square().mean() + 0.5 * (dx.abs().mean() + dy.abs().mean())
        return {"loss": loss, "mse": difference.square().mean()}

    def validate(model: Autoencoder) -> dict[str, float]:
        held_out = People(root, "val")
        pairs = held_out.fixed_pairs(64)
        values = {}
        for name, images in (("pictures", held_out.pictures(pairs.identity, pairs.source)),
                             ("skeletons", held_out.skeletons(pairs.identity, pairs.source))):
            images = images.to(accelerator.device)
            for label, decode in (("psnr", model.decode), ("psnr_linear", model.decode_linear)):
                error = (decode(model.encode(images)).clamp(-1, 1) - images).square().flatten(1).mean(1)
                values[f"{name}_{label}"] = float((10 * torch.log10(4 / error)).mean())
        return values

    return optimise("autoencoder", network, settings, step, out, seed, resume, accelerator, validate)
