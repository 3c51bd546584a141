"""A tiny autoencoder on the latents of a large one, for the inner work of eq. 9 and 10 (**ours**).

What the aligner encodes on the way and what the field decodes is looked at by networks alone, many times per picture.
Stable Diffusion's autoencoder does that at thirty and ten times the cost of one of TAESD's kind
(github.com/madebyollin/taesd), which is diffusers' `AutoencoderTiny`. Public TAESD weights load unchanged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint import has_header, load_parts, read_weights
from ..checks import check_precision, check_tensor
from ..config import TinyConfig
from ..errors import InputError, quoted
from ..fitting import filled, load_into

HALVES = ("encoder", "decoder")


class TinyAutoencoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] ↔ the large autoencoder's own scaled latents (B, C, h, w).

    Args:
        halves: "encoder", "decoder" or both: what is not asked for has no weights.
    """

    def __init__(self, config: TinyConfig, halves: Collection[str] = HALVES):
        super().__init__()
        with torch.device("cpu"):  # see `fitting.filled`
            from diffusers.models import AutoencoderTiny

        self.config, self.stride, self.channels = config, config.stride, config.latent_channels
        tiny = AutoencoderTiny(
            encoder_block_out_channels=config.widths,
            decoder_block_out_channels=config.widths[::-1],
            num_encoder_blocks=config.blocks,
            num_decoder_blocks=config.blocks[::-1],
            latent_channels=config.latent_channels,
        )
        if "encoder" in halves:
            self.encoder = tiny.encoder
        if "decoder" in halves:
            self.decoder = tiny.decoder
        self.to(memory_format=torch.channels_last)  # on a CPU an eighth faster, there and back

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1]; lets gradients through.

        Raises:
            InputError: not such a picture, H or W no multiple of the stride, or another dtype than the weights'.
        """
        check_tensor(images, "images", "B 3 H W", multiples={"H": self.stride, "W": self.stride})
        check_precision(images, "images", self.encoder.layers[0], self.encoder.layers[0].weight)
        # Not the encoder as a whole: while it forgets activations diffusers leaves out the shift to 0..1.
        return self.encoder.layers(images.add(1).div(2))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), about [-1, 1] (not clamped), of latents (B, C, h, w); lets gradients through.

        Raises:
            InputError: not such latents, or another dtype than the weights'.
        """
        check_tensor(latents, "latents", "B C h w", {"C": self.channels})
        check_precision(latents, "latents", self.decoder.layers[0], self.decoder.layers[0].weight)
        return self.decoder.layers(torch.tanh(latents / 3) * 3).mul(2).sub(1)


def tiny_weights(state: Mapping[str, Tensor], name: str = "") -> dict[str, Tensor]:
    """Public weights of a tiny autoencoder under the names of `TinyAutoencoder`, values untouched.

    Args:
        state: diffusers' layout (`encoder.layers.0.weight`); the original's of both halves, in one file with the
            prefixes `taesd_encoder.` and `taesd_decoder.`; or the original's of one half (`0.weight`, `1.weight`).
        name: of the file, which says of the last which half it is.

    Raises:
        InputError: there is no such autoencoder in it.
    """
    if any(key.startswith(("encoder.layers.", "decoder.layers.")) for key in state):
        return {key: value for key, value in state.items() if key.startswith(("encoder.", "decoder."))}
    halves: dict[str, dict[str, Tensor]] = {
        half: {
            key.removeprefix(f"taesd_{half}."): value
            for key, value in state.items()
            if key.startswith(f"taesd_{half}.")
        }
        for half in HALVES
    }
    if not any(halves.values()):
        found = [half for half in HALVES if half in name.lower()]
        if len(found) != 1 or not all(key.split(".")[0].isdecimal() for key in state):
            raise InputError(
                f"{name or 'weights'}: no tiny autoencoder of TAESD's kind among these weights; choose a TAESD file, "
                f"whose name says encoder or decoder, or one of diffusers'. It begins with {quoted(next(iter(state)))}."
            )
        halves[found[0]] = dict(state)
    named = {}
    for half, weights in halves.items():
        # The original counts the decoder's clamp as its first layer, diffusers does not.
        shift = 1 if half == "decoder" else 0
        for key, value in weights.items():
            number, _, rest = key.partition(".")
            named[f"{half}.layers.{int(number) - shift if number.isdecimal() else number}.{rest}"] = value
    return named


def load_tiny(path: str | os.PathLike, config: TinyConfig, halves: Collection[str] = HALVES) -> TinyAutoencoder:
    """A `TinyAutoencoder` in float32, in eval mode, frozen, with the weights of a local file (see `read_tiny`).

    Raises:
        InputError: unreadable, no tiny autoencoder in it, or one of other sizes.
    """
    state = {key: value for key, value in read_tiny(path, halves).items() if key.split(".")[0] in halves}
    return filled(lambda: TinyAutoencoder(config, halves), state, f"{os.path.basename(path)}: tiny autoencoder")


def fill_tiny(network: TinyAutoencoder, path: str | os.PathLike, setting: str) -> None:
    """Fill both halves of a tiny autoencoder with the weights of a file; `setting` names the file, for errors.

    Raises:
        InputError: see `load_tiny`.
    """
    load_into(network, read_tiny(path), f"{setting}: {Path(path).name}")


def read_tiny(path: str | os.PathLike, halves: Collection[str] = HALVES) -> dict[str, Tensor]:
    """The weights of a file under the names of `TinyAutoencoder`: public ones, or those of an exported checkpoint.

    A public file of one half (`taesd_encoder.safetensors`) is completed by the other one beside it where both are
    wanted.

    Raises:
        InputError: unreadable, or no tiny autoencoder in it.
    """
    path = Path(path)
    if has_header(path):
        parts, header = load_parts(path)
        if "tiny" not in parts:
            raise InputError(f"{path.name} holds {', '.join(header['parts'])}, and no tiny autoencoder.")
        return parts["tiny"]
    state = tiny_weights(read_weights(path), path.name)
    for half, other in (HALVES, HALVES[::-1]):
        if other in halves and half in path.name.lower() and not any(key.startswith(other) for key in state):
            twin = _twin(path, half, other)
            if not twin.is_file():
                raise InputError(f"{path.name} is the {half} alone; put {twin.name} beside it.")
            state |= tiny_weights(read_weights(twin), twin.name)
    return state


def _twin(path: Path, half: str, other: str) -> Path:
    """The file of the other half beside it, whatever its capitals; where there is none, the name that it should have.

    Public files are called `taesd_encoder.safetensors`, `TAESD_Encoder.pth` and the like.
    """
    wanted = path.name.lower().replace(half, other)
    beside = sorted(file for file in path.parent.iterdir() if file.name.lower() == wanted)
    if beside:
        return beside[0]
    like = {half: other, half.upper(): other.upper(), half.title(): other.title()}
    return path.with_name(re.sub(half, lambda found: like.get(found[0], other), path.name, flags=re.IGNORECASE))
