"""RePoseSD's U-Net as a MODEL of ComfyUI's: eight input channels, of which the pose latent is four (eq. 17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...reposedm_core import InputError

POSE_LATENT = "reposedm_pose_latent"
"""Key of a CONDITIONING under which E(P) lies: a latent (B, 4, h, w) of the model's VAE."""

FIRST = "diffusion_model.input_blocks.0.0.weight"
"""The first convolution, whose inputs are the noise latent's channels, then the pose latent's."""


@dataclass(frozen=True)
class PoseConvention:
    """How a network was given its poses in training; RePoseSD Loader leaves a note of it on the VAE.

    Attributes:
        style: in which the skeleton was drawn, see `draw_pose`.
        negative: the pose in the unconditional half of classifier-free guidance: "none" or "same".
    """

    style: str
    negative: str


HABITS = "reposesd_habits"
"""Attribute of a VAE."""
HUMANSD = PoseConvention("humansd", "same")
OWN = PoseConvention("openpose", "none")


class RePoseSDModel(comfy.model_base.BaseModel):
    """Stable Diffusion whose input is [z_t, E(P)]: four channels of noise latent and four of pose latent."""

    def concat_cond(self, **kwargs: Any) -> torch.Tensor:
        """E(P) of the conditioning, as large as the noise; zeros, the null condition, where there is none."""
        noise, latent = kwargs["noise"], kwargs.get(POSE_LATENT)
        if latent is None:
            return torch.zeros_like(noise, device=kwargs["device"])
        if len(latent) not in (1, len(noise)):
            raise InputError(
                f"latent: it has {len(noise)} pictures and the pose {len(latent)} frames; give one frame "
                "for all, or as many of both."
            )
        latent = comfy.utils.common_upscale(latent, noise.shape[-1], noise.shape[-2], "bilinear", "center")
        return self.process_latent_in(comfy.utils.repeat_to_batch_size(latent, len(noise))).to(kwargs["device"])


class EightChannels(ModelPatcher):
    """Goes before a patcher's class: LoRAs of Stable Diffusion 2.1 apply to the noise latent's four input channels."""

    def add_patches(self, patches: dict, strength_patch: float = 1.0, strength_model: float = 1.0) -> list:
        """See the host's `ModelPatcher.add_patches`."""
        return _whole(super().add_patches(_narrowed(patches), strength_patch, strength_model))

    def add_hook_patches(
        self, hook: Any, patches: dict, strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list:
        """See the host's `ModelPatcher.add_hook_patches`."""
        return _whole(super().add_hook_patches(hook, _narrowed(patches), strength_patch, strength_model))


def with_narrow_patches(patcher: ModelPatcher) -> ModelPatcher:
    """The same patcher, whose clones inherit it, that behaves as `EightChannels`."""
    kind = type(patcher)
    patcher.__class__ = type(kind.__name__, (EightChannels, kind), {})
    return patcher


def _narrowed(patches: dict) -> dict:
    # The host takes (key, (axis, start, length)) for a patch of a part of a weight.
    return {
        (FIRST, (1, 0, 4)) if key == FIRST and _inputs(patch) == 4 else key: patch for key, patch in patches.items()
    }


def _whole(keys: list) -> list:
    # The caller looks for the keys that it gave.
    return [FIRST if key[0] == FIRST else key for key in keys]


def _inputs(patch: Any) -> int | None:
    """Input channels of a patch of a convolution: a difference, or a LoRA, whose `weights` are up, down and others."""
    if isinstance(patch, tuple):
        weight = patch[1][0] if patch[0] == "diff" else None
    else:
        weight = patch.weights[1] if getattr(patch, "name", None) == "lora" else None
    return None if weight is None or getattr(weight, "ndim", 0) != 4 else weight.shape[1]
