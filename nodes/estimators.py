"""Pose Estimator Loader and Estimate Pose."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path

import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..reposedm_core import InputError
from ..reposedm_core.errors import quoted, shortened
from ..reposedm_core.estimator import is_somebody, predict_people, predict_pose
from ..reposedm_core.estimator.load import SUFFIXES, load_estimator
from ..reposedm_core.estimator.vitpose import is_vitpose
from ..reposedm_core.garments import SHIPPED_PARSER
from ..reposedm_core.images import check_size
from ..reposedm_core.networks import SHIPPED
from ..reposedm_core.pose import Pose, coco_to_openpose
from .host import folders
from .host.images import fitted, frames_of
from .host.patchers import in_patcher, load
from .host.poses import asked_to_stop, show_text, write_poses
from .host.sockets import EstimatorSocket, LoadedEstimator, PoseKeypoint

UDP = {"auto": None, "yes": True, "no": False}
CELL = 32
"""Pictures of a HigherHRNet are whole cells of its coarsest branch."""
PIXELS_AT_ONCE = 2 * 512 * 512
"""What an estimator sees at once, or one picture: a long batch then needs no more memory, and can be stopped."""


def estimator_names() -> dict[str, Path]:
    """Files with weights, and folders with a ViTPose, in models/reposedm and among the shipped weights, by name.

    Damaged ones are in it, too: choosing one says what is wrong with it.
    """
    found: dict[str, Path] = {}
    for root in folder_paths.get_folder_paths(folders.MODELS):
        files = [Path(file) for file in folder_paths.recursive_search(root, [".git"])[0]]
        homes = {
            file.parent
            for file in files
            if file.name == "config.json" and file.parent.name and is_vitpose(Path(root) / file.parent)
        }
        for name in (*homes, *(file for file in files if file.suffix.lower() in SUFFIXES and file.parent not in homes)):
            found.setdefault(name.as_posix(), Path(root) / name)
    found.pop(SHIPPED_PARSER.name, None)  # the garment parser: no estimator
    return dict(sorted(found.items()))


def estimator_path(name: str) -> Path:
    """Path of one of `estimator_names`.

    Raises:
        InputError: it is none of them; a name that leads out of the folders is never one.
    """
    names = estimator_names()
    if name not in names:
        raise InputError(
            f"estimator: there is no {quoted(name)} in models/{folders.MODELS}; put the file, or a "
            "ViTPose's folder, there, press R to refresh, and choose it from the list."
        )
    return names[name]


def load_patcher(path: str | PathLike, udp: bool | None = None, disable_dynamic: bool = False) -> ModelPatcher:
    """A patcher around the estimator in a file or folder; for the host too, where it needs a second one."""
    return load_in_patcher(path, udp, disable_dynamic).patcher


def load_in_patcher(path: str | PathLike, udp: bool | None = None, plain: bool = False) -> LoadedEstimator:
    """POSE_ESTIMATOR of a file or folder; `plain` is `host.patchers.in_patcher`'s."""
    # Weights made under ComfyUI's inference mode could not be back-propagated through by the guidance.
    with torch.inference_mode(False):
        found = load_estimator(path, udp)
        patcher = in_patcher(found.network, plain, whole=True)
    patcher.cached_patcher_init = (load_patcher, (path, udp))
    return LoadedEstimator(patcher, found.height, found.width, found.several, found.fixed)


class PoseEstimatorLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = list(estimator_names())
        return io.Schema(
            node_id="RePoseDMEstimatorLoader",
            display_name="Pose Estimator Loader",
            category="RePoseDM/loaders",
            description="Loads a pose estimator by itself, for Estimate Pose and pose field guidance: that of a "
            "RePoseDM file, a HigherHRNet (the official files or mmpose's), OpenPose, or a ViTPose folder.",
            search_aliases=[
                "HigherHRNet",
                "ViTPose",
                "OpenPose",
                "mmpose",
                "pose detector",
                "load estimator",
                "keypoint model",
            ],
            inputs=[
                io.Combo.Input(
                    "estimator",
                    options=names,
                    default=SHIPPED.name if SHIPPED.name in names else None,
                    tooltip="A file in models/reposedm (.safetensors or .pth), a folder there with a "
                    "ViTPose (config.json and model.safetensors), or what comes with the pack.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=4096,
                    step=CELL,
                    tooltip="Width at which a HigherHRNet sees pictures, which are fitted to it: less is "
                    "quicker and sees less. 0 is the width that it was trained at.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=4096,
                    step=CELL,
                    tooltip="Height at which a HigherHRNet sees pictures. 0 is the height that it was trained at.",
                ),
                io.Combo.Input(
                    "udp",
                    options=list(UDP),
                    default="auto",
                    tooltip="Was the HigherHRNet trained with unbiased data processing? auto goes by the "
                    "file's name, as mmpose's say udp. Wrong, joints are up to a pixel off.",
                ),
            ],
            outputs=[EstimatorSocket.Output("pose_estimator", tooltip="For Estimate Pose and pose field guidance.")],
        )

    @classmethod
    def validate_inputs(cls, estimator: str | None) -> bool | str:
        return folders.problem(estimator_path, estimator)

    @classmethod
    def fingerprint_inputs(cls, estimator: str | None = None, **others: object) -> int | str:
        if estimator is None:  # another node supplies it
            return "linked"
        return folders.last_change(estimator_path(estimator))

    @classmethod
    def execute(cls, estimator: str, width: int = 0, height: int = 0, udp: str = "auto") -> io.NodeOutput:
        loaded = load_in_patcher(estimator_path(estimator), UDP[udp])
        size = height or loaded.height, width or loaded.width
        if size != (loaded.height, loaded.width):
            if loaded.fixed:
                raise InputError(
                    f"width, height: {estimator} sees pictures of {loaded.width} × {loaded.height} only; set both to 0."
                )
            check_size(*size, CELL)
            loaded.height, loaded.width = size
        return io.NodeOutput(loaded)


class EstimatePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMEstimatePose",
            display_name="Estimate Pose",
            category="RePoseDM/pose",
            description="Finds the poses of the people in each picture with RePoseDM's own estimator, a HigherHRNet, "
            "a ViTPose or OpenPose. The small one that comes with the pack was trained on synthetic people: for "
            "photographs use ComfyUI's SDPose Keypoint Extractor, a DWPose node, or one of the others.",
            search_aliases=["pose detection", "keypoints from image", "openpose", "HigherHRNet", "ViTPose"],
            inputs=[
                EstimatorSocket.Input("pose_estimator", tooltip="From RePoseDM Loader or Pose Estimator Loader."),
                io.Image.Input("image", tooltip="The pictures; a batch gives one frame per picture."),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.1,
                    max=1.0,
                    step=0.01,
                    tooltip="Joints that the estimator is less sure of than this are left out; nodes "
                    "ignore joints below 0.1.",
                ),
                io.Int.Input(
                    "people",
                    default=1,
                    min=1,
                    max=100,
                    optional=True,
                    tooltip="How many people to find in a picture at most, best first. Above 1 takes an "
                    "estimator that tells people apart: a HigherHRNet, official or mmpose's. The "
                    "others see one person.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output(
                    "pose",
                    tooltip="The poses, in pixels of the pictures; a frame without people where nobody was found.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, pose_estimator: LoadedEstimator, image: torch.Tensor, threshold: float, people: int = 1
    ) -> io.NodeOutput:
        size, frames = (pose_estimator.height, pose_estimator.width), frames_of(image)
        step = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
        network = pose_estimator.patcher.model
        device = load(pose_estimator.patcher, pixels=min(step, len(frames)) * size[0] * size[1])
        progress = comfy.utils.ProgressBar(len(frames)) if len(frames) > step else None
        poses: list[Pose] = []
        for start in range(0, len(frames), step):
            asked_to_stop()
            seen = torch.cat([fitted(frame, "image", *size) for frame in frames[start : start + step]]).to(device)
            if people > 1 and pose_estimator.several:
                found = predict_people(network, seen, threshold, max_people=people)
            else:
                joints = predict_pose(network, seen, threshold)
                found = [one[None][there] for one, there in zip(joints, is_somebody(joints)[:, None], strict=True)]
            for joints in found:
                people_here = coco_to_openpose(joints.cpu().numpy())
                pose = Pose(people_here[people_here[..., 2].any(1)], *size)
                poses.append(pose.unfitted(*frames[0].shape[1:3]))
            if progress is not None:
                progress.update(len(seen))
        notes = notes_on(poses, people, pose_estimator.several)
        for note in notes:
            logging.warning("Estimate Pose: %s", note)
        show_text(cls, "\n".join(notes))
        return io.NodeOutput(write_poses(poses))


def notes_on(poses: list[Pose], people: int, several: bool) -> list[str]:
    """What somebody may not expect of what was found; empty where there is nothing of the kind."""
    notes, empty = [], [str(number) for number, pose in enumerate(poses) if not len(pose.joints)]
    if empty:
        where = f" in frame {shortened(', '.join(empty))} (counted from 0)" if len(poses) > 1 else ""
        notes.append(f"Nobody was found{where}.")
    if people > 1 and not several:
        notes.append(
            f"people = {people}, but this estimator sees one person a picture; a HigherHRNet tells people apart."
        )
    return notes
