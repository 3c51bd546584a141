"""Latents to pictures that a gradient passes through: by a model's own VAE or its tiny one, whole or reduced."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import comfy.model_management as management
import folder_paths
import latent_preview
import torch
from comfy.latent_formats import SC_Prior
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn

from ...reposedm_core import InputError
from ...reposedm_core.config import TinyConfig
from ...reposedm_core.diffusion.autoencoder import Autoencoder
from ...reposedm_core.diffusion.checkpointing import checkpointed
from ...reposedm_core.diffusion.tiny import load_tiny
from .patchers import interruptible, own_copy
from .reposedm_model import RePoseDMModel, RePoseDMVAE

DECODERS = ("vae", "taesd")
TINY = "vae_approx"
"""Model folder in which the host looks for tiny decoders, for its previews."""

PACKED = 128
"""Channels of Flux 2's latents, four cells in one: their tiny decoder has layers of its own, which the host knows."""

ENCODERS = ("encoder", "taesd_encoder")
"""What the halves of VAEs are called that a decoding does not need."""

VAE_SHARE, CHECKPOINTED_SHARE, TINY_BYTES, LINEAR_BYTES, ESTIMATOR_BYTES = 3.5, 1.7, 3200, 64, 4096
"""Memory of a decoding and its gradient: of a VAE in units of what the host counts for the decoding (2.6 times are
kept for the way back, 0.8 where blocks are computed again), of a tiny decoder and of the linear part of RePoseDM's
small VAE a pixel in float32, and of a large estimator a pixel that it sees."""


class Decoder(NamedTuple):
    """A network and how pictures are made with it.

    Attributes:
        decode: latents (n, C, h, w) as the model has them, to pictures (n, 3, H, W) in [-1, 1].
        stride: pixels per cell of the model's pictures. seen: the same of those that `decode` makes.
        memory: bytes that the decoding of latents of a shape (n, C, h, w) and its gradient take.
    """

    network: nn.Module
    decode: Callable[[Tensor], Tensor]
    stride: int
    seen: int
    memory: Callable[[Sequence[int]], float]


def decoder(kind: str, vae: Any, model: Any) -> Decoder:
    """A decoder whose weights are its own and let gradients through.

    Args:
        kind: "vae" is the decoder of `vae`; "taesd" the tiny one that comes with a RePoseDM, and of other models that
            of models/vae_approx, which the host previews with.
        vae: a VAE of the host's, for pictures.
        model: the MODEL whose latents are decoded.

    Raises:
        InputError: `vae` is none of pictures, or of another model, or cannot be copied; there is no tiny decoder for
            this model, or it cannot be read.
    """
    if getattr(vae, "patcher", None) is None:
        raise InputError("vae: the loaded file holds no VAE; load one with Load VAE and connect that.")
    if vae.latent_dim not in (2, 3):
        raise InputError("vae: this is no VAE of pictures; connect that of the model.")
    stride = vae.spacial_compression_decode()
    # As with weights: scales that were made in inference mode would let no gradient through.
    with torch.inference_mode(False):
        latent_format = copy.deepcopy(model.get_model_object("latent_format"))
    check_match(vae, model, latent_format)
    if kind == "taesd":
        network = tiny_decoder(vae, latent_format)
        return Decoder(
            network,
            lambda latent: network.decode(latent.to(torch.float32)),
            stride,
            stride,
            lambda shape: TINY_BYTES * shape[0] * math.prod(shape[-2:]) * stride**2,
        )
    if getattr(vae.patcher, "is_dynamic", bool)() and vae.patcher.cached_patcher_init is None:
        raise InputError(
            "vae: ComfyUI streams the weights of this VAE and cannot read them a second time, which the "
            "guidance needs. Load it from a file with Load VAE, choose the decoder taesd, or start "
            "ComfyUI with --disable-dynamic-vram."
        )
    network = own_copy(vae.patcher)
    if isinstance(network, Autoencoder):
        seen = network.field_stride
        return Decoder(
            network,
            lambda latent: network.decode_for_field(latent.to(torch.float32)),
            stride,
            seen,
            lambda shape: LINEAR_BYTES * shape[0] * math.prod(shape[-2:]) * seen**2,
        )
    for name in ENCODERS:
        if isinstance(getattr(network, name, None), nn.Module):
            setattr(network, name, nn.Identity())

    def pixels(shape: Sequence[int]) -> int:
        return math.prod(shape[-2:]) * stride**2

    def decode(latent: Tensor) -> Tensor:
        with checkpointed(network, pixels(latent.shape)):
            if vae.latent_dim == 2:
                return network.decode(latent_format.process_out(latent).to(vae.vae_dtype)).float()
            # Some models of pictures take them for videos of one frame.
            return network.decode(latent_format.process_out(latent[:, :, None]).to(vae.vae_dtype))[:, :, 0].float()

    def memory(shape: Sequence[int]) -> float:
        count, channels, height, width = shape
        with checkpointed(network, pixels(shape)) as blocks:
            share = CHECKPOINTED_SHARE if blocks else VAE_SHARE
        shape = [1, channels, *[1] * (vae.latent_dim - 2), height, width]
        return share * count * vae.memory_used_decode(shape, vae.vae_dtype)

    return Decoder(network, decode, stride, stride, memory)


