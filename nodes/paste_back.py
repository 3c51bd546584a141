"""Paste Back: results of crops into the pictures that they were cut from."""

from __future__ import annotations

from functools import reduce

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError
from ..reposedm_core.crop import Crop
from ..reposedm_core.images import in_turn
from ..reposedm_core.paste_back import Seam, paste_back
from ..reposedm_core.pose.limits import check_pixels
from .host.images import coloured, frames_of, masks_of, one_picture, to_mask
from .host.poses import asked_to_stop
from .host.sockets import CropSocket


class PasteBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMPasteBack",
            display_name="Paste Back",
            category="RePoseDM",
            description="Puts results back into the picture they were cut from: feathered along a mask, in the "
            "picture's colours at the seam. Outside not a bit changes.",
            search_aliases=["paste", "stitch", "uncrop", "composite", "inpaint stitch", "blend", "seam", "feather"],
            inputs=[
                io.Image.Input("picture", tooltip="The whole picture that Crop to Person had; several as a batch."),
                io.Image.Input(
                    "result",
                    tooltip="What was made of the crops, in their order and of any size; with one crop, several "
                    "results give a picture each.",
                ),
                CropSocket.Input(
                    "crop",
                    optional=True,
                    tooltip="From Crop to Person. Without it the result is as large a part as the whole picture.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the result counts, as it lies in the crop: changed of Recurrent Pose Aligner "
                    "or Skeleton Warp. Without it all of the crop is pasted.",
                ),
                io.Float.Input(
                    "grow",
                    default=1.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How far beyond the mask the result goes, in percent of the crop's height.",
                ),
                io.Float.Input(
                    "feather",
                    default=2.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Over what width it fades into the picture, in percent of the crop's height.",
                ),
                io.Float.Input(
                    "match_colours",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the difference in colour and contrast at the seam is taken from the result; 0 "
                    "leaves its colours alone.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The whole pictures with the results in them."),
                io.Mask.Output("mask", tooltip="The share of the result in every pixel of the picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        picture: Tensor,
        result: Tensor,
        crop: list[Crop] | None = None,
        mask: Tensor | None = None,
        grow: float = 1.0,
        feather: float = 2.0,
        match_colours: float = 1.0,
    ) -> io.NodeOutput:
        seam = Seam(grow, feather, match_colours)
        pictures, results = frames_of(coloured(picture, "picture")), frames_of(result)
        size = pictures[0].shape[1], pictures[0].shape[2]
        crops = _crops(crop, len(pictures), len(results), size)
        check_pixels("picture", len(crops), *size)
        masks = None if mask is None else in_turn(masks_of(mask), len(results))
        progress = comfy.utils.ProgressBar(len(results)) if len(results) > 1 else None
        out, shares = [], []
        for each in crops:
            whole = pictures[each[0][1].index][0].movedim(-1, 0)
            parts = []
            for place, one in each:
                asked_to_stop()
                new = one_picture(results[place], "result")
                whole, part = paste_back(whole, new, one, None if masks is None else masks[place, 0], seam)
                parts.append(part)
                if progress is not None:
                    progress.update(1)
            out.append(whole.movedim(0, -1))
            shares.append(reduce(torch.maximum, parts))
        return io.NodeOutput(torch.stack(out), to_mask(torch.stack(shares)))


def _crops(
    crops: list[Crop] | None, pictures: int, results: int, size: tuple[int, int]
) -> list[list[tuple[int, Crop]]]:
    """For every picture that comes out the results that go into it, and where.

    Raises:
        InputError: numbers that do not fit.
    """
    if crops is None:
        if pictures not in (1, results):
            raise InputError(
                f"result: it has {results} pictures and picture {pictures}; give one picture for all, or as many of "
                "both."
            )
        return [[(place, Crop(0, 0, *size, size, place if pictures > 1 else 0))] for place in range(results)]
    if len(crops) == 1 and crops[0].index < pictures:
        return [[(place, crops[0])] for place in range(results)]
    if len(crops) != results:
        raise InputError(
            f"result: it has {results} pictures and there are {len(crops)} crops; give a result for every crop, in "
            "their order."
        )
    if max(crop.index for crop in crops) >= pictures:
        raise InputError(
            f"picture: it has {pictures} pictures and the crops were made of {max(c.index for c in crops) + 1}; "
            "connect the pictures that Crop to Person had."
        )
    found: list[list[tuple[int, Crop]]] = [[] for _ in range(pictures)]
    for place, crop in enumerate(crops):
        found[crop.index].append((place, crop))
    return [each for each in found if each]
