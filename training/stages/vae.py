"""Stage `vae` of `mini`'s autoencoder: the linear encoder in closed form, then the decoder by gradient descent."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reposedm_core.diffusion.autoencoder import Autoencoder, KLAutoencoder
from training.data.people_set import People
from training.engine.picture_grid import picture_grid
from training.engine.stage import Network, Plan, Stage, Trained

CROP = 8
"""Side of the crops in latent cells."""
SKELETONS = 0.2
"""Share of skeleton pictures: the denoiser sees the pose through the same encoder."""
NOISE = 0.08
"""Largest deviation of the noise on the latent, as sampled latents have some."""


def fit_encoder(network: Autoencoder, data: People, pictures: int = 1500) -> Tensor:
    """Principal components of the patches of `pictures` pictures and a fifth as many skeletons."""
    rng = np.random.default_rng(0)
    patches = []
    for count, read in ((pictures, data.pictures), (int(pictures * SKELETONS), data.skeletons)):
        patches.append(network.patches(read(*data.random_pictures(rng, count))).flatten(0, 2))
    return network.fit(torch.cat(patches))


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours along the width and the height."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


class Reconstruction(nn.Module):
    """Encoder and decoder as one module, for distributed wrappers."""

    def __init__(self, autoencoder: Autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] through their latents, to which `noise` (B, C, h, w) is added."""
        latents = self.autoencoder.encode(images)
        return self.autoencoder.decode(latents + noise.to(latents))


class CropStage(Stage[Trained, Network]):
    """Trains on crops of pictures and skeletons."""

    def prepare(self, main: bool) -> None:
        self.people, self.held_out, self.main = People(self.root, "train"), People(self.root, "val"), main
        crop = CROP * self.config.autoencoder.stride
        self.crop = min(crop, self.people.height), min(crop, self.people.width)

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        stride = self.config.autoencoder.stride
        identity, index = self.people.random_pictures(rng, count)
        corner = [
            stride * rng.integers(0, (side - crop) // stride + 1, count)
            for side, crop in zip((self.people.height, self.people.width), self.crop, strict=True)
        ]
        shape = count, self.config.autoencoder.channels, *(crop // stride for crop in self.crop)
        noise = rng.standard_normal(shape, np.float32) * (NOISE * rng.random((count, 1, 1, 1), np.float32))
        return {
            "identity": identity,
            "index": index,
            "skeleton": rng.random(count) < SKELETONS,
            "y": corner[0],
            "x": corner[1],
            "mirror": rng.random(count) < 0.5,
            "noise": noise,
        }

    def load(self, plan: Plan) -> dict[str, Tensor]:
        skeleton = plan["skeleton"]
        images = torch.empty(len(skeleton), 3, *self.crop)
        for chosen, read in ((skeleton, self.people.skeletons), (~skeleton, self.people.pictures)):
            rows = np.flatnonzero(chosen)
            if not len(rows):
                continue
            for row, image in zip(rows, read(plan["identity"][rows], plan["index"][rows]), strict=True):
                y, x = plan["y"][row], plan["x"][row]
                part = image[:, y : y + self.crop[0], x : x + self.crop[1]]
                images[row] = part.flip(-1) if plan["mirror"][row] else part
        return {"images": images, "noise": torch.from_numpy(plan["noise"])}


class VaeStage(CropStage[Reconstruction, Autoencoder]):
    """The autoencoder of `mini`."""

    name, part = "vae", "autoencoder"

    def build(self) -> Reconstruction:
        return Reconstruction(Autoencoder(self.config.autoencoder))

    def part_of(self, module: Reconstruction) -> Autoencoder:
        return module.autoencoder

    def initialise(self, module: Reconstruction) -> None:
        kept = fit_encoder(module.autoencoder, self.people)
        if self.main:
            print(f"vae: {len(kept)} components keep {kept.sum():.1%} of the patches' variance", flush=True)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        difference = model(batch["images"], batch["noise"]) - batch["images"]
        dx, dy = gradients(difference)
        loss = difference.abs().mean() + 2 * difference.square().mean() + 0.5 * (dx.abs().mean() + dy.abs().mean())
        return {"loss": loss, "mse": difference.square().mean()}

    def validate(self, network: Autoencoder) -> dict[str, float]:
        """PSNR in dB of decoded pictures and skeletons, with the decoder and with the linear inverse alone."""
        pairs = self.held_out.fixed_pairs(64)
        values = {}
        for name, read in (("pictures", self.held_out.pictures), ("skeletons", self.held_out.skeletons)):
            images = read(pairs.identity, pairs.source).to(self.device)
            for label, decode in (("psnr", network.decode), ("psnr_linear", network.decode_linear)):
                error = (decode(network.encode(images)).clamp(-1, 1) - images).square().flatten(1).mean(1)
                values[f"{name}_{label}"] = float((10 * torch.log10(4 / error)).mean())
        return values

    def sheet(self, network: Autoencoder) -> Image.Image:
        return reconstructions(network, self.held_out, self.device)


def reconstructions(network: Autoencoder | KLAutoencoder, people: People, device: torch.device) -> Image.Image:
    """Pictures and skeletons, each above its reconstruction."""
    pairs = people.fixed_pairs(8)
    rows = []
    for read in (people.pictures, people.skeletons):
        images = read(pairs.identity, pairs.source).to(device)
        rows += [images, network.decode(network.encode(images))]
    return picture_grid(rows)
