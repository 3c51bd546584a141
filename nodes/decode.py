"""RePoseDM Decode: latents to pictures with what the aligner saw of the source, and what a LATENT carries for it."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import comfy.model_management as management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core.diffusion.reference_decoder import MASKS, Reference
from ..reposedm_core.full_size import Detail, painted, pasted
from ..reposedm_core.reference import paste
from .host.images import to_comfy, to_mask
from .host.patchers import load
from .host.poses import asked_to_stop, poses_in_turn, show_text
from .host.reposedm_model import RePoseDMVAE, check_vae
from .host.sockets import AlignerSocket, LoadedAligner

DETAIL = "reposedm_detail"
"""Key in a LATENT of what its pictures are made of at another size than that of the networks: a `Detail`."""
REFERENCE = "reposedm_reference"
"""Key in a LATENT of what the aligner saw of the sources: `pack`, a row for each picture that was to be sampled."""
CHANNELS = {field.name: 1 if field.name in MASKS else 3 for field in fields(Reference)}
"""Fields of a `Reference` in its order, and their channels."""
AT_ONCE = 8
"""Pictures that are decoded at once."""
BYTES_A_PIXEL = 512
"""Generous for the reference decoder and what it is shown: what it is shown takes 72."""


class RePoseDMDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMDecode",
            display_name="RePoseDM Decode",
            category="RePoseDM",
            description="Makes pictures of sampled latents. Where the model finds the person (mini-256), what the "
            "person hides neither before nor after stays the source's own pixels, and its reference "
            "decoder copies fine details from the source. With other models it is VAE Decode.",
            search_aliases=["vae decode", "latent to image", "reference decoder", "paste back", "keep background"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="From RePoseDM KSampler, or another sampler that began with the "
                    "latent of Recurrent Pose Aligner, which carries what was seen of "
                    "the source.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of RePoseDM Loader."),
                AlignerSocket.Input(
                    "aligner",
                    optional=True,
                    tooltip="From the same RePoseDM Loader; its file holds the decoder. Without it the "
                    "VAE decodes alone.",
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="The person in the new pose; the node says how it was decoded.")],
        )

    @classmethod
    def execute(cls, latent: dict, vae: Any, aligner: LoadedAligner | None = None) -> io.NodeOutput:
        rows, reason = rows_seen(latent, aligner)
        if rows is None or aligner is None:
            from nodes import VAEDecode  # the host's, not this folder

            note = f"The VAE alone decoded this: {reason}."
            (image,) = VAEDecode().decode(vae, latent)
        else:
            check_vae(vae, aligner)
            how = "The VAE" if aligner.decoder is None else "The reference decoder"
            detail = latent.get(DETAIL)
            size = "" if detail is None else " at {1} × {0}".format(*detail.view.size)
            note = f"{how} decoded this{size}; around both persons it is the source."
            detail = None if detail is None else detail.take(rows)
            image = paint(vae, aligner, latent["samples"], latent[REFERENCE][rows], detail)
        logging.info("RePoseDM Decode: %s", note)
        show_text(cls, note)
        return io.NodeOutput(image, ui={"text": [note]})


def pack(reference: Reference, source: Tensor) -> Tensor:
    """What is seen of B results, and what they are pasted on (B or 1, 3, H, W) in [-1, 1], as one (B, 18, H, W)."""
    return torch.cat([*(getattr(reference, name) for name in CHANNELS), source.expand_as(reference.warped)], 1)


def unpack(packed: Tensor) -> tuple[Reference, Tensor]:
    """The inverse of `pack`."""
    *parts, source = packed.split([*CHANNELS.values(), 3], 1)
    return Reference(*parts), source


def rows_seen(latent: dict, aligner: LoadedAligner | None) -> tuple[list[int] | None, str]:
    """For each picture of a LATENT the row of what was seen of it; or None, and why the VAE has to decode alone."""
    samples, packed = latent["samples"], latent.get(REFERENCE)
    if packed is None:
        return None, (
            "the latent carries no reference; Recurrent Pose Aligner adds one with models whose aligner "
            "finds the person"
        )
    if aligner is None:
        return None, "no aligner is connected, which holds the decoder that sees the source"
    if samples.is_nested or samples.ndim != 4:
        return None, "these are not latents of pictures"
    stride = aligner.config.autoencoder.stride
    cells = samples.shape[-2] * stride, samples.shape[-1] * stride
    if tuple(packed.shape[-2:]) != cells:
        return None, (
            f"the latent is of {cells[1]} × {cells[0]} pixels and the reference of {packed.shape[-1]} × "
            f"{packed.shape[-2]}; it was resized or turned"
        )
    rows = rows_of(len(samples), len(packed), latent.get("batch_index"))
    if rows is None:
        return None, (
            f"it is unknown which of Recurrent Pose Aligner's {len(packed)} pictures these {len(samples)} are; decode "
            "before latents are joined"
        )
    return rows, ""


def rows_of(count: int, known: int, numbers: list[int] | None) -> list[int] | None:
    """Which of the `known` rows of a reference belong to `count` latents; None where that is unknown.

    Nodes that take latents out of a batch, repeat or join them change the samples and `batch_index`, and leave the
    reference as it is. It goes as the poses do that the latents were sampled with, less where it could be a stranger's.

    Args:
        numbers: `batch_index`, if the latent has one.
    """
    if numbers is not None:
        different = len(set(numbers))
        joined = different != count and not (different == 1 and count == known)  # one noise for all is a choice
        if joined or (known > 1 and max(numbers) >= known):
            return None
    return poses_in_turn(known, count, numbers)


def paint(
    vae: RePoseDMVAE, aligner: LoadedAligner, samples: Tensor, packed: Tensor | None, detail: Detail | None = None
) -> Tensor:
    """IMAGE of latents (B, C, h, w), as `RePoseDMPipeline` makes it.

    Args:
        packed: what was seen of each, see `pack`; None decodes with the VAE alone.
        detail: what they are made of at another size than that of the networks.
    """
    if packed is None:
        return vae.decode(samples)
    decoder = aligner.decoder
    patchers = [vae.patcher] if decoder is None else [vae.patcher, decoder]
    shape = [min(AT_ONCE, len(samples)), *samples.shape[1:]]
    pixels = shape[0] * packed[0, 0].numel()
    load(*patchers, memory=pixels * BYTES_A_PIXEL + shape[0] * vae.memory_used_decode(shape, vae.vae_dtype))
    pictures, device = [], patchers[-1].load_device
    for start in range(0, len(samples), AT_ONCE):
        management.throw_exception_if_processing_interrupted()
        latent = samples[start : start + AT_ONCE].to(vae.device, vae.vae_dtype)
        picture = vae.first_stage_model.decode(latent).to(device)
        reference, source = unpack(packed[start : start + AT_ONCE].to(device))
        if detail is not None:
            rows = range(start, start + len(latent))
            network = None if decoder is None else decoder.model
            mixed = painted(network, picture, latent.to(device), reference)
            pictures.append(to_mask(pasted(detail.take(rows), reference, *mixed, asked_to_stop)))
            continue
        if decoder is not None:
            picture = decoder.model(picture, latent.to(device), reference)
        pictures.append(to_comfy(paste(picture, source, reference)))
    return torch.cat(pictures)
