"""The Inception-v3 that FID was defined with (TensorFlow's of 2015), at two depths, as HumanSD measures with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception_v3
from torchvision.models.inception import InceptionA, InceptionC, InceptionE

from reposedm_core.checkpoint import load_into
from training.metrics import backbones


class FidInception(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] → features (B, 64 + 2048) float32: of the first pooling and of the last.

    Pictures are resized to 299², bicubically and with antialiasing, without regard to their aspect. The layers are
    torchvision's, but that pooling branches leave the border out of their means, and the last one takes maxima.

    Args:
        folder: with the weights (`backbones.FILES["fid"]`); None is torch.hub's cache.

    Attributes:
        name: what tables call it. fid, kid: which features each is measured on.

    Raises:
        InputError: the weights are not there or do not fit.
    """

    name = "FID's Inception-v3 (FID 64, KID 2048)"
    fid, kid = slice(0, 64), slice(64, None)

    def __init__(self, folder: str | Path | None = None):
        super().__init__()
        state = dict(backbones.load("fid", folder))
        # init_weights draws from a slow distribution, all of which is overwritten
        network = inception_v3(weights=None, aux_logits=False, init_weights=False, num_classes=1008)
        for name, block in network.named_children():
            if isinstance(block, InceptionA | InceptionC | InceptionE):
                _own_pooling(block, largest=name == "Mixed_7c")
        load_into(network, state, f"{backbones.FILES['fid']}: FID's Inception-v3")
        layers = dict(network.named_children())
        names = list(layers)
        cut = names.index("maxpool1") + 1
        self.first = nn.Sequential(*(layers[name] for name in names[:cut]))
        self.rest = nn.Sequential(*(layers[name] for name in names[cut : names.index("Mixed_7c") + 1]))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.shape[-2:] != (299, 299):
            pictures = F.interpolate(pictures, (299, 299), mode="bicubic", antialias=True, align_corners=False)
        levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round()
        early = self.first((levels - 128) / 128)
        return torch.cat([early.mean((2, 3)), self.rest(early).mean((2, 3))], 1)


def _own_pooling(block: Any, largest: bool) -> None:
    """Replace the pooling branch of an Inception block."""
    branches = block._forward

    def forward(x: Tensor) -> list[Tensor]:
        if largest:
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return [*branches(x)[:-1], block.branch_pool(pooled)]

    block._forward = forward
