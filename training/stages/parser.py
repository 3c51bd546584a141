"""Stage `parser`: what every pixel of a person shows, of people pasted on random backgrounds (**ours**)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reposedm_core.checkpoint import save_model
from reposedm_core.config import to_dict
from reposedm_core.errors import InputError
from reposedm_core.garment_parser import LABELS, GarmentParser, ParserConfig
from reposedm_core.garments import parse
from reposedm_core.images import from_uint8
from reposedm_core.pose import Pose, coco_to_openpose, draw_joints
from training.data.augment import Generators, paste_background, random_backgrounds, random_grid, random_look
from training.data.people_set import People
from training.engine.picture_grid import picture_grid
from training.engine.stage import Plan, Stage, example_seeds

PASTED = 0.6
"""Share of the people that get another background, where the set has masks."""
EMPTY = 0.05
"""Share of the pictures with nobody in them, only a background."""
POSED = 0.5
"""Share of the examples that show the network a skeleton: it is used with a pose and without."""
JITTER, DROPPED = 0.01, 0.08
"""Of that skeleton: deviation of a joint as a share of the height, and share of joints that are missing, as an
estimator has them."""
OTHER = len(LABELS)
"""Class, in a batch alone, of a second person's pixels."""
WEIGHTS = (1.0, 3.0, 5.0, 3.0, 3.0, 6.0, 8.0, 5.0)
"""What a pixel of each label counts: nine in ten are background, and labels are about the rarer the more they count."""
COLOURS = torch.tensor(
    [(40, 40, 44), (236, 188, 160), (120, 76, 44), (66, 135, 245), (52, 168, 83), (234, 67, 53), (251, 188, 5),
     (171, 71, 188)]
)  # fmt: skip
"""Of the labels on a sheet, uint8."""


