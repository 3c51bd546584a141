"""Stage `reposedm`: L_mse + L_vlb on cached latents (eq. 3-4), conditions dropped together (eq. 16), and, where
`field.training` is above 0, the pose interaction field in the prediction (eq. 10-15). With `train_aligner` the same
loss trains the aligner (sections 3.1, 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.alignment.recurrent import Encode
from reposedm_core.config import ModelConfig
from reposedm_core.diffusion.autoencoder import Autoencoder, KLAutoencoder
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guided import Condition, GuidedDenoiser
from reposedm_core.diffusion.losses import training_loss
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import sample_noise
from reposedm_core.diffusion.tiny import TinyAutoencoder
from reposedm_core.errors import InputError
from reposedm_core.networks import NoAlignment, needs_aligner
from reposedm_core.pose.skeleton import COCO_FLIP
from training.data.people_set import Pairs, People
from training.engine.picture_grid import picture_grid
from training.engine.settings import RePoseDMSettings
from training.engine.stage import Plan, Stage
from training.stages.aligner import checkpoint_parts
from training.stages.field_loss import FieldTerm
from training.stages.latent_cache import FINDERS, FLIPPED, ColourShuffle, Latents, cache_latents, mirrored_joints

VALIDATION_PAIRS = 256
UNREAD = ("map", "logits", "was", "layout", "colours")
"""Of the cached tensors those that only the reference decoder's stage reads."""
ALIGNED = ("aligned", "visibility")
"""Of the cached tensors those that an aligner that is trained makes anew in every step."""
SHEET_STEPS = 10
"""Sampling steps of a sample sheet at most."""


