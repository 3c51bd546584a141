"""Stage `layout`: what every pixel of the target will show, from cached alignments (**ours**)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reposedm_core.alignment.warp import warp
from reposedm_core.config import ModelConfig
from reposedm_core.crop import resize
from reposedm_core.images import from_uint8
from reposedm_core.layout import LayoutNetwork, mean_colours, parse_source
from reposedm_core.pose import draw_joints
from training.data.people_set import Pairs, People
from training.engine.picture_grid import picture_grid
from training.engine.settings import LayoutSettings
from training.engine.stage import Plan, Stage
from training.stages.latent_cache import MAPS, Latents, cache_latents, drawn_mistaken, mirrored_joints, mistaken_poses
from training.stages.parser import COLOURS, OTHER, check_garments, intersection_over_union, true_labels

VALIDATION_PAIRS = 96
UNKNOWN = 0.1
"""Share of the examples in which the network and the parser go without the source's pose; the map, which is cached, is
still that of an aligner that had it."""


class LayoutStage(Stage[LayoutNetwork, LayoutNetwork]):
    """Cross-entropy on the target's labels; aligner and parser stay frozen, and half of the examples are mirrored."""

    name, part = "layout", "layout"
    settings: LayoutSettings

    @classmethod
    def needs(cls, config: ModelConfig) -> tuple[str, ...]:
        return ("autoencoder", "aligner", "parser")

    def build(self) -> LayoutNetwork:
        return LayoutNetwork(self.config.layout)

    @classmethod
    def check_data(cls, root: str | Path) -> None:
        check_garments(root, cls.name, "model.layout.kind=none model.decoder.flat=false")

    def prepare(self, main: bool) -> None:
        self.people, self.held_out = People(self.root, "train"), People(self.root, "val")
        frozen = self.networks["autoencoder"], self.networks["aligner"], self.device
        self.pairs = self.people.fixed_pairs(self.settings.pairs)
        self.checked = self.held_out.fixed_pairs(min(VALIDATION_PAIRS, self.settings.pairs))
        parser = self.networks["parser"]
        self.cache = cache_latents(self.people, self.pairs, *frozen, self.out, flipped=True, parser=parser)
        self.check = cache_latents(self.held_out, self.checked, *frozen, self.out, flipped=True, parser=parser)
        parser.to(self.device)

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        return {
            "row": rng.integers(0, len(self.cache), count),
            "flip": rng.random(count) < self.settings.flip,
            "unknown": rng.random(count) < UNKNOWN,
        }

    def load(self, plan: Plan) -> dict[str, Tensor]:
        return self._read(self.people, self.pairs, self.cache, plan["row"], plan["flip"], plan["unknown"])

    def _read(
        self, people: People, pairs: Pairs, cache: Latents, rows: np.ndarray, flip: np.ndarray, unknown: np.ndarray
    ) -> dict[str, Tensor]:
        chosen, batch = pairs[rows], cache.batch(rows, tuple(name for name in cache.tensors if name not in MAPS))
        shrink = self.config.aligner.shrink
        size, small = (people.height, people.width), (people.height // shrink, people.width // shrink)
        to = torch.from_numpy(people.openpose(chosen.identity, chosen.target)).float()
        to[flip] = mirrored_joints(to[flip], people.width)
        known = drawn_mistaken(people, chosen, shrink)
        known[unknown] = -1
        mirrored = known.clone()
        turned = flip & ~unknown
        if turned.any():
            seen = mirrored_joints(torch.from_numpy(mistaken_poses(people, chosen[turned])).float(), people.width)
            mirrored[turned] = from_uint8(draw_joints(seen.numpy() / np.array([shrink, shrink, 1], np.float32), *small))
        return {
            "picture": people.pictures(chosen.identity, chosen.source),
            "parsed_with": known,
            "source_skeleton": mirrored,
            "skeleton": from_uint8(draw_joints(to.numpy(), *size)),
            **batch,
            "flip": torch.from_numpy(flip),
            "labels": true_labels(people, chosen.identity, chosen.target),
        }

    def inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """What the network is shown, as `predict_layout` makes it, mirrored where the batch says so."""
        own = self.config.layout.height, self.config.layout.width
        seen, person, mask = batch["logits"].split(1, 1)
        with torch.no_grad():
            labels = parse_source(self.networks["parser"], batch["picture"], batch["parsed_with"], mask)
            plain = labels, warp(labels, batch["map"]), seen.sigmoid(), person.sigmoid()
            turned = batch["flip"][:, None, None, None]
            shown = [torch.where(turned, values.flip(-1), values) for values in plain]
            return tuple(resize(values, own) for values in (batch["skeleton"], batch["source_skeleton"], *shown))

    def _predicted(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits at the pictures' size, and the true labels; both mirrored where the batch says so."""
        labels = batch["labels"].long()
        labels = torch.where(batch["flip"][:, None, None], labels.flip(-1), labels)
        logits = F.interpolate(network(*self.inputs(batch)).float(), labels.shape[-2:], mode="bilinear")
        return logits, torch.where(labels == OTHER, 0, labels)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        logits, labels = self._predicted(model, batch)
        right, person = (logits.detach().argmax(1) == labels) & (labels > 0), labels > 0
        share = right.sum((1, 2)) / person.sum((1, 2)).clamp(1)  # of each example, so that means are means of examples
        return {"loss": F.cross_entropy(logits, labels), "right": share.mean()}

    def _checked(self, network: LayoutNetwork, rows: np.ndarray) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Validation pairs, logits of their labels at the pictures' size, and the labels."""
        no = np.zeros(len(rows), bool)
        read = self._read(self.held_out, self.checked, self.check, rows, no, no)
        batch = {name: value.to(self.device) for name, value in read.items()}
        return batch, *self._predicted(network, batch)

    def validate(self, network: LayoutNetwork) -> dict[str, float]:
        """Cross-entropy; intersection over union of the labels, their mean, and that of the person, here and by the
        aligner alone."""
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        names = self.config.layout.labels
        table = torch.zeros(len(names), len(names), dtype=torch.float64)
        persons = torch.zeros(2, 2, dtype=torch.float64)
        loss = []
        for rows in np.array_split(np.arange(len(self.checked)), -(-len(self.checked) // 16)):
            batch, logits, labels = self._checked(network, rows)
            loss.append(float(F.cross_entropy(logits, labels)))
            table += multiclass_confusion_matrix(logits.argmax(1).cpu(), labels.cpu(), len(names)).double()
            theirs = F.interpolate(batch["logits"][:, 1:2], labels.shape[-2:], mode="bilinear")[:, 0] > 0
            mine = logits[:, 1:].logsumexp(1) > logits[:, 0]
            for row, mask in enumerate((mine, theirs)):
                persons[row] += torch.stack([(mask & (labels > 0)).sum(), (mask | (labels > 0)).sum()]).cpu()
        shares = intersection_over_union(table)
        own, aligners = (persons[:, 0] / persons[:, 1]).tolist()
        return {
            "cross_entropy": float(np.mean(loss)),
            "miou": float(shares.nanmean()),
            "person": own,
            "person by the aligner": aligners,
            **{name: float(share) for name, share in zip(names, shares, strict=True) if not share.isnan()},
        }

    def sheet(self, network: LayoutNetwork) -> Image.Image:
        """Source, target's skeleton, the labels that are predicted, the true ones, the labels in the source's colours,
        target."""
        rows = np.arange(min(8, len(self.checked)))
        batch, logits, labels = self._checked(network, rows)
        mask = batch["logits"][:, 2:]
        parsed = parse_source(self.networks["parser"], batch["picture"], batch["parsed_with"], mask)
        colours = mean_colours(batch["picture"], parsed)
        colours[:, 0] = 1
        flat = torch.einsum("blhw,blc->bchw", logits.softmax(1), colours)
        drawn = (from_uint8(COLOURS[part.cpu()]).movedim(-1, 1) for part in (logits.argmax(1), labels))
        chosen = self.checked[rows]
        target = self.held_out.pictures(chosen.identity, chosen.target)
        return picture_grid([batch["picture"], batch["skeleton"], *drawn, flat, target])
