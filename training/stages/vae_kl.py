"""Stage `vae` of Stable Diffusion's autoencoder: public weights are taken as they are, or tuned on the people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into, load_parts, read_header, read_weights
from reposedm_core.diffusion.autoencoder import KLAutoencoder, kl_weights
from reposedm_core.errors import InputError
from training.data.people_set import People
from training.engine.settings import VaeSettings
from training.engine.stage import Plan
from training.metrics.perceptual import load_network, perceptual_distance
from training.stages.vae import CropStage, reconstructions

LEAST_FEATURE = 1e-2
"""Length below which features fade out of the perceptual loss: that of dead channels must not steer the training."""


class Reconstruction(nn.Module):
    """Encoder and decoder as one module, for distributed wrappers; with the encoder frozen only the decoder learns."""

    def __init__(self, autoencoder: KLAutoencoder, train_encoder: bool = True):
        super().__init__()
        self.autoencoder, self.train_encoder = autoencoder, train_encoder
        for part in (autoencoder.vae.encoder, autoencoder.vae.quant_conv):
            part.requires_grad_(train_encoder)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The decoded picture, and the divergence of each posterior.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            noise: standard normal (B, C, h, w), which the latent is drawn with.

        Returns:
            pictures (B, 3, H, W), and KL(q(z|x) ‖ N(0, I)) (B,) in nats a picture value.
        """
        vae = self.autoencoder.vae
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            posterior = vae.encode(images, return_dict=False)[0]
        pictures = vae.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
        return pictures, divergence / images[0].numel()


class KLVaeStage(CropStage[Reconstruction, KLAutoencoder]):
    """L1 + squared error + perceptual distance + KL, on crops of pictures and skeletons.

    The loss is that of latent diffusion's first stage without its discriminator (Rombach et al., 2022, appendix G),
    with EfficientNet-Lite0 in place of LPIPS's VGG (**ours**: its weights come by pip). With `init`, the file of a
    public VAE, and no steps, those weights are the result.
    """

    name, part = "vae", "autoencoder"
    settings: VaeSettings

    def build(self) -> Reconstruction:
        return Reconstruction(KLAutoencoder(self.config.autoencoder), self.settings.train_encoder)

    def part_of(self, module: Reconstruction) -> KLAutoencoder:
        return module.autoencoder

    def prepare(self, main: bool) -> None:
        stride = self.config.autoencoder.stride
        if not self.settings.steps and not self.settings.init:
            raise InputError(
                "vae.steps = 0 takes public weights as they are: give the file of Stable Diffusion's VAE, "
                "or of a whole checkpoint, as vae.init."
            )
        if self.settings.crop < stride or self.settings.crop % stride:
            raise InputError(
                f"vae.crop = {self.settings.crop}: must be a multiple of the autoencoder's stride, {stride}."
            )
        self.people, self.held_out = People(self.root, "train"), People(self.root, "val")
        self.crop = min(self.settings.crop, self.people.height), min(self.settings.crop, self.people.width)
        if any(side % stride for side in self.crop):
            raise InputError(
                f"{self.root}: pictures of {self.people.width}×{self.people.height} pixels, which the "
                f"stride {stride} does not divide; vae.crop must be smaller than their sides."
            )
        self.features = load_network().to(self.device) if self.settings.perceptual > 0 else None

    def initialise(self, module: Reconstruction) -> None:
        """There is nothing to fit: the usual start is `init`, and without steps the only one.

        Raises:
            InputError: neither steps nor weights.
        """
        if not self.settings.steps and not self.settings.init:
            raise InputError("vae.steps = 0: nothing would be trained; give vae.init, the file of a public VAE.")

    def start_from(self, module: Reconstruction, checkpoint: str) -> None:
        """Fill the autoencoder with public weights (see `kl_weights`), or with those of an exported checkpoint.

        Raises:
            InputError: unreadable, no VAE in it, or one of other sizes.
        """
        fill_autoencoder(module.autoencoder, checkpoint, "vae.init")

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        plan = super().plan(rng, count)
        return {**plan, "noise": rng.standard_normal(plan["noise"].shape, np.float32)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        images = batch["images"]
        pictures, divergence = model(images, batch["noise"])
        difference = pictures.float() - images
        values = {"l1": difference.abs().mean(), "mse": difference.square().mean(), "kl": divergence.mean()}
        loss = values["l1"] + values["mse"] + self.settings.kl * values["kl"]
        if self.features is not None:
            with torch.no_grad():
                wanted = [layer.float() for layer in self.features(images)]
            found = [layer.float() for layer in self.features(pictures)]
            values["perceptual"] = perceptual_distance(found, wanted, LEAST_FEATURE).mean()
            loss = loss + self.settings.perceptual * values["perceptual"]
        return {"loss": loss, **values}

    def validate(self, network: KLAutoencoder) -> dict[str, float]:
        """PSNR in dB and perceptual distance of decoded pictures and skeletons, and the latents' deviation, about 1."""
        pairs = self.held_out.fixed_pairs(32)
        values: dict[str, float] = {}
        for name, read in (("pictures", self.held_out.pictures), ("skeletons", self.held_out.skeletons)):
            found = []
            for image in read(pairs.identity, pairs.source).to(self.device).split(4):
                latents = network.encode(image)
                picture = network.decode(latents).clamp(-1, 1)
                error = (picture - image).square().flatten(1).mean(1)
                row = {"psnr": 10 * torch.log10(4 / error), "latent_deviation": latents.flatten(1).std(1)}
                if self.features is not None:
                    row["perceptual"] = perceptual_distance(self.features(picture), self.features(image))
                found.append(row)
            values |= {f"{name}_{key}": float(torch.cat([row[key] for row in found]).mean()) for key in found[0]}
        return values

    def sheet(self, network: KLAutoencoder) -> Image.Image:
        return reconstructions(network, self.held_out, self.device)


def fill_autoencoder(network: KLAutoencoder, path: str | Path, setting: str) -> None:
    """Fill an autoencoder with the weights of a file: public ones in either layout, or an exported checkpoint.

    Args:
        setting: that names the file, for errors.

    Raises:
        InputError: unreadable, no VAE in it, or one of other sizes.
    """
    try:
        header = read_header(path)
    except InputError:
        state = kl_weights(read_weights(path), network.config)
    else:
        if "autoencoder" not in header["parts"]:
            raise InputError(f"{setting}: {Path(path).name} holds {', '.join(header['parts'])}, and no autoencoder.")
        state = load_parts(path)[0]["autoencoder"]
    load_into(network, state, f"{setting}: {Path(path).name}")
