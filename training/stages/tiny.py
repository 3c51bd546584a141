"""Stage `tiny`: the tiny autoencoder learns from the large one, on the set's own pictures (**ours**)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reposedm_core.config import ModelConfig
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.tiny import TinyAutoencoder, fill_tiny
from reposedm_core.errors import InputError
from training.engine.picture_grid import picture_grid
from training.engine.settings import TinySettings
from training.engine.stage import Plan
from training.stages.vae import CropStage, gradients


class BothHalves(nn.Module):
    """Encoder and decoder as one module, for distributed wrappers."""

    def __init__(self, tiny: TinyAutoencoder):
        super().__init__()
        self.tiny = tiny

    def forward(self, images: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its latents of `images` (B, 3, H, W), its pictures of the large one's `latents`, and of its own."""
        own = self.tiny.encode(images)
        taught, alone = self.tiny.decode(torch.cat([latents.to(own), own])).chunk(2)
        return own, taught, alone


class TinyStage(CropStage[BothHalves, TinyAutoencoder]):
    """Distillation: latents like the large encoder's, pictures like the large decoder's.

    It sees pictures and skeletons, as the aligner does, and noisy latents, as the field does. With `init`, the file of
    a public TAESD, and no steps, those weights are the result.
    """

    name, part = "tiny", "tiny"
    settings: TinySettings

    @classmethod
    def needs(cls, config: ModelConfig) -> tuple[str, ...]:
        return ("autoencoder",)

    def build(self) -> BothHalves:
        return BothHalves(TinyAutoencoder(self.config.tiny))

    def part_of(self, module: BothHalves) -> TinyAutoencoder:
        return module.tiny

    def prepare(self, main: bool) -> None:
        """See `Stage.prepare`; an `InputError` where there are neither steps nor weights."""
        if not self.settings.steps and not self.settings.init:
            raise InputError(
                "tiny.steps = 0: nothing would be trained; give tiny.init, the file of public TAESD weights."
            )
        super().prepare(main)
        self.large: KLAutoencoder = self.networks["autoencoder"].to(self.device)

    def start_from(self, module: BothHalves, checkpoint: str) -> None:
        """Fill it with public weights (see `reposedm_core.diffusion.tiny.read_tiny`), or an exported checkpoint's."""
        fill_tiny(module.tiny, checkpoint, "tiny.init")

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        images, noise = batch["images"], batch["noise"]
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            latents = self.large.encode(images)
            noisy = latents + noise
            wanted = self.large.decode(noisy)
        own, taught, alone = (out.float() for out in model(images, noisy))
        off, through = taught - wanted, alone - images
        edges = sum(part.abs().mean() for part in gradients(off))
        values = {
            "latent_mse": (own - latents).square().mean(),
            "mse": off.square().mean(),
            "through_mse": through.square().mean(),
        }
        # In the latent an absolute error, too: what it has few of, skin and edges, it must have right as well.
        latent = values["latent_mse"] + (own - latents).abs().mean()
        picture = off.abs().mean() + 2 * values["mse"] + 0.5 * edges
        return {"loss": latent + picture + 0.25 * through.abs().mean(), **values}

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        plan = super().plan(rng, count)
        # Up to the noise of a latent in the middle of a run: the field decodes estimates of all levels.
        return {**plan, "noise": plan["noise"] * np.float32(self.settings.noise)}

    @torch.no_grad()
    def validate(self, network: TinyAutoencoder) -> dict[str, float]:
        """Of pictures and skeletons: the latent's error, as a share of the latents' mean square, and PSNR in dB of the
        pictures that both decoders make of the large one's latents."""
        pairs = self.held_out.fixed_pairs(32)
        values: dict[str, float] = {}
        for name, read in (("pictures", self.held_out.pictures), ("skeletons", self.held_out.skeletons)):
            found = []
            for image in read(pairs.identity, pairs.source).to(self.device).split(4):
                latents = self.large.encode(image)
                error = (network.encode(image) - latents).square().flatten(1).mean(1)
                off = network.decode(latents).clamp(-1, 1) - self.large.decode(latents).clamp(-1, 1)
                psnr = 10 * torch.log10(4 / off.square().flatten(1).mean(1).clamp(min=1e-9))
                found.append({"latent_error": error / latents.square().flatten(1).mean(1), "psnr": psnr})
            values |= {f"{name}_{key}": float(torch.cat([row[key] for row in found]).mean()) for key in found[0]}
        return values

    @torch.no_grad()
    def sheet(self, network: TinyAutoencoder) -> Image.Image:
        """Pictures and skeletons, each above what the large and the tiny decoder make of the large one's latent."""
        pairs = self.held_out.fixed_pairs(8)
        rows = []
        for read in (self.held_out.pictures, self.held_out.skeletons):
            images = read(pairs.identity, pairs.source).to(self.device)
            latents = self.large.encode(images)
            rows += [images, self.large.decode(latents), network.decode(latents)]
        return picture_grid(rows)
