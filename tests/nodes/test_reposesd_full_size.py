"""RePoseSD as large as it is: all weights of HumanSD-v1's layout, random values, from prompt and pose to a latent."""

from __future__ import annotations

import gc
import json
import math
import threading
import time

import psutil
import pytest
import torch

from reposedm_core.pose import load_pose_file, to_keypoints
from workflows.comfy_server import ROOT

LAYOUT = ROOT / "tests" / "fixtures" / "humansd" / "keys.json"
POSE = sorted((ROOT / "workflows" / "examples").glob("*_pose.json"))[0]
UNET = "model.diffusion_model."
SIZE, STEPS = 256, 2
GIB = 2**30


def random_weights():
    """Nothing of it lies on a disk, and little in memory: all tensors are windows of one row of random numbers."""
    shapes = json.loads(LAYOUT.read_text(encoding="utf-8"))
    row = 0.02 * torch.randn(max(map(math.prod, shapes.values())) + 1000, generator=torch.Generator().manual_seed(0))
    state = {}
    for place, (key, shape) in enumerate(shapes.items()):
        first = 7 * place % 1000
        norm = key.endswith("weight") and len(shape) == 1
        state[key] = torch.ones(shape) if norm else row[first : first + math.prod(shape)].view(shape)
    return state


class Peak(threading.Thread):
    """The most memory that this process holds while it runs, in GiB, and what it held before."""

    def __init__(self):
        super().__init__(daemon=True)
        self.process, self.done = psutil.Process(), threading.Event()
        self.before = self.most = self.process.memory_info().rss / GIB

    def run(self):
        while not self.done.wait(0.02):
            self.most = max(self.most, self.process.memory_info().rss / GIB)


@pytest.mark.slow
def test_the_866_million_parameters_sample_two_steps(pack, capsys):
    import comfy.model_management as management
    import comfy.sd

    gc.collect()
    peak, began, busy = Peak(), time.monotonic(), time.process_time()
    peak.start()
    try:
        with torch.inference_mode():
            model, clip, vae = pack.nodes.reposesd.from_weights(random_weights(), "humansd-v1")
            parameters = sum(weight.numel() for weight in model.model.diffusion_model.parameters())
            assert round(parameters / 1e6, 1) == 865.9
            kind = str(model.model.get_dtype()).removeprefix("torch.")
            loaded = time.monotonic() - began
            prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a dancer", "lowres")]
            assert prompts[0][0][0].shape == (1, 77, 1024) and prompts[0][0][0].isfinite().all()
            change = {
                "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(4096, 1),
                "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 1024),
            }
            other = comfy.sd.load_lora_for_models(model, clip, change, 1.0, 1.0)[1]
            told = other.encode_from_tokens_scheduled(other.tokenize("a dancer"))[0][0]
            assert not torch.equal(told, prompts[0][0][0]), "a LoRA of the text encoder applies"
            del clip, other
            pose = to_keypoints(load_pose_file(POSE))
            positive, negative, latent, skeleton = pack.nodes.reposesd_conditioning.RePoseSDConditioning.execute(
                *prompts, vae, pose, SIZE, SIZE, 1.0, 0.0, 1.0, "auto", "auto"
            ).args
            assert skeleton.shape == (1, SIZE, SIZE, 3) and latent["samples"].shape == (1, 4, SIZE // 8, SIZE // 8)
            del vae
            found = pack.nodes.sampler.RePoseDMKSampler.execute(
                model, positive, negative, latent, 0, STEPS, 7.5, "euler", "normal", 1.0
            ).args[0]["samples"]
        assert found.shape == (1, 4, SIZE // 8, SIZE // 8) and found.isfinite().all() and found.std() > 0.1
    finally:
        peak.done.set()
        peak.join()
        management.unload_all_models()
    with capsys.disabled():
        print(
            f"\nRePoseSD of 866 M parameters in {kind}, {STEPS} steps at {SIZE} × {SIZE} with its text encoder "
            f"and VAE: peak memory {peak.most:.1f} GiB, {peak.before:.1f} of it before; {loaded:.0f} s to load, "
            f"{time.monotonic() - began:.0f} s in all, {time.process_time() - busy:.0f} s of processor time."
        )
    assert peak.most - peak.before < 7, "weights are held once: 3.2 GiB of U-Net, 1.3 of text encoder, 0.3 of VAE"
