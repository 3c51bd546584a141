"""Reveal Mask: where a warped picture has to be painted anew, as a noise mask."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core.reveal_mask import reveal_mask
from .host.images import masks_of, to_mask


class RevealMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMRevealMask",
            display_name="Reveal Mask",
            category="RePoseDM",
            description="A noise mask for Set Latent Noise Mask: white where the new pose shows what the picture did "
            "not, grey where the person is copied, black around.",
            search_aliases=["noise mask", "inpaint mask", "disocclusion", "latent noise mask", "denoise mask"],
            inputs=[
                io.Mask.Input("visibility", tooltip="From Skeleton Warp or Recurrent Pose Aligner."),
                io.Mask.Input("person", tooltip="From the same node."),
                io.Mask.Input(
                    "changed",
                    optional=True,
                    tooltip="From the same node. Without it, the place that the person left is not painted.",
                ),
                io.Float.Input(
                    "grow",
                    default=1.0,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="How far beyond is painted, in percent of the height.",
                ),
                io.Float.Input(
                    "blur",
                    default=1.5,
                    min=0.0,
                    max=50.0,
                    step=0.1,
                    tooltip="Over what width the mask fades, in percent of the height.",
                ),
                io.Float.Input(
                    "floor",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of what is copied of the person is painted over: 0 keeps it as it is, more "
                    "repairs seams and bent limbs, 1 paints all of the person.",
                ),
            ],
            outputs=[io.Mask.Output("mask", tooltip="For Set Latent Noise Mask.")],
        )

    @classmethod
    def execute(
        cls,
        visibility: Tensor,
        person: Tensor,
        changed: Tensor | None = None,
        grow: float = 1.0,
        blur: float = 1.5,
        floor: float = 0.3,
    ) -> io.NodeOutput:
        seen, here = masks_of(visibility, "visibility")[:, 0], masks_of(person, "person")[:, 0]
        away = None if changed is None else masks_of(changed, "changed")[:, 0]
        return io.NodeOutput(to_mask(reveal_mask(seen, here, away, grow, blur, floor)))
