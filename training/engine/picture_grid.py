"""Rows of pictures as one picture."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from reposedm_core.images import shown, to_pil


def picture_grid(rows: list[Tensor]) -> Image.Image:
    """One picture of rows of as many pictures, (n, 3, H, W) in [-1, 1] each."""
    images = torch.cat([row.detach().float().cpu() for row in rows])
    return to_pil(make_grid(shown(images), nrow=len(rows[0]), padding=2, pad_value=1.0))
