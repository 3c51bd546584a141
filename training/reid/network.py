"""The network that tells people apart, how it is trained, and the features it gives."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reposedm_core.checkpoint import read_weights
from reposedm_core.errors import InputError, shortened
from training.engine.signals import Interrupts, Stopped
from training.engine.state import read_state, save_atomically

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which the backbone's weights expect."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The paper says ResNet-50 and no more: all else is **ours**, after "Bag of Tricks and a
    Strong Baseline for Deep Person Re-identification".

    Attributes:
        backbone: name in timm. weights: file of its ImageNet weights, None to start at random.
        height, width: of its pictures.
        steps: the same for every row, so that more pictures do not mean more training.
        people, each: a batch holds so many people and so many pictures of each.
        smoothing: of the labels. margin: of the triplets.
    """

    backbone: str = "resnet50"
    weights: str | None = None
    height: int = 256
    width: int = 128
    steps: int = 12000
    people: int = 16
    each: int = 4
    lr: float = 3.5e-4
    decay: float = 5e-4
    smoothing: float = 0.1
    margin: float = 0.3
    save_every: int = 500

    def check(self) -> None:
        """InputError for a number out of range."""
        if min(self.height, self.width) < 16 or self.steps < 1 or self.people < 2 or self.each < 2:
            raise InputError("height and width must be at least 16, steps 1, people and pictures of each 2.")
        if not 0 < self.lr < math.inf:
            raise InputError(f"lr = {self.lr}: the learning rate must be above 0.")


class Net(nn.Module):
    """A backbone, whose pooled features the triplets compare, and a normalised copy of them, which is classified and
    retrieved with.

    Raises:
        InputError: timm knows no such backbone, or the weights are of another one.
    """

    def __init__(self, recipe: Recipe, classes: int):
        super().__init__()
        import timm

        if not timm.is_model(recipe.backbone):
            raise InputError(f"backbone = {recipe.backbone!r}: timm has no such model; resnet50 is the paper's.")
        self.backbone = timm.create_model(recipe.backbone, pretrained=False, num_classes=0)
        if recipe.weights is not None:
            self._load(recipe, recipe.weights)
        features: Any = self.backbone.num_features
        self.norm = nn.BatchNorm1d(features)
        self.norm.bias.requires_grad_(False)
        self.classifier = nn.Linear(features, classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def _load(self, recipe: Recipe, weights: str) -> None:
        wanted, given = self.backbone.state_dict(), read_weights(weights)
        wrong = [
            key
            for key, value in wanted.items()
            if not key.endswith("num_batches_tracked") and (key not in given or given[key].shape != value.shape)
        ]
        if wrong:
            raise InputError(
                f"{weights} is not of {recipe.backbone}: {len(wrong)} weights are missing there or have another "
                f"shape ({shortened(wrong[0])}, …). Give the file that timm or torchvision has for this backbone."
            )
        self.backbone.load_state_dict({key: given.get(key, value) for key, value in wanted.items()})

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) → pooled features and their normalised copy, (B, D) each."""
        pooled = self.backbone(pictures)
        return pooled, self.norm(pooled)


def as_input(pictures: np.ndarray, device: torch.device | str) -> Tensor:
    """uint8 (b, H, W, 3) → (b, 3, H, W), with ImageNet's mean and deviation taken out."""
    values = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).movedim(-1, 1).float() / 255
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (MEAN, STD))
    return (values - mean) / std