class ParserStage(Stage[GarmentParser, GarmentParser]):
    """Cross-entropy on labels that are warped and covered as their pictures are.

    Its result, `out/parser.safetensors`, is of use with any model, too; a preset that has a parser takes it in.
    """

    name, part = "parser", "parser"

    @property
    def network_config(self) -> ParserConfig:
        """The model's, or else one that sees pictures of the set's own size."""
        if self.config.parser.kind != "none":
            return self.config.parser
        people = People(self.root, "train")
        return replace(self.config.parser, kind="unet", height=people.height, width=people.width)

    def build(self) -> GarmentParser:
        return GarmentParser(self.network_config)

    @classmethod
    def check_data(cls, root: str | Path) -> None:
        check_garments(root, cls.name, "model.parser.kind=none model.layout.kind=none model.decoder.flat=false")

    def prepare(self, main: bool) -> None:
        self.people, self.held_out = (People(self.root, split) for split in ("train", "val"))

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        identity, index = self.people.random_pictures(rng, count)
        return {"identity": identity, "index": index, "seed": example_seeds(rng, count)}

    def load(self, plan: Plan) -> dict[str, Tensor]:
        rngs = [np.random.default_rng(seed) for seed in plan["seed"]]
        chosen = plan["identity"], plan["index"]
        images, labels = self.people.pictures(*chosen), true_labels(self.people, *chosen)
        size = self.people.height, self.people.width
        grid, joints = random_grid(rngs, self.people.joints(*chosen), *size)
        # whole numbers up to 8 are exact in float32, and the nearest pixel's is taken
        labels = F.grid_sample(labels[:, None].float(), grid, "nearest", "border", align_corners=False)[:, 0]
        if self.people.has_masks:
            kept = (labels > 0)[:, None].float()
            kept[torch.tensor([rng.random() >= PASTED for rng in rngs])] = 1
            empty = torch.tensor([rng.random() < EMPTY for rng in rngs])
            kept[empty], labels[empty], joints[empty.numpy()] = 0, 0, 0
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        if self.people.has_masks:
            images = paste_background(rngs, images, kept, random_backgrounds(rngs, *size))
        skeletons, posed = _skeletons(rngs, joints, *size)
        labels[posed] = torch.where(labels[posed] == OTHER, 0, labels[posed])
        return {"images": random_look(rngs, images), "skeletons": skeletons, "labels": labels.byte()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        labels = batch["labels"].long()
        logits = model(batch["images"], from_uint8(batch["skeletons"])).float()
        off = F.cross_entropy(logits, labels, logits.new_tensor(WEIGHTS), ignore_index=OTHER, reduction="none")
        right = (logits.detach().argmax(1) == labels) & (labels > 0)
        return {"loss": off.mean(), "right": right.sum() / ((labels > 0) & (labels < OTHER)).sum().clamp(1)}

    def validate(self, network: GarmentParser) -> dict[str, float]:
        """Intersection over union of the labels, and their mean, without a pose and (`posed`) with the true one."""
        count = min(192, int(self.held_out.counts.sum()))
        own, posed = (overlap(network, self.held_out, count, posed) for posed in (False, True))
        means = {"miou": float(np.nanmean(list(own.values()))), "miou posed": float(np.nanmean(list(posed.values())))}
        return {**means, **{name: value for name, value in own.items() if not np.isnan(value)}}

    def sheet(self, network: GarmentParser) -> Image.Image:
        """Pictures, what is found in them without a pose and with it, and the true labels."""
        chosen = pictures_of(self.held_out, 8)
        images, truth = self.held_out.pictures(*chosen), true_labels(self.held_out, *chosen)
        found = [predict(network, self.held_out, *chosen, posed) for posed in (False, True)]
        drawn = [from_uint8(COLOURS[part.cpu().long().clamp(max=OTHER - 1)]).movedim(-1, 1) for part in (*found, truth)]
        return picture_grid([images, *drawn])

    def save(self, network: GarmentParser, path: Path, card: dict) -> None:
        save_model(path, {self.part: network}, to_dict(network.config), card)


def check_garments(root: str | Path, stage: str, without: str) -> None:
    """Raise an `InputError` where a set has no labels of garments; `without`: the settings that do without `stage`."""
    if not People(root, "train").has_garments:
        raise InputError(
            f"{root} holds no garments.npy, which stage {stage} learns from: python training/generate.py makes people "
            f"with it. Or do without: {without}."
        )


def true_labels(people: People, identity: np.ndarray, index: np.ndarray) -> Tensor:
    """(n, H, W) uint8: labels of the person's pixels, `OTHER` on a second person's."""
    labels = people.read("garments", identity, index)
    if people.has_masks:
        labels = np.where(people.read("masks", identity, index) == 2, np.uint8(OTHER), labels)
    return torch.from_numpy(labels)


def _skeletons(rngs: Generators, joints: np.ndarray, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Drawn poses (n, 3, H, W) uint8 of COCO joints (n, 17, 3), black for some, and for which not, (n,) bool."""
    joints = joints.copy()
    posed = np.array([rng.random() < POSED for rng in rngs])
    for rng, each in zip(rngs, joints, strict=True):
        each[:, :2] += rng.normal(0, JITTER * height, (len(each), 2))
        each[rng.random(len(each)) < DROPPED] = 0
    joints[~posed] = 0
    return draw_joints(coco_to_openpose(joints), height, width), torch.from_numpy(posed)


def pictures_of(people: People, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures, the first of everybody, then the second and so on: identity and index."""
    each = [(index, person) for person, n in zip(people.identities, people.counts, strict=True) for index in range(n)]
    index, identity = np.array(sorted(each)[:count]).T
    return identity, index


@torch.no_grad()
def predict(network: GarmentParser, people: People, identity: np.ndarray, index: np.ndarray, posed: bool) -> Tensor:
    """The likeliest labels (n, H, W) of pictures, with the true skeletons or without any, where the network is."""
    where, found = next(network.parameters()).device, []
    for first in range(0, len(identity), 16):
        chosen = identity[first : first + 16], index[first : first + 16]
        skeletons = people.skeletons(*chosen).to(where) if posed else None
        found.append(network(people.pictures(*chosen).to(where), skeletons).argmax(1))
    return torch.cat(found)


def overlap(network: GarmentParser, people: People, count: int, posed: bool) -> dict[str, float]:
    """Intersection over union of every label over `pictures_of` a split; NaN where neither shows it.

    A second person's pixels count with `posed` alone, as background.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    chosen = pictures_of(people, count)
    found, truth = predict(network, people, *chosen, posed).cpu(), true_labels(people, *chosen).long()
    truth = torch.where(truth == OTHER, 0, truth) if posed else truth
    table = multiclass_confusion_matrix(found, truth, len(LABELS), ignore_index=OTHER)
    return dict(zip(LABELS, intersection_over_union(table).tolist(), strict=True))


def intersection_over_union(table: Tensor) -> Tensor:
    """Of each class of a confusion matrix (classes, classes), counts; float64, NaN where it is neither true nor
    found."""
    both = table.double().diagonal()
    return both / (table.sum(0) + table.sum(1) - both)


def mask_overlap(
    network: GarmentParser, people: People, count: int, kinds: Mapping[str, Collection[str]], posed: bool
) -> dict[str, float]:
    """Intersection over union of masks of labels that `parse` gives, sure by more than a half, over `pictures_of` a
    split, with the true poses or by a first look.

    A second person's pixels count with `posed` alone, as background.
    """
    identity, index = pictures_of(people, count)
    truth, poses = true_labels(people, identity, index), coco_to_openpose(people.joints(identity, index))
    table = {name: [0, 0] for name in kinds}
    for number in range(count):
        chosen = slice(number, number + 1)
        picture = people.pictures(identity[chosen], index[chosen])[0]
        parsed = parse(network, picture, Pose(poses[chosen], people.height, people.width) if posed else None)
        counted = (truth[number] != OTHER) | posed
        for name, labels in kinds.items():
            here = torch.isin(truth[number], torch.tensor([LABELS.index(label) for label in labels]))
            mask = torch.zeros_like(here) if parsed is None else parsed.mask(labels, picture) > 0.5
            table[name][0] += int((mask & here & counted).sum())
            table[name][1] += int(((mask | here) & counted).sum())
    return {name: both / max(1, either) for name, (both, either) in table.items()}
