"""Source picture + target pose → that person in that pose, without ComfyUI."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from .alignment import Alignment, RecurrentPoseAligner
from .checkpoint import load_into, load_parts
from .config import ModelConfig, from_dict
from .diffusion.autoencoder import Autoencoder
from .diffusion.denoiser import Denoiser
from .diffusion.guided import Condition, FieldGuidance, GuidedDenoiser
from .diffusion.sampler import SAMPLERS, initial_latent, simple_sigmas
from .diffusion.schedule import DiffusionSchedule
from .errors import InputError
from .field import HigherHRNet, PoseInteractionField, PoseTarget, predict_pose
from .pose import Pose, coco_to_openpose, draw_joints, load_pose_file, openpose_to_coco, parse_keypoints

SHIPPED = Path(__file__).parent / "weights" / "reposedm-mini.safetensors"
"""The weights that come with the package."""

NETWORKS: dict[str, type[nn.Module]] = {"autoencoder": Autoencoder, "estimator": HigherHRNet,
                                        "aligner": RecurrentPoseAligner, "denoiser": Denoiser}
"""The parts of a RePoseDM by name: each is built from the field of that name in a `ModelConfig`."""

ImageLike = Image.Image | np.ndarray | Tensor | str | os.PathLike


@dataclass
class Networks:
    """The four networks of a RePoseDM and their configuration."""

    config: ModelConfig
    autoencoder: Autoencoder
    estimator: HigherHRNet
    aligner: RecurrentPoseAligner
    denoiser: Denoiser


def load_networks(path: str | os.PathLike) -> Networks:
    """Build and fill the networks that a checkpoint describes, on the CPU in float32, in eval mode.

    Raises:
        InputError: no such file, not a RePoseDM checkpoint, or weights that do not fit.
    """
    parts, header = load_parts(path)
    name = Path(path).name
    missing = sorted(set(NETWORKS) - set(parts))
    if missing:
        raise InputError(f"Checkpoint {name} holds only {', '.join(sorted(parts))}; a whole RePoseDM model also has "
                         f"{', '.join(missing)}. Export it with training/train.py.")
    config: ModelConfig = from_dict(ModelConfig, header["config"], name)
    networks = {}
    for part, kind in NETWORKS.items():
        network = kind(getattr(config, part))
        load_into(network, parts[part], f"{name}: {part}")
        networks[part] = network.eval().requires_grad_(False)
    return Networks(config, **networks)


def to_image(source: ImageLike, name: str = "source") -> Tensor:
    """Any picture as (B, 3, H, W) in [-1, 1].

    Args:
        source: PIL picture, path, uint8 array (H, W, 3), or float tensor (B, H, W, 3) or (B, 3, H, W) in 0..1.

    Raises:
        InputError: it cannot be read or has another shape.
    """
    if isinstance(source, (str, os.PathLike)):
        try:
            source = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{name}: cannot read the picture {source} ({error}). Give a PNG or JPEG file.") from error
    if isinstance(source, Image.Image):
        source = np.array(source.convert("RGB"))
    image = torch.tensor(source) if isinstance(source, np.ndarray) else torch.as_tensor(source)
    if image.dtype == torch.uint8:
        image = image.float() / 255
    if image.ndim == 3:
        image = image[None]
    if image.ndim == 4 and image.shape[1] not in (3, 4) and image.shape[-1] in (1, 3, 4):
        image = image.movedim(-1, 1)
    if image.ndim != 4 or image.shape[1] not in (1, 3, 4) or min(image.shape) < 1:
        raise InputError(f"{name}: a picture of shape {tuple(image.shape)}; expected (height, width, 3).")
    image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image[:, :3]
    if not torch.isfinite(image).all():
        raise InputError(f"{name}: the picture has values that are not numbers (NaN or infinite).")
    return image.float().clamp(0, 1) * 2 - 1


def fit_image(image: Tensor, height: int, width: int) -> Tensor:
    """Letterbox pictures (B, 3, H, W) to height×width: aspect kept, centred, the border repeated outwards."""
    h, w = image.shape[-2:]
    if (h, w) == (height, width):
        return image
    scale = min(height / h, width / w)
    inner = max(1, round(h * scale)), max(1, round(w * scale))
    image = F.interpolate(image, size=inner, mode="bilinear", align_corners=False, antialias=True)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    return F.pad(image, (left, width - inner[1] - left, top, height - inner[0] - top), mode="replicate")


def one_pose(pose: Any, name: str = "pose") -> Pose:
    """A `Pose` from a Pose, POSE_KEYPOINT data or the path of a JSON file: its first frame with somebody in it.

    Raises:
        InputError: nobody is in it.
    """
    if isinstance(pose, Pose):
        frames = [pose]
    else:
        frames = load_pose_file(pose) if isinstance(pose, (str, os.PathLike)) else parse_keypoints(pose, name)
    for frame in frames:
        if len(frame.joints) and (frame.joints[0, :, 2] > 0).any():
            return frame
    raise InputError(f"{name}: nobody is in it (no body joint was found); give a pose with at least one person.")


def condition_image(pose: Pose, height: int, width: int) -> Tensor:
    """The skeleton as the networks were trained on it: the first person's body joints, (1, 3, H, W) in [-1, 1]."""
    return draw_joints(pose.resized(height, width).joints[:1], height, width).float() / 127.5 - 1


