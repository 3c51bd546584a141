"""RePoseSD Loader: Stable Diffusion 2.1 with the pose latent beside the noise latent (eq. 17)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

from ..reposedm_core import InputError, ModelConfig
from ..reposedm_core.checkpoint import UNREADABLE, read_header
from ..reposedm_core.checkpoint import read_weights as read_pickle
from ..reposedm_core.config import from_dict
from ..reposedm_core.errors import quoted
from ..reposedm_core.files import reason
from ..reposedm_core.fitting import check_finite, check_fit
from ..reposedm_core.reposesd.diffusers_folder import MARK, read_folder
from ..reposedm_core.reposesd.network import KIND, V_PREDICTION
from .host import folders
from .host.field_presets import SAYS
from .host.patchers import in_patcher
from .host.reposesd_model import HABITS, HUMANSD, OWN, RePoseSDModel, with_narrow_patches

FOLDERS = ("checkpoints", folders.MODELS)
DIFFUSERS = ("diffusers", folders.MODELS)
DEPTH = 4
"""How far below its model folder a folder of diffusers is looked for."""
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
"""Prefixes of the parts in an LDM checkpoint."""
UNREAD = ("attn_mask", "position_ids", "num_batches_tracked")
"""Weights that are none: the mask, which is infinite where it hides a word, is as little read as the numbers are."""

OTHERS = (
    (
        "another kind of diffusion model",
        "Load Checkpoint or Load Diffusion Model",
        (
            "joint_blocks.0.x_block.attn.qkv.weight",
            "double_blocks.0.img_attn.qkv.weight",
            "blocks.0.self_attn.q.weight",
        ),
    ),
    (
        "a LoRA",
        "Load LoRA, behind this loader,",
        ("lora_up.weight", "lora_down.weight", "lora.up.weight", "lora_A.weight", ".hada_w1_a", ".lokr_w1"),
    ),
    (
        "a ControlNet",
        "Load ControlNet Model",
        ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"),
    ),
    ("a VAE", "Load VAE", ("decoder.conv_in.weight", "taesd_decoder.1.weight")),
    (
        "the U-Net of a folder of diffusers",
        "the whole folder, in models/diffusers,",
        ("down_blocks.0.resnets.0.conv1.weight", "unet.conv_in.weight"),
    ),
    ("a text encoder", "Load CLIP", ("encoder.layers.0.mlp.fc1.weight", "transformer.resblocks.0.ln_1.weight")),
    (
        "a pose estimator",
        "Pose Estimator Loader",
        ("stage2.0.branches.0.0.conv1.weight", "keypoint_head.final_layers.0.weight", "patch_embed.proj.weight"),
    ),
)
"""What else people choose: what it is, what to use for it, and how the name of one of its weights ends."""


def load_checkpoint(path: Path, plain: bool = False) -> tuple[ModelPatcher, comfy.sd.CLIP | None, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of a file or a folder of diffusers; see `from_weights`. `plain` as in `in_patcher`.

    Raises:
        InputError: it is a checkpoint of another kind, or cannot be read, or weights of its U-Net are missing.
    """
    model, clip, vae = from_weights(read_weights(path), path.name, plain)
    model.cached_patcher_init = (load_model, (path,))
    if getattr(vae, "patcher", None) is not None:  # a file of the U-Net alone has none
        vae.patcher.cached_patcher_init = (load_vae, (path,))
    own = has_header(path, KIND)
    setattr(vae, HABITS, OWN if own else HUMANSD)
    if own:
        setattr(model.model, SAYS, from_dict(ModelConfig, read_header(path, KIND)["config"], path.name).field)
    return model, clip, vae


