"""Stage `aligner`: warm-up of the recurrent pose aligner on exact correspondences, or on joints alone (**ours**)."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reposedm_core.alignment import Alignment, RecurrentPoseAligner
from reposedm_core.alignment.warp import identity_map, resize_map, warp
from reposedm_core.config import ModelConfig
from reposedm_core.letterbox import size_of
from training.data.people_set import Pairs, People
from training.engine.picture_grid import picture_grid
from training.engine.settings import AlignerSettings
from training.engine.stage import Plan, Stage

DISCOUNT = 0.7
"""Weight of an iteration relative to the next, as in recurrent optical flow."""
GROUND = 0.3
"""Weight of the background's end-point error relative to the body's."""


def alignment_loss(
    alignment: Alignment, source: Tensor, target: Tensor, flow: Tensor, visible: Tensor, ground: Tensor | None = None
) -> dict[str, Tensor]:
    """End-point error on the body, visibility cross-entropy, and photometric error where the source shows the target.

    With `ground` the end-point error of the background, too: it stays where it is.

    Predictions are upsampled to the truth: a downsampled truth would mix sampling positions across outlines. All are
    means over a picture's cells first, then over the pictures.

    Args:
        source, target: pictures (B, 3, H, W).
        flow, visible: exact sampling map (B, 2, h, w) and its label (B, 1, h, w), 0 background, 1 occluded, 2 visible.
        ground: (B, 1, h, w), 1 where neither picture shows a person.
    """
    h, w = flow.shape[-2:]
    here = identity_map(h, w, device=flow.device, dtype=flow.dtype)
    body, seen = (visible > 0).float(), (visible == 2).float()
    shows = F.interpolate(torch.maximum(seen, 1 - body), size=source.shape[-2:])
    half = half_size(source)[..., None, None]

    def one(sampling: Tensor, logit: Tensor) -> dict[str, Tensor]:
        fine = resize_map(sampling, h, w)

        def distance(truth: Tensor) -> Tensor:
            return (((fine - truth) * half).square().sum(1, keepdim=True) + 0.01).sqrt()

        error = distance(flow)
        moved = mean_where(error * (seen + 0.3 * (body - seen)), body)
        if ground is not None:
            moved = moved + GROUND * mean_where(distance(here), ground)
        logit = F.interpolate(logit, size=(h, w), mode="bilinear", align_corners=False)
        off = (warp(source, sampling) - target).abs().mean(1, keepdim=True)
        return {
            "flow": moved / 4,
            "epe": mean_where(error, seen),
            "visibility": F.binary_cross_entropy_with_logits(logit, seen),
            "photometric": mean_where(off, shows),
        }

    return over_iterations([one(*each) for each in zip(alignment.maps, alignment.visibility, strict=True)])


def joint_loss(
    alignment: Alignment, source: Tensor, target: Tensor, source_joints: Tensor, target_joints: Tensor
) -> dict[str, Tensor]:
    """For sets without correspondence (**ours**): a joint of the target shows the same joint of the source.

    End-point error and visibility cross-entropy at the joints that both pictures have (half as important where one of
    them is hidden), and the photometric error of the whole picture, bounded, since much of it may be hidden.

    Args:
        source, target: pictures (B, 3, H, W). source_joints, target_joints: COCO-17 (B, 17, 3), see `People.joints`.
    """
    half = half_size(source)[:, None]
    at, truth = ((joints[..., :2] / half - 1) for joints in (target_joints, source_joints))
    at = at.nan_to_num()  # a corrupt joint shows in the loss; on the CPU grid_sample would read anywhere in memory
    known = ((source_joints[..., 2] > 0) & (target_joints[..., 2] > 0)).float()
    seen = ((source_joints[..., 2] == 2) & (target_joints[..., 2] == 2)).float()

    def read(values: Tensor) -> Tensor:
        """(B, C, h, w) at the target's joints, (B, 17, C)."""
        return F.grid_sample(values, at[:, :, None].to(values), padding_mode="border", align_corners=False)[
            ..., 0
        ].movedim(1, 2)

    def one(sampling: Tensor, logit: Tensor) -> dict[str, Tensor]:
        error = (((read(sampling) - truth) * half).square().sum(-1) + 0.01).sqrt()
        unsure = F.binary_cross_entropy_with_logits(read(logit)[..., 0], seen, reduction="none")
        off = (warp(source, sampling) - target).abs().mean(1).clamp(max=0.5)
        return {
            "flow": mean_where(error * (0.5 + 0.5 * seen), known) / 4,
            "epe": mean_where(error, known),
            "visibility": mean_where(unsure, known),
            "photometric": off.mean(),
        }

    return over_iterations([one(*each) for each in zip(alignment.maps, alignment.visibility, strict=True)])


def half_size(pictures: Tensor) -> Tensor:
    """(1, 2): half the width and height, pixels in a unit of a sampling map."""
    height, width = pictures.shape[-2:]
    return torch.tensor([[width / 2, height / 2]], device=pictures.device)