def pose_target(field: PoseInteractionField, poses: list[Pose], size: tuple[int, int],
                native: tuple[int, int]) -> PoseTarget:
    """What the field compares pictures with: the first person of each pose.

    Args:
        field: in space "features" the drawn skeleton is the picture of the target.
        poses: one for all pictures, or one a picture.
        size: height and width of the pictures.
        native: height and width that the estimator was trained at; the pictures are to be fitted to it (`fit_image`).
    """
    poses = [pose.resized(*size) for pose in poses]
    if field.space == "features":
        return field.target_from_image(torch.cat([condition_image(pose, *native) for pose in poses]))
    joints = [openpose_to_coco(pose.resized(*native).joints[:1]) for pose in poses]
    return field.target_from_joints(torch.from_numpy(np.concatenate(joints)), *native)


def check_size(height: int, width: int, stride: int) -> None:
    """Raise an `InputError` that proposes the nearest size unless both sides are divisible by `stride`."""
    if height < stride or width < stride or height % stride or width % stride:
        raise InputError(f"width × height = {width} × {height}: both must be divisible by {stride}; "
                         f"the nearest is {round_to(width, stride)} × {round_to(height, stride)}.")


@dataclass
class PoseTransferResult:
    """Pictures are (B, 3, H, W) in 0..1.

    Attributes:
        image: the person in the target pose.
        aligned: the source warped to the pose; source, pose_image: what the networks saw.
        visibility: (B, 1, H/4, W/4), where the source shows the target's body, 0..1.
        latent: the sampled latent. alignment: maps and logits of every iteration.
    """

    image: Tensor
    aligned: Tensor
    source: Tensor
    pose_image: Tensor
    visibility: Tensor
    latent: Tensor
    alignment: Alignment

    def to_pil(self, index: int = 0) -> Image.Image:
        """The result as a PIL picture."""
        return Image.fromarray((self.image[index].movedim(0, -1) * 255).round().byte().cpu().numpy())