def from_weights(
    state: dict[str, torch.Tensor], name: str, plain: bool = False
) -> tuple[ModelPatcher, comfy.sd.CLIP | None, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of weights in LDM's layout with 8 input channels; takes the U-Net's out of `state`.

    Raises:
        InputError: see `load_checkpoint`; it speaks of `name`.
    """
    check_kind(state, name)
    network = build_model(state, name)
    check_sound(state, name)
    model = with_narrow_patches(in_patcher(network, plain))
    # On a device with streamed weights the host wants its tensors taken over as they are, not copied.
    network.load_model_weights(state, UNET, **({"assign": True} if getattr(model, "is_dynamic", bool)() else {}))
    text = comfy.utils.state_dict_prefix_replace(state, {TEXT: ""}, filter_keys=True)
    with said_of(f"checkpoint: the text encoder of {name}"):
        clip = (
            comfy.sd.load_text_encoder_state_dicts(
                [text], embedding_directory=folder_paths.get_folder_paths("embeddings")
            )
            if text
            else None
        )
    with said_of(f"checkpoint: the VAE of {name}"):
        return model, clip, build_vae(state)


@contextmanager
def said_of(what: str) -> Iterator[None]:
    """What the host's readers raise on weights that they cannot use, as an `InputError` that names them."""
    try:
        yield
    except management.OOM_EXCEPTION:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be used ({reason(error)}); download it again.") from error


def check_sound(state: dict[str, torch.Tensor], name: str) -> None:
    """Raise an `InputError` that names a weight which is NaN, infinite or no floating number, of any of the parts."""
    parts = {
        key: value for key, value in state.items() if key.startswith((UNET, VAE, TEXT)) and not key.endswith(UNREAD)
    }
    whole = next((key for key in parts if key.startswith((VAE, TEXT)) and not parts[key].is_floating_point()), None)
    if whole:
        raise InputError(
            f"checkpoint: {name} stores {quoted(whole)} as {parts[whole].dtype}, no floating number; it "
            "is damaged: download it again."
        )
    check_finite(parts, f"checkpoint: {name}")


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
        dtype = management.unet_dtype(
            model_params=parameters, supported_dtypes=kinds, weight_dtype=comfy.utils.weight_dtype(state, UNET)
        )
        config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, kinds))
        kind = comfy.model_base.ModelType.V_PREDICTION if V_PREDICTION in state else comfy.model_base.ModelType.EPS
        network = RePoseSDModel(config, kind, management.unet_inital_load_device(parameters, dtype))
        own = network.diffusion_model.state_dict()
        problem = min((key for key in own if UNET + key not in state), default=None)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        problem = reason(error)  # sizes that make no network
    if problem:
        raise InputError(
            f"checkpoint: {name} lacks weights of its Stable Diffusion U-Net ({problem}); download it again."
        )
    check_fit(
        network.diffusion_model,
        {key: state[UNET + key] for key in own},
        f"checkpoint: {name}",
        {key: UNET + key for key in own},
    )
    return network


