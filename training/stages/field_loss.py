"""The pose interaction field in training (eq. 10-15)."""

from __future__ import annotations

import torch
from torch import Tensor

from reposedm_core.config import ModelConfig, shared_size
from reposedm_core.diffusion.autoencoder import Autoencoder, KLAutoencoder
from reposedm_core.diffusion.losses import pose_estimate
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.diffusion.tiny import TinyAutoencoder
from reposedm_core.estimator import PoseEstimator
from reposedm_core.field import PoseInteractionField, PoseTarget, joints_target
from reposedm_core.field.field import decoding_for_field, field_picture


class FieldTerm:
    """∇G of eq. 11-12 for the pictures that the denoiser generates in training; estimator and decoder are frozen.

    Args:
        autoencoder: what decodes them, the tiny one where the model has it.
        config: its `field` says the space, what is decoded (eq. 10) and what the target is.
        height, width: of the pictures that the cached joints belong to.

    Raises:
        InputError: an estimator for pictures of another size alone.
    """

    def __init__(
        self,
        config: ModelConfig,
        estimator: PoseEstimator,
        autoencoder: Autoencoder | KLAutoencoder | TinyAutoencoder,
        height: int,
        width: int,
        device: torch.device,
    ):
        self.config, self.width, self.device = config.field, width, device
        factor, cell = config.height // config.network_size[0], max(config.estimator.strides)
        seen = height // factor, width // factor  # as the estimator sees whole pictures
        self.size = shared_size(seen, config.field.size, cell)
        self.scale = self.size[1] / width, self.size[0] / height, 1.0
        self.schedule = DiffusionSchedule(config.schedule)
        field = PoseInteractionField(estimator.to(device), config.field.space, mask=config.field.mask)
        self.field = field.folded()
        self.field.check_size(*self.size)
        self.autoencoder = autoencoder.to(device).eval().requires_grad_(False)

    def __call__(
        self, joints: Tensor, x0: Tensor, z: Tensor, noise: Tensor, prediction: Tensor, t: Tensor, drop: Tensor
    ) -> tuple[Tensor, Tensor]:
        """∇G like `prediction`, zero where the pose was dropped (**ours**: eq. 16 guides the conditional pass), and G.

        Args:
            joints: COCO joints of the targets, (B, 17, 3), or (B, P, 17, 3) of several people, zeros being nobody.
            x0: y_0, like z: the true picture is its decoding, so that an estimate that is right is at no distance.
            z, noise, prediction, t: see `pose_estimate`. drop: (B,) bool.
        """
        with torch.autocast(self.device.type, enabled=False):
            target = self.target(joints, x0)
            latent = pose_estimate(self.schedule, z, noise, prediction, t, self.config.estimate)
            gradient, distance = self.field.gradient(latent, self._decode, target)
        return gradient * (~drop).to(gradient)[:, None, None, None], distance

    def target(self, joints: Tensor, x0: Tensor) -> PoseTarget:
        """What P_φ(P) of eq. 11 is: of the joints, or of the true pictures (`FieldConfig.target`)."""
        if self.config.target == "picture":
            with torch.no_grad():
                return self.field.target_from_image(self._decode(x0))
        return joints_target(self.field, joints * joints.new_tensor(self.scale), *self.size)

    def _decode(self, latent: Tensor) -> Tensor:
        return field_picture(decoding_for_field(self.autoencoder), latent, self.config.size, self.size)
