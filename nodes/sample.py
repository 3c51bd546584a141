"""RePoseDM KSampler: ComfyUI's own sampling with the settings that suit RePoseDM."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from comfy_api.latest import io

from ..reposedm_core import PRESETS


class RePoseDMKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        preset = PRESETS["mini"]
        return io.Schema(
            node_id="RePoseDMKSampler",
            display_name="RePoseDM KSampler",
            category="RePoseDM",
            description="Samples the person in the new pose. It is ComfyUI's own sampling with the settings that were "
                        "measured best for RePoseDM as defaults; any other sampler node works, too.",
            search_aliases=["sampler", "denoise", "pose transfer"],
            inputs=[
                io.Model.Input("model", tooltip="From RePoseDM Loader, or through Pose Interaction Field Guidance."),
                io.Conditioning.Input("positive", tooltip="From Recurrent Pose Aligner."),
                io.Conditioning.Input("negative", tooltip="From Recurrent Pose Aligner."),
                io.Latent.Input("latent", tooltip="From Recurrent Pose Aligner, or an encoded picture to start from."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                             tooltip="The noise to start from: the same seed gives the same picture."),
                io.Int.Input("steps", default=preset.steps, min=1, max=1000,
                             tooltip="Denoising steps. RePoseDM needs few."),
                io.Float.Input("cfg", display_name="w_c", default=preset.guidance_scale, min=0.0, max=30.0, step=0.1,
                               tooltip="Classifier-free guidance, w_c of the paper's eq. 16: how strongly pose and "
                                       "person are followed. 1 is off and twice as fast."),
                io.Combo.Input("sampler_name", options=comfy.samplers.SAMPLER_NAMES, default="ddim",
                               tooltip="The sampling algorithm. ddim gives the pictures of the Python pipeline."),
                io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple",
                               tooltip="How the steps are spread over the noise levels. simple is the pipeline's."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="1 starts from noise alone, less keeps so much of the latent that came in."),
            ],
            outputs=[io.Latent.Output("latent", tooltip="For VAE Decode with the VAE of RePoseDM Loader.")],
        )

    @classmethod
    def execute(cls, model: Any, positive: list, negative: list, latent: dict, seed: int, steps: int, cfg: float,
                sampler_name: str, scheduler: str, denoise: float) -> io.NodeOutput:
        latent = latent.copy()
        start = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
        latent["samples"] = comfy.sample.sample(
            model, noise, steps, cfg, sampler_name, scheduler, positive, negative, start, denoise=denoise,
            noise_mask=latent.get("noise_mask"), callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed)
        return io.NodeOutput(latent)
