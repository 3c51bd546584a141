"""Pose Interaction Field: how far the pose in a picture is from the target pose, and which way to go.

Paper, section 3.3, eq. 10-12: G = W_h · ‖P_φ(P̃_t) − P_φ(P)‖² with the heat-map mask W_h = 1[Σ_k H_k > 0.1].
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import Watch, check_tensor
from ..config import MASKS, SPACES
from ..errors import InputError
from ..estimator.folding import folded
from ..estimator.hrnet import merge_heatmaps
from ..estimator.protocol import PoseEstimator, picture_size
from ..images import fit_image
from ..letterbox import size_of
from .target import PoseTarget, render_target

LATENT = "latent: it has values that are not finite (NaN or infinity) in a guided step; check the model's weights."
PICTURE = (
    "picture: what the decoder makes of the latent in a guided step has values that are not finite (NaN or infinity); "
    "use a decoder in float32 or bfloat16."
)
GRADIENT = (
    "Pose interaction field: the gradient through decoder and estimator is not finite; use "
    "networks in float32 or bfloat16."
)
INFERENCE = (
    "Pose interaction field: the estimator's weights were made under torch.inference_mode(); "
    "build, load and move it under torch.inference_mode(False)."
)
CHUNK_PIXELS = 512 * 352
"""Pictures of at most as many pixels together, or one, go through one backward pass: memory is bounded by that."""


def heatmap_mask(heatmaps: Tensor, threshold: float = 0.1) -> Tensor:
    """W_h = 1[Σ_k H_k > threshold] (paper, 3.3): (B, K, h, w) to (B, 1, h, w) of 0 and 1, no gradient."""
    return (heatmaps.detach().sum(1, keepdim=True) > threshold).to(heatmaps.dtype)


def reduced(latent: Tensor, share: float) -> Tensor:
    """Latents (B, C, h, w) at that share of their height and width, at least one cell; 1 is the latent itself."""
    if share == 1:
        return latent
    size = [max(1, round(side * share)) for side in latent.shape[-2:]]
    return nn.functional.interpolate(latent, size=size, mode="bilinear", align_corners=False, antialias=True)


def decoding_for_field(autoencoder: Any) -> Callable[[Tensor], Tensor]:
    """Latents (B, C, h, w) to the pictures (B, 3, H, W) that a field looks at: `decode_for_field` of an autoencoder
    that has it, else `decode`."""
    return getattr(autoencoder, "decode_for_field", autoencoder.decode)


def field_picture(decode: Callable[[Tensor], Tensor], latents: Tensor, share: float, size: tuple[int, int]) -> Tensor:
    """What a field looks at of latents (B, C, h, w): that share of them decoded, (B, 3, H, W) of `size`; gradients
    pass."""
    return fit_image(decode(reduced(latents, share)), *size)


def masked_distance(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """eq. 11, Σ mask · (a − b)²: (B, C, h, w) twice and a mask that broadcasts over them, to (B,)."""
    return (mask * (a - b).square()).sum((1, 2, 3))


class PoseInteractionField(nn.Module):
    """G of eq. 11 and its gradient, over a frozen estimator.

    Pictures are given to the estimator in the precision of its weights; distances are taken in float32 at least.

    Args:
        estimator: put in eval mode and frozen here for good; its weights get no gradient.
        space: what is compared. "features": trunk features of the picture and of a target picture (paper).
            "heatmaps" (**ours**): predicted heat maps, mean of all resolutions, and those rendered from the
            target joints; needs no picture of the target.
        threshold: of the mask W_h.
        mask: where it is compared. "predicted": where the estimator sees a joint in the picture, the paper's.
            "union" (**ours**): there or where the target has one, so that a missing limb is called for too.
        joints: those that are compared (**ours**), by their numbers; None is all. In space "features" the mask is
            made of their heat maps alone.

    Raises:
        InputError: an unknown space or mask, or a joint that the estimator has not.
    """

    def __init__(
        self,
        estimator: PoseEstimator,
        space: str = "heatmaps",
        threshold: float = 0.1,
        mask: str = "union",
        joints: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise InputError(f'Pose interaction field: space is "{space}"; use one of {SPACES}.')
        if mask not in MASKS:
            raise InputError(f'Pose interaction field: mask is "{mask}"; use one of {MASKS}.')
        known = range(estimator.config.joints)
        if joints is not None and not (len(joints) and all(joint in known for joint in joints)):
            raise InputError(
                f"Pose interaction field: joints are {tuple(joints)}; use one or more of 0 to "
                f"{known[-1]}, or None for all."
            )
        self.joints = None if joints is None else list(joints)
        self.estimator = estimator.eval().requires_grad_(False)
        self.space, self.threshold, self.mask = space, threshold, mask

    def train(self, mode: bool = True) -> PoseInteractionField:
        """Keeps the estimator in eval mode: its batch statistics are not this module's to learn."""
        super().train(mode)
        self.estimator.eval()
        return self

    def folded(self) -> PoseInteractionField:
        """The same field over the weights as they are now, quicker on a CPU (`estimator/folding.py`): for a run."""
        field = copy.copy(self)  # not built anew: that walks through all modules again
        vars(field)["_modules"] = {"estimator": folded(self.estimator)}
        return field

    def check_size(self, height: int, width: int) -> None:
        """Raise an `InputError` unless the estimator takes pictures of that size, as far as it says which."""
        own = picture_size(self.estimator.config)
        if own is not None and own != (height, width):
            raise InputError(
                f"Pose interaction field: the estimator sees pictures of {own[1]}×{own[0]} alone, and the field is to "
                f"show it {width}×{height} (the model's size times field.size); change field.size, or use a "
                "HigherHRNet, which sees any size."
            )

    def target_from_joints(self, joints: Tensor, height: int, width: int) -> PoseTarget:
        """Target from COCO joints, for space "heatmaps".

        Args:
            joints: (B, K, 3), or (B, P, K, 3) for several people, x, y in pixels of the height x width picture, and a
                score. Heat maps of several people are their maximum in each cell, as HigherHRNet was trained. A joint
                of score 0 is unknown, not absent: it is left out of the comparison, among several people in the
                cells nearest to that person (**ours**, `known_cells`). Who has no known joint is nobody: fill up
                pictures of fewer people with zeros.
            height, width: of the pictures that will be compared, multiples of 4 (HigherHRNet).

        Raises:
            InputError: space "features", which needs a picture; another number of joints; a bad size, or one that the
                estimator does not take; a known joint without a place.
        """
        if self.space == "features":
            raise InputError(
                'Pose interaction field: space "features" compares pictures and got joints; '
                'draw the pose and use target_from_image, or choose space "heatmaps".'
            )
        self.check_size(height, width)
        like = next(self.estimator.parameters(), joints)
        joints = joints.to(like.device, torch.promote_types(like.dtype, torch.float32))
        if joints.ndim != 4:
            check_tensor(joints, "joints", "B K 3", {"K": self.estimator.config.joints})
            joints = joints[:, None]
        return render_target(joints, self.estimator.config, height, width)

    @torch.no_grad()
    def target_from_image(self, image: Tensor) -> PoseTarget:
        """Target from a (B, 3, H, W) picture in [-1, 1]: people in that pose, or the rendered skeleton.

        Joints that the estimator does not find in it (peak below the threshold) count as unknown.

        Raises:
            InputError: a picture that is not finite, or that the estimator refuses.
        """
        check_tensor(image, "picture", "B 3 H W", finite=True)
        heatmaps, features = self._see(image)
        return PoseTarget(heatmaps, (heatmaps.amax((2, 3), keepdim=True) > self.threshold).to(heatmaps), features)

    def distance(self, image: Tensor, target: PoseTarget) -> Tensor:
        """G of eq. 11: (B, 3, H, W) in [-1, 1] to (B,), a sum over channels and cells; 0 where poses agree.

        Raises:
            InputError: a picture that is not finite or that the estimator refuses; a target of another size, batch or
                space.
        """
        return self._distance(image, target)

    forward = distance

    def gradient(
        self,
        latent: Tensor,
        decode: Callable[[Tensor], Tensor],
        target: PoseTarget,
        chunk: int | None = None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor]:
        """∇G with respect to the latent of the decoded estimate (eq. 12-15), through decoder and estimator.

        Works under `torch.inference_mode()`, as long as the weights of estimator and decoder were made and moved
        outside it (`copy.deepcopy` of a module outside it makes such weights; a copy that `folded` makes has them too).

        Args:
            latent: (B, C, h, w), the estimate of the clean latent (Tweedie), or the ε − ε_θ of eq. 10.
            decode: latents of some of the pictures to pictures (n, 3, H, W) in [-1, 1]; must let gradients through.
            target: the pose to reach.
            chunk: pictures that go through decoder and estimator together; memory grows with it and not with B. None:
                as many as have `CHUNK_PIXELS` pixels of the target together: one at 512 x 352, for which W32 in
                float32 keeps 0.8 GB and W48 1.2 GB, weights included, and the decoder its own.
            watch: of a run one of whose steps has been checked: the others fit as well, and what is not finite is noted
                in it. None checks everything, for which the host has to wait for the device.

        Returns:
            (gradient like `latent`, distance (B,)), both detached; each picture's gradient is its own.

        Raises:
            InputError: what `distance` raises; a latent that is not (B, C, h, w) of finite floats; chunk below 1; a
                decoder that lets no gradient through or overflows; weights made under `torch.inference_mode()`.
        """
        if chunk is None:
            pixels = target.heatmaps[0, 0].numel() * self.estimator.config.strides[-1] ** 2
            chunk = max(1, CHUNK_PIXELS // pixels)
        if watch is None:
            self._check(latent, target, chunk)
        else:
            watch.note(latent, LATENT)
        with torch.inference_mode(False), torch.enable_grad():
            # A clone made here is a normal tensor, whatever mode the original was made in.
            parts = latent.detach().clone().split(chunk)
            try:
                found = [
                    self._gradient(part, decode, target.part(i * chunk, (i + 1) * chunk), watch)
                    for i, part in enumerate(parts)
                ]
            except RuntimeError as error:
                if any(t.is_inference() for t in (*self.estimator.parameters(), *self.estimator.buffers())):
                    raise InputError(INFERENCE) from error
                raise
            gradients, distances = zip(*found, strict=True)
            return torch.cat(gradients), torch.cat(distances)

    def _check(self, latent: Tensor, target: PoseTarget, chunk: int) -> None:
        check_tensor(latent, "latent", "B C h w", finite=True)
        if len(target.heatmaps) not in (1, len(latent)):
            raise InputError(
                f"The pose target is for {len(target.heatmaps)} pictures, the latent has {len(latent)}: "
                "give one target for all, or one per picture."
            )
        if chunk < 1:
            raise InputError(f"chunk = {chunk}: must be 1 or more.")

    def _gradient(
        self, latent: Tensor, decode: Callable[[Tensor], Tensor], target: PoseTarget, watch: Watch | None
    ) -> tuple[Tensor, Tensor]:
        latent = latent.detach().requires_grad_(True)
        image = decode(latent)
        if watch is None:
            check_tensor(image, "picture", "B 3 H W", {"B": len(latent)})
            if not image.requires_grad:
                raise InputError(
                    "Pose interaction field: the decoded picture carries no gradient; `decode` must not run "
                    "under torch.no_grad() or detach its result."
                )
        distance = self._distance(image, target, watch)
        (gradient,) = torch.autograd.grad(distance.sum(), latent)
        if watch is not None:
            watch.note(gradient, GRADIENT)
        elif not (gradient.is_meta or gradient.isfinite().all()):
            raise InputError(GRADIENT)
        return gradient, distance.detach()

    def _distance(self, image: Tensor, target: PoseTarget, watch: Watch | None = None) -> Tensor:
        if watch is None:
            check_tensor(image, "picture", "B 3 H W", finite=True)
        else:
            watch.note(image, PICTURE)
        predicted, features = self._see(image)
        wanted = target.heatmaps
        if wanted.shape[1:] != predicted.shape[1:] or len(wanted) not in (1, len(predicted)):
            stride = self.estimator.config.strides[-1]
            raise InputError(
                f"The pose target is {len(wanted)} of {stride * wanted.shape[-1]}x{stride * wanted.shape[-2]} pixels "
                f"and {wanted.shape[1]} joints, the pictures are {len(image)} of {image.shape[-1]}x{image.shape[-2]} "
                f"and {predicted.shape[1]}: make the target at their size."
            )
        predicted, wanted, known = (self._compared(t) for t in (predicted, wanted, target.known))
        if self.space == "heatmaps":
            return masked_distance(predicted, wanted, known * self._mask(predicted, wanted))
        if target.features is None:
            raise InputError('The pose target has no features: for space "features" make it with target_from_image.')
        # The mask at the resolution of the features.
        predicted, wanted = (nn.functional.adaptive_avg_pool2d(t, size_of(features)) for t in (predicted, wanted))
        return masked_distance(features, target.features, self._mask(predicted, wanted))

    def _see(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Merged heat maps and features of pictures, in float32 at least."""
        output = self.estimator(image.to(next(self.estimator.parameters(), image)))
        maps = merge_heatmaps(*(_wide(t) for t in output.heatmaps), udp=self.estimator.config.udp)
        return maps, _wide(output.features)

    def _compared(self, maps: Tensor) -> Tensor:
        # A list as index would have to be copied to the device in every step.
        return maps if self.joints is None else torch.stack([maps[:, joint] for joint in self.joints], 1)

    def _mask(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        mask = heatmap_mask(predicted, self.threshold)
        return torch.maximum(mask, heatmap_mask(wanted, self.threshold)) if self.mask == "union" else mask


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
