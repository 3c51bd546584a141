"""A denoiser pass of the paper's preset against one of a pixel-space U-Net as large as PIDM's."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from models import PAPER, Bench, random_condition, size_of
from table import PASS, Row
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reposedm_core.diffusion.context_cache import cached_context

CHANNELS = (128, 128, 256, 384, 512, 768)


def pixel_unet(device: torch.device, channels: tuple[int, ...] = CHANNELS) -> nn.Module:
    """A U-Net on pixels after PIDM's: base 128 channels, six resolutions, attention at 16 × 16; 181 M parameters.

    It reads six channels, noisy picture and drawn pose, and gives noise and variance logits. On a CPU its weights are
    channels-last, which is a sixth faster.
    """
    from diffusers import UNet2DModel

    last = len(channels) - 2  # 256 / 2⁴ = 16 cells
    attends = [i == last for i in range(len(channels))]
    torch.manual_seed(0)
    return (
        UNet2DModel(
            sample_size=256,
            in_channels=6,
            out_channels=6,
            block_out_channels=channels,
            layers_per_block=2,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            attention_head_dim=64,
        )
        .eval()
        .requires_grad_(False)
        .to(device, memory_format=torch.channels_last if device.type == "cpu" else torch.preserve_format)
    )


@torch.no_grad()
def rows(bench: Bench) -> Iterator[Row]:
    """One pass each, one picture, no classifier-free guidance: as in the middle of a run, and with the keys and values
    of the context to project, as in its first step."""
    pipeline = bench.paper()
    height, width = size_of(pipeline)
    side = 64 if bench.quick else 256
    unet = pixel_unet(bench.device, (64, 64, 128, 128) if bench.quick else CHANNELS)
    c, t = random_condition(pipeline, height, width), torch.full((1,), 500, device=bench.device)
    sigma = torch.ones(1, 1, 1, 1, device=bench.device)
    picture, z = bench.random(1, 6, side, side), torch.randn_like(c.pose)

    networks = {"ours": copy.deepcopy(pipeline.denoiser), "first": pipeline.denoiser}

    def theirs() -> None:
        unet(picture, t)

    def ours(side: str) -> None:
        networks[side](z, t, c.pose, c.tokens, c.aligned, c.visibility, sigma)

    sides = {"pixels": theirs, "ours": lambda: ours("ours"), "first": lambda: ours("first")}
    with cached_context(networks["ours"]):
        timings = bench.compare("pixel-space U-Net", sides)
    sizes = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (unet, pipeline.denoiser)]
    what = f"{PAPER} {height}×{width} / pixel-space U-Net {side}×{side}"
    value, spread = timings.ratio("ours", "pixels")
    yield Row(
        PASS,
        what,
        value,
        budget=("≤", 0.1),
        spread=spread,
        milliseconds=timings.milliseconds(),
        note=f"keys and values of the context kept; {sizes[0]:.0f} M parameters in pixels, {sizes[1]:.0f} M here",
    )
    value, spread = timings.ratio("first", "pixels")
    yield Row(PASS, f"{what}, a run's first pass, which projects the context", value, spread=spread)
    work = [work_of(function) for function in (theirs, sides["first"])]
    yield Row(
        PASS,
        "that first pass, floating-point operations",
        work[1] / work[0],
        note=f"{work[0] / 1e9:.0f} and {work[1] / 1e9:.0f} GFLOP",
    )


def work_of(function) -> int:
    """Floating-point operations of one call, convolutions, products and attention counted."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
