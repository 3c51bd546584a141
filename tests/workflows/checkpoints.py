"""Checkpoints with random weights in the layout of public files, small where the host does not want a fixed size."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

SD15, HUMANSD = "v1-5-pruned-emaonly-fp16.safetensors", "humansd-v1.ckpt"
EDITS = (
    "diffusion_models/flux-2-klein-4b-fp8.safetensors",
    "text_encoders/qwen_3_4b.safetensors",
    "vae/flux2-vae.safetensors",
)
"""For the page's lists alone, and empty: the text encoder has one size, and that is 8 GB."""
UNET = {
    "image_size": 32,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "legacy": False,
}


def write(models: Path) -> list[Path]:
    """The files that the workflows ask for, in a model folder: Stable Diffusion 1.5, HumanSD, and names of others."""
    folder = models / "checkpoints"
    for path in (folder / SD15, *(models / name for name in EDITS)):
        path.parent.mkdir(exist_ok=True)
    for name in EDITS:
        save_file({"none": torch.zeros(1)}, models / name)
    generator = torch.Generator().manual_seed(0)
    text, vae = clip(generator), tiny_vae(generator)
    stock = {
        **prefixed("model.diffusion_model.", unet(generator, 4)),
        **prefixed("first_stage_model.", vae),
        **prefixed("cond_stage_model.transformer.", text),
    }
    save_file(stock, folder / SD15)
    # HumanSD's own text encoder has three times the weights: the loader takes the one that there is.
    posed = {
        **prefixed("model.diffusion_model.", unet(generator, 8)),
        **prefixed("first_stage_model.", vae),
        **prefixed("cond_stage_model.model.", text),
    }
    torch.save({"state_dict": posed}, folder / HUMANSD)
    return [folder / SD15, folder / HUMANSD, *(models / name for name in EDITS)]


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def scattered(shapes: dict[str, torch.Size], generator: torch.Generator, scale: float) -> dict[str, torch.Tensor]:
    """Random values; norms scale by about 1."""
    return {
        key: scale * torch.randn(shape, generator=generator) + (len(shape) == 1 and key.endswith("weight"))
        for key, shape in shapes.items()
    }


def unet(generator: torch.Generator, channels: int) -> dict[str, torch.Tensor]:
    """A U-Net of one level, as wide as Stable Diffusion's, because the host knows it by that.

    With 4 channels in it is Stable Diffusion 1's, its projections convolutions and 8 heads; with 8 it is 2's.
    """
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    heads = {"num_heads": 8} if channels == 4 else {"num_head_channels": 64}
    with torch.device("meta"):
        network = UNetModel(
            **UNET,
            **heads,
            in_channels=channels,
            use_linear_in_transformer=channels == 8,
            operations=comfy.ops.disable_weight_init,
        )
    return scattered({key: value.shape for key, value in network.state_dict().items()}, generator, 0.03)


def clip(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """CLIP-L's text encoder in its one size; its layers pass on what comes in, so that little has to be drawn."""
    import comfy.ops
    from comfy.clip_model import CLIPTextModel

    config = {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }
    with torch.device("meta"):
        network = CLIPTextModel(config, torch.float16, None, comfy.ops.disable_weight_init)
    shapes = {key: value.shape for key, value in network.state_dict().items() if "text_projection" not in key}
    state = {
        key: torch.ones(shape, dtype=torch.float16)
        if "norm" in key and key.endswith("weight")
        else torch.zeros(shape, dtype=torch.float16)
        for key, shape in shapes.items()
    }
    for key, value in state.items():
        if "embeddings" in key:
            value.copy_(torch.randn(value.shape, generator=generator))
    return state


def tiny_vae(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The host's smallest VAE of Stable Diffusion."""
    from comfy.taesd.taesd import TAESD

    shapes = {key: value.shape for key, value in TAESD().state_dict().items()}
    state = scattered(shapes, generator, 0.06)
    return {**state, **{key: torch.ones(()) for key in state if key.startswith("vae_")}}
