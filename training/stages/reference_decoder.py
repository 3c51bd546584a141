"""Stage `decoder`: the decoder that sees the source, on what the denoiser samples for cached pairs (**ours**)."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reposedm_core.alignment import Alignment
from reposedm_core.alignment.warp import warp
from reposedm_core.config import ModelConfig
from reposedm_core.diffusion.guided import Condition, GuidedDenoiser
from reposedm_core.diffusion.reference_decoder import Reference, ReferenceDecoder
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import sample_noise
from reposedm_core.reference import make_reference, on_plate, paste
from training.data.people_set import Pairs, People
from training.engine.picture_grid import picture_grid
from training.engine.stage import Plan, Stage
from training.metrics.perceptual import PerceptualDistance
from training.metrics.vgg import VGGDistance
from training.stages.latent_cache import Latents, cache_latents

CROP = 96
"""Side of the crops that the perceptual loss looks at."""
TONE = 8
"""Side of the blocks of pixels whose mean colour has a loss of its own."""
VALIDATION_PAIRS = 96


class ReferenceDecoderStage(Stage):
    """Trains the decoder; autoencoder, aligner and denoiser stay frozen.

    Its latents are sampled from noise, in 1 to `steps` DDIM steps with w_c, as in use. An estimate from the true
    latent, noised to a random t, still shows the truth: a decoder trained on those trusts the latent where it should
    copy.
    """

    name, part = "decoder", "decoder"

    @classmethod
    def needs(cls, config: ModelConfig) -> tuple[str, ...]:
        return ("autoencoder", "aligner", "denoiser")

    def build(self) -> ReferenceDecoder:
        return ReferenceDecoder(self.config.decoder)

    def prepare(self, main: bool) -> None:
        self.schedule = DiffusionSchedule(self.config.schedule)
        self.people, self.held_out = People(self.root, "train"), People(self.root, "val")
        frozen = self.networks["autoencoder"], self.networks["aligner"], self.device
        self.pairs = self.people.fixed_pairs(self.settings.pairs)
        self.checked = self.held_out.fixed_pairs(min(VALIDATION_PAIRS, self.settings.pairs))
        self.cache = cache_latents(self.people, self.pairs, *frozen, self.out, flipped=True)
        self.check = cache_latents(self.held_out, self.checked, *frozen, self.out, flipped=True)
        for part in ("autoencoder", "denoiser"):
            self.networks[part].to(self.device)
        self.distance = VGGDistance().to(self.device) if self.settings.perceptual > 0 else None

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        return {
            "row": rng.integers(0, len(self.cache), count),
            "steps": np.full(count, rng.integers(1, self.config.steps + 1)),
            "noise": rng.standard_normal((count, *self.cache.tensors["target"].shape[1:]), np.float32),
            "place": rng.random((count, 2)),
        }

    def load(self, plan: Plan) -> dict[str, Tensor]:
        drawn = {name: torch.from_numpy(plan[name]) for name in ("steps", "noise", "place")}
        return {**self._read(self.people, self.pairs, self.cache, plan["row"]), **drawn}

    def _read(self, people: People, pairs: Pairs, cache: Latents, rows: np.ndarray) -> dict[str, Tensor]:
        """Latents of pairs, their pictures, and what the decoder is shown, for `reference_of`."""
        chosen, batch = pairs[rows], cache.batch(rows)
        source = people.pictures(chosen.identity, chosen.source)
        skeleton = people.skeletons(chosen.identity, chosen.target)
        sampling, logits = batch.pop("map"), batch.pop("logits")
        seen, person, mask = logits.split(1, 1)
        alignment = Alignment([sampling], [seen], warp(source, sampling), None, person, mask)
        reference = make_reference(source, skeleton, alignment, alignment.image, seen.sigmoid())
        masks = people.masks(chosen.identity, chosen.target)
        if masks is None:  # of a set without them, where the aligner finds the person
            masks = (reference.person > 0.5).float()
        shown = {f"shown {name}": value for name, value in vars(reference).items()}
        return {
            **batch,
            **shown,
            "original": source,
            "mask": masks,
            "picture": people.pictures(chosen.identity, chosen.target),
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        decoded, latent, reference = self._sampled(batch, batch["noise"], int(batch["steps"][0]))
        made, paint = (picture.float() for picture in model(decoded, latent, reference, with_paint=True))
        truth = batch["picture"]
        near = F.max_pool2d(torch.maximum(batch["mask"], reference.person), 9, stride=1, padding=4)
        weight = 1 + self.settings.person_weight * near

        def off(picture: Tensor, block: int = 1) -> Tensor:
            """L1 of means over blocks of pixels."""
            wrong, counts = (F.avg_pool2d(values, block) for values in (picture - truth, weight))
            return ((wrong.abs() * counts).mean((1, 2, 3)) / counts.mean((1, 2, 3))).mean()

        # The features of the perceptual loss hardly see a cast: `tone` does. And where little of the paint is taken,
        # the picture's loss leaves it any pattern, which then shows wherever a little is: `paint` has one of its own.
        loss = {"l1": off(made), "tone": off(made, TONE), "paint": off(paint)}
        total = loss["l1"] + loss["tone"] + loss["paint"]
        if self.distance is not None:
            loss["vgg"] = self.distance(*self._crops(made, truth, batch)).mean()
            total = total + self.settings.perceptual * loss["vgg"]
        return {"loss": total, **loss}

    @torch.no_grad()
    def _sampled(self, batch: dict[str, Tensor], noise: Tensor, steps: int) -> tuple[Tensor, Tensor, Reference]:
        """The picture of ŷ_0, ŷ_0, and the reference."""
        denoiser = self.networks["denoiser"]
        condition = Condition.of(denoiser, batch["pose"], batch["source"], batch["aligned"], batch["visibility"])
        model = GuidedDenoiser(denoiser, self.schedule, condition, self.config.guidance_scale, None)
        latent = sample_noise(model, noise, steps).float()
        return self.networks["autoencoder"].decode(latent), latent, reference_of(batch)

    def _crops(self, made: Tensor, truth: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Squares at random places on the person."""
        height, width = made.shape[-2:]
        side = min(CROP, height, width)
        pairs = []
        for row, (mask, place) in enumerate(zip(batch["mask"], batch["place"], strict=True)):
            on = mask[0].nonzero()
            y, x = (on[int(place[0] * len(on))] if len(on) else mask.new_tensor([height / 2, width / 2])).tolist()
            top = int(min(max(y - side // 2, 0), height - side))
            left = int(min(max(x - side // 2, 0), width - side))
            pairs.append([picture[row, :, top : top + side, left : left + side] for picture in (made, truth)])
        return tuple(torch.stack(part) for part in zip(*pairs, strict=True))

    @torch.no_grad()
    def _shown(self, network: ReferenceDecoder, rows: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Validation pairs, and their pictures as the pipeline makes them."""
        read = self._read(self.held_out, self.checked, self.check, rows)
        batch = {name: value.to(self.device) for name, value in read.items()}
        noise = torch.randn(batch["target"].shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        decoded, latent, reference = self._sampled(batch, noise, self.config.steps)
        return batch, paste(network(decoded, latent, reference), batch["original"], reference).clamp(-1, 1)

    def validate(self, network: ReferenceDecoder) -> dict[str, float]:
        """Perceptual distance of the tables to the truth: of the warp, of the warp on its plate, of results."""
        distance = PerceptualDistance().to(self.device)
        values: dict[str, list[float]] = {}
        for rows in np.array_split(np.arange(len(self.checked)), -(-len(self.checked) // 16)):
            batch, made = self._shown(network, rows)
            reference = reference_of(batch)
            pictures = {
                "warp": reference.warped,
                "on_plate": on_plate(reference),
                "result": made,
                "autoencoder": self.networks["autoencoder"].decode(batch["target"]).clamp(-1, 1),
            }
            for name, picture in pictures.items():
                values.setdefault(f"perceptual_{name}", []).extend(distance(picture, batch["picture"]).tolist())
                values.setdefault(f"l1_{name}", []).append(float((picture - batch["picture"]).abs().mean()))
        return {name: float(np.mean(part)) for name, part in values.items()}

    def sheet(self, network: ReferenceDecoder) -> Image.Image:
        """Source, skeleton, warp on its plate, the result, target."""
        batch, made = self._shown(network, np.arange(min(8, len(self.checked))))
        reference = reference_of(batch)
        return picture_grid([batch["original"], reference.skeleton, on_plate(reference), made, batch["picture"]])


def reference_of(batch: dict[str, Tensor]) -> Reference:
    """What the decoder is shown, of a batch that `ReferenceDecoderStage` read."""
    return Reference(**{field.name: batch[f"shown {field.name}"] for field in fields(Reference)})
