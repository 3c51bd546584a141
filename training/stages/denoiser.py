"""Stage `denoiser`: L_mse + L_vlb on cached latents (eq. 3-4), conditions dropped together (eq. 16)."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.config import ModelConfig
from reposedm_core.diffusion.autoencoder import Autoencoder
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guided import Condition
from reposedm_core.diffusion.schedule import DiffusionSchedule
from training.data.dataset import Pairs, SyntheticPeople
from training.loop import optimise, save_atomically
from training.losses import variational_bound
from training.settings import DenoiserSettings


class Latents:
    """Cached latents of every pair: target, pose, source, aligned source and its visibility (float16 on the CPU)."""

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["target"])

    def batch(self, rows: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        rows = torch.from_numpy(rows)
        return {name: values[rows].float().to(device) for name, values in self.tensors.items()}


def fingerprint(pairs: Pairs, *networks: torch.nn.Module) -> int:
    """A number that changes when the pairs or any weight does."""
    arrays = [pairs.identity, pairs.source, pairs.target]
    arrays += [value.cpu().numpy() for network in networks for value in network.state_dict().values()]
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array), total)
    return total


@torch.no_grad()
def cache_latents(people: SyntheticPeople, pairs: Pairs, autoencoder: Autoencoder, aligner: RecurrentPoseAligner,
                  device: torch.device, file: Path | None = None, chunk: int = 32) -> Latents:
    """Encode and align every pair once; kept in `file` and read back while pairs and networks are the same."""
    made_of = fingerprint(pairs, autoencoder, aligner)
    if file is not None and file.is_file():
        stored = torch.load(file, map_location="cpu", weights_only=True)
        if stored.pop("made_of", None) == made_of:
            return Latents(stored)
    autoencoder, aligner = autoencoder.to(device).eval(), aligner.to(device).eval()
    columns: dict[str, list[Tensor]] = {}
    for first in tqdm(range(0, len(pairs), chunk), desc="aligning", unit="batch", mininterval=5):
        part = pairs[slice(first, first + chunk)]
        source = people.pictures(part.identity, part.source).to(device)
        skeleton = people.skeletons(part.identity, part.target).to(device)
        alignment = aligner(source, skeleton)
        row = {"target": autoencoder.encode(people.pictures(part.identity, part.target).to(device)),
               "pose": autoencoder.encode(skeleton), "source": autoencoder.encode(source),
               "aligned": autoencoder.encode(alignment.image),
               "visibility": aligner.latent_visibility(alignment, autoencoder.stride)}
        for name, value in row.items():
            columns.setdefault(name, []).append(value.half().cpu())
    tensors = {name: torch.cat(values) for name, values in columns.items()}
    if file is not None:
        save_atomically({**tensors, "made_of": made_of}, file)
    return Latents(tensors)


class ColourShuffle:
    """Permute the colour channels of latents of the linear encoder: z → A z + b, exact within the kept components."""

    def __init__(self, autoencoder: Autoencoder, device: torch.device):
        matrices, offsets = [], []
        for order in itertools.permutations(range(3)):
            def permute(patches: Tensor, order: tuple[int, ...] = order) -> Tensor:
                return rearrange(patches, "... (c n) -> ... c n", c=3)[..., order, :].flatten(-2)

            basis, scale = autoencoder.basis.cpu(), autoencoder.scale.cpu()
            matrices.append((basis @ permute(basis).T) * scale / scale[:, None])
            offsets.append(basis @ (permute(autoencoder.mean.cpu()) - autoencoder.mean.cpu()) / scale)
        self.matrices, self.offsets = torch.stack(matrices).to(device), torch.stack(offsets).to(device)

    def __call__(self, batch: dict[str, Tensor], rng: np.random.Generator, share: float) -> dict[str, Tensor]:
        """`batch` with `share` of its examples recoloured, each by one permutation; the pose keeps its colours."""
        count = len(batch["target"])
        choice = np.where(rng.random(count) < share, rng.integers(1, len(self.matrices), count), 0)
        matrix, offset = self.matrices[choice], self.offsets[choice]
        shuffled = {name: torch.einsum("bij,bjhw->bihw", matrix, batch[name]) + offset[..., None, None]
                    for name in ("target", "source", "aligned")}
        return {**batch, **shuffled}


def denoise(model: Denoiser, batch: dict[str, Tensor], z: Tensor, t: Tensor, schedule: DiffusionSchedule,
            drop: Tensor) -> tuple[Tensor, Tensor]:
    """Run the denoiser on a batch of latents; `drop` (B,) bool marks the examples with the joint null condition."""
    keep = (~drop).to(z.dtype)[:, None, None, None]
    told = Condition.of(model, batch["pose"], batch["source"], batch["aligned"], batch["visibility"], drop)
    sigma = (1 - schedule.at(schedule.alpha_bar, t, z)).sqrt()
    return model(z, t, told.pose * keep, told.tokens, told.aligned * keep, told.visibility * keep, sigma)


class WithContext(torch.nn.Module):
    """`denoise` as one module, so that one forward pass is what a distributed wrapper sees."""

    def __init__(self, denoiser: Denoiser, schedule: DiffusionSchedule):
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule

    def forward(self, batch: dict[str, Tensor], z: Tensor, t: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        return denoise(self.denoiser, batch, z, t, self.schedule, drop)


def train(config: ModelConfig, settings: DenoiserSettings, root: str, out: Path, seed: int, resume: bool,
          accelerator: Accelerator, autoencoder: Autoencoder, aligner: RecurrentPoseAligner) -> tuple[Denoiser, dict]:
    """Train on cached pairs of the training identities; the aligner and the autoencoder stay frozen."""
    device = accelerator.device
    schedule = DiffusionSchedule(config.schedule)
    people, held_out = SyntheticPeople(root, "train"), SyntheticPeople(root, "val")
    cache = cache_latents(people, people.fixed_pairs(settings.pairs), autoencoder, aligner, device,
                          out / "latents.train.pt")
    check = cache_latents(held_out, held_out.fixed_pairs(min(256, settings.pairs)), autoencoder, aligner, device,
                          out / "latents.val.pt")

    shuffle = ColourShuffle(autoencoder, device)

    def step(model, _, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        batch = cache.batch(rng.integers(0, len(cache), settings.batch), device)
        if settings.colour_shuffle > 0:
            with torch.autocast(device.type, enabled=False):     # targets keep their precision
                batch = shuffle(batch, rng, settings.colour_shuffle)
        x0 = batch["target"]
        uniform = torch.rand(len(x0), generator=generator)
        t = (schedule.timesteps * uniform**settings.noise_power).long().clamp(max=schedule.timesteps - 1).to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        drop = (torch.rand(len(x0), generator=generator) < settings.dropout).to(device)
        z = schedule.add_noise(x0, noise, t)
        prediction, variance = (out.float() for out in model(batch, z, t, drop))
        mse = F.mse_loss(prediction, schedule.target(x0, noise, t))
        values = {"loss": mse, "mse": mse}
        if settings.vlb_weight > 0:
            mean = schedule.posterior_mean(schedule.predict_x0(z, prediction.detach(), t), z, t)
            bound = variational_bound(schedule, x0, z, t, mean, schedule.log_variance(variance, t)).mean()
            values.update(loss=mse + settings.vlb_weight * bound, vlb=bound)
        return values

    def validate(model: WithContext) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        values = {}
        batch = check.batch(np.arange(min(128, len(check))), device)
        noise = torch.randn(batch["target"].shape, generator=generator).to(device)
        keep = torch.zeros(len(noise), dtype=torch.bool, device=device)
        for level in (50, 300, 600, 900):
            t = torch.full((len(noise),), level * schedule.timesteps // 1000, device=device)
            z = schedule.add_noise(batch["target"], noise, t)
            x0 = schedule.predict_x0(z, model(batch, z, t, keep)[0], t)
            values[f"x0_mse_{level}"] = float(F.mse_loss(x0, batch["target"]))
        values["aligned_mse"] = float(F.mse_loss(batch["aligned"], batch["target"]))
        values["source_mse"] = float(F.mse_loss(batch["source"], batch["target"]))
        return values

    average, log = optimise("denoiser", WithContext(Denoiser(config.denoiser), schedule), settings, step, out, seed,
                            resume, accelerator, validate)
    return average.denoiser, log
