"""RePoseSD Loader: Stable Diffusion 2.1 with the pose latent beside the noise latent (eq. 17)."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import comfy.model_base
import comfy.model_detection
import comfy.model_management as management
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from safetensors import SafetensorError

from ..reposedm_core import InputError
from ..reposedm_core.checkpoint import read_header
from ..reposedm_core.diffusion.reposesd import V_PREDICTION
from . import folders
from .bridge import in_patcher

FOLDERS = ("checkpoints", folders.MODELS)
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
"""Prefixes of the parts in an LDM checkpoint."""

POSE_LATENT = "reposedm_pose_latent"
"""Key of a CONDITIONING under which E(P) lies: a latent (B, 4, h, w) of the model's VAE."""


class RePoseSDModel(comfy.model_base.BaseModel):
    """Stable Diffusion whose input is [z_t, E(P)]: four channels of noise latent and four of pose latent."""

    def concat_cond(self, **kwargs: Any) -> torch.Tensor:
        """E(P) of the conditioning, as large as the noise; zeros, the null condition, where there is none."""
        noise, latent = kwargs["noise"], kwargs.get(POSE_LATENT)
        if latent is None:
            return torch.zeros_like(noise, device=kwargs["device"])
        latent = comfy.utils.common_upscale(latent, noise.shape[-1], noise.shape[-2], "bilinear", "center")
        return self.process_latent_in(comfy.utils.resize_to_batch_size(latent, len(noise))).to(kwargs["device"])


def load_checkpoint(path: Path, plain: bool = False) -> tuple[ModelPatcher, comfy.sd.CLIP | None, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of an LDM checkpoint with 8 input channels, HumanSD's layout; `plain` as in `in_patcher`.

    Raises:
        InputError: it is a checkpoint of another kind, or cannot be read, or weights of its U-Net are missing.
    """
    state = read_weights(path)
    check_kind(state, path.name)
    network = build_model(state, path.name)
    model = in_patcher(network, plain)
    # On a device with streamed weights the host wants its tensors taken over as they are, not copied.
    network.load_model_weights(state, UNET, **({"assign": True} if getattr(model, "is_dynamic", bool)() else {}))
    model.cached_patcher_init = (load_model, (path,))
    text = comfy.utils.state_dict_prefix_replace(state, {TEXT: ""}, filter_keys=True)
    clip = comfy.sd.load_text_encoder_state_dicts(
        [text], embedding_directory=folder_paths.get_folder_paths("embeddings")) if text else None
    vae = build_vae(state)
    if getattr(vae, "patcher", None) is not None:   # a file of the U-Net alone has none
        vae.patcher.cached_patcher_init = (load_vae, (path,))
    return model, clip, vae


def build_vae(state: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """The VAE of an LDM checkpoint; without a patcher where the checkpoint holds none."""
    return comfy.sd.VAE(sd=comfy.utils.state_dict_prefix_replace(state, {VAE: ""}, filter_keys=True))


def build_model(state: dict[str, torch.Tensor], name: str) -> RePoseSDModel:
    """The model whose sizes the weights tell, on the device the host wants it on, still without the weights.

    Raises:
        InputError: the weights are not those of a whole U-Net.
    """
    try:
        config = comfy.supported_models.SD20(comfy.model_detection.detect_unet_config(state, UNET))
        parameters = comfy.utils.calculate_parameters(state, UNET)
        device, kinds = management.get_torch_device(), config.supported_inference_dtypes
        dtype = management.unet_dtype(model_params=parameters, supported_dtypes=kinds,
                                      weight_dtype=comfy.utils.weight_dtype(state, UNET))
        config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, kinds))
        kind = comfy.model_base.ModelType.V_PREDICTION if V_PREDICTION in state else comfy.model_base.ModelType.EPS
        network = RePoseSDModel(config, kind, management.unet_inital_load_device(parameters, dtype))
        problem = min((key for key in network.diffusion_model.state_dict() if UNET + key not in state), default=None)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:   # sizes that make no network
        problem = str(error)
    if problem:
        raise InputError(f"checkpoint: {name} lacks weights of its Stable Diffusion U-Net ({problem}); download it "
                         "again.")
    return network


def load_model(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """The MODEL alone, for the host, which reads a model again where it needs a second one."""
    return load_checkpoint(path, plain=disable_dynamic)[0]


def load_vae(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """The patcher of the VAE alone, for the host; it takes over the network and does not need a plain patcher."""
    return build_vae(read_weights(path)).patcher


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """State dict of a .safetensors or .ckpt file; nothing in it is executed."""
    try:
        state = comfy.utils.load_torch_file(str(path), safe_load=True)
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, UnpicklingError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"checkpoint: {path.name} is no readable weights file ({reason}); download it again."
                         ) from error
    if not isinstance(state, dict):
        raise InputError(f"checkpoint: {path.name} holds no named weights; choose a Stable Diffusion checkpoint.")
    return state


def check_kind(state: dict[str, torch.Tensor], name: str) -> None:
    """Raise an `InputError` that names the right loader unless the U-Net has 8 input channels."""
    first = state.get(UNET + "input_blocks.0.0.weight")
    if first is None:
        raise InputError(f"checkpoint: {name} is no Stable Diffusion checkpoint in LDM layout; RePoseSD Loader takes "
                         "HumanSD-like files: Stable Diffusion 2.1 with 8 input channels.")
    if first.shape[1] != 8:
        raise InputError(f"checkpoint: {name} has {first.shape[1]} input channels, RePoseSD has 8 (noise and pose "
                         "latent); use Load Checkpoint for this file.")


class RePoseSDLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMSDLoader",
            display_name="RePoseSD Loader",
            category="RePoseDM",
            description="Loads Stable Diffusion 2.1 with a pose input of four more channels, such as HumanSD. Stock "
                        "ComfyUI takes such a file for an inpainting model and cannot run it.",
            search_aliases=["HumanSD", "load reposesd", "pose stable diffusion", "8 channels"],
            inputs=[io.Combo.Input(
                "checkpoint", options=folders.checkpoint_names(*FOLDERS),
                tooltip="A checkpoint with 8 input channels, HumanSD's layout, in models/checkpoints or "
                        "models/reposedm. RePoseDM's own files belong into RePoseDM Loader.")],
            outputs=[
                io.Model.Output("model", tooltip="For KSampler. Without a pose in the conditioning it gets none."),
                io.Clip.Output("clip", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output("vae", tooltip="Its VAE."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        return folders.problem(folders.checkpoint_path, checkpoint, *FOLDERS)

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        path = folders.checkpoint_path(checkpoint, *FOLDERS)
        if is_reposedm(path):
            raise InputError(f"checkpoint: {path.name} is a RePoseDM model; use RePoseDM Loader.")
        return io.NodeOutput(*load_checkpoint(path))


def is_reposedm(path: Path) -> bool:
    """Does the file carry a RePoseDM header?"""
    try:
        return bool(read_header(path))
    except InputError:
        return False
