"""Crop to Person: the part of a picture that a person needs."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..reposedm_core import InputError, Pose
from ..reposedm_core.crop import SURE, Crop, crop_around, crops_of_one_shape, mask_box, person_box
from ..reposedm_core.images import round_to
from ..reposedm_core.pose.limits import check_pixels
from .host.images import frames_of, masks_of, one_picture, to_mask
from .host.poses import asked_to_stop, poses_of, write_poses
from .host.sockets import AlignerSocket, CropSocket, LoadedAligner, PoseKeypoint

EACH, TOGETHER, EVERYBODY = "each picture", "all pictures alike", "everybody"
"""What crops are made of: the first person of each picture; one box for all; a crop for every person."""


class CropToPerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMCropToPerson",
            display_name="Crop to Person",
            category="RePoseDM",
            description="Cuts out the part of a picture that a person needs, by a pose or a mask, in the proportions "
            "of the model, and the poses with it. Paste Back puts the result back.",
            search_aliases=[
                "crop",
                "person crop",
                "bounding box",
                "inpaint crop",
                "cut out",
                "photograph",
                "full size",
            ],
            inputs=[
                io.Image.Input("image", tooltip="Pictures with a person in each."),
                PoseKeypoint.Input(
                    "pose",
                    optional=True,
                    tooltip="Where the person is, in the picture's own pixels: a frame per picture, or one for all.",
                ),
                PoseKeypoint.Input(
                    "target_pose",
                    optional=True,
                    tooltip="The pose that is wanted, in the same picture: the crop has room for it, too.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the person is; it is cropped, too.",
                ),
                AlignerSocket.Input(
                    "aligner",
                    optional=True,
                    tooltip="From RePoseDM Loader: crops get the proportions of its model.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.15,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Room around what is found, a share of its longer side; joints end at eyes and ankles.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=8192,
                        step=8,
                        tooltip=f"{side.capitalize()} of the crop in pixels, which is then scaled. 0 keeps the "
                        "picture's own pixels.",
                    )
                    for side in ("width", "height")
                ),
                io.Combo.Input(
                    "crops",
                    options=[EACH, TOGETHER, EVERYBODY],
                    default=EACH,
                    tooltip="A crop of the first person of each picture; the same box in all, which a video needs; or "
                    "a crop for everybody in the pose.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The crops, one size for all."),
                PoseKeypoint.Output("pose", tooltip="The pose in pixels of the crops; empty where none is connected."),
                PoseKeypoint.Output("target_pose", tooltip="The wanted pose in pixels of the crops."),
                io.Mask.Output("mask", tooltip="The mask, cropped; white all over where none is connected."),
                CropSocket.Output("crop", tooltip="Where the crops lie, for Paste Back."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        pose: Any = None,
        target_pose: Any = None,
        mask: Tensor | None = None,
        aligner: LoadedAligner | None = None,
        margin: float = 0.15,
        width: int = 0,
        height: int = 0,
        crops: str = EACH,
    ) -> io.NodeOutput:
        if pose is None and mask is None:
            raise InputError("pose: neither a pose nor a mask is connected; connect one that says where the person is.")
        pictures = frames_of(image)
        size = pictures[0].shape[1], pictures[0].shape[2]
        own = None if pose is None else poses_of(pose, image, "pose")
        wanted = None if target_pose is None else poses_of(target_pose, image, "target_pose")
        masks = None if mask is None else masks_of(mask)
        people = _people(own, wanted, masks, len(pictures), size, crops)
        aspect = None if aligner is None else aligner.config.width / aligner.config.height
        aspect = width / height if width and height else aspect
        boxes = [_boxes(*person[1:], size, crops == EVERYBODY) for person in people]
        if crops == TOGETHER:
            boxes = [[box for each in boxes for box in each]] * len(boxes)
        numbers = [person[0] for person in people]
        if aspect is None:  # of one shape, or all but the largest would be stretched
            found = crops_of_one_shape(boxes, size, margin, numbers)
        else:
            found = [crop_around(each, size, margin, aspect, n) for each, n in zip(boxes, numbers, strict=True)]
        found = _alike(found, width, height)
        check_pixels("image", len(found), *found[0].size)
        for crop in found:
            check_pixels("margin", 1, crop.height, crop.width)  # before it is scaled down
        cut, cut_masks, poses, targets = [], [], [], []
        for crop, (number, one, other, shown) in zip(found, people, strict=True):
            asked_to_stop()
            cut.append(crop.image(one_picture(pictures[number], "image"), "mirror").movedim(0, -1))
            whole = torch.ones(1, *size) if shown is None else shown
            cut_masks.append(crop.image(whole, "constant")[0])
            nobody = Pose(torch.zeros(0, 18, 3).numpy(), *size)
            poses.append(crop.pose(nobody if one is None else one))
            targets.append(poses[-1] if other is None else crop.pose(other))
        return io.NodeOutput(
            to_mask(torch.stack(cut)), write_poses(poses), write_poses(targets), to_mask(torch.stack(cut_masks)), found
        )


Person = tuple[int, Pose | None, Pose | None, Tensor | None]
"""Number of the picture, the person's pose, the wanted one, and the mask (1, H, W)."""


def _people(
    own: list[Pose] | None,
    wanted: list[Pose] | None,
    masks: Tensor | None,
    count: int,
    size: tuple[int, int],
    crops: str,
) -> list[Person]:
    """Whom a crop is made of."""
    if crops == EVERYBODY and own is None:
        raise InputError("pose: it is not connected, and crops = everybody needs to know who is there.")
    if masks is not None and masks.shape[-2:] != size:
        masks = torch.nn.functional.interpolate(masks, size, mode="bilinear", align_corners=False)
    people: list[Person] = []
    for number in range(count):
        pose = None if own is None else own[number % len(own)]
        target = None if wanted is None else wanted[number % len(wanted)]
        mask = None if masks is None else masks[number % len(masks)]
        where = f"pose: nobody is in frame {number} (counted from 0); leave the picture out, or connect a mask."
        if pose is not None and not len(pose.joints) and (mask is None or crops == EVERYBODY):
            raise InputError(where)
        if crops != EVERYBODY or pose is None:
            empty = pose is not None and not len(pose.joints)
            people.append((number, None if empty else pose, target, mask))
            continue
        if target is not None and len(target.joints) != len(pose.joints):
            raise InputError(
                f"target_pose: {len(target.joints)} people are in frame {number} and {len(pose.joints)} in that of "
                "pose; give as many of both, in the same order."
            )
        for person in range(len(pose.joints)):
            people.append((number, pose.select(person), None if target is None else target.select(person), mask))
    return people


def _boxes(pose: Pose | None, target: Pose | None, mask: Tensor | None, size: tuple[int, int], alone: bool) -> list:
    """What a crop has to show: the boxes of the pose, of the mask unless that is of several people, and of the wanted
    pose."""
    boxes = [] if pose is None else [person_box(pose, size)]
    if mask is not None and (pose is None or (not alone and (mask > SURE).any())):
        boxes.append(mask_box(mask[0]))
    return boxes if target is None else [*boxes, person_box(target, size, "target_pose")]


def _alike(crops: list[Crop], width: int, height: int) -> list[Crop]:
    """The crops at one size: the one that is asked for, else the largest one's own."""
    largest = max(crops, key=lambda crop: crop.height)
    if height and not width:
        width = round_to(height * largest.width / largest.height, 8)
    elif width and not height:
        height = round_to(width * largest.height / largest.width, 8)
    size = (height, width) if width else (largest.height, largest.width)
    return [crop.scaled(size) for crop in crops]
