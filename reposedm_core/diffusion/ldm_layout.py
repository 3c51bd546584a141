"""Stable Diffusion 2.1's networks under the names of LDM's checkpoints: public single files and HumanSD have them.

Diffusers and transformers convert from that layout (`unet_weights`, `kl_weights`); here is the way back, for export.
Every function takes a state dict in today's names and returns one that is to be prefixed by `PREFIXES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import AutoencoderConfig, DenoiserConfig
from ..errors import InputError, shortened

PREFIXES = {
    "denoiser": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "text": "cond_stage_model.model.",
}
"""What stands before the keys of each network in a checkpoint; the text encoder is OpenCLIP's."""

RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
UNET = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
VAE = {
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    "conv_norm_out.": "norm_out.",
    "conv_shortcut.": "nin_shortcut.",
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
    # what the attention's layers were called in diffusers before 0.13
    "query.": "q.",
    "key.": "k.",
    "value.": "v.",
    "proj_attn.": "proj_out.",
}
TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
    "self_attn.": "attn.",
    "final_layer_norm.": "ln_final.",
}


def renamed(key: str, names: Mapping[str, str]) -> str:
    """`key` with every part that `names` knows replaced."""
    for new, old in names.items():
        key = key.replace(new, old)
    return key


def unet_blocks(config: DenoiserConfig) -> Iterator[tuple[str, str]]:
    """(diffusers' prefix, LDM's prefix) of every block on the way down and up: LDM counts them through all levels."""
    each = config.layers + 1
    for level, attends in enumerate(reversed(config.attention)):  # of the way up
        for i in range(each):
            if i < config.layers:
                yield f"down_blocks.{level}.resnets.{i}.", f"input_blocks.{level * each + i + 1}.0."
                yield f"down_blocks.{level}.attentions.{i}.", f"input_blocks.{level * each + i + 1}.1."
            yield f"up_blocks.{level}.resnets.{i}.", f"output_blocks.{level * each + i}.0."
            yield f"up_blocks.{level}.attentions.{i}.", f"output_blocks.{level * each + i}.1."
        yield f"down_blocks.{level}.downsamplers.0.conv.", f"input_blocks.{(level + 1) * each}.0.op."
        yield f"up_blocks.{level}.upsamplers.0.conv.", f"output_blocks.{level * each + each - 1}.{1 + attends}.conv."


def unet_to_ldm(state: Mapping[str, Tensor], config: DenoiserConfig) -> dict[str, Tensor]:
    """The U-Net: diffusers' names (`UNet2DConditionModel`) → LDM's, values untouched."""
    blocks = {**UNET, **dict(unet_blocks(config))}
    out = {}
    for key, value in state.items():
        name = next((old + key.removeprefix(new) for new, old in blocks.items() if key.startswith(new)), key)
        out[renamed(name, RESNET) if ".resnets." in key else name] = value
    return out


def vae_to_ldm(state: Mapping[str, Tensor], config: AutoencoderConfig) -> dict[str, Tensor]:
    """The autoencoder: diffusers' names (`AutoencoderKL`) → LDM's, whose attention has 1×1 convolutions."""
    names, last = dict(VAE), len(config.widths) - 1
    for level in range(last + 1):
        names |= {
            f"encoder.down_blocks.{level}.resnets.": f"encoder.down.{level}.block.",
            f"encoder.down_blocks.{level}.downsamplers.0.": f"encoder.down.{level}.downsample.",
            f"decoder.up_blocks.{level}.resnets.": f"decoder.up.{last - level}.block.",
            f"decoder.up_blocks.{level}.upsamplers.0.": f"decoder.up.{last - level}.upsample.",
        }
    return {
        renamed(key, names): value[:, :, None, None] if ".attentions." in key and value.ndim == 2 else value
        for key, value in state.items()
    }


def text_to_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder: transformers' names (`CLIPTextModel`) → OpenCLIP's, which keeps query, key and value in one.

    Stable Diffusion 2.1 reads the last layer but one, and transformers' folder leaves the last one out. Loaders of
    LDM's layout build all layers, so the last is written twice; what it computes is not read.
    """
    state = {key.removeprefix("text_model."): value for key, value in state.items() if "position_ids" not in key}
    out = {}
    for key, value in state.items():
        if ".q_proj." in key:
            joint = torch.cat([state[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            out[renamed(key, {**TEXT, "q_proj.": "in_proj_"})] = joint
        elif ".k_proj." not in key and ".v_proj." not in key:
            out[renamed(key, TEXT)] = value
    block = "transformer.resblocks."
    depth = 1 + max(int(key.split(".")[2]) for key in out if key.startswith(block))
    last = f"{block}{depth - 1}."
    return out | {
        key.replace(last, f"{block}{depth}."): value.clone() for key, value in out.items() if key.startswith(last)
    }


def converted(
    convert: Callable[..., dict[str, Tensor | None]], state: dict[str, Tensor], config: dict[str, Any]
) -> dict[str, Tensor]:
    """What one of diffusers' converters of LDM's layout makes of a checkpoint; weights that it misses are missing.

    Raises:
        InputError: it stumbles over names or shapes that no such network has.
    """
    try:
        return {key: value for key, value in convert(state, config).items() if value is not None}
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint: its weights are not those of Stable Diffusion ({shortened(repr(error))}); download it again."
        ) from error


def text_from_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `text_to_ldm`: OpenCLIP's names → transformers', without the last layer, which is not read.

    Args:
        state: a checkpoint's weights; keys without the text encoder's prefix are passed over, and the result is empty
            where there are none.
    """
    prefix, block = PREFIXES["text"], "transformer.resblocks."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    depth = max((int(key.split(".")[2]) for key in own if key.startswith(block)), default=0)
    unread = ("text_projection", "logit_scale", f"{block}{depth}.")
    back, out = {old: new for new, old in TEXT.items()}, {}
    for key, value in own.items():
        name = renamed(key, back)
        if key.startswith(unread):
            continue
        if "in_proj_" in key:
            for part, share in zip("qkv", value.chunk(3), strict=True):
                out[name.replace("in_proj_", f"{part}_proj.")] = share
        else:
            out[name] = value
    return out
