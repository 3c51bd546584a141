"""Stage `aligner`: warm-up of the recurrent pose aligner on exact correspondences (**ours**)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from reposedm_core.alignment import Alignment, RecurrentPoseAligner
from reposedm_core.alignment.warp import resize_map, warp
from reposedm_core.config import AlignerConfig
from training.data.dataset import People
from training.loop import optimise
from training.settings import AlignerSettings

DISCOUNT = 0.7
"""Weight of an iteration relative to the next, as in recurrent optical flow."""


def alignment_loss(alignment: Alignment, source: Tensor, target: Tensor, flow: Tensor,
                   visible: Tensor) -> dict[str, Tensor]:
    """End-point error on the body, visibility cross-entropy, and photometric error where the source shows the target.

    Predictions are upsampled to the truth: a downsampled truth would mix sampling positions across outlines.

    Args:
        source, target: pictures (B, 3, H, W).
        flow, visible: exact sampling map (B, 2, h, w) and its label (B, 1, h, w), 0 background, 1 occluded, 2 visible.
    """
    height, width = source.shape[-2:]
    h, w = flow.shape[-2:]
    body, seen = (visible > 0).float(), (visible == 2).float()
    shows = F.interpolate(torch.maximum(seen, 1 - body), size=(height, width))
    half = torch.tensor([width / 2, height / 2], device=flow.device).view(1, 2, 1, 1)
    total = flow.new_zeros(())
    values = {}
    for n, (sampling, logit) in enumerate(zip(alignment.maps, alignment.visibility, strict=True)):
        error = (((resize_map(sampling, h, w) - flow) * half).square().sum(1, keepdim=True) + 0.01).sqrt()
        flow_loss = (error * (seen + 0.3 * (body - seen))).sum() / body.sum().clamp(min=1) / 4
        logit = F.interpolate(logit, size=(h, w), mode="bilinear", align_corners=False)
        photometric = ((warp(source, sampling) - target).abs().mean(1, keepdim=True) * shows).sum() / shows.sum()
        loss = flow_loss + F.binary_cross_entropy_with_logits(logit, seen) + photometric
        total = total + DISCOUNT ** (len(alignment.maps) - 1 - n) * loss
        values[f"epe{n + 1}"] = (error * seen).sum() / seen.sum().clamp(min=1)
    values["photometric"] = photometric
    return {"loss": total, **values}


def train(config: AlignerConfig, settings: AlignerSettings, root: str, out: Path, seed: int, resume: bool,
          accelerator: Accelerator) -> tuple[RecurrentPoseAligner, dict]:
    """Supervised training; the first `first_steps` steps train one iteration only, three times as fast."""
    data = People(root, "train")
    network = RecurrentPoseAligner(config)
    device = accelerator.device

    def batch(people: People, pairs) -> tuple[Tensor, ...]:
        tensors = (people.pictures(pairs.identity, pairs.source), people.pictures(pairs.identity, pairs.target),
                   people.skeletons(pairs.identity, pairs.target), *people.correspondence(pairs))
        return tuple(t.to(device) for t in tensors)

    def step(model, number: int, rng: np.random.Generator, _) -> dict[str, Tensor]:
        source, target, skeleton, flow, visible = batch(data, data.random_pairs(rng, settings.batch))
        iterations = 1 if number < settings.first_steps else len(config.kernels)
        return alignment_loss(model(source, skeleton, iterations), source, target, flow, visible)

    def validate(model: RecurrentPoseAligner) -> dict[str, float]:
        people = People(root, "val")
        pairs = people.fixed_pairs(128)
        totals: dict[str, float] = {}
        for rows in np.array_split(np.arange(len(pairs)), 8):
            source, target, skeleton, flow, visible = batch(people, pairs[rows])
            for key, value in alignment_loss(model(source, skeleton), source, target, flow, visible).items():
                totals[key] = totals.get(key, 0.0) + float(value) / 8
        return totals

    return optimise("aligner", network, settings, step, out, seed, resume, accelerator, validate)
