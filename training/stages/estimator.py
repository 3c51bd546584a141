"""Stage `estimator`: HigherHRNet's heat maps on people pasted on random backgrounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from reposedm_core.config import EstimatorConfig
from reposedm_core.field import HigherHRNet, predict_pose
from reposedm_core.pose import render_heatmaps
from training.data.augment import random_affine, random_backgrounds, random_look
from training.data.dataset import People
from training.loop import optimise
from training.metrics import pck
from training.settings import StageSettings


def heatmap_loss(output, joints: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Mean squared error of the heat maps at both resolutions; cells near a joint weigh more (they are few)."""
    total = output.heatmaps_half.new_zeros(())
    for stride, predicted in ((4, output.heatmaps_quarter), (2, output.heatmaps_half)):
        truth = render_heatmaps(joints, height, width, sigma, stride).to(predicted)
        total = total + ((1 + 9 * truth) * (predicted - truth).square()).mean()
    return 100 * total


def pull_loss(tags: Tensor, joints: Tensor) -> Tensor:
    """Associative embedding's pull: tags (B, K, h, w) read at the joints of one person agree."""
    height, width = tags.shape[-2:]
    x = (joints[..., 0] / 4).long().clamp(0, width - 1)
    y = (joints[..., 1] / 4).long().clamp(0, height - 1)
    read = tags.flatten(2).gather(2, (y * width + x)[..., None])[..., 0]
    weight = (joints[..., 2] > 0).float()
    mean = (read * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    return ((read - mean).square() * weight).sum() / weight.sum().clamp(min=1)


def train(config: EstimatorConfig, settings: StageSettings, root: str, out: Path, seed: int, resume: bool,
          accelerator: Accelerator) -> tuple[HigherHRNet, dict]:
    """One person a picture: heat maps and the pull half of the tag loss. Occluded joints are taught too."""
    data = People(root, "train")
    network = HigherHRNet(config)
    height, width = data.height, data.width

    def step(model, _, rng: np.random.Generator, __) -> dict[str, Tensor]:
        identity, index = data.random_pictures(rng, settings.batch)
        images, joints = data.pictures(identity, index), data.joints(identity, index)
        masks = data.masks(identity, index)
        replace = torch.from_numpy(rng.random((len(images), 1, 1, 1)) < 0.6)
        both, joints = random_affine(rng, torch.cat([images, masks], 1), joints)
        images, masks = both[:, :3], both[:, 3:]
        pasted = masks * images + (1 - masks) * random_backgrounds(rng, len(images), height, width)
        images = random_look(rng, torch.where(replace, pasted, images)).to(accelerator.device)
        targets = torch.from_numpy(joints).to(accelerator.device)
        output = model(images)
        heat = heatmap_loss(output, targets, height, width, config.sigma)
        pull = pull_loss(output.tags_quarter, targets)
        return {"loss": heat + 1e-2 * pull, "heat": heat, "pull": pull}

    def validate(model: HigherHRNet) -> dict[str, float]:
        people = People(root, "val")
        pairs = people.fixed_pairs(192)
        images = people.pictures(pairs.identity, pairs.source).to(accelerator.device)
        predicted = torch.cat([predict_pose(model, part) for part in images.split(32)]).cpu().numpy()
        truth = people.joints(pairs.identity, pairs.source)
        return {"pck@0.1": pck(predicted, truth, 0.1 * height), "pck@0.05": pck(predicted, truth, 0.05 * height)}

    return optimise("estimator", network, settings, step, out, seed, resume, accelerator, validate)
