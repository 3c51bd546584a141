"""Source picture + target pose → that person in that pose, without ComfyUI."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .alignment import Alignment, MatchingPoseAligner, start_from
from .alignment.multi_source import Seen
from .appearance import (
    AppearanceResult,
    Dressing,
    KeepOutside,
    blend,
    check_cover,
    inside,
    latent_mask,
    resized,
)
from .checks import check_int
from .conditioning import Aligned, condition_image, find_pose, first_joints, make_condition, source_joints
from .diffusion.denoiser import Denoiser
from .diffusion.guided import Condition, FieldGuidance, GuidedDenoiser
from .diffusion.sampler import Model
from .diffusion.schedule import DiffusionSchedule
from .diffusion.schedulers import check_sampler, sample_noise
from .errors import InputError
from .field import PoseInteractionField, pose_target
from .field.field import decoding_for_field, field_picture
from .full_size import MODEL, Detail, View, aligned, painted, pasted, view
from .images import ImageLike, check_size, fit_image, shown, to_image, to_mask, to_pil
from .letterbox import size_of
from .networks import SHIPPED, MixedPrecisionDenoiser, Networks, change_inner, load_networks
from .pose import Pose, check_in_frame, one_pose
from .reference import paste


@dataclass
class PoseTransferResult:
    """Pictures are (B, 3, H, W) in 0..1.

    Attributes:
        image: the person in the target pose.
        aligned: the source warped to the pose, or all sources together; source, pose_image: what the networks saw.
        visibility: (B, 1, h, w), where the sources show the target's body, 0..1, at the aligner's cells (1/4 of the
            picture, 1/8 with features from the latent).
        latent: the sampled latent. alignment: maps and logits of every iteration, for each picture of `source`.
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
        return to_pil(self.image[index])


