"""Stage `estimator`: HigherHRNet's heat maps on people pasted on random backgrounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reposedm_core.checkpoint import has_header
from reposedm_core.config import to_dict
from reposedm_core.errors import InputError
from reposedm_core.estimator import HigherHRNet, predict_pose, read_official
from reposedm_core.images import from_uint8
from reposedm_core.letterbox import size_of
from reposedm_core.pose import coco_to_openpose, draw_joints, render_heatmaps
from training.data.augment import paste_background, random_affine, random_backgrounds, random_look
from training.data.people_set import People
from training.engine.picture_grid import picture_grid
from training.engine.settings import EstimatorSettings
from training.engine.stage import Plan, Stage, example_seeds
from training.metrics import pck
from training.stages.estimates import Estimates

PASTED = 0.6
"""Share of the people that get another background, where the set has masks."""
EMPTY = 0.05
"""Share of the pictures with nobody in them, only a background, so that nobody is found there."""


def heatmap_loss(output, joints: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Mean squared error of the heat maps at both resolutions; cells near a joint weigh more (they are few)."""
    total = joints.new_zeros(())
    for stride, map_ in ((4, output.heatmaps_quarter), (2, output.heatmaps_half)):
        predicted = map_.float()  # under bf16 the truth would be rounded, too
        truth = render_heatmaps(joints, height, width, sigma, stride).to(predicted)
        total = total + ((1 + 9 * truth) * (predicted - truth).square()).mean()
    return 100 * total


def pull_loss(tags: Tensor, joints: Tensor) -> Tensor:
    """Associative embedding's pull: tags (B, K, h, w) read at the joints of one person agree; mean over people."""
    height, width = tags.shape[-2:]
    x = (joints[..., 0] / 4).long().clamp(0, width - 1)
    y = (joints[..., 1] / 4).long().clamp(0, height - 1)
    read = tags.flatten(2).gather(2, (y * width + x)[..., None])[..., 0]
    weight = (joints[..., 2] > 0).float()
    count = weight.sum(1, keepdim=True).clamp(min=1)
    mean = (read * weight).sum(1, keepdim=True) / count
    return (((read - mean).square() * weight).sum(1, keepdim=True) / count).mean()


class EstimatorStage(Stage[HigherHRNet, HigherHRNet]):
    """One person a picture: heat maps and the pull half of the tag loss. Occluded joints are taught too."""

    name, part = "estimator", "estimator"
    settings: EstimatorSettings

    def build(self) -> HigherHRNet:
        return HigherHRNet(self.config.estimator)

    def start_from(self, module: HigherHRNet, checkpoint: str) -> None:
        """From an exported checkpoint, or from a public HigherHRNet of the preset's sizes (`estimator.read_official`).

        Raises:
            InputError: no such file, no HigherHRNet, or one of other sizes.
        """
        path = Path(checkpoint)
        if path.suffix.lower() == ".safetensors" and has_header(path):
            return super().start_from(module, checkpoint)
        network = read_official(path)
        own, given = to_dict(self.config.estimator), to_dict(network.config)
        other = {name: json.dumps(value, separators=(",", ":")) for name, value in given.items() if value != own[name]}
        if other:
            raise InputError(
                f"estimator.init: {path.name} is of other sizes than the estimator of preset {self.config.name}; take "
                f"another, or say {' '.join(f'model.estimator.{name}={value}' for name, value in other.items())}."
            )
        module.load_state_dict(network.state_dict())

    def prepare(self, main: bool) -> None:
        self.people, self.held_out = People(self.root, "train"), People(self.root, "val")
        self.estimates = None
        if self.settings.estimates:
            self.estimates = Estimates(self.settings.estimates, self.people, self.settings.pairs, self.out, self.device)

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        identity, index = self.people.random_pictures(rng, count)
        plan: Plan = {"identity": identity, "index": index, "seed": example_seeds(rng, count)}
        if self.estimates is not None:
            plan |= {"estimated": rng.random(count) < self.settings.estimated, **self.estimates.plan(rng, count)}
        return plan

    def load(self, plan: Plan) -> dict[str, Tensor]:
        rngs = [np.random.default_rng(seed) for seed in plan["seed"]]
        chosen = plan["identity"], plan["index"]
        images, joints = self._read(self.people, *chosen)
        masks = self.people.masks(*chosen)
        if masks is not None:
            pasted = torch.tensor([float(rng.random() < PASTED) for rng in rngs])[:, None, None, None]
            both = torch.cat([images, torch.maximum(self._shrunk(self.people, masks), 1 - pasted)], 1)
            both, joints = random_affine(rngs, both, joints)
            empty = np.array([rng.random() < EMPTY for rng in rngs])
            both[torch.from_numpy(empty), 3], joints[empty] = 0, 0
            images = paste_background(rngs, both[:, :3], both[:, 3:], random_backgrounds(rngs, *both.shape[-2:]))
        else:
            images, joints = random_affine(rngs, images, joints)
        batch = {"images": random_look(rngs, images), "joints": torch.from_numpy(joints)}
        if self.estimates is None:
            return batch
        return {**batch, "estimated": torch.from_numpy(plan["estimated"]), **self.estimates.load(plan)}

    def _shrunk(self, people: People, values: Tensor) -> Tensor:
        """Values (n, C, H, W) of the set at the size that the estimator sees."""
        factor = self._factor(people)
        return F.avg_pool2d(values, factor) if factor > 1 else values

    def _factor(self, people: People) -> int:
        return max(1, people.height // self.config.network_size[0])

    def _read(self, people: People, identity: np.ndarray, index: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Pictures (n, 3, h, w) as the estimator sees them, and their COCO joints in those pixels."""
        joints = people.joints(identity, index)
        joints[..., :2] /= self._factor(people)
        return self._shrunk(people, people.pictures(identity, index)), joints

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        images, joints = batch["images"], batch["joints"]
        if self.estimates is not None and batch["estimated"].any():
            rows = batch["estimated"]
            pictures, theirs = self.estimates.pictures({name: value[rows] for name, value in batch.items()})
            images, joints = images.clone(), joints.clone()
            images[rows] = self._shrunk(self.people, pictures)
            theirs[..., :2] = theirs[..., :2] / self._factor(self.people)
            joints[rows] = theirs
        output = model(images)
        heat = heatmap_loss(output, joints, *size_of(images), self.config.estimator.sigma)
        pull = pull_loss(output.tags_quarter, joints)
        return {"loss": heat + 1e-2 * pull, "heat": heat, "pull": pull}

    def _predict(self, network: HigherHRNet, count: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
        pairs = self.held_out.fixed_pairs(count)
        images, joints = self._read(self.held_out, pairs.identity, pairs.source)
        found = torch.cat([predict_pose(network, part.to(self.device)) for part in images.split(32)]).cpu().numpy()
        return images, found, joints

    def validate(self, network: HigherHRNet) -> dict[str, float]:
        """PCK of the visible and hidden joints at a tenth and a twentieth of the picture's height."""
        _, found, truth = self._predict(network, 192)
        height = self.held_out.height // self._factor(self.held_out)
        return {"pck@0.1": pck(found, truth, 0.1 * height), "pck@0.05": pck(found, truth, 0.05 * height)}

    def sheet(self, network: HigherHRNet) -> Image.Image:
        """Pictures, the joints that are found in them, and the true ones."""
        images, *joints = self._predict(network, 8)
        drawn = [from_uint8(draw_joints(coco_to_openpose(points), *images.shape[-2:])) for points in joints]
        return picture_grid([images, *drawn])
