"""Stage `denoiser`: L_mse + L_vlb on cached latents (eq. 3-4), conditions dropped together (eq. 16), and, where
`field.training` is above 0, the pose interaction field in the prediction (eq. 10-15)."""

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
from reposedm_core.diffusion.losses import pose_estimate, training_loss
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.errors import InputError
from reposedm_core.field import HigherHRNet, PoseInteractionField
from reposedm_core.pose import coco_to_openpose, draw_joints
from training.data.dataset import Pairs, People
from training.loop import optimise, save_atomically
from training.settings import DenoiserSettings


class Latents:
    """Cached latents of every pair: target, pose, source, aligned source and its visibility (float16 on the CPU).

    With the field also "joints", the target's COCO joints (n, 17, 3) in float32.
    """

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
def cache_latents(people: People, pairs: Pairs, autoencoder: Autoencoder, aligner: RecurrentPoseAligner,
                  device: torch.device, file: Path | None = None, chunk: int = 32, joints: bool = False) -> Latents:
    """Encode and align every pair once; kept in `file` and read back while pairs and networks are the same.

    With `joints` the target's joints are among them, for the field.
    """
    made_of = fingerprint(pairs, autoencoder, aligner)
    if file is not None and file.is_file():
        stored = torch.load(file, map_location="cpu", weights_only=True)
        if stored.pop("made_of", None) == made_of and ("joints" in stored or not joints):
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
    if joints:
        tensors["joints"] = torch.from_numpy(people.joints(pairs.identity, pairs.target)).float()
    if file is not None:
        save_atomically({**tensors, "made_of": made_of}, file)
    return Latents(tensors)


class ColourShuffle:
    """Permute the colour channels of latents of the linear encoder: z → A z + b, exact within the kept components."""

    def __init__(self, autoencoder: Autoencoder, device: torch.device):
        if autoencoder.config.kind != "pca":
            raise InputError(f"denoiser.colour_shuffle: latents of a {autoencoder.config.kind!r} autoencoder cannot be "
                             "recoloured; set it to 0.")
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
            drop: Tensor) -> tuple[Tensor, Tensor | None]:
    """Run the denoiser on a batch of latents; `drop` (B,) bool marks the examples with the joint null condition."""
    keep = (~drop).to(z.dtype)[:, None, None, None]
    told = Condition.of(model, batch["pose"], batch["source"], batch["aligned"], batch["visibility"], drop)
    sigma = schedule.roots(t, z)[1]
    return model(z, t, told.pose * keep, told.tokens, told.aligned * keep, told.visibility * keep, sigma)


class FieldTerm:
    """∇G of eq. 11-12 for the pictures that the denoiser generates in training; estimator and autoencoder are frozen.

    Args:
        config: its `field` says the space, and what is decoded (eq. 10).
        height, width: of the pictures that the cached joints belong to.
    """

    def __init__(self, config: ModelConfig, estimator: HigherHRNet, autoencoder: Autoencoder, height: int, width: int,
                 device: torch.device):
        self.config, self.height, self.width, self.device = config.field, height, width, device
        self.schedule = DiffusionSchedule(config.schedule)
        self.field = PoseInteractionField(estimator.to(device), config.field.space, mask=config.field.mask)
        self.autoencoder = autoencoder.to(device).eval().requires_grad_(False)

    def __call__(self, joints: Tensor, z: Tensor, noise: Tensor, prediction: Tensor, t: Tensor,
                 drop: Tensor) -> tuple[Tensor, Tensor]:
        """∇G like `prediction`, zero where the pose was dropped (**ours**: eq. 16 guides the conditional pass), and G.

        Args:
            joints: COCO joints of the targets, (B, 17, 3).
            z, noise, prediction, t: see `pose_estimate`. drop: (B,) bool.
        """
        with torch.autocast(self.device.type, enabled=False):
            if self.field.space == "features":
                drawn = draw_joints(coco_to_openpose(joints.cpu().numpy()), self.height, self.width)
                target = self.field.target_from_image(drawn.float().to(self.device) / 127.5 - 1)
            else:
                target = self.field.target_from_joints(joints, self.height, self.width)
            latent = pose_estimate(self.schedule, z, noise, prediction, t, self.config.estimate)
            gradient, distance = self.field.gradient(latent, self.autoencoder.decode, target)
        return gradient * (~drop).to(gradient)[:, None, None, None], distance


class WithContext(torch.nn.Module):
    """`denoise` as one module, so that one forward pass is what a distributed wrapper sees."""

    def __init__(self, denoiser: Denoiser, schedule: DiffusionSchedule):
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule

    def forward(self, batch: dict[str, Tensor], z: Tensor, t: Tensor, drop: Tensor) -> tuple[Tensor, Tensor | None]:
        return denoise(self.denoiser, batch, z, t, self.schedule, drop)


def train(config: ModelConfig, settings: DenoiserSettings, root: str, out: Path, seed: int, resume: bool,
          accelerator: Accelerator, autoencoder: Autoencoder, aligner: RecurrentPoseAligner,
          estimator: HigherHRNet | None = None) -> tuple[Denoiser, dict]:
    """Train on cached pairs of the training identities; aligner, autoencoder and estimator stay frozen.

    Raises:
        InputError: `field.training` is above 0 and there is no estimator.
    """
    device = accelerator.device
    schedule = DiffusionSchedule(config.schedule)
    people, held_out = People(root, "train"), People(root, "val")
    guided = config.field.training > 0
    if guided and estimator is None:
        raise InputError(f"field.training = {config.field.training}: training with the pose field needs the pose "
                         "estimator; train the stage estimator first.")
    cache = cache_latents(people, people.fixed_pairs(settings.pairs), autoencoder, aligner, device,
                          out / "latents.train.pt", joints=guided)
    check = cache_latents(held_out, held_out.fixed_pairs(min(256, settings.pairs)), autoencoder, aligner, device,
                          out / "latents.val.pt")

    shuffle = ColourShuffle(autoencoder, device) if settings.colour_shuffle > 0 else None
    field = FieldTerm(config, estimator, autoencoder, people.height, people.width, device) if guided else None

    def step(model, _, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        batch = cache.batch(rng.integers(0, len(cache), settings.batch), device)
        if shuffle is not None:
            with torch.autocast(device.type, enabled=False):     # targets keep their precision
                batch = shuffle(batch, rng, settings.colour_shuffle)
        x0 = batch["target"]
        uniform = torch.rand(len(x0), generator=generator)
        t = (schedule.timesteps * uniform**settings.noise_power).long().clamp(max=schedule.timesteps - 1).to(device)
        noise = torch.randn(x0.shape, generator=generator).to(device)
        drop = (torch.rand(len(x0), generator=generator) < settings.dropout).to(device)
        z = schedule.add_noise(x0, noise, t)
        prediction, variance = (None if out is None else out.float() for out in model(batch, z, t, drop))
        gradient, distance = field(batch["joints"], z, noise, prediction, t, drop) if field else (None, None)
        values = training_loss(schedule, x0, noise, z, t, prediction, variance, settings.vlb_weight, gradient,
                               config.field.training, settings.field_limit)
        return values if distance is None else {**values, "field": distance.mean()}

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
