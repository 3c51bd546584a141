"""Stage `decoder`: the decoder that sees the source, on what the denoiser samples for cached pairs (**ours**)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reposedm_core.config import ModelConfig
from reposedm_core.diffusion.guided import Condition, GuidedDenoiser
from reposedm_core.diffusion.reference_decoder import Reference, ReferenceDecoder
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import sample_noise
from reposedm_core.layout import Layout
from reposedm_core.reference import make_reference, on_plate, paste
from training.data.people_set import Pairs, People
from training.engine.picture_grid import picture_grid
from training.engine.settings import DecoderSettings
from training.engine.stage import Plan, Stage
from training.metrics.perceptual import PerceptualDistance
from training.metrics.vgg import VGGDistance
from training.stages.latent_cache import FINDERS, Latents, alignment_of, cache_latents
from training.stages.patch_critic import PatchCritic, critic_loss

CROP = 96
"""Side of the crops that the perceptual loss looks at."""
TONE = 8
"""Side of the blocks of pixels whose mean colour has a loss of its own."""
VALIDATION_PAIRS = 96
READ = ("map", "logits", "was", "layout", "colours")
"""Of the cache, what the reference is made of and nothing else reads."""


class JudgedDecoder(nn.Module):
    """The decoder and the critic that training alone has."""

    def __init__(self, decoder: ReferenceDecoder, critic: PatchCritic | None):
        super().__init__()
        self.decoder, self.critic = decoder, critic

    def forward(
        self, decoded: Tensor, latent: Tensor, reference: Reference, truth: Tensor, corners: Tensor
    ) -> dict[str, Tensor]:
        """What the decoder makes and paints (B, 3, H, W), crops of what it makes and of the truth (B, 3, h, w) and,
        with a critic, what the critic says of both.

        Args:
            truth: (B, 3, H, W). corners: top and left of every crop, (B, 2) int64.
        """
        made, paint = (picture.float() for picture in self.decoder(decoded, latent, reference, with_paint=True))
        crops = {"crops": cut(made, corners), "true": cut(truth, corners)}
        values = {"made": made, "paint": paint, **crops}
        if self.critic is not None:
            skeleton = cut(reference.skeleton, corners)
            shown, true = (torch.cat([crop, skeleton], 1) for crop in crops.values())
            values |= {
                "adversarial": -self.critic.verdict(shown).mean(),
                "critic": critic_loss(self.critic, shown, true),
            }
        return values


def cut(pictures: Tensor, corners: Tensor) -> Tensor:
    """Squares of CROP pixels or of the picture's shorter side, from the given tops and lefts (B, 2)."""
    side = min(CROP, *pictures.shape[-2:])
    return torch.stack(
        [picture[:, y : y + side, x : x + side] for picture, (y, x) in zip(pictures, corners.tolist(), strict=True)]
    )


class ReferenceDecoderStage(Stage[JudgedDecoder, ReferenceDecoder]):
    """Trains the decoder; autoencoder, aligner and denoiser stay frozen.

    Its latents are sampled from noise, in 1 to `steps` DDIM steps with w_c, as in use. An estimate from the true
    latent, noised to a random t, still shows the truth: a decoder trained on those trusts the latent where it should
    copy.
    """

    name, part = "decoder", "decoder"
    settings: DecoderSettings

    @classmethod
    def needs(cls, config: ModelConfig) -> tuple[str, ...]:
        finders = [part for part in FINDERS if getattr(config, part).kind != "none"]
        return ("autoencoder", "aligner", "denoiser", *finders)

    def build(self) -> JudgedDecoder:
        critic = PatchCritic(3 + 3) if self.settings.adversarial > 0 else None
        return JudgedDecoder(ReferenceDecoder(self.config.decoder), critic)

    def part_of(self, module: JudgedDecoder) -> ReferenceDecoder:
        return module.decoder

    def prepare(self, main: bool) -> None:
        self.schedule = DiffusionSchedule(self.config.schedule)
        self.people, self.held_out = People(self.root, "train"), People(self.root, "val")
        frozen = self.networks["autoencoder"], self.networks["aligner"], self.device
        self.pairs = self.people.fixed_pairs(self.settings.pairs)
        self.checked = self.held_out.fixed_pairs(min(VALIDATION_PAIRS, self.settings.pairs))
        finders: dict[str, Any] = {part: self.networks.get(part) for part in FINDERS}
        self.cache = cache_latents(self.people, self.pairs, *frozen, self.out, flipped=True, **finders)
        self.check = cache_latents(self.held_out, self.checked, *frozen, self.out, flipped=True, **finders)
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
        alignment, seen, was = alignment_of(batch, source), batch["logits"][:, :1].sigmoid(), batch.get("was")
        layout = Layout(batch["layout"], batch["colours"]) if "layout" in batch else None
        reference = make_reference(source, skeleton, alignment, alignment.image, seen, was=was, layout=layout)
        batch = {name: value for name, value in batch.items() if name not in READ}
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
        sampled = self._sampled(batch, batch["noise"], int(batch["steps"][0]))
        reference, truth = sampled[-1], batch["picture"]
        found = model(*sampled, truth, self._corners(batch))
        made, paint = found["made"], found["paint"]
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
            loss["vgg"] = self.distance(found["crops"], found["true"]).mean()
            total = total + self.settings.perceptual * loss["vgg"]
        if "critic" in found:
            loss |= {name: found[name] for name in ("adversarial", "critic")}
            total = total + self.settings.adversarial * loss["adversarial"] + loss["critic"]
        return {"loss": total, **loss}

    @torch.no_grad()
    def _sampled(self, batch: dict[str, Tensor], noise: Tensor, steps: int) -> tuple[Tensor, Tensor, Reference]:
        """The picture of ŷ_0, ŷ_0, and the reference."""
        denoiser = self.networks["denoiser"]
        condition = Condition.of(denoiser, batch["pose"], batch["source"], batch["aligned"], batch["visibility"])
        model = GuidedDenoiser(denoiser, self.schedule, condition, self.config.guidance_scale, None)
        latent = sample_noise(model, noise, steps).float()
        return self.networks["autoencoder"].decode(latent), latent, reference_of(batch)

    def _corners(self, batch: dict[str, Tensor]) -> Tensor:
        """Top and left of squares at random places where the person is or was, (B, 2)."""
        height, width = batch["mask"].shape[-2:]
        side = min(CROP, height, width)
        corners = []
        for mask, place in zip(torch.maximum(batch["mask"], batch["shown hidden"]), batch["place"], strict=True):
            on = mask[0].nonzero()
            middle = on[int(place[0] * len(on))] if len(on) else torch.tensor([height // 2, width // 2])
            corners.append(
                [
                    min(max(at - side // 2, 0), room - side)
                    for at, room in zip(middle.tolist(), (height, width), strict=True)
                ]
            )
        return torch.tensor(corners)

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