def denoise(
    model: Denoiser, batch: dict[str, Tensor], z: Tensor, t: Tensor, schedule: DiffusionSchedule, drop: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Run the denoiser on a batch of latents; `drop` (B,) bool marks the examples with the joint null condition."""
    keep = (~drop).to(z.dtype)[:, None, None, None]
    inputs = Condition.of(model, batch["pose"], batch["source"], batch["aligned"], batch["visibility"], drop)
    sigma = schedule.roots(t, z)[1]
    return model(z, t, inputs.pose * keep, inputs.tokens, inputs.aligned * keep, inputs.visibility * keep, sigma)


Align = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]
"""The aligner and a batch → the batch with what the aligner makes of it."""


class WithContext(torch.nn.Module):
    """`denoise` as one module, so that one forward pass is what a distributed wrapper sees; where the aligner is
    trained as well, behind it."""

    def __init__(self, denoiser: Denoiser, schedule: DiffusionSchedule, aligner: RecurrentPoseAligner | None = None):
        super().__init__()
        self.denoiser, self.schedule, self.aligner = denoiser, schedule, aligner

    def forward(
        self, batch: dict[str, Tensor], z: Tensor, t: Tensor, drop: Tensor, align: Align | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if self.aligner is not None and align is not None:
            batch = align(self.aligner, batch)
        return denoise(self.denoiser, batch, z, t, self.schedule, drop)


def _denoiser_of(network: WithContext | Denoiser) -> Denoiser:
    return network if isinstance(network, Denoiser) else network.denoiser


class RePoseDMStage(Stage[WithContext, "WithContext | Denoiser"]):
    """Trains the denoiser on cached pairs of the training people; autoencoder and estimator stay frozen.

    So does the aligner, unless `settings.train_aligner` says that the loss is to train it, too.

    Raises:
        InputError: `train_aligner` with an aligner of kind "matching", whose result the paper's loss does not reach.
    """

    name, part = "reposedm", "denoiser"
    settings: RePoseDMSettings

    @classmethod
    def needs(cls, config: ModelConfig) -> tuple[str, ...]:
        return (
            "autoencoder",
            *(["tiny"] if config.tiny.kind == "tiny" else []),
            *(["aligner"] if needs_aligner(config) else []),
            *(part for part in FINDERS if getattr(config, part).kind != "none"),
            *(["estimator"] if config.field.training > 0 else []),
        )

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.joint = self.settings.train_aligner and needs_aligner(self.config)
        if self.joint and self.config.aligner.kind != "recurrent":
            raise InputError(
                f"reposedm.train_aligner: the aligner of preset {self.config.name} is of kind "
                f"{self.config.aligner.kind!r}, which learns from correspondences alone; leave it false."
            )

    def build(self) -> WithContext:
        aligner = RecurrentPoseAligner(self.config.aligner) if self.joint else None
        return WithContext(Denoiser(self.config.denoiser), DiffusionSchedule(self.config.schedule), aligner)

    def part_of(self, module: WithContext) -> WithContext | Denoiser:
        return module if self.joint else module.denoiser

    def parts_of(self, network: WithContext | Denoiser) -> dict[str, nn.Module]:
        if isinstance(network, WithContext) and network.aligner is not None:
            return {"denoiser": network.denoiser, "aligner": network.aligner}
        return super().parts_of(network)

    def initialise(self, module: WithContext) -> None:
        if module.aligner is not None:
            module.aligner.load_state_dict(self.networks["aligner"].state_dict())

    def checkpointed(self, module: WithContext) -> None:
        super().checkpointed(module)
        if module.aligner is not None:
            checkpoint_parts(module.aligner)

    def prepare(self, main: bool) -> None:
        self.schedule = DiffusionSchedule(self.config.schedule)
        self.autoencoder: Autoencoder | KLAutoencoder = self.networks["autoencoder"].to(self.device).eval()
        people, self.held_out = People(self.root, "train"), People(self.root, "val")
        guided = self.config.field.training > 0
        self.shuffle = None
        if self.settings.colour_shuffle > 0 or self.settings.flip > 0:
            self.shuffle = ColourShuffle(self.autoencoder, self.device)
        aligner = None if self.joint else self.networks.get("aligner")  # one that changes has nothing to cache
        frozen = self.autoencoder, aligner or NoAlignment(), self.device
        self.checked = self.held_out.fixed_pairs(min(VALIDATION_PAIRS, self.settings.pairs))
        flipped = self.settings.flip > 0
        self.tiny: TinyAutoencoder | None = self.networks.get("tiny")
        self.people, self.pairs = people, people.fixed_pairs(self.settings.pairs)
        if self.tiny is not None:
            self.tiny.to(self.device)
        others: dict[str, Any] = {} if self.joint else {part: self.networks.get(part) for part in ("tiny", *FINDERS)}
        cached: Callable[..., Latents] = partial(cache_latents, **others)
        self.cache = cached(people, self.pairs, *frozen, self.out, joints=guided, flipped=flipped)
        self.check = cached(self.held_out, self.checked, *frozen, self.out)
        self.field = None
        if guided:
            size, decoder = (people.height, people.width), self.tiny or self.autoencoder
            self.field = FieldTerm(self.config, self.networks["estimator"], decoder, *size, self.device)

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        steps = self.schedule.timesteps
        t = (steps * rng.random(count) ** self.settings.noise_power).astype(np.int64).clip(max=steps - 1)
        order = np.where(rng.random(count) < self.settings.colour_shuffle, rng.integers(1, 6, count), 0)
        if self.settings.flip > 0:
            order = order + FLIPPED * (rng.random(count) < self.settings.flip)
        return {
            "row": rng.integers(0, len(self.cache), count),
            "t": t,
            "order": order,
            "drop": rng.random(count) < self.settings.dropout,
            "noise": rng.standard_normal((count, *self.cache.tensors["target"].shape[1:]), np.float32),
        }

    def load(self, plan: Plan) -> dict[str, Tensor]:
        drawn = {name: torch.from_numpy(plan[name]) for name in ("t", "order", "drop", "noise")}
        if not self.joint:
            return {**self.cache.batch(plan["row"], UNREAD), **drawn}
        unread = (*UNREAD, *ALIGNED)
        return {**self.cache.batch(plan["row"], unread), **pictures(self.people, self.pairs[plan["row"]]), **drawn}

    def align(self, aligner: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`batch` with F_S^N and its visibility by the aligner as it is now, through which gradients reach it.

        They are recoloured and mirrored as the batch's other latents were.
        """
        source = batch["picture"]
        encode: Encode = self.autoencoder.encode
        inner: Encode | None = None if self.tiny is None else self.tiny.encode
        if self.settings.checkpointing and torch.is_grad_enabled():
            encode = partial(checkpoint, encode, use_reentrant=False)  # E is nearly all of the memory
            inner = inner and partial(checkpoint, inner, use_reentrant=False)
        alignment = aligner(source, batch["skeleton"], encode=encode, inner=inner)
        found = {
            "aligned": alignment.features.float(),
            "visibility": alignment.latent_visibility(source.shape[-1] // batch["target"].shape[-1]).float(),
        }
        if self.shuffle is not None and "order" in batch:
            with torch.autocast(self.device.type, enabled=False):
                found = self.shuffle(found, batch["order"])
        return {**batch, **found}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        if self.shuffle is not None:
            with torch.autocast(self.device.type, enabled=False):  # targets keep their precision
                batch = self.shuffle(batch, batch["order"])
        x0, t, noise, drop = (batch[name] for name in ("target", "t", "noise", "drop"))
        z = self.schedule.add_noise(x0, noise, t)
        inputs = (batch, z, t, drop, self.align) if self.joint else (batch, z, t, drop)
        prediction, variance = model(*inputs)
        prediction, variance = prediction.float(), None if variance is None else variance.float()
        gradient = distance = None
        if self.field is not None:
            joints = batch["joints"]
            if self.settings.flip > 0:
                mirrored = mirrored_joints(joints, self.field.width, COCO_FLIP)
                joints = torch.where((batch["order"] >= FLIPPED)[:, None, None], mirrored, joints)
            gradient, distance = self.field(joints, x0, z, noise, prediction, t, drop)
        values = training_loss(
            self.schedule,
            x0,
            noise,
            z,
            t,
            prediction,
            variance,
            self.settings.vlb_weight,
            gradient,
            self.config.field.training,
            self.settings.field_limit,
            self._weight(batch),
            self.config.field.update,
        )
        return values if distance is None else {**values, "field": distance.mean()}

    def _weight(self, batch: dict[str, Tensor]) -> Tensor | None:
        """(B, 1, h, w) of mean 1: more on the person, and on what the source hides of him (**ours**)."""
        more = self.settings.person_weight, self.settings.hidden_weight
        if not any(more) or "cover" not in batch:
            return None
        person, hidden = batch["cover"].split(1, 1)
        weight = 1 + more[0] * person + more[1] * hidden
        return weight / weight.mean((1, 2, 3), keepdim=True)

    def validate(self, network: WithContext | Denoiser) -> dict[str, float]:
        """Mean squared errors of ŷ_0 at four noise levels, and of the aligned latent and the source's as they are."""
        generator = torch.Generator().manual_seed(1)
        batch, denoiser = self._checked(128, network), _denoiser_of(network)
        noise = torch.randn(batch["target"].shape, generator=generator).to(self.device)
        keep = torch.zeros(len(noise), dtype=torch.bool, device=self.device)
        values = {}
        for level in (50, 300, 600, 900):
            t = torch.full((len(noise),), level * self.schedule.timesteps // 1000, device=self.device)
            z = self.schedule.add_noise(batch["target"], noise, t)
            x0 = self.schedule.predict_x0(z, denoise(denoiser, batch, z, t, self.schedule, keep)[0], t)
            values[f"x0_mse_{level}"] = float(F.mse_loss(x0, batch["target"]))
        values["aligned_mse"] = float(F.mse_loss(batch["aligned"], batch["target"]))
        values["source_mse"] = float(F.mse_loss(batch["source"], batch["target"]))
        return values

    def _checked(self, count: int, network: WithContext | Denoiser) -> dict[str, Tensor]:
        """The first of the validation pairs, by the averaged aligner where that is trained."""
        rows = np.arange(min(count, len(self.check)))
        batch = {name: value.to(self.device) for name, value in self.check.batch(rows).items()}
        if isinstance(network, Denoiser) or network.aligner is None:
            return batch
        parts = []
        for few in np.array_split(rows, -(-len(rows) // 16)):
            seen = {name: v.to(self.device) for name, v in pictures(self.held_out, self.checked[few]).items()}
            found = self.align(network.aligner, {**seen, "target": batch["target"][few]})
            parts.append({name: found[name] for name in ALIGNED})
        return {**batch, **{name: torch.cat([part[name] for part in parts]) for name in ALIGNED}}

    def sheet(self, network: WithContext | Denoiser) -> Image.Image:
        """Source, skeleton, the sampled picture (DDIM, no field), target."""
        batch, denoiser = self._checked(8, network), _denoiser_of(network)
        condition = Condition.of(denoiser, batch["pose"], batch["source"], batch["aligned"], batch["visibility"])
        noise = torch.randn(batch["target"].shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        model = GuidedDenoiser(denoiser, self.schedule, condition, self.config.guidance_scale, None)
        latent = sample_noise(model, noise, min(self.config.steps, SHEET_STEPS))
        pairs = self.checked[np.arange(len(noise))]
        return picture_grid(
            [
                self.held_out.pictures(pairs.identity, pairs.source),
                self.held_out.skeletons(pairs.identity, pairs.target),
                self.autoencoder.to(self.device).decode(latent),
                self.held_out.pictures(pairs.identity, pairs.target),
            ]
        )


def pictures(people: People, pairs: Pairs) -> dict[str, Tensor]:
    """What the aligner reads of pairs: the source's pictures and the target's skeletons, (n, 3, H, W) in [-1, 1]."""
    return {
        "picture": people.pictures(pairs.identity, pairs.source),
        "skeleton": people.skeletons(pairs.identity, pairs.target),
    }
