"""RePoseSD Conditioning: the drawn pose, as a latent beside the text (eq. 17)."""

from __future__ import annotations

from typing import Any

import comfy.model_management as management
import torch
from comfy_api.latest import io

from ..reposedm_core import InputError, Pose, parse_keypoints
from ..reposedm_core.pose import draw_pose
from .host.inputs import check_span
from .host.poses import images
from .host.reposesd_model import HABITS, HUMANSD, POSE_LATENT
from .host.sockets import PoseKeypoint

AUTO = "auto"
STYLES = (AUTO, "humansd", "openpose")
NEGATIVES = (AUTO, "none", "same")


class RePoseSDConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMSDConditioning",
            display_name="RePoseSD Conditioning",
            category="RePoseDM",
            description="Draws the pose as RePoseSD or HumanSD has learned it, encodes the drawing with the VAE and "
            "adds it to the prompts. For a model of RePoseSD Loader; the sampler is any.",
            search_aliases=["HumanSD", "pose conditioning", "skeleton latent", "text to image with pose"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the picture should show, from CLIP Text Encode."),
                io.Conditioning.Input("negative", tooltip="What it should not show, from CLIP Text Encode."),
                io.Vae.Input("vae", tooltip="The VAE of the same RePoseSD Loader."),
                PoseKeypoint.Input(
                    "pose",
                    tooltip="The pose; all people in it count. One frame serves all pictures, "
                    "several frames give a picture each.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Width of the picture in pixels; a connected latent overrules it. Stable "
                    "Diffusion 2.1 and HumanSD were trained at 512 × 512.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Height of the picture in pixels; a connected latent overrules it.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Factor on the pose's latent. 1 is what the model was trained with, 0 is exactly no pose.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling pose conditioning begins; 0 is the first step. The "
                    "text conditions all steps.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where in the sampling pose conditioning ends; 1 is after the last step. "
                    "Sooner lets the model finish the details by the text alone.",
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default=AUTO,
                    tooltip="How the skeleton is drawn. auto: as the model behind the VAE learned it, "
                    "openpose without hands and face for a RePoseSD trained with this pack, "
                    "humansd for all others.",
                ),
                io.Combo.Input(
                    "negative_pose",
                    options=list(NEGATIVES),
                    default=AUTO,
                    tooltip="The pose in the negative prompt. none: the null condition of "
                    "eq. 16, so that cfg strengthens text and pose; same: the pose too, as HumanSD "
                    "does, so that cfg strengthens the text alone. auto: none for a RePoseSD "
                    "trained with this pack, which learned to do without, same for all others.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Gives the size and the number of pictures in place of width and height: an "
                    "empty latent with a batch, or an encoded picture to start from.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The positive prompt, and the pose."),
                io.Conditioning.Output("negative", tooltip="The negative prompt, with the pose where that is chosen."),
                io.Latent.Output(
                    "latent",
                    tooltip="The latent that came in, or an empty one of the right size with a picture per frame.",
                ),
                io.Image.Output("skeleton", tooltip="The drawing that conditions the model, one picture per frame."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        pose: Any,
        width: int,
        height: int,
        strength: float,
        start_percent: float,
        end_percent: float,
        style: str,
        negative_pose: str,
        latent: dict | None = None,
    ) -> io.NodeOutput:
        poses = parse_keypoints(pose, "pose")
        check_span(start_percent, end_percent)
        check_vae(vae)
        stride = vae.spacial_compression_encode()
        if latent is not None:
            height, width = size_of(latent, stride, len(poses))
        habits = getattr(vae, HABITS, HUMANSD)
        if style == AUTO:
            # no model of these has seen hands or faces: their training sets hold bodies alone
            style, poses = habits.style, [Pose(frame.joints, frame.height, frame.width) for frame in poses]
        skeleton = draw(poses, height, width, style)
        if latent is None:
            latent = {
                "samples": torch.zeros(
                    (len(poses), 4, height // stride, width // stride), device=management.intermediate_device()
                )
            }
        if strength > 0 and start_percent < end_percent:
            with_latent = strength * vae.encode(skeleton)
            positive = with_pose(positive, with_latent, start_percent, end_percent)
            if (habits.negative if negative_pose == AUTO else negative_pose) == "same":
                negative = with_pose(negative, with_latent, start_percent, end_percent)
        return io.NodeOutput(positive, negative, latent, skeleton)


def draw(poses: list[Pose], height: int, width: int, style: str) -> torch.Tensor:
    """IMAGE (frames, height, width, 3) of the poses, each fitted with its canvas."""
    return images("pose", len(poses), height, width, lambda frame: draw_pose(poses[frame], height, width, style=style))


def with_pose(conditioning: list, latent: torch.Tensor, start: float, end: float) -> list:
    """The conditioning with the latent from `start` to `end` of the sampling, and as it was before and after."""
    out = []
    for tokens, extra in conditioning:
        first, last = extra.get("start_percent", 0.0), extra.get("end_percent", 1.0)
        # Where the pose begins and ends inside of what the entry covers.
        begin, cease = min(max(first, start), last), max(min(last, end), first)
        with_latent = {**extra, POSE_LATENT: latent}
        if begin >= cease:
            out.append([tokens, extra])
        elif (begin, cease) == (first, last):
            out.append([tokens, with_latent])
        else:
            spans = ((first, begin, extra), (begin, cease, with_latent), (cease, last, extra))
            out += [
                [tokens, {**what, "start_percent": low, "end_percent": high}] for low, high, what in spans if low < high
            ]
    return out


def check_vae(vae: Any) -> None:
    """Raise an `InputError` unless it is a VAE of pictures with Stable Diffusion's four channels."""
    if getattr(vae, "first_stage_model", None) is None:
        raise InputError("vae: the loaded file holds no VAE; load Stable Diffusion's with Load VAE and connect that.")
    if vae.latent_dim != 2 or vae.latent_channels != 4:
        raise InputError(
            f"vae: its latents have {vae.latent_channels} channels in {vae.latent_dim} dimensions, those "
            "of Stable Diffusion 4 in 2; connect the VAE of RePoseSD Loader."
        )


def size_of(latent: dict, stride: int, frames: int) -> tuple[int, int]:
    """Height and width in pixels of a LATENT's pictures; an `InputError` if `frames` do not fit their number."""
    samples = latent["samples"]
    if samples.ndim != 4:
        raise InputError(
            f"latent: it has shape {tuple(samples.shape)}; expected (pictures, channels, height, width), "
            "as Empty Latent Image makes it."
        )
    if frames not in (1, len(samples)):
        raise InputError(
            f"latent: it has {len(samples)} pictures and the pose {frames} frames; give one frame for "
            "all, or as many of both."
        )
    # Empty latents say for which stride they are, and the sampler makes them anew for the model's.
    stride = latent.get("downscale_ratio_spacial") or stride
    return samples.shape[-2] * stride, samples.shape[-1] * stride
