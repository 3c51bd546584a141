"""Tiny models of every family of picture models, by the host's own classes and with random weights."""

from __future__ import annotations

from typing import Any

import torch

TOKENS, SIDE = 8, (8, 6)
"""Tokens of a text, and the latent's height and width."""

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "legacy": False,
    "context_dim": 32,
}
SDXL = {**UNET, "use_linear_in_transformer": True, "adm_in_channels": 2816, "num_classes": "sequential"}
FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 16,
    "context_in_dim": 32,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
    "image_model": "flux",
}
FLUX2 = {
    **FLUX,
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [4, 4, 4, 4],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "image_model": "flux2",
}
SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "depth": 1,
    "pos_embed_scaling_factor": None,
    "pos_embed_max_size": 32,
    "num_patches": 1024,
    "adm_in_channels": 1280,
    "context_size": 32,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 64}},
}
QWEN = {
    "image_model": "qwen_image",
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}
AURA = {
    "in_channels": 4,
    "patch_size": 2,
    "dim": 32,
    "n_layers": 2,
    "n_double_layers": 1,
    "n_heads": 2,
    "global_conddim": 32,
    "cond_seq_dim": 32,
    "max_seq": 64,
}
V_PREDICTION = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.linspace(-1, 1, 8)}
"""The weight by which the host knows Stable Diffusion 2.1's v-prediction."""

FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, torch.Tensor], str]] = {
    "SD 1.5": ("SD15", {**UNET, "use_linear_in_transformer": False}, {}, "EPS"),
    "SD 2.1": ("SD20", {**UNET, "use_linear_in_transformer": True}, V_PREDICTION, "V_PREDICTION"),
    "SDXL": ("SDXL", SDXL, {}, "EPS"),
    "SDXL v": ("SDXL", SDXL, {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, "V_PREDICTION"),
    "AuraFlow": ("AuraFlow", AURA, {}, "FLOW"),
    "SD 3": ("SD3", SD3, {}, "FLOW"),
    "Flux": ("Flux", FLUX, {}, "FLUX"),
    "Flux 2": ("Flux2", FLUX2, {}, "FLUX"),  # as Klein; 128 channels of 16 × 16 pixels
    "Qwen Image": ("QwenImage", QWEN, {}, "FLUX"),  # latents (B, C, 1, h, w)
}
"""Class of the host's, sizes, marks in the checkpoint, and the kind of prediction that it must be."""


def build(family: str) -> Any:
    """A ModelPatcher of the family, its weights random and such that what it predicts is about as large as noise."""
    import comfy.model_management as management
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    kind, sizes, marks, prediction = FAMILIES[family]
    config = getattr(comfy.supported_models, kind)(sizes)
    config.set_inference_dtype(torch.float32, None)
    with torch.inference_mode():  # as the host's loaders do
        model = config.get_model(marks)
        randomise(model.diffusion_model)
    assert model.model_type.name == prediction
    return ModelPatcher(model, management.get_torch_device(), management.unet_offload_device())


def randomise(network: torch.nn.Module, scale: float = 0.05) -> None:
    """Random weights from one seed; norms scale by about 1. So are SD 3's positions, a buffer that only a checkpoint
    fills: until then it holds whatever lay in memory."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, positions in network.named_buffers():
            if name == "pos_embed":
                positions.copy_(scale * torch.randn(positions.shape, generator=torch.Generator().manual_seed(1)))
        for name, weight in network.named_parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
            if weight.ndim == 1 and name.endswith("weight"):
                weight += 1


def conditioning(model: Any, seed: int = 1) -> list:
    """A CONDITIONING that the family's network takes."""
    sizes = model.model.model_config.unet_config
    names = ("context_dim", "context_in_dim", "cond_seq_dim", "joint_attention_dim", "context_size")
    width = next(sizes[name] for name in names if name in sizes)
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, sizes.get("vec_in_dim") or 1280, generator=generator)
    return [[torch.randn(1, TOKENS, width, generator=generator), {"pooled_output": pooled}]]


def vae(model: Any) -> Any:
    """A VAE for the family's latents: a small one of the host's, loaded as its own loader does."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.wan.vae import WanVAE

    kind = model.model.latent_format
    channels = kind.latent_channels
    if kind.latent_dimensions == 3:
        network = WanVAE(dim=16, z_dim=channels, attn_scales=[], temperal_downsample=[False, True, True])
        randomise(network)
        with torch.inference_mode():
            return comfy.sd.VAE(sd=network.state_dict())
    folded = kind.spacial_downscale_ratio == 16  # two by two cells are one, their channels side by side
    planes = channels // 4 if folded else channels
    params = {
        "embed_dim": planes,
        "ddconfig": {
            "double_z": True,
            "z_channels": planes,
            "resolution": 64,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 1, 2, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
            **({"batch_norm_latent": True} if folded else {}),
        },
    }
    network = AutoencoderKL(**params)
    randomise(network)
    with torch.inference_mode():
        found = comfy.sd.VAE(sd=network.state_dict(), config={"params": params})
    found.latent_channels = channels  # which the host sees by the weights of VAEs in full size
    found.downscale_ratio = found.upscale_ratio = kind.spacial_downscale_ratio
    return found


def sample(
    model: Any,
    steps: int = 3,
    sampler: str = "euler",
    scheduler: str = "normal",
    cfg: float = 2.0,
    batch: int = 1,
    positive: list | None = None,
    **options: Any,
) -> torch.Tensor:
    """The latent of a run, of one seed, as the host's KSampler makes it."""
    import comfy.sample

    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(batch, 4, *SIDE))
    noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            scheduler,
            positive or conditioning(model),
            conditioning(model, 2),
            empty,
            disable_pbar=True,
            seed=3,
            **options,
        )
