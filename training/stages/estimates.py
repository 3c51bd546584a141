"""Pictures like those that guidance shows to an estimator: decoded ŷ_0 of one pass, at all noise levels (**ours**)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.networks import load_networks
from training.data.people_set import People
from training.engine.stage import Plan
from training.stages.denoiser import UNREAD, denoise
from training.stages.latent_cache import cache_latents


class Estimates:
    """Estimates of a whole checkpoint on pairs of a people set.

    Args:
        checkpoint: exported by training/train.py.
        pairs: how many of `People.fixed_pairs`; their latents are cached in `folder`.
    """

    def __init__(self, checkpoint: str | Path, people: People, pairs: int, folder: Path, device: torch.device):
        self.networks, self.device = load_networks(checkpoint), device
        self.schedule = DiffusionSchedule(self.networks.config.schedule)
        self.cache = cache_latents(
            people,
            people.fixed_pairs(pairs),
            self.networks.autoencoder,
            self.networks.aligner,
            device,
            folder,
            joints=True,
            tiny=self.networks.tiny,
            parser=self.networks.parser,
            layout=self.networks.layout,
        )
        self.networks.denoiser.to(device)

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        """Pair, noise level and noise of each example."""
        shape = count, *self.cache.tensors["target"].shape[1:]
        return {
            "row": rng.integers(0, len(self.cache), count),
            "t": rng.integers(0, self.schedule.timesteps, count),
            "noise": rng.standard_normal(shape, np.float32),
        }

    def load(self, plan: Plan) -> dict[str, Tensor]:
        """The cached tensors of a plan's examples under names that begin with "pair "."""
        batch = {
            **self.cache.batch(plan["row"], UNREAD),
            **{name: torch.from_numpy(plan[name]) for name in ("t", "noise")},
        }
        return {f"pair {name}": value for name, value in batch.items()}

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Decoded ŷ_0 (b, 3, H, W), clamped to [-1, 1], and the target's COCO joints (b, 17, 3)."""
        own = {name.removeprefix("pair "): value for name, value in batch.items() if name.startswith("pair ")}
        with torch.autocast(self.device.type, enabled=False):
            z = self.schedule.add_noise(own["target"], own["noise"], own["t"])
            keep = torch.zeros(len(z), dtype=torch.bool, device=z.device)
            prediction = denoise(self.networks.denoiser, own, z, own["t"], self.schedule, keep)[0]
            latent = self.schedule.predict_x0(z, prediction, own["t"])
            return self.networks.autoencoder.decode(latent).clamp(-1, 1), own["joints"]
