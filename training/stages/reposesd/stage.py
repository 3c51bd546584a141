"""Stage `reposesd`: Stable Diffusion 2.1 learns to follow a pose beside its text (section 4.4, eq. 17)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into, read_weights
from reposedm_core.config import ModelConfig, shared_size
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.losses import training_loss
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import sample_noise
from reposedm_core.errors import InputError
from reposedm_core.estimator import PoseEstimator
from reposedm_core.estimator.load import load_estimator as load_network
from reposedm_core.images import check_size, to_uint8
from reposedm_core.reposesd.network import GuidedRePoseSD, RePoseSD, TextCondition, save_reposesd, unet_weights
from training.data.captioned_set import Captioned
from training.data.captions import CaptionedPeople, open_captions
from training.engine.settings import RePoseSDSettings
from training.engine.sheets import comparison_sheet
from training.engine.stage import Plan, Stage
from training.engine.state import checksum
from training.stages.field_loss import FieldTerm
from training.stages.reposesd.latent_cache import CaptionedLatents, fixed_order, largest, skeleton
from training.stages.reposesd.source import StableDiffusion
from training.stages.reposesd.text_encoder import TextEncoder
from training.stages.vae_kl import fill_autoencoder

VALIDATION_PICTURES = 64
LEVELS = (50, 300, 600, 900)
"""Noise levels of the validation, in thousandths of T."""
SHEET_STEPS, SHEET_PICTURES = 10, 4
TRAINED = ("all", "attention")


class RePoseSDStage(Stage[RePoseSD, RePoseSD]):
    """Trains the whole U-Net or its attention; Stable Diffusion's VAE and text encoder, and the estimator stay frozen.

    The first step's network does what Stable Diffusion does: the four input channels for the pose start at zero.
    """

    name, part = "reposesd", "denoiser"
    settings: RePoseSDSettings

    def __init__(
        self,
        config: ModelConfig,
        settings: RePoseSDSettings,
        root: str | Path,
        out: Path,
        networks: dict[str, Any],
        device: torch.device,
    ):
        """Raises an `InputError` where there is no Stable Diffusion 2.1, or no estimator for the pose field."""
        self.start = StableDiffusion(settings.start, config, settings.tokenizer)
        super().__init__(self.start.config, settings, root, out, networks, device)
        if settings.train not in TRAINED:
            raise InputError(f"reposesd.train = {settings.train!r}: known are {', '.join(TRAINED)}.")
        if self.config.field.training > 0 and not settings.estimator:
            raise InputError(
                f"field.training = {self.config.field.training:g}: training with the pose field needs the "
                "weights of a pose estimator; give them as reposesd.estimator, or train without the field "
                "by model.field.training=0."
            )

    # -- the network

    def build(self) -> RePoseSD:
        network = RePoseSD(self.config.denoiser)
        if self.settings.train == "attention":
            network.requires_grad_(False)
            for name, module in network.unet.named_modules():
                if name == "conv_in" or name.rpartition(".")[2].startswith("attn"):
                    module.requires_grad_(True)
        return network

    def initialise(self, module: RePoseSD) -> None:
        load_into(module, self.start.unet(), f"reposesd.start = {self.start.path.name}: U-Net")

    def start_from(self, module: RePoseSD, checkpoint: str) -> None:
        """Fill the U-Net with that of a checkpoint in LDM's layout: an earlier RePoseSD, or HumanSD.

        Raises:
            InputError: unreadable, no such U-Net in it, or one of other sizes.
        """
        weights = unet_weights(read_weights(checkpoint), self.config.denoiser)
        load_into(module, weights, f"reposesd.init: {Path(checkpoint).name}")

    def save(self, network: RePoseSD, path: Path, card: dict[str, Any]) -> None:
        """One file in half precision with VAE and text encoder, which RePoseSD Loader reads (see `save_reposesd`)."""
        config = replace(self.config, height=self.data.height, width=self.data.width)
        save_reposesd(path, network, self.autoencoder, self.text.network.state_dict(), config, card)

    # -- the data

    @cached_property
    def autoencoder(self) -> KLAutoencoder:
        """Stable Diffusion's, or the one of `settings.autoencoder`; frozen."""
        network = self.start.autoencoder()
        if self.settings.autoencoder:
            fill_autoencoder(network, self.settings.autoencoder, "reposesd.autoencoder")
        return network.to(self.device)

    @cached_property
    def text(self) -> TextEncoder:
        """Stable Diffusion's text encoder, frozen."""
        network = self.start.text_encoder()
        if network.dim != self.config.denoiser.context_dim:
            raise InputError(
                f"reposesd.start = {self.start.path}: its text encoder's states have {network.dim} "
                f"numbers and its U-Net reads {self.config.denoiser.context_dim}."
            )
        return network.to(self.device)

    @cached_property
    def data(self) -> Captioned | CaptionedPeople:
        """The training split."""
        return open_captions(self.root, "train")

    def prepare(self, main: bool) -> None:
        self.schedule = DiffusionSchedule(self.config.schedule)
        check_size(self.data.height, self.data.width, self.autoencoder.stride)
        self.null = self.text(self.text.ids([""]).to(self.device))
        self.held_out = open_captions(self.root, "val")
        self.numbers = fixed_order(len(self.data), self.settings.pictures)
        self.checked = fixed_order(len(self.held_out), VALIDATION_PICTURES)
        about = (self.root / "dataset.json").read_bytes()
        self.cache = None
        if self.settings.cache:
            self.cache = CaptionedLatents(self.out / "reposesd.train", self.data, self.numbers)
            self.cache.make(self.autoencoder, self.text, self.device, about)
        self.check = CaptionedLatents(self.out / "reposesd.val", self.held_out, self.checked)
        self.check.make(self.autoencoder, self.text, self.device, about)
        self.field = None
        if self.config.field.training > 0:
            size = self.data.height, self.data.width
            share = self.config.field.size
            estimator = load_estimator(self.settings.estimator, size, self.config.estimator.udp, share)
            self.field = FieldTerm(self.config, estimator, self.autoencoder, *size, self.device)

    def made_of(self) -> dict[str, int]:
        return {**super().made_of(), "autoencoder": checksum(self.autoencoder), "text": checksum(self.text.network)}

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        stride = self.autoencoder.stride
        drop = rng.random(count) < self.settings.dropout
        shape = count, self.config.denoiser.latent_channels, self.data.height // stride, self.data.width // stride
        return {
            "row": rng.integers(0, len(self.numbers), count),
            "t": rng.integers(0, self.schedule.timesteps, count),
            "place": rng.random((count, 2)),
            "drop": drop,
            "drop_text": drop | (rng.random(count) < self.settings.caption_dropout),
            "noise": rng.standard_normal(shape, np.float32),
        }

    def load(self, plan: Plan) -> dict[str, Tensor]:
        drawn = {name: torch.from_numpy(plan[name]) for name in ("t", "drop", "drop_text", "noise")}
        if self.cache is not None:
            return {**self.cache.batch(plan["row"]), **drawn}
        examples = [
            self.data.read(int(number), tuple(place))
            for number, place in zip(self.numbers[plan["row"]], plan["place"], strict=True)
        ]
        return {
            "picture": torch.stack([example.picture for example in examples]),
            "skeleton": torch.stack([skeleton(example) for example in examples]),
            "ids": self.text.ids([example.caption for example in examples]),
            "joints": torch.from_numpy(np.stack([largest(example) for example in examples])),
            **drawn,
        }

    @torch.no_grad()
    def encoded(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`batch` with target, pose and tokens, where it does not come from the cache; frozen networks in float32."""
        if "target" in batch:
            return batch
        with torch.autocast(self.device.type, enabled=False):
            return {
                **batch,
                "target": self.autoencoder.encode(batch["picture"]),
                "pose": self.autoencoder.encode(batch["skeleton"]),
                "tokens": self.text(batch["ids"]),
            }

    # -- the loss

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        batch = self.encoded(batch)
        x0, noise, t, drop = (batch[name] for name in ("target", "noise", "t", "drop"))
        z = self.schedule.add_noise(x0, noise, t)
        pose = batch["pose"] * (~drop)[:, None, None, None]
        tokens = torch.where(batch["drop_text"][:, None, None], self.null, batch["tokens"])
        prediction = model(z, t, pose, tokens).float()
        gradient = distance = None
        if self.field is not None:
            gradient, distance = self.field(batch["joints"], x0, z, noise, prediction, t, drop)
        values = training_loss(
            self.schedule,
            x0,
            noise,
            z,
            t,
            prediction,
            gradient=gradient,
            field_weight=self.config.field.training,
            field_limit=self.settings.field_limit,
            field_update=self.config.field.update,
        )
        return values if distance is None else {**values, "field": distance.mean()}

    def validate(self, network: RePoseSD) -> dict[str, float]:
        """Loss without the field at four noise levels, its mean, and the mean without the pose: it should be larger."""
        generator = torch.Generator().manual_seed(1)
        noises = torch.randn((len(self.check), *self.check.arrays["target"].shape[1:]), generator=generator)
        sums: dict[str, float] = {}
        for rows in np.array_split(np.arange(len(self.check)), -(-len(self.check) // self.settings.batch)):
            batch = {name: value.to(self.device) for name, value in self.check.batch(rows).items()}
            noise = noises[rows].to(self.device)
            for level in LEVELS:
                t = torch.full((len(rows),), level * self.schedule.timesteps // 1000, device=self.device)
                z = self.schedule.add_noise(batch["target"], noise, t)
                wanted = self.schedule.target(batch["target"], noise, t)
                for name, pose in ((f"mse_{level}", batch["pose"]), ("without_pose", torch.zeros_like(noise))):
                    error = F.mse_loss(network(z, t, pose, batch["tokens"]), wanted)
                    sums[name] = sums.get(name, 0.0) + float(error) * len(rows) / len(self.check)
        sums["without_pose"] /= len(LEVELS)
        return {**sums, "mse": sum(sums[f"mse_{level}"] for level in LEVELS) / len(LEVELS)}

    def sheet(self, network: RePoseSD) -> Image.Image:
        """Skeleton, the sampled picture (DDIM, no field), the truth, and the caption under them."""
        numbers = self.checked[:SHEET_PICTURES]
        examples = [self.held_out.read(int(number)) for number in numbers]
        batch = {name: value.to(self.device) for name, value in self.check.batch(np.arange(len(numbers))).items()}
        condition = TextCondition(batch["pose"], batch["tokens"], self.null.expand_as(batch["tokens"]))
        noise = torch.randn(batch["target"].shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        model = GuidedRePoseSD(network, self.schedule, condition, self.config.guidance_scale)
        latents = sample_noise(model, noise, min(self.config.steps, SHEET_STEPS))
        columns = {
            "pose": torch.stack([skeleton(e) for e in examples]),
            "sampled": torch.cat([self.autoencoder.decode(z) for z in latents.split(1)]),
            "truth": torch.stack([e.picture for e in examples]),
        }
        return comparison_sheet(
            {name: to_uint8(pictures).movedim(1, -1).cpu().numpy() for name, pictures in columns.items()},
            [e.caption[:60] for e in examples],
            across=1,
            zoom=1 if self.data.height > 256 else 2,
        )


def load_estimator(
    path: str | Path, size: tuple[int, int], udp: bool, share: float, setting: str = "reposesd.estimator"
) -> PoseEstimator:
    """The frozen pose estimator of the field, of what core's `load_estimator` takes.

    Args:
        size: height and width of the set's pictures. udp: of public weights, whatever their name says.
        share: of the size that the field shows it, see `FieldConfig.size`.
        setting: what messages call `path`.

    Raises:
        InputError: unreadable, without an estimator, or for pictures of another size alone.
    """
    try:
        found = load_network(path, udp or None)
    except InputError as error:
        raise InputError(f"{setting}: {error}") from error
    shown = shared_size(size, share, max(found.network.config.strides))
    if found.fixed and (found.height, found.width) != shown:
        raise InputError(
            f"{setting}: {Path(path).name} sees pictures of {found.width}×{found.height} alone, and the field shows it "
            f"{shown[1]}×{shown[0]} (the set's {size[1]}×{size[0]}, field.size = {share:g}); give a HigherHRNet, or "
            "change field.size or the set."
        )
    return found.network