def draw_batch(rng: np.random.Generator, labels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Numbers of the pictures of a batch: `people` people with `each` pictures; who has fewer is seen again."""
    classes = labels.max() + 1
    people = rng.choice(classes, min(recipe.people, classes), replace=False)
    chosen = []
    for person in people:
        own = np.flatnonzero(labels == person)
        chosen.append(rng.choice(own, recipe.each, replace=len(own) < recipe.each))
    return np.concatenate(chosen)


def disturbed(rng: np.random.Generator, pictures: np.ndarray) -> np.ndarray:
    """Pictures (b, H, W, 3) mirrored, moved by up to a 25th of their height, and with a rectangle erased, by chance."""
    count, height, width = pictures.shape[:3]
    margin = max(1, round(height / 25))
    padded = np.pad(pictures, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    result = np.empty_like(pictures)
    for n in range(count):
        y, x = rng.integers(0, 2 * margin + 1, 2)
        part = padded[n, y : y + height, x : x + width]
        result[n] = part[:, ::-1] if rng.random() < 0.5 else part
        if rng.random() < 0.5:
            area, aspect = rng.uniform(0.02, 0.4) * height * width, math.exp(rng.uniform(-1.2, 1.2))
            h, w = min(height - 1, round((area * aspect) ** 0.5)), min(width - 1, round((area / aspect) ** 0.5))
            top, left = rng.integers(0, height - h), rng.integers(0, width - w)
            result[n, top : top + h, left : left + w] = [round(255 * m) for m in MEAN]
    return result


def train(
    recipe: Recipe, pictures: np.ndarray, labels: np.ndarray, seed: int, state: Path, device: torch.device | str = "cpu"
) -> Net:
    """Train a network, or go on from `state`; every step draws from (seed, step), so an interruption changes nothing.

    Args:
        pictures: uint8 (n, H, W, 3). labels: (n,) of 0 … classes - 1.
        state: file of the unfinished training.

    Raises:
        InputError: the state is damaged, or of another training.
        Stopped: by Ctrl-C or SIGTERM; the state is saved.
        FloatingPointError: the loss is no number any more.
    """
    from pytorch_metric_learning import distances, losses, miners

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Net(recipe, int(labels.max()) + 1).to(device)
    optimiser = torch.optim.AdamW(
        [p for p in net.parameters() if p.requires_grad], recipe.lr, weight_decay=recipe.decay
    )
    distance = distances.LpDistance(normalize_embeddings=False)
    miner = miners.BatchHardMiner(distance=distance)
    triplets = losses.TripletMarginLoss(recipe.margin, distance=distance)
    known = {**asdict(recipe), "pictures": len(pictures), "seed": seed}
    first, before = 0, read_state(state)
    if before is not None:
        if before["log"] != known:
            raise InputError(f"{state} is of another training: delete it, or give another --out.")
        net.load_state_dict(before["network"])
        optimiser.load_state_dict(before["optimiser"])
        first = before["step"]

    def save(step: int) -> None:
        parts = {"network": net.state_dict(), "average": None, "optimiser": optimiser.state_dict()}
        save_atomically({**parts, "step": step, "log": known}, state)

    net.train()
    with Interrupts() as interrupts:
        for step in range(first, recipe.steps):
            if interrupts.number or (step > first and step % recipe.save_every == 0):
                save(step)
            if interrupts.number:
                raise Stopped(f"Stopped at step {step} of {recipe.steps}; the same command goes on.", interrupts.number)
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * rate(step, recipe.steps)
            rng = np.random.default_rng((seed, step))
            chosen = draw_batch(rng, labels, recipe)
            target = torch.from_numpy(labels[chosen]).to(device)
            pooled, normal = net(as_input(disturbed(rng, pictures[chosen]), device))
            loss = F.cross_entropy(net.classifier(normal), target, label_smoothing=recipe.smoothing)
            loss = loss + triplets(pooled, target, miner(pooled, target))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"The loss of step {step} is {loss.item()}: lower the learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    return net.eval()


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: up in a line for a tenth of the steps, then down along a cosine."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@torch.no_grad()
def features(net: Net, pictures: np.ndarray, device: torch.device | str = "cpu", batch: int = 64) -> np.ndarray:
    """Features of length 1, (n, D) float32, means over a picture and its mirror image."""
    found = []
    for start in range(0, len(pictures), batch):
        given = as_input(pictures[start : start + batch], device)
        both = net(given)[1] + net(given.flip(-1))[1]
        found.append(F.normalize(both).cpu().numpy())
    return np.concatenate(found)