def check_match(vae: Any, model: Any, latent_format: Any) -> None:
    """Raise an `InputError` where the latents of `vae` are seen not to be those of the model."""
    own = [isinstance(vae, RePoseDMVAE), isinstance(model.model, RePoseDMModel)]
    if own[0] != own[1]:
        raise InputError(
            "vae: this is RePoseDM's and the guided model another one; connect the VAE of that model."
            if own[0]
            else "vae: the guided model is RePoseDM and this is no VAE of it; connect the vae of RePoseDM Loader."
        )
    wanted = [latent_format.latent_channels, latent_format.latent_dimensions, latent_format.spacial_downscale_ratio]
    given = [vae.latent_channels, vae.latent_dim, vae.spacial_compression_decode()]
    # The host tells other strides than these have of Stable Cascade's prior and of some tiny VAEs.
    if isinstance(latent_format, SC_Prior) or isinstance(vae.first_stage_model, TAESD):
        given[2] = wanted[2]
    if given != wanted:
        raise InputError(
            "vae: it is of another model: its latents have {} channels in {} dimensions and {} pixels a "
            "cell, those of the guided model {} in {} and {}; connect the VAE of that model.".format(*given, *wanted)
        )


def tiny_decoder(vae: Any, latent_format: Any) -> Any:
    """The tiny decoder for latents of this format, in float32: RePoseDM's own, else found as the host's previews do."""
    if getattr(vae, "tiny", None) is not None:
        with torch.inference_mode(False):
            return copy.deepcopy(vae.tiny)
    name = getattr(latent_format, "taesd_decoder_name", None)
    if not name or name in getattr(latent_preview, "VIDEO_TAES", ()):
        raise InputError("decoder: for the latents of this model there is no tiny decoder; choose vae.")
    file = next((file for file in folder_paths.get_filename_list(TINY) if file.startswith(name)), None)
    if file is None:
        raise InputError(
            f"decoder: there is no {name} in models/{TINY}; put {name}.safetensors there (it comes from "
            "github.com/madebyollin/taesd), or choose vae."
        )
    try:
        # Weights made in inference mode would let no gradient through.
        with torch.inference_mode(False):
            path, channels = folder_paths.get_full_path_or_raise(TINY, file), latent_format.latent_channels
            if channels == PACKED:
                return TAESD(None, path, channels).eval().requires_grad_(False)
            return interruptible(load_tiny(path, TinyConfig("tiny", latent_channels=channels), ["decoder"]))
    except Exception as error:  # whatever the host's readers raise on a torn or foreign file
        logging.debug("tiny decoder %s", file, exc_info=error)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"decoder: {file} is no tiny decoder for this model ({reason}); download it again, or choose vae."
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Did a device, or main memory, run short?"""
    known = getattr(management, "is_oom", None)  # older hosts have none
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or (known is not None and known(error)):
        return True
    message = str(error).lower()
    return "out of memory" in message or "can't allocate memory" in message
