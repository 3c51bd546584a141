"""Garment Mask: what the people in a picture wear, as masks, without painting."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core.errors import shortened
from ..reposedm_core.garments import CLOTHES, PERSON, SHIPPED_PARSER, load_parser, parse, shaped
from ..reposedm_core.pose.limits import check_pixels
from .host import folders
from .host.images import frames_of, from_comfy, to_mask
from .host.patchers import in_patcher, load
from .host.poses import asked_to_stop, poses_of, show_text
from .host.sockets import PoseKeypoint

KINDS = {
    "clothes": CLOTHES,
    "upper garment": ("top",),
    "lower garment": ("bottom",),
    "dress": ("dress",),
    "shoes": ("shoes",),
    "accessories": ("other",),
    "hair": ("hair",),
    "skin": ("skin",),
    "whole person": PERSON,
}
"""What a mask may be of, and the labels that it is made of."""


def parser_path() -> Path:
    """models/reposedm/garment-parser.safetensors, one's own, or the one that comes with the pack."""
    return folders.checkpoint_path(SHIPPED_PARSER.name)


def load_patcher(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """A patcher around the parser in a file; for the host too, where it needs a second one."""
    with torch.inference_mode(False):
        patcher = in_patcher(load_parser(path), disable_dynamic, whole=True)
    patcher.cached_patcher_init = (load_patcher, (path,))
    return patcher


@functools.lru_cache(maxsize=1)
def parser_of(path: Path, changed: int) -> ModelPatcher:
    """The parser, read again where its file has changed."""
    return load_patcher(path)


class GarmentMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMGarmentMask",
            display_name="Garment Mask",
            category="RePoseDM",
            description="Masks what a person wears, or the whole person, without painting: for Garment Transfer and "
            "Crop to Person. The small network was trained on rendered people: on photographs look at the mask first.",
            search_aliases=[
                "garment",
                "clothes mask",
                "clothes segmentation",
                "segmentation",
                "human parsing",
                "person mask",
                "mask",
                "try on",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The pictures; a batch gives a mask a picture."),
                io.Combo.Input(
                    "what",
                    options=list(KINDS),
                    default="clothes",
                    tooltip="What is white. clothes are upper and lower garment and dress; coats and jackets are "
                    "upper garments; accessories are hats, glasses, scarves, gloves, socks and belts.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Pixels that the network is surer of than this are white, others black. 0 leaves the mask "
                    "soft, as sure as the network is.",
                ),
                PoseKeypoint.Input(
                    "pose",
                    optional=True,
                    tooltip="Whose clothes, in the picture's own pixels: a frame per picture, or one for all; the "
                    "first person counts. It helps much on photographs. Without it everybody's are found.",
                ),
                *(
                    io.Float.Input(
                        name,
                        default=0.0,
                        min=0.0,
                        max=50.0,
                        step=0.1,
                        optional=True,
                        advanced=True,
                        tooltip=tooltip,
                    )
                    for name, tooltip in (
                        ("grow", "How far the mask reaches beyond what was found, in percent of the height."),
                        ("feather", "Over what width its edge fades, in percent of the height."),
                    )
                ),
            ],
            outputs=[io.Mask.Output("mask", tooltip="The mask, as large as the picture; black where nothing is.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> int:
        return folders.last_change(parser_path())

    @classmethod
    def execute(
        cls,
        image: Tensor,
        what: str,
        threshold: float,
        pose: Any = None,
        grow: float = 0.0,
        feather: float = 0.0,
    ) -> io.NodeOutput:
        path, frames = parser_path(), frames_of(image)
        poses = None if pose is None else poses_of(pose, image, "pose")
        check_pixels("image", len(frames), *frames[0].shape[1:3])
        patcher = parser_of(path, folders.last_change(path))
        config = patcher.model.config
        load(patcher, pixels=config.height * config.width)
        progress = comfy.utils.ProgressBar(len(frames)) if len(frames) > 1 else None
        masks, notes = [], []
        for number, frame in enumerate(frames):
            asked_to_stop()
            picture = from_comfy(frame, "image")[0]
            found = parse(patcher.model, picture, None if poses is None else poses[number % len(poses)])
            mask = picture.new_zeros(picture.shape[-2:]) if found is None else found.mask(KINDS[what], picture)
            masks.append(to_mask(shaped(mask, threshold, grow, feather)))
            if not masks[-1].any():
                there = [] if found is None else found.found()
                where = f" in picture {number} (counted from 0)" if len(frames) > 1 else ""
                seen = f"; what is seen: {', '.join(there)}" if there else "; nobody is seen"
                notes.append(f"No {what}{where}{seen}.")
            if progress is not None:
                progress.update(1)
        for note in notes:
            logging.warning("Garment Mask: %s", note)
        show_text(cls, shortened("\n".join(notes), 400))
        return io.NodeOutput(torch.stack(masks))