def mean_where(values: Tensor, weight: Tensor) -> Tensor:
    """Mean over examples of each one's mean of `values` where `weight` is 1; 0 for one without such a place."""
    return ((values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)).mean()


def over_iterations(terms: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The discounted sum of every iteration's flow, visibility and photometric terms, and what is logged of them."""
    losses = (
        DISCOUNT ** (len(terms) - 1 - n) * (term["flow"] + term["visibility"] + term["photometric"])
        for n, term in enumerate(terms)
    )
    return {
        "loss": reduce(torch.add, losses),
        **{f"epe{n + 1}": term["epe"] for n, term in enumerate(terms)},
        "photometric": terms[-1]["photometric"],
    }


def checkpoint_parts(aligner: RecurrentPoseAligner) -> None:
    """Let an aligner forget the activations of its parts and compute them again on the way back."""
    for part in (aligner.source_encoder, aligner.pose_encoder, *aligner.mapformers, *aligner.aggregators):
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)


class AlignerStage(Stage[RecurrentPoseAligner, RecurrentPoseAligner]):
    """Supervised training; the first `first_steps` steps train one iteration only, three times as fast.

    A set with correspondence is learned from exactly; one without is learned from its joints and colours, best from
    the weights of an aligner that was trained with correspondence (`aligner.init`).
    """

    name, part, unused = "aligner", "aligner", True
    settings: AlignerSettings

    @classmethod
    def needs(cls, config: ModelConfig) -> tuple[str, ...]:
        if config.aligner.encoder != "latent":
            return ()
        return ("autoencoder",) if config.tiny.kind == "none" else ("autoencoder", "tiny")

    def build(self) -> RecurrentPoseAligner:
        return RecurrentPoseAligner(self.config.aligner)

    def checkpointed(self, module: RecurrentPoseAligner) -> None:
        checkpoint_parts(module)

    def prepare(self, main: bool) -> None:
        self.people, self.held_out = People(self.root, "train"), People(self.root, "val")
        self.encode, self.inner = (
            self.networks[part].to(self.device).encode if part in self.networks else None
            for part in ("autoencoder", "tiny")
        )
        if main and not self.people.has_correspondence:
            print(
                f"aligner: {self.root} has no correspondence; learning from joints and colours"
                + (
                    "."
                    if self.settings.init
                    else ", from fresh weights. An aligner trained on synthetic people is a "
                    "better start: give its checkpoint as aligner.init."
                ),
                flush=True,
            )

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        return dict(vars(self.people.random_pairs(rng, count)))

    def load(self, plan: Plan) -> dict[str, Tensor]:
        return self._read(self.people, Pairs(**plan))

    def _read(self, people: People, pairs: Pairs) -> dict[str, Tensor]:
        source, target = (pairs.identity, pairs.source), (pairs.identity, pairs.target)
        batch = {
            "source": people.pictures(*source),
            "target": people.pictures(*target),
            "skeleton": people.skeletons(*target),
        }
        if people.has_correspondence:
            batch["flow"], batch["visible"] = people.correspondence(pairs)
            masks = people.masks(*source)
            if masks is not None:  # the outline's own pixels are a mixture of both
                person = F.adaptive_max_pool2d((masks > 0).float(), size_of(batch["visible"]))
                batch["ground"] = (1 - person) * (batch["visible"] == 0)
        else:
            for name, which in (("source_joints", source), ("target_joints", target)):
                batch[name] = torch.from_numpy(people.joints(*which)).float()
        return batch

    def phase(self, step: int) -> tuple[int, int]:
        """The later iterations start with a fresh learning rate: at the end of the first one's they would not learn."""
        first = min(self.settings.first_steps, self.settings.steps)
        return (0, first) if step < first else (first, self.settings.steps)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return self._losses(model, batch, 1 if step < self.settings.first_steps else None)

    def _losses(self, model: nn.Module, batch: dict[str, Tensor], iterations: int | None = None) -> dict[str, Tensor]:
        batch = dict(batch)
        alignment = model(batch["source"], batch.pop("skeleton"), iterations, self.encode, self.inner)
        return (alignment_loss if "flow" in batch else joint_loss)(alignment, **batch)

    def validate(self, network: RecurrentPoseAligner) -> dict[str, float]:
        pairs = self.held_out.fixed_pairs(128)
        totals: dict[str, float] = {}
        for rows in np.array_split(np.arange(len(pairs)), max(1, len(pairs) // 16)):
            batch = {name: value.to(self.device) for name, value in self._read(self.held_out, pairs[rows]).items()}
            for key, value in self._losses(network, batch).items():
                totals[key] = totals.get(key, 0.0) + float(value) * len(rows) / len(pairs)
        return totals

    def sheet(self, network: RecurrentPoseAligner) -> Image.Image:
        """Source, skeleton, the source as every iteration warps it, target."""
        batch = self._read(self.held_out, self.held_out.fixed_pairs(8))
        source, skeleton = batch["source"].to(self.device), batch["skeleton"].to(self.device)
        return picture_grid(
            [
                source,
                skeleton,
                *network(source, skeleton, encode=self.encode, inner=self.inner).images(source),
                batch["target"],
            ]
        )