class RePoseDMPipeline:
    """Pose transfer with a RePoseDM checkpoint: `RePoseDMPipeline.from_pretrained()(source, pose, seed=1)`."""

    def __init__(self, networks: Networks, device: str | torch.device = "cpu"):
        self.config, self.device = networks.config, torch.device(device)
        self.autoencoder = networks.autoencoder.to(self.device)
        self.estimator = networks.estimator.to(self.device)
        self.aligner = networks.aligner.to(self.device)
        self.denoiser = networks.denoiser.to(self.device)
        self.schedule = DiffusionSchedule(self.config.schedule)
        self.field = PoseInteractionField(self.estimator)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike | None = None,
                        device: str | torch.device = "cpu") -> RePoseDMPipeline:
        """Load a checkpoint exported by training/train.py; without a path, the shipped `mini` weights."""
        return cls(load_networks(path or SHIPPED), device)

    @torch.no_grad()
    def align(self, source: ImageLike, pose: Any, height: int | None = None,
              width: int | None = None) -> tuple[Condition, Alignment, Tensor, Tensor]:
        """Condition for the denoiser, the alignment, and source and skeleton as (B, 3, H, W) in [-1, 1]."""
        height, width = height or self.config.height, width or self.config.width
        check_size(height, width, self.autoencoder.stride)
        image = fit_image(to_image(source), height, width).to(self.device)
        skeleton = condition_image(one_pose(pose), height, width).to(self.device).expand(len(image), -1, -1, -1)
        return *self.condition(image, skeleton), image, skeleton

    @torch.no_grad()
    def condition(self, image: Tensor, skeleton: Tensor) -> tuple[Condition, Alignment]:
        """Condition for the denoiser and the alignment, of source and skeleton (B, 3, H, W) in [-1, 1]."""
        alignment = self.aligner(image, skeleton)
        visibility = self.aligner.latent_visibility(alignment, self.autoencoder.stride)
        pose, source, aligned = (self.autoencoder.encode(x) for x in (skeleton, image, alignment.image))
        return Condition.of(self.denoiser, pose, source, aligned, visibility), alignment

    def __call__(self, source: ImageLike, pose: Any, seed: int = 0, steps: int | None = None,
                 guidance_scale: float | None = None, field_strength: float = 0.0, field_start: float = 0.0,
                 field_end: float = 1.0, sampler: str = "ddim", height: int | None = None, width: int | None = None,
                 callback: Callable[[int, int, Tensor], None] | None = None) -> PoseTransferResult:
        """Put the person of `source` into `pose`.

        Args:
            source: picture of one person (see `to_image`); letterboxed to the model's size.
            pose: Pose, POSE_KEYPOINT data, or path of an OpenPose JSON file; its first person counts.
            seed: the same seed gives the same picture.
            steps, guidance_scale: sampling steps and w_c of eq. 16; the preset's defaults.
            field_strength, field_start, field_end: gradient guidance by the pose interaction field; 0 is off.
            sampler: "ddim", or "ancestral" with the learned variance.
            height, width: of the result, divisible by 8 (default: what the model was trained at).
            callback: called as callback(step, steps, ŷ_0) after every step.

        Raises:
            InputError: a picture or pose that cannot be used, or a size or number out of range.
        """
        if sampler not in SAMPLERS:
            raise InputError(f"sampler = {sampler!r}: known are {', '.join(SAMPLERS)}.")
        pose = one_pose(pose)
        condition, alignment, image, skeleton = self.align(source, pose, height, width)
        sigmas = simple_sigmas(self.schedule, self.config.steps if steps is None else steps)
        field = None
        if field_strength:
            native = self.config.height, self.config.width
            target = pose_target(self.field, [pose], image.shape[-2:], native)
            field = FieldGuidance(self.field, target, lambda z: fit_image(self.autoencoder.decode(z), *native),
                                  field_strength, field_start, field_end)
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        model = GuidedDenoiser(self.denoiser, self.schedule, condition, scale, field)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(condition.pose.shape, generator=generator).to(self.device)
        extra = {"generator": generator} if sampler == "ancestral" else {}
        latent = SAMPLERS[sampler](model, initial_latent(noise, sigmas[0]), sigmas.to(self.device), callback, **extra)
        with torch.no_grad():
            result = self.autoencoder.decode(latent)

        def shown(picture: Tensor) -> Tensor:
            return ((picture + 1) / 2).clamp(0, 1)

        return PoseTransferResult(shown(result), shown(alignment.image), shown(image), shown(skeleton),
                                  alignment.visibility[-1].sigmoid(), latent, alignment)

    @torch.no_grad()
    def estimate(self, image: ImageLike) -> Pose:
        """The pose of the one person in a picture, in the picture's own pixels; nobody in it where none is found."""
        picture = to_image(image, "image")
        height, width = picture.shape[-2:]
        joints = predict_pose(self.estimator, fit_image(picture, self.config.height, self.config.width).to(self.device))
        points = coco_to_openpose(joints[:1].cpu().numpy())
        points = points[(points[..., 2] > 0).any(1)]
        return Pose(points, self.config.height, self.config.width).unfitted(height, width)


def round_to(size: int, stride: int) -> int:
    """The multiple of `stride` nearest to `size`, at least one stride."""
    return max(stride, round(size / stride) * stride)
