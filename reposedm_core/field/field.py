"""Pose Interaction Field: how far the pose in a picture is from the target pose, and which way to go.

Paper, section 3.3, eq. 10-12: G = W_h · ‖P_φ(P̃_t) − P_φ(P)‖² with the heat-map mask W_h = 1[Σ_k H_k > 0.1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InputError
from ..pose.heatmaps import render_heatmaps
from .estimator import merge_heatmaps
from .protocol import PoseEstimator

SPACES = ("heatmaps", "features")
MASKS = ("union", "predicted")


@dataclass(frozen=True)
class PoseTarget:
    """The pose to reach. A batch of 1 serves any batch of pictures.

    Attributes:
        heatmaps: (B, K, H/2, W/2), both resolutions merged.
        known: (B, K, 1, 1), 1 where the target says where the joint is, 0 where it is silent.
        features: (B, F, H/4, W/4) trunk features of the target picture, or None where there is no picture.
    """

    heatmaps: torch.Tensor
    known: torch.Tensor
    features: torch.Tensor | None = None

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> PoseTarget:
        """The same target with `function` applied to each tensor (to move, clone or index it)."""
        features = None if self.features is None else function(self.features)
        return PoseTarget(function(self.heatmaps), function(self.known), features)


def heatmap_mask(heatmaps: torch.Tensor, threshold: float = 0.1) -> torch.Tensor:
    """W_h = 1[Σ_k H_k > threshold] (paper, 3.3): (B, K, h, w) to (B, 1, h, w) of 0 and 1, no gradient."""
    return (heatmaps.detach().sum(1, keepdim=True) > threshold).to(heatmaps.dtype)


def masked_distance(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """eq. 11, Σ mask · (a − b)²: (B, C, h, w) twice and a mask that broadcasts over them, to (B,)."""
    return (mask * (a - b).square()).sum((1, 2, 3))


class PoseInteractionField(nn.Module):
    """G of eq. 11 and its gradient, over a frozen estimator.

    Args:
        estimator: put in eval mode and frozen here for good; its weights get no gradient.
        space: what is compared. "features": trunk features of the picture and of a target picture (paper).
            "heatmaps" (**ours**): predicted heat maps, mean of both resolutions, and those rendered from the
            target joints; needs no picture of the target.
        threshold: of the mask W_h.
        mask: where it is compared. "predicted": where the estimator sees a joint in the picture, the paper's.
            "union" (**ours**): there or where the target has one, so that a missing limb is called for too.
    """

    def __init__(
        self, estimator: PoseEstimator, space: str = "heatmaps", threshold: float = 0.1, mask: str = "union"
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise InputError(f'Pose interaction field: space is "{space}"; use one of {SPACES}.')
        if mask not in MASKS:
            raise InputError(f'Pose interaction field: mask is "{mask}"; use one of {MASKS}.')
        self.estimator = estimator.eval().requires_grad_(False)
        self.space, self.threshold, self.mask = space, threshold, mask

    def train(self, mode: bool = True) -> PoseInteractionField:
        """Keeps the estimator in eval mode: its batch statistics are not this module's to learn."""
        super().train(mode)
        self.estimator.eval()
        return self

    def target_from_joints(self, joints: torch.Tensor, height: int, width: int) -> PoseTarget:
        """Target from COCO joints, for space "heatmaps".

        Args:
            joints: (B, 17, 3) x, y in pixels of the height x width picture, and a score. A joint of score 0
                is unknown, not absent: it is left out of the comparison (**ours**).
            height, width: of the pictures that will be compared, multiples of 4.

        Raises:
            InputError: space "features", which needs a picture; another number of joints; a bad size.
        """
        if self.space == "features":
            raise InputError(
                'Pose interaction field: space "features" compares pictures and got joints; '
                'draw the pose and use target_from_image, or choose space "heatmaps".'
            )
        config, like = self.estimator.config, next(self.estimator.parameters())
        if joints.ndim != 3 or joints.shape[1:] != (config.joints, 3):
            raise InputError(
                f"The target joints have shape {tuple(joints.shape)}: give (batch, {config.joints}, 3), "
                "x, y and score in the COCO order."
            )
        joints = joints.to(like)
        maps = [render_heatmaps(joints, height, width, config.sigma, s, config.udp) for s in config.strides]
        return PoseTarget(merge_heatmaps(*maps, udp=config.udp), (joints[..., 2] > 0).to(like)[..., None, None])

    @torch.no_grad()
    def target_from_image(self, image: torch.Tensor) -> PoseTarget:
        """Target from a (B, 3, H, W) picture in [-1, 1]: a person in that pose, or the rendered skeleton.

        Joints that the estimator does not find in it (peak below the threshold) count as unknown.
        """
        output = self.estimator(image.to(next(self.estimator.parameters())))
        heatmaps = merge_heatmaps(*output.heatmaps, udp=self.estimator.config.udp)
        known = (heatmaps.amax((2, 3), keepdim=True) > self.threshold).to(heatmaps)
        return PoseTarget(heatmaps, known, output.features)

    def distance(self, image: torch.Tensor, target: PoseTarget) -> torch.Tensor:
        """G of eq. 11: (B, 3, H, W) in [-1, 1] to (B,), a sum over channels and cells; 0 where poses agree.

        Raises:
            InputError: the target is of another size, batch or space.
        """
        output = self.estimator(image.to(next(self.estimator.parameters())))
        predicted = merge_heatmaps(*output.heatmaps, udp=self.estimator.config.udp)
        wanted, known = target.heatmaps, target.known
        if wanted.shape[-2:] != predicted.shape[-2:] or wanted.shape[0] not in (1, len(predicted)):
            raise InputError(
                f"The pose target is {len(wanted)} of {2 * wanted.shape[-1]}x{2 * wanted.shape[-2]} pixels, "
                f"the pictures are {len(image)} of {image.shape[-1]}x{image.shape[-2]}: "
                "make the target at their size."
            )
        if self.space == "features":
            if target.features is None:
                raise InputError(
                    'The pose target has no features: for space "features" make it with target_from_image.'
                )
            # The mask at the resolution of the features.
            size = output.features.shape[-2:]
            predicted, wanted = (nn.functional.adaptive_avg_pool2d(t, size) for t in (predicted, wanted))
            return masked_distance(output.features, target.features, self._mask(predicted, wanted))
        return masked_distance(predicted, wanted, known * self._mask(predicted, wanted))

    forward = distance

    def gradient(
        self, latent: torch.Tensor, decode: Callable[[torch.Tensor], torch.Tensor], target: PoseTarget
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """∇G with respect to the latent of the decoded estimate (eq. 12-15), through decoder and estimator.

        Works under `torch.inference_mode()`, as long as the weights of estimator and decoder were made and
        moved outside it (`copy.deepcopy` of a module outside it makes such weights).

        Args:
            latent: (B, C, h, w), the estimate of the clean latent (Tweedie), or the ε − ε_θ of eq. 10.
            decode: latent to pictures (B, 3, H, W) in [-1, 1]; must let gradients through.
            target: the pose to reach.

        Returns:
            (gradient like `latent`, distance (B,)), both detached; each picture's gradient is its own.
        """
        if any(tensor.is_inference() for tensor in self.estimator.state_dict(keep_vars=True).values()):
            raise InputError(
                "Pose interaction field: the estimator's weights were made under torch.inference_mode(); "
                "build, load and move it under torch.inference_mode(False)."
            )
        with torch.inference_mode(False), torch.enable_grad():
            # A clone made here is a normal tensor, whatever mode the original was made in.
            latent = latent.detach().clone().requires_grad_(True)
            image = decode(latent)
            if not image.requires_grad:
                raise InputError(
                    "Pose interaction field: the decoded picture carries no gradient; `decode` must not run "
                    "under torch.no_grad() or detach its result."
                )
            distance = self.distance(image, target)
            (gradient,) = torch.autograd.grad(distance.sum(), latent)
        return gradient.detach(), distance.detach()

    def _mask(self, predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        mask = heatmap_mask(predicted, self.threshold)
        return torch.maximum(mask, heatmap_mask(wanted, self.threshold)) if self.mask == "union" else mask
