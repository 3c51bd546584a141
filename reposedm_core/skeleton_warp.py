"""A picture warped by two skeletons alone (**ours**): no network, any size, poses from any estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .alignment.skeleton_map import BODY, LIMBS, limb_mask, skeleton_map
from .alignment.warp import sample
from .crop import resize
from .diffusion.reference_decoder import Reference
from .errors import InputError
from .full_size import Detail, aligned, view
from .images import to_image
from .letterbox import Size
from .pose import Pose, check_in_frame
from .pose.limits import no_tick
from .reference import make_plate

ROWS = 512
"""Cells of the longer side of the map and of the masks, at most: the skeletons say nothing finer."""
NEAR = 1.7
"""Radii around a limb in which what it carries along is the person where a mask says so; without one, `BODY`."""
FLOOR = 1e-5
"""Weight of the identity: next to none within `NEAR`, where else the surroundings would be drawn along."""
WAS = 1.5
"""Radii around a limb that are taken for the person in the source: what is left of it would stay behind as a ghost."""


@dataclass
class SkeletonWarp:
    """One source in another pose, at the size that was asked for.

    Attributes:
        aligned: (H, W, 3) in 0..1, the warped person in front of the source without its person.
        visibility: (H, W) in 0..1, does the source show this part of the person? person: is the person here now?
        changed: is the person here, or was?
        flow: (H, W, 3) in 0..1, see `flow_colours`.
    """

    aligned: Tensor
    visibility: Tensor
    person: Tensor
    changed: Tensor
    flow: Tensor


def warp_by_skeletons(
    source: Tensor,
    source_pose: Pose,
    pose: Pose,
    output: str | int = "source",
    mask: Tensor | None = None,
    tick: Callable[[], None] = no_tick,
) -> SkeletonWarp:
    """The first person of `source_pose` brought into the pose of the first person of `pose`.

    Limbs that either pose lacks are not carried along: there the person is, but not visible.

    Args:
        source: (H, W, 3 or more) in 0..1.
        source_pose, pose: on any canvas, which is fitted to the source.
        output: "source", or a height in pixels, see `full_size.view`.
        mask: (H, W) in 0..1, where the source shows the person; None takes what is near the skeleton.
        tick: called now and then; what it raises ends the work.

    Raises:
        InputError: nobody is in a pose, the source's lies outside of its canvas, the two have no limb in common, a
            black mask, or a size that cannot be made.
    """
    size: Size = (source.shape[0], source.shape[1])
    seen = view(output, size, size)
    if seen is None:
        raise InputError("output_size: there is no model here; use 'source' or a height in pixels.")
    if mask is not None and not mask.any():
        raise InputError(
            "mask: it is black: there is nobody in the source; paint the person white, or leave it unconnected (Load "
            "Image gives a black mask of pictures without alpha)."
        )
    cells = _cells(size)
    given = ((source_pose, "source_pose"), (pose, "pose"))
    there, here = (_joints(each, size, name).to(source.device) for each, name in given)
    check_in_frame(source_pose, "source_pose")
    known = (there[0, :, 2] > 0) & (here[0, :, 2] > 0)
    if not any(known[a] and known[b] for a, b in LIMBS):
        raise InputError(
            "pose: it has no limb in common with source_pose; a limb needs both its joints in both poses, so give "
            "poses that show more of the body."
        )
    tick()
    sampling, _ = skeleton_map(there, here, size, size, cells, FLOOR)
    picture = to_image(source[..., :3], "source", channels_last=True)
    small = resize(picture, cells)
    was, own, reach = limb_mask(there, size, cells, WAS), limb_mask(there, size, cells), BODY
    if mask is not None:
        was = own = resize(mask[None, None].to(picture), cells)
        reach = NEAR
    both = torch.where(known[:, None], here, 0)
    carried = sample(own, sampling) * limb_mask(both, size, cells, reach)
    person = torch.maximum(carried, limb_mask(here, size, cells))
    plate, hidden = make_plate(small, was)
    unread = torch.zeros_like(plate)  # no decoder looks at it
    inputs = Reference(sample(small, sampling), plate, hidden, carried, person, unread, unread)
    detail = Detail(seen, [source], [[0]], sampling[None], torch.ones_like(carried)[None])
    masks = seen.enlarge(torch.cat([carried, person, torch.maximum(person, hidden)], 1)).clamp(0, 1)
    flow = seen.colours(sampling)[0].movedim(0, -1)
    return SkeletonWarp(aligned(detail, inputs, tick)[0], masks[0, 0], masks[0, 1], masks[0, 2], flow)


def _cells(size: Size) -> Size:
    """Of a map and its masks, as many as pixels in a small picture."""
    share = min(1.0, ROWS / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _joints(pose: Pose, size: Size, name: str) -> Tensor:
    """OpenPose-18 joints (1, 18, 3) of the first person in pixels of the source."""
    if not len(pose.joints):
        raise InputError(f"{name}: nobody is in it; connect the pose of the person.")
    return torch.from_numpy(pose.resized(*size).joints[:1])
