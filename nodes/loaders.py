"""RePoseDM Loader and RePoseDM Example."""

from __future__ import annotations

from os import PathLike

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..reposedm_core import InputError, load_networks
from ..reposedm_core.errors import quoted
from ..reposedm_core.images import to_image
from ..reposedm_core.images import to_mask as read_mask
from ..reposedm_core.networks import SHIPPED
from ..reposedm_core.pose import load_pose_file, to_keypoints
from .host import folders
from .host.images import to_comfy, to_mask
from .host.patchers import in_patcher, interruptible
from .host.reposedm_model import ConditioningNetworks, RePoseDMModel, RePoseDMVAE, keep_keys
from .host.sockets import AlignerSocket, EstimatorSocket, LoadedAligner, LoadedEstimator, PoseKeypoint


def load_checkpoint(
    path: str | PathLike, plain: bool = False
) -> tuple[ModelPatcher, RePoseDMVAE, LoadedAligner, LoadedEstimator]:
    """MODEL, VAE, REPOSEDM_ALIGNER and POSE_ESTIMATOR of a checkpoint; `plain` is `host.patchers.in_patcher`'s.

    Raises:
        InputError: it is no RePoseDM checkpoint.
    """
    # Weights made under ComfyUI's inference mode could not be back-propagated through by the guidance.
    with torch.inference_mode(False):
        networks = load_networks(path)
        config = networks.config
        model = keep_keys(in_patcher(RePoseDMModel(config, networks.autoencoder, networks.denoiser), plain))
        aligner = in_patcher(
            ConditioningNetworks(networks.aligner, networks.denoiser, networks.tiny, networks.parser, networks.layout),
            plain,
            whole=True,
        )
        estimator = in_patcher(networks.estimator, plain, whole=True)
        vae = RePoseDMVAE(networks.autoencoder, plain, networks.tiny)
        decoder = None
        if networks.decoder is not None:
            decoder = in_patcher(interruptible(networks.decoder), plain, whole=True)
    found = LoadedEstimator(estimator, *config.network_size)
    loaded = model, vae, LoadedAligner(aligner, config, found, decoder), found
    for index, patcher in enumerate(patchers_of(*loaded)):
        patcher.cached_patcher_init = (load_patchers, (path,), index)
    return loaded


def load_patchers(path: str | PathLike, disable_dynamic: bool = False) -> list[ModelPatcher]:
    """The patchers of `load_checkpoint`, for the host, which reads a model again where it needs a second one."""
    return patchers_of(*load_checkpoint(path, plain=disable_dynamic))


def patchers_of(
    model: ModelPatcher, vae: RePoseDMVAE, aligner: LoadedAligner, estimator: LoadedEstimator
) -> list[ModelPatcher]:
    """All patchers of a checkpoint, in one order."""
    decoder = [] if aligner.decoder is None else [aligner.decoder]
    return [model, vae.patcher, aligner.patcher, estimator.patcher, *decoder]


class RePoseDMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = folders.checkpoint_names()
        return io.Schema(
            node_id="RePoseDMLoader",
            display_name="RePoseDM Loader",
            category="RePoseDM/loaders",
            description="Loads a RePoseDM checkpoint: the diffusion model, its VAE, the recurrent pose aligner and the "
            "pose estimator. The small one that comes with the pack runs on a CPU.",
            search_aliases=["pose transfer", "load reposedm", "person image", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=names,
                    default=SHIPPED.name if SHIPPED.name in names else None,
                    tooltip="A RePoseDM file in models/reposedm, or the one that comes with the pack (reposedm-mini).",
                )
            ],
            outputs=[
                io.Model.Output("model", tooltip="The diffusion model, for RePoseDM KSampler or any other sampler."),
                io.Vae.Output(
                    "vae",
                    tooltip="Its VAE (16 channels), for RePoseDM Decode, VAE Decode and the other RePoseDM nodes.",
                ),
                AlignerSocket.Output(
                    "aligner", tooltip="For Recurrent Pose Aligner, RePoseDM Decode and Garment Transfer."
                ),
                EstimatorSocket.Output("pose_estimator", tooltip="For Estimate Pose and pose field guidance."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        return folders.problem(folders.checkpoint_path, checkpoint)

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None) -> int | str:
        if checkpoint is None:  # another node supplies it
            return "linked"
        return folders.last_change(folders.checkpoint_path(checkpoint))

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        return io.NodeOutput(*load_checkpoint(folders.checkpoint_path(checkpoint)))


class RePoseDMExample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMExample",
            display_name="RePoseDM Example",
            category="RePoseDM",
            description="A synthetic person the shipped model has never seen, a pose for them, and how they really "
            "look in it: to try the pack without a file of your own.",
            search_aliases=["sample picture", "test person", "demo"],
            inputs=[io.Combo.Input("example", options=folders.example_names(), tooltip="Which person.")],
            outputs=[
                io.Image.Output("source", tooltip="The person, for Recurrent Pose Aligner."),
                PoseKeypoint.Output("pose", tooltip="The target pose."),
                io.Image.Output("target", tooltip="The same person in the target pose: the true answer."),
                io.Mask.Output("mask", tooltip="White on the clothes of the source picture, for Garment Transfer."),
                PoseKeypoint.Output(
                    "source_pose", tooltip="The pose of the source picture, for Recurrent Pose Aligner."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, example: str | None) -> bool | str:
        if example is None or example in folders.example_names():
            return True
        return f"there is no example {quoted(example)}; choose one of the list."

    @classmethod
    def execute(cls, example: str) -> io.NodeOutput:
        if example not in folders.example_names():
            raise InputError(f"example: there is no example {quoted(example)}; choose one of the list.")
        source, target = (to_comfy(to_image(folders.EXAMPLES / f"{example}{end}.png")) for end in ("", "_target"))
        pose, own = (
            to_keypoints(load_pose_file(folders.EXAMPLES / f"{example}_{end}.json")) for end in ("pose", "source")
        )
        mask = to_mask(read_mask(folders.EXAMPLES / f"{example}_mask.png")[:, 0])
        return io.NodeOutput(source, pose, target, mask, own)