class RePoseDMPipeline:
    """Pose transfer with a RePoseDM checkpoint: `RePoseDMPipeline.from_pretrained()(source, pose, seed=1)`."""

    def __init__(self, networks: Networks, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        """`dtype` is that of the autoencoders' and the denoiser's weights; the rest, latents included, is float32."""
        self.config, self.device, self.dtype = networks.config, torch.device(device), dtype
        self.autoencoder = networks.autoencoder.to(self.device, dtype)
        self.estimator = networks.estimator.to(self.device)
        self.aligner = networks.aligner.to(self.device)
        self.denoiser: Denoiser | MixedPrecisionDenoiser = networks.denoiser.to(self.device)
        self.decoder = None if networks.decoder is None else networks.decoder.to(self.device)
        self.tiny = None if networks.tiny is None else networks.tiny.to(self.device, dtype)
        self.parser = None if networks.parser is None else networks.parser.to(self.device)
        self.layout = None if networks.layout is None else networks.layout.to(self.device)
        if dtype != torch.float32:
            self.denoiser = MixedPrecisionDenoiser(networks.denoiser, dtype)
        self.schedule = DiffusionSchedule(self.config.schedule)
        self.field = PoseInteractionField(self.estimator, self.config.field.space, mask=self.config.field.mask)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        inner: str | None = None,
        tiny: str | os.PathLike | None = None,
    ) -> RePoseDMPipeline:
        """Load a checkpoint exported by training/train.py; without a path, the weights that come with the package.

        Args:
            inner: of the paper's presets, what encodes and decodes on the way, "exact", "tiny" or "latent" (see
                `networks.change_inner`); None: what the model was trained with.
            tiny: file of a tiny autoencoder to do it with, such as public TAESD weights; without `inner` a model that
                warps its latents goes on to do so, and others become "tiny".
        """
        # Weights made in inference mode would let no gradient through, and the field needs one.
        with torch.inference_mode(False):
            networks = load_networks(path or SHIPPED)
            if inner is not None or tiny is not None:
                own = "latent" if networks.config.inner == "latent" else "tiny"
                networks = change_inner(networks, inner or own, tiny)
            return cls(networks, device, dtype)

    def encode(self, images: Tensor) -> Tensor:
        """E: float32 latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1]."""
        return self.autoencoder.encode(images.to(self.dtype)).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Float32 pictures (B, 3, H, W), about [-1, 1], of latents (B, C, h, w); lets gradients through."""
        return self.autoencoder.decode(latents.to(self.dtype)).float()

    def encode_inner(self, images: Tensor) -> Tensor:
        """As `encode`, of what only the aligner reads: by the tiny autoencoder where the model has one."""
        return (self.tiny or self.autoencoder).encode(images.to(self.dtype)).float()

    def decode_inner(self, latents: Tensor) -> Tensor:
        """As `decode`, of what only the field looks at: by the tiny autoencoder where the model has one, and at less
        cost and size where the autoencoder can (see `decoding_for_field`)."""
        return decoding_for_field(self.tiny or self.autoencoder)(latents.to(self.dtype)).float()

    def field_picture(self, latents: Tensor, share: float) -> Tensor:
        """What a field of `FieldConfig.size` = `share` looks at of latents (B, C, h, w); lets gradients through."""
        return field_picture(self.decode_inner, latents, share, self.config.field_size(share))

    @torch.no_grad()
    def picture(self, latents: Tensor, seen: Seen, source: Tensor) -> Tensor:
        """The result (B, 3, H, W), about [-1, 1], of sampled latents: decoded with what `seen` shows of the source
        (B or 1, 3, H, W) where the aligner finds masks, and outside of both persons the source itself."""
        decoded = self.decode(latents)
        if seen.reference is None:
            return decoded
        if self.decoder is not None:
            decoded = self.decoder(decoded, latents, seen.reference)
        return paste(decoded, source, seen.reference)

    def align(
        self,
        source: ImageLike,
        pose: Any,
        height: int | None = None,
        width: int | None = None,
        name: str = "source",
        more_sources: Sequence[ImageLike] = (),
        source_pose: Any = None,
        background: Tensor | None = None,
    ) -> Aligned:
        """Sources aligned to a pose, and the denoiser's condition, see `conditioning.make_condition`.

        Args:
            source, pose, height, width, more_sources, source_pose: see `__call__`; several pictures in `source` are
                results of their own. name: what messages call the source.
            background: (1, 3, H, W) in [-1, 1] behind the person, in place of what the sources show there.
        """
        height, width = self._size(height, width)
        further = [to_image(more, "more_sources") for more in _listed(more_sources)]
        given = to_image(source, name)
        image = torch.cat([fit_image(picture, height, width) for picture in (given, *further)]).to(self.device)
        pose = one_pose(pose)
        skeleton = condition_image(pose, height, width).to(self.device).expand(len(image), -1, -1, -1)
        start = None
        if isinstance(self.aligner, MatchingPoseAligner):
            poses = []
            if source_pose is not None:  # of the first picture alone
                own = size_of(given)
                given_pose = one_pose(source_pose, f"{name}_pose", own).resized(*own)
                check_in_frame(given_pose, f"{name}_pose")
                poses = [given_pose.resized(height, width)]
            poses += [self.find(picture[None]) for picture in image[len(poses) :]]
            start = start_from(
                source_joints(poses),
                first_joints(pose.resized(height, width), len(image)),
                image,
                self.aligner.config.shrink,
            )
        return make_condition(
            self.aligner,
            self.denoiser,
            self.encode,
            image,
            skeleton,
            self.autoencoder.stride,
            len(image) if further else 1,
            start,
            background,
            self.encode_inner if self.tiny else None,
            self.parser,
            self.layout,
        )

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Of the result: what is None is the model's."""
        height = self.config.height if height is None else check_int(height, "height", 1)
        width = self.config.width if width is None else check_int(width, "width", 1)
        check_size(height, width, self.autoencoder.stride)
        if (height, width) != (self.config.height, self.config.width):
            logging.getLogger(__name__).warning(
                "%s was trained at %d × %d and is to work at %d × %d: expect noise and stick limbs; for large pictures "
                "leave height and width out and set output_size.",
                *(self.config.name, self.config.width, self.config.height, width, height),
            )
        return height, width

    def __call__(
        self,
        source: ImageLike,
        pose: Any,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        field_strength: float | None = None,
        field_start: float | None = None,
        field_end: float | None = None,
        field_space: str | None = None,
        sampler: str = "ddim",
        height: int | None = None,
        width: int | None = None,
        callback: Callable[[int, int, Tensor], None] | None = None,
        *,
        more_sources: Sequence[ImageLike] = (),
        source_pose: Any = None,
        output_size: str | int = MODEL,
    ) -> PoseTransferResult:
        """Put the person of `source` into `pose`.

        Args:
            source: picture of one person (see `to_image`); letterboxed to the model's size.
            pose: Pose, POSE_KEYPOINT data, or path of an OpenPose JSON file; its first person counts. Its
                canvas lies in the middle of the result: see `output_size`.
            seed: the same seed gives the same picture.
            steps, guidance_scale: sampling steps and w_c of eq. 16; the preset's defaults.
            field_strength: w of eq. 15's gradient, which w_c multiplies (eq. 16); 0 is off; the preset's default, for
                which the nodes' strength of 1 stands.
            field_start, field_end: the share of the sampling in which it acts, 0 to 1; the preset's defaults. A step
                counts where it begins: with fewer than 4 steps the small models' 0.75 is after all of them.
            field_space: what it compares, "heatmaps" or "features"; the preset's default.
            sampler: one of `diffusion.schedulers.SAMPLERS`: "ddim", "ancestral" with the learned variance, ….
            height, width: of the result, divisible by the autoencoder's stride, 8, of `mini-256` 16 (default: what the
                model was trained at; others are warned of, see `output_size`).
            callback: called as callback(step, steps, ŷ_0) after every step.
            more_sources: further pictures of the person in `source`, of any size, as a list. Each is aligned, and in
                each place those count that show it (`alignment.multi_source.combine`, **ours**); the result is one
                picture.
            source_pose: of the person in `source`, in its own pixels, as `pose`; None lets the estimator find it. Only
                an aligner of kind "matching" reads it.
            output_size: of `image` and `aligned`: "model" is height × width; "source" the source's own size and frame;
                a number a height of it. What is copied from the source is then read at its own resolution, and what
                neither person hides stays as it was; what is painted has the detail of height × width. A model that
                finds no person (`mini`) gives `image` at height × width in any case.

        Raises:
            InputError: a picture or pose that cannot be used, or a size or number out of range.
        """
        check_sampler(sampler)
        pictures = [to_image(source, "source")]
        own = size_of(pictures[0])
        seen = view(output_size, own, self._size(height, width))
        pose = one_pose(pose)
        if seen is not None:
            pose = pose.resized(*own)
        found = self.align(source, pose, height, width, more_sources=more_sources, source_pose=source_pose)
        field = self._guidance(pose, size_of(found.source), field_strength, field_start, field_end, field_space)
        model = self._model(found.condition, guidance_scale, field)
        latent = self._sample(sampler, model, found.condition, seed, steps, callback)
        if seen is None:
            result = shown(self.picture(latent, found.seen, found.source[:: len(found.source) // len(latent)]))
            picture = shown(found.seen.image)
        else:
            pictures += [to_image(more, "more_sources") for more in more_sources]
            detail = self._detail(seen, found, pictures)
            result = self._at_size(latent, found.seen, detail)
            picture = aligned(detail, found.seen.reference).movedim(-1, 1)
        return PoseTransferResult(
            result,
            picture,
            shown(found.source),
            shown(found.skeleton[: len(result)]),
            found.seen.visibility,
            latent,
            found.alignment,
        )

    def dress(
        self,
        reference: ImageLike,
        garment: ImageLike,
        mask: ImageLike,
        pose: Any = None,
        seed: int = 0,
        steps: int | None = None,
        guidance_scale: float | None = None,
        field_strength: float | None = None,
        feather: int = 2,
        sampler: str = "ddim",
        height: int | None = None,
        width: int | None = None,
        callback: Callable[[int, int, Tensor], None] | None = None,
        *,
        garment_pose: Any = None,
        output_size: str | int = MODEL,
    ) -> AppearanceResult:
        """Appearance control (Fig. 4): the clothes of `garment` on the person of `reference`, inside `mask`.

        The garment picture is aligned to the reference's pose and sampled there. Outside of the mask every estimate
        ŷ_0 is the reference (see `appearance.KeepOutside`), and so are, bit for bit, the pixels of the result.

        Args:
            reference: picture of the person to dress; letterboxed to the model's size, as the mask is.
            garment: picture of a person who wears the clothes.
            mask: where they go, as large as `reference`: 0 (keep) to 1 (replace), see `to_mask`.
            pose: of the reference, in its own pixels (see `__call__`); None lets the estimator find it.
            feather: pixels inside the mask's edge over which the result fades into the reference; 0 is a hard edge.
            seed, steps, guidance_scale, field_strength, sampler, height, width, callback: see `__call__`.
            garment_pose: of the person in `garment`, as `source_pose` of `__call__`.
            output_size: of `image`, `reference`, `aligned` and `mask`, as that of `__call__`; "source" is the size of
                `reference`.

        Raises:
            InputError: a mask that is empty or of another size, nobody found in the reference, or what `__call__` says.
        """
        check_sampler(sampler)
        person, cover = to_image(reference, "reference"), to_mask(mask)
        check_cover(person, cover)
        if pose is None:
            pose = self.estimate(shown(person))
            if not len(pose.joints):
                raise InputError(
                    "reference: nobody was found in it; give its pose, or a picture that shows one person whole."
                )
        own = size_of(person)
        pose = one_pose(pose, picture=own).resized(*own)
        size = self._size(height, width)
        seen = view(output_size, own, size)
        dressing = Dressing.fitted(person.to(self.device), cover.to(self.device), *size, feather)
        found = self.align(garment, pose, *size, "garment", source_pose=garment_pose, background=dressing.person)
        field = self._guidance(pose, size, field_strength)
        with torch.no_grad():
            kept = self.encode(dressing.person)
        model = KeepOutside(
            self._model(found.condition, guidance_scale, field),
            kept,
            latent_mask(dressing.cover, self.autoencoder.stride),
        )
        latent = self._sample(sampler, model, found.condition, seed, steps, callback)
        if seen is None:
            result = dressing.blend(shown(self.picture(latent, found.seen, dressing.person)))
            base, picture, cover = shown(dressing.person), shown(found.seen.image), dressing.cover
        else:
            detail = self._detail(seen, found, [to_image(garment, "garment")], shown(person)[0].movedim(0, -1))
            new = self._at_size(latent, found.seen, detail)
            new = new if new.shape[-2:] == seen.size else seen.enlarge(new)
            base, cover = detail.base(0), resized(cover, seen.size)
            result = blend(new, base, inside(cover, feather))
            picture = aligned(detail, found.seen.reference).movedim(-1, 1)
        return AppearanceResult(
            result,
            base.expand_as(result),
            shown(found.source),
            picture,
            shown(found.skeleton),
            cover,
            found.seen.visibility,
            latent,
            found.alignment,
        )

    def _detail(
        self, seen: View, found: Aligned, sources: Sequence[Tensor], background: Tensor | None = None
    ) -> Detail:
        """What the results are made of at the size of `seen`; pictures (B, 3, H, W) in [-1, 1]."""
        pictures = [picture for batch in sources for picture in shown(batch).movedim(1, -1)]
        maps, weights = found.alignment.maps[-1], found.seen.weights
        rows = torch.arange(len(pictures)).reshape(len(weights), -1).tolist()
        return Detail(seen, pictures, rows, maps.unflatten(0, weights.shape[:2]), weights, background)

    @torch.no_grad()
    def _at_size(self, latents: Tensor, seen: Seen, detail: Detail) -> Tensor:
        """As `picture`, (B, 3, H, W) in 0..1 at another size; at that of the networks where there are no masks."""
        decoded = self.decode(latents)
        if seen.reference is None:
            return shown(decoded)
        shares, own = painted(self.decoder, decoded, latents, seen.reference)
        return pasted(detail, seen.reference, shares, own).movedim(-1, 1)

    @torch.no_grad()
    def estimate(self, image: ImageLike) -> Pose:
        """The pose of the one person in a picture, in the picture's own pixels; nobody in it where none is found."""
        picture = to_image(image, "image")
        if len(picture) != 1:
            raise InputError(f"image: it holds {len(picture)} pictures; estimate one at a time.")
        return self.find(picture)

    def find(self, picture: Tensor) -> Pose:
        """As `estimate`, of a picture (1, 3, H, W) in [-1, 1]."""
        return find_pose(self.estimator, picture, self.config.network_size, self.device)

    def _guidance(
        self,
        pose: Pose,
        size: tuple[int, int],
        strength: float | None,
        start: float | None = None,
        end: float | None = None,
        space: str | None = None,
    ) -> FieldGuidance | None:
        """Gradient guidance towards `pose` for pictures of `size`; what is None is the preset's."""
        given: dict[str, Any] = {"strength": strength, "start": start, "end": end, "space": space}
        config = replace(self.config.field, **{name: value for name, value in given.items() if value is not None})
        field = self.field
        if config.space != field.space:
            field = PoseInteractionField(self.estimator, config.space, mask=config.mask)
        if config.start > config.end:
            raise InputError(f"field_start = {config.start:g} is after field_end = {config.end:g}.")
        if config.strength == 0:
            return None
        target = pose_target(field, [pose], size, self.config.field_size(config.size)).map(lambda t: t.to(self.device))
        return FieldGuidance.configured(config, field, target, lambda z: self.field_picture(z, config.size))

    def _model(self, condition: Condition, scale: float | None, field: FieldGuidance | None) -> GuidedDenoiser:
        scale = self.config.guidance_scale if scale is None else scale
        return GuidedDenoiser(self.denoiser, self.schedule, condition, scale, field)

    def _sample(
        self,
        sampler: str,
        model: Model,
        condition: Condition,
        seed: int,
        steps: int | None,
        callback: Callable[[int, int, Tensor], None] | None,
    ) -> Tensor:
        """The latent (B, C, h, w) of a run; all its noise comes from `seed`, drawn on the CPU on any device."""
        steps = self.config.steps if steps is None else check_int(steps, "steps", 1)
        generator = torch.Generator().manual_seed(check_int(seed, "seed", -(2**63), 2**64 - 1))
        noise = torch.randn(condition.pose.shape, generator=generator).to(self.device)
        return sample_noise(model, noise, steps, sampler, callback, generator)


def _listed(more_sources: Sequence[ImageLike]) -> Sequence[ImageLike]:
    """A list as it is: a single path or picture has a length, too, and its letters or rows are no pictures."""
    if not isinstance(more_sources, (list, tuple)):
        raise InputError(f"more_sources: a {type(more_sources).__name__}; give a list of pictures.")
    return more_sources
