"""Pictures that RePoseSD and HumanSD make of a captioned set, sampled into folders: the rows of Table 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from reposedm_core.checkpoint import has_header, load_into
from reposedm_core.config import FieldConfig, shared_size
from reposedm_core.diffusion.guided import FieldGuidance
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.schedulers import sample_noise
from reposedm_core.field import PoseInteractionField, joints_target
from reposedm_core.field.field import field_picture
from reposedm_core.files import checksum, make_folder, write_json, write_picture
from reposedm_core.images import check_size, to_uint8
from reposedm_core.pose import Pose, draw_pose
from reposedm_core.presets import PRESETS
from reposedm_core.reposesd.network import GuidedRePoseSD, RePoseSD, TextCondition
from training.data.captioned_set import Captioned, CaptionedExample
from training.data.captions import CaptionedPeople
from training.evaluation.compare import gathered, processes
from training.evaluation.generate import OFF, SEED_STRIDE
from training.evaluation.picture_files import POSES, folder_name, keep_settings
from training.evaluation.protocols import Protocol
from training.stages.reposesd.latent_cache import largest, skeleton
from training.stages.reposesd.source import StableDiffusion
from training.stages.reposesd.stage import load_estimator

WITH_FIELD = " with the field"
"""Ends the name of a row whose pictures are guided by the pose interaction field."""
SETTINGS = "sampling.json"
"""In each folder: how its pictures were made."""


@dataclass
class Sampling:
    """How a captioned set is sampled.

    Attributes:
        protocol: gives steps, w_c and the negative caption that are not said here.
        estimator: weights of the pose estimator of the field's rows; None leaves these rows out.
        udp: of public weights, whatever their name says.
        field_strength: of these rows; None is each file's own (1 where it samples without), 0 leaves them out.
        tokenizer: folder of CLIP's; files in LDM's layout need it.
        seed: picture n's noise has the seed SEED_STRIDE · seed + n.
        bf16: the U-Net computes in bfloat16.
    """

    protocol: Protocol
    estimator: Path | None = None
    udp: bool = False
    field_strength: float | None = None
    tokenizer: Path | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    batch: int = 4
    device: str = "cpu"
    bf16: bool = False


class _Guided(GuidedRePoseSD):
    """RePoseSD in a precision of its own; the unconditional pass of HumanSD's weights keeps the pose."""

    keeps_pose = bf16 = False

    def conditions(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        conditional, unconditional = super().conditions()
        return conditional, (conditional[0] if self.keeps_pose else unconditional[0], unconditional[1])

    def predict(self, z: Tensor, t: Tensor, *conditional: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(z.device.type, torch.bfloat16, enabled=self.bf16):
            prediction, _ = super().predict(z, t, *conditional)
        return prediction.float(), None


def open_source(name: str, path: Path, how: Sampling) -> StableDiffusion:
    """The networks of a file or folder, none of them read yet; an `InputError` where there can be none."""
    return StableDiffusion(path, PRESETS["sd21"], how.tokenizer or "", (f"weights {name}", "--tokenizer"))


class TextModel:
    """A file of RePoseSD or HumanSD, or a folder of diffusers, that samples pictures of captions and poses.

    A file of this package was trained on OpenPose's skeletons and without a pose where it had no text; others are taken
    for HumanSD, which draws its own skeletons and always has a pose.

    Args:
        name: of its rows.
        path: see `StableDiffusion`.
        size: height and width of the pictures.

    Attributes:
        rows: row → gradient guidance, `OFF` first.
        cell: picture pixels a cell of the estimator's coarsest heat maps; only with a field.

    Raises:
        InputError: no such model, or no such estimator.
    """

    def __init__(self, name: str, path: Path, size: tuple[int, int], how: Sampling):
        source = open_source(name, path, how)
        self.name, self.path, self.size, self.how, self.config = name, path, size, how, source.config
        self.own, self.sha256 = path.is_file() and has_header(path), checksum(path)
        network = RePoseSD(self.config.denoiser)
        load_into(network, source.unet(), f"weights {name} = {path.name}: U-Net")
        self.network = network.to(how.device).eval().requires_grad_(False)
        self.autoencoder = source.autoencoder().to(how.device)
        check_size(*size, self.autoencoder.stride)
        self.text = source.text_encoder().to(how.device)
        self.schedule = DiffusionSchedule(self.config.schedule)
        self.steps = how.steps or how.protocol.steps or self.config.steps
        scale = how.guidance_scale if how.guidance_scale is not None else how.protocol.guidance_scale
        self.scale = self.config.guidance_scale if scale is None else scale
        self.rows: dict[str, FieldConfig] = {name: OFF}
        self.field: PoseInteractionField | None = None
        self.judged_by: dict[str, Any] = {}
        if how.estimator is not None and how.field_strength != 0:
            strength = how.field_strength if how.field_strength is not None else self.config.field.strength or 1.0
            self.rows[name + WITH_FIELD] = own = replace(self.config.field, strength=strength)
            estimator = load_estimator(how.estimator, size, how.udp, own.size, "estimator").to(how.device)
            self.field = PoseInteractionField(estimator, own.space, mask=own.mask)
            self.cell = max(estimator.config.strides)
            self.judged_by = {
                "estimator": how.estimator.name,
                "estimator_sha256": checksum(how.estimator),
                "udp": how.udp,
            }

    def settings(self, row: str, data: str) -> dict:
        """What decides on the pictures of a row."""
        kind = self.rows[row]
        return {
            "weights": self.path.name,
            "sha256": self.sha256,
            "data": data,
            "size": list(self.size),
            "skeleton": self.skeleton_style,
            "steps": self.steps,
            "guidance_scale": self.scale,
            "negative": self.how.protocol.negative,
            "seed": self.how.seed,
            "bf16": self.how.bf16,
            "field": {**asdict(kind), **self.judged_by} if kind.strength else None,
        }

    @property
    def skeleton_style(self) -> str:
        return "openpose" if self.own else "humansd"

    def compared(self, kind: FieldConfig) -> tuple[int, int]:
        """Height and width of the pictures that the field compares, see `FieldConfig.size`."""
        return shared_size(self.size, kind.size, self.cell)

    def field_picture(self, latents: Tensor, kind: FieldConfig) -> Tensor:
        """What the field looks at of latents (B, C, h, w), as in `RePoseDMPipeline.field_picture`."""
        return field_picture(self.autoencoder.decode, latents, kind.size, self.compared(kind))

    @torch.no_grad()
    def sample(self, numbers: Sequence[int], examples: Sequence[CaptionedExample], kind: FieldConfig) -> Tensor:
        """Pictures (B, 3, H, W) of captions and poses, float32 in about [-1, 1]."""
        device, style = self.how.device, self.skeleton_style
        drawn = torch.stack([2 * draw_pose(Pose(e.poses, *self.size), style=style) - 1 for e in examples])
        tokens, null = (
            self.text(self.text.ids(captions).to(device))
            for captions in ([e.caption for e in examples], [self.how.protocol.negative] * len(examples))
        )
        pose = torch.cat([self.autoencoder.encode(picture) for picture in drawn.to(device).split(1)])
        seeds = [SEED_STRIDE * self.how.seed + number for number in numbers]
        noise = torch.stack([torch.randn(pose.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])
        model = _Guided(self.network, self.schedule, TextCondition(pose, tokens, null), self.scale)
        model.keeps_pose, model.bf16 = not self.own, self.how.bf16
        if kind.strength and self.field is not None:
            joints = torch.stack([torch.from_numpy(largest(example)) for example in examples]).to(device)
            size = self.compared(kind)
            joints = joints * joints.new_tensor((size[1] / self.size[1], size[0] / self.size[0], 1.0))
            target = joints_target(self.field, joints, *size)
            model.field = FieldGuidance.configured(kind, self.field, target, lambda z: self.field_picture(z, kind))
        latents = sample_noise(model, noise.to(device), self.steps)
        return torch.cat([self.autoencoder.decode(latent) for latent in latents.split(1)])


def sample_set(data: Captioned | CaptionedPeople, total: int, model: TextModel, out: Path) -> dict[str, Path]:
    """The first `total` pictures of a captioned set as a model makes them, 00000.png and so on, a folder a row.

    What lies there is kept, so that a run that was stopped goes on; the processes share what is missing. A picture in
    which nobody is asked for is sampled without the field.

    Raises:
        InputError: a folder holds pictures of other settings, or cannot be written to.
    """
    folders = {row: out / folder_name(row) for row in model.rows}
    rank, world = processes()
    for row, folder in folders.items():
        make_folder(folder, "out")
        keep_settings(folder, SETTINGS, model.settings(row, f"{data.name}, {data.split}"), write=rank == 0)
        gathered([])  # nobody goes on before the description stands there
        kind = model.rows[row]
        firsts = list(range(0, total, model.how.batch))[rank::world]
        for first in tqdm(firsts, desc=f"sampling: {row}", unit="batch", disable=rank > 0):
            numbers = [
                n for n in range(first, min(first + model.how.batch, total)) if not _picture(folder, n).is_file()
            ]
            examples = {number: data.read(number) for number in numbers}
            asked = [number for number in numbers if len(examples[number].joints)]
            for part, guided in ((asked, kind), ([n for n in numbers if n not in asked], OFF)):
                if part:
                    pictures = to_uint8(model.sample(part, [examples[n] for n in part], guided)).movedim(1, -1).cpu()
                    for number, picture in zip(part, pictures.numpy(), strict=True):
                        write_picture(_picture(folder, number), Image.fromarray(picture))
    gathered([])  # nobody reads pictures before all are there
    return folders


def save_asked(data: Captioned | CaptionedPeople, total: int, out: Path) -> None:
    """What the first `total` pictures were made for: `POSES` with the drawn poses, and captions.json."""
    rank, world = processes()
    make_folder(out / POSES, "out")
    for number in range(rank, total, world):
        if not _picture(out / POSES, number).is_file():
            drawn = to_uint8(skeleton(data.read(number))).movedim(0, -1)
            write_picture(_picture(out / POSES, number), Image.fromarray(drawn.numpy()))
    if rank == 0:
        write_json(out / "captions.json", {f"{number:05d}": data.caption(number) for number in range(total)})


def _picture(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.png"
