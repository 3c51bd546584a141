"""The gradient through a large decoder in less memory: what its blocks keep for the way back is computed again.

What a decoder of Stable Diffusion's kind keeps grows with the picture. Checkpointed, it keeps what goes into each block
alone; the gradient is the same, bit for bit on a CPU, and costs one more decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

BLOCKS, ENLARGING = ("ResnetBlock2D", "ResnetBlock"), ("Upsample2D", "Upsample")
"""Names of the classes of a decoder's blocks and of what is between some: diffusers' and, of the same network, the
host's."""
LARGE = 768 * 768
"""Pixels per picture from which on it is worth its time."""


@contextmanager
def checkpointed(decoder: nn.Module, pixels: int) -> Iterator[list[nn.Module]]:
    """While it is open, `decoder` forgets what is inside its blocks, where pictures of so many `pixels` are large.

    Yields:
        the blocks: none of a small picture, or of a decoder of another kind.
    """
    blocks = blocks_of(decoder) if pixels >= LARGE else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield blocks
    finally:
        for block in blocks:
            del block.forward


def blocks_of(decoder: nn.Module) -> list[nn.Module]:
    """What `checkpointed` computes again of a decoder; what something else has changed already is left out."""
    kinds = {layer: type(layer).__name__ for layer in decoder.modules() if "forward" not in vars(layer)}
    if not any(kind in BLOCKS for kind in kinds.values()):
        return []
    return [layer for layer, kind in kinds.items() if kind in BLOCKS + ENLARGING]
