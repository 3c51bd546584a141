"""A critic of patches: does this piece of a picture look rendered, or painted by a decoder? (**ours**)

Means of what may be are what L1 and squared errors ask for, and means are soft. A critic asks for any one of them:
Isola et al. 2017 (pix2pix) on patches, with the hinge loss and spectral norms of Miyato et al. 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm


class PatchCritic(nn.Module):
    """Scores (B, 1, h/8, w/8) of overlapping patches of 38×38 pixels; above 0: looks like a picture of the set.

    Args:
        inputs: channels of the picture and of what it is shown with.
    """

    def __init__(self, inputs: int, channels: int = 32):
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        layers: list[nn.Module] = []
        for a, b in zip((inputs, *widths), widths, strict=False):
            layers += [spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures: (B, inputs, h, w), about [-1, 1]."""
        return self.layers(pictures)

    def verdict(self, pictures: Tensor) -> Tensor:
        """The scores of `forward`, through which a gradient reaches the pictures and no weight of the critic."""
        return functional_call(self, {name: weight.detach() for name, weight in self.named_parameters()}, (pictures,))


def critic_loss(critic: PatchCritic, made: Tensor, true: Tensor) -> Tensor:
    """Hinge loss of the critic: max(0, 1 - D(true)) + max(0, 1 + D(made)); no gradient reaches `made`."""
    real, painted = critic(torch.cat([true, made.detach()])).chunk(2)
    return F.relu(1 - real).mean() + F.relu(1 + painted).mean()
