"""ComfyUI nodes of RePoseDM: the extension that ComfyUI loads, a list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..reposedm_core import InputError
from .accuracy import PoseAccuracyNode
from .aligner import RecurrentPoseAlignerNode
from .crop import CropToPerson
from .decode import RePoseDMDecode
from .editor import PoseEditor
from .estimators import EstimatePose, PoseEstimatorLoader
from .garment_mask import GarmentMask
from .garment_transfer import GarmentTransfer
from .guidance import PoseInteractionFieldGuidance
from .host.folders import register_folders
from .host.inputs import checked
from .keep_face import KeepFace
from .loaders import RePoseDMExample, RePoseDMLoader
from .paste_back import PasteBack
from .pose_io import DrawPose, LoadPose, SavePose
from .pose_tools import EditPose, InterpolatePoses, RetargetPose, SelectPerson, SmoothPoses
from .reposesd import FormerRePoseSDLoader, RePoseSDLoader
from .reposesd_conditioning import RePoseSDConditioning
from .reveal_mask import RevealMask
from .sampler import RePoseDMKSampler
from .skeleton_warp import SkeletonWarp

WEB_DIRECTORY = "./nodes/web"
"""Where the help pages lie, as ComfyUI wants it: from the root of the pack."""

InputError.__module__ = "builtins"
"""ComfyUI writes `module.Class: message` on the page: so it begins with the class, not with a path of the pack."""

NODES: list[type[io.ComfyNode]] = [
    checked(node)
    for node in (
        RePoseDMLoader,
        PoseEstimatorLoader,
        LoadPose,
        SavePose,
        EstimatePose,
        DrawPose,
        PoseEditor,
        SelectPerson,
        SmoothPoses,
        RetargetPose,
        EditPose,
        InterpolatePoses,
        PoseAccuracyNode,
        RecurrentPoseAlignerNode,
        SkeletonWarp,
        PoseInteractionFieldGuidance,
        RePoseDMKSampler,
        RePoseDMDecode,
        GarmentTransfer,
        GarmentMask,
        RevealMask,
        CropToPerson,
        PasteBack,
        KeepFace,
        RePoseSDLoader,
        FormerRePoseSDLoader,
        RePoseSDConditioning,
        RePoseDMExample,
    )
]


class RePoseDMExtension(ComfyExtension):
    """All nodes of the pack."""

    async def on_load(self) -> None:
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> RePoseDMExtension:
    """What ComfyUI calls to get the extension."""
    return RePoseDMExtension()