def load_model(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """The MODEL alone, for the host, which reads a model again where it needs a second one."""
    return load_checkpoint(path, plain=disable_dynamic)[0]


def load_vae(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """The patcher of the VAE alone, for the host; it takes over the network and does not need a plain patcher."""
    return build_vae(read_weights(path)).patcher


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """State dict in LDM's layout of a .safetensors or .ckpt file or a folder of diffusers; nothing in it is run."""
    if path.is_dir():
        return read_folder(path)
    try:
        if path.suffix.lower() in (".safetensors", ".sft"):  # the host has ways of its own to read them
            state = comfy.utils.load_torch_file(str(path), safe_load=True)
        else:
            state = read_pickle(path)
    except InputError as error:
        raise InputError(f"checkpoint: {error}") from error
    except UNREADABLE as error:
        raise InputError(
            f"checkpoint: {path.name} is no readable weights file ({reason(error)}); download it again."
        ) from error
    if "input_blocks.0.0.weight" in state:  # the U-Net alone
        return {UNET + key: value for key, value in state.items()}
    return state


def check_kind(state: dict[str, torch.Tensor], name: str) -> None:
    """Raise an `InputError` that names the right loader unless it has a U-Net of Stable Diffusion 2 with 8 inputs."""
    first = state.get(UNET + "input_blocks.0.0.weight")
    if first is None:
        kinds = (
            f"checkpoint: {name} is no Stable Diffusion checkpoint but {kind}; use {loader} for it."
            for kind, loader, ends in OTHERS
            if any(key.endswith(ends) for key in state)
        )
        raise InputError(
            next(
                kinds,
                f"checkpoint: {name} is no Stable Diffusion checkpoint in LDM layout; RePoseSD "
                "Loader takes HumanSD-like files: Stable Diffusion 2.1 with 8 input channels.",
            )
        )
    if first.ndim != 4:
        raise InputError(
            f"checkpoint: the first convolution of {name} has shape {tuple(first.shape)}; the file is "
            "damaged: download it again."
        )
    if first.shape[1] != 8:
        raise InputError(
            f"checkpoint: {name} has {first.shape[1]} input channels, RePoseSD has 8 (noise and pose "
            "latent); use Load Checkpoint (for a folder, Load Diffusers Model) instead."
        )
    # Stable Diffusion 1 enters its transformers by convolutions, Stable Diffusion XL embeds the picture's size.
    version = (
        "1"
        if any(
            key.endswith(".proj_in.weight") and value.ndim == 4 for key, value in state.items() if key.startswith(UNET)
        )
        else "XL"
        if UNET + "label_emb.0.0.weight" in state
        else None
    )
    if version:
        raise InputError(
            f"checkpoint: {name} is Stable Diffusion {version} with 8 input channels, such as "
            "InstructPix2Pix, and RePoseSD is Stable Diffusion 2.1; use Load Checkpoint for this file."
        )


def diffusers_folders() -> dict[str, Path]:
    """Folders of diffusers in models/diffusers and models/reposedm, by their names, which end in a slash."""
    found: dict[str, Path] = {}
    for root in (Path(root) for kind in DIFFUSERS for root in folder_paths.get_folder_paths(kind)):
        for place, below, _ in os.walk(root, followlinks=True):
            path = Path(place)
            depth = len(path.relative_to(root).parts)
            if depth and (path / MARK).is_file():
                found.setdefault(f"{path.relative_to(root).as_posix()}/", path)
                below.clear()
            elif depth == DEPTH:  # links may go round in circles
                below.clear()
    return found


def weights_path(name: str) -> Path:
    """The file or folder of that name in the list of RePoseSD Loader.

    Raises:
        InputError: it is not in the list; a path that leads out of the model folders never is.
    """
    if not name.endswith("/"):
        return folders.checkpoint_path(name, *FOLDERS)
    path = diffusers_folders().get(name)
    if path is None:
        raise InputError(
            f"checkpoint: there is no folder {quoted(name)} with unet/config.json in models/diffusers or "
            "models/reposedm; put it there, press R to refresh, and choose it from the list."
        )
    return path


class RePoseSDLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReposeSDLoader",  # where files are missing, the page makes words of it
            display_name="RePoseSD Loader",
            category="RePoseDM/loaders",
            description="Loads Stable Diffusion 2.1 with a pose input of four more channels, such as HumanSD. Stock "
            "ComfyUI takes such a file for an inpainting model and cannot run it.",
            search_aliases=["HumanSD", "load reposesd", "pose stable diffusion", "8 channels", "diffusers folder"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[*folders.checkpoint_names(*FOLDERS), *sorted(diffusers_folders())],
                    tooltip="A checkpoint with 8 input channels: RePoseSD or HumanSD in models/checkpoints or "
                    "models/reposedm, or a folder of diffusers (its name ends in a slash) in models/diffusers or "
                    "models/reposedm. RePoseDM's own files belong into RePoseDM Loader.",
                )
            ],
            outputs=[
                io.Model.Output("model", tooltip="For KSampler. Without a pose in the conditioning it gets none."),
                io.Clip.Output("clip", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output("vae", tooltip="Its VAE, for RePoseSD Conditioning and VAE Decode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None) -> bool | str:
        return folders.problem(weights_path, checkpoint)

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None) -> int | str:
        if checkpoint is None:  # another node supplies it
            return "linked"
        return folders.last_change(weights_path(checkpoint), "*/*")

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        path = weights_path(checkpoint)
        if has_header(path):
            raise InputError(f"checkpoint: {path.name} is a RePoseDM model; use RePoseDM Loader.")
        return io.NodeOutput(*load_checkpoint(path))


class FormerRePoseSDLoader(RePoseSDLoader):
    """The same under the id that saved graphs have; the search leaves it out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = super().define_schema()
        schema.node_id, schema.is_deprecated = "RePoseDMSDLoader", True
        return schema


def has_header(path: Path, kind: str = "reposedm") -> bool:
    """Does the file carry a header of ours, of this kind?"""
    try:
        return bool(read_header(path, kind))
    except InputError:
        return False
