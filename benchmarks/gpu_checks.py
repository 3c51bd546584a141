"""The checks of gpu_check.py: networks in three precisions, sampling, training steps, and the table of ratios."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from reposedm_core import PRESETS, ModelConfig, Pose, RePoseDMPipeline
from reposedm_core.config import EstimatorConfig
from reposedm_core.diffusion.losses import training_loss
from reposedm_core.diffusion.schedule import DiffusionSchedule
from reposedm_core.field import PoseInteractionField, joints_target
from reposedm_core.field.field import reduced
from reposedm_core.images import fit_image
from reposedm_core.networks import PARTS, Networks, build_networks, parts_of

Lines = Iterator[tuple[str, bool]]
MODELS = ("mini", "mini-256", "market-128x64", "deepfashion-256x176", "deepfashion-512x352")
WITHOUT_DIFFUSERS = ("estimator", "aligner")
"""The parts of a paper's model that diffusers has no layer of."""
SAME = 1e-3
"""Most that two guided runs with one seed may differ on a GPU, as a share of the latent's root mean square."""
STEPS = 4
"""Of sampling, where it is the same and not how quick it is that is checked."""
TOLERANCE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 1.5e-1}
"""Most that a network's result may differ from the CPU's in float32, as a share of its root mean square."""
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0, "RTX 3090": 71.0, "T4": 65.0}
"""Half-precision tensor-core TFLOP/s of the data sheets, dense, float32 accumulation, by a part of the card's name."""


def few(config: ModelConfig) -> ModelConfig:
    """`config` with few channels at 64×48, or 128×96 where its networks work at half the size."""
    shrink = config.height // config.network_size[0]
    height, width, levels = 64 * shrink, 48 * shrink, len(config.denoiser.block_channels)
    return replace(
        config,
        height=height,
        width=width,
        autoencoder=replace(config.autoencoder, widths=(8,) * len(config.autoencoder.widths)),
        tiny=replace(config.tiny, widths=(8,) * 4, blocks=(1,) * 4),
        estimator=EstimatorConfig(stem=8, bottleneck=8, channels=(8, 16), modules=(1,), deconv_channels=8),
        aligner=replace(config.aligner, channels=8, dim=16, heads=2, height=64, width=48),
        denoiser=replace(
            config.denoiser,
            block_channels=(16,) * levels,
            heads_dim=8,
            context_dim=16,
            norm_groups=8,
            height=min(config.denoiser.height, 8),
            width=min(config.denoiser.width, 6),
        ),
        decoder=replace(config.decoder, widths=(8, 8, 8)),
    )


class Checks:
    """Checks on one device; each method yields lines and whether what they say is right."""

    def __init__(self, device: torch.device, tiny: bool = False, whole: bool = True, compiles: bool = True):
        """`whole`: diffusers is there. `compiles`: with torch.compile."""
        self.device, self.tiny, self.whole, self.compiles = device, tiny, whole, compiles
        self.backend = "inductor"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.ratios: dict[str, float] = {}
        self.kept: dict[str, float] = {}  # seconds of an eager step, by network

    def machine(self) -> str:
        """What is checked, in words."""
        if self.device.type != "cuda":
            return platform.processor() or platform.machine()
        memory = torch.cuda.get_device_properties(self.device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(self.device)}, {memory:.0f} GiB"

    def config(self, name: str) -> ModelConfig:
        """The preset, or its likeness of few channels."""
        return few(PRESETS[name]) if self.tiny else PRESETS[name]

    def networks(self, name: str) -> Networks:
        """Of a preset, with random weights, on the CPU."""
        torch.manual_seed(0)
        return build_networks(self.config(name))

    def uses(self, config: ModelConfig) -> dict[str, Callable[[nn.Module, list[Tensor]], Tensor]]:
        """How each part of a model is tried, of tensors made by `inputs`."""
        side = config.aligner.kind == "recurrent" and config.aligner.encoder == "latent"

        def align(network: nn.Module, given: list[Tensor]) -> Tensor:
            # A stand-in for E that is the same in every precision: what differs is the aligner's.
            channels = config.aligner.latent_channels
            encode = (lambda x: nn.functional.avg_pool2d(x, 8).repeat(1, 2, 1, 1)[:, :channels]) if side else None
            return network(given[0], given[1], 1, encode).visibility[-1]

        return {
            "autoencoder": lambda n, given: n.decode(n.encode(given[0])),
            "tiny": lambda n, given: n.decode(n.encode(given[0])),
            "estimator": lambda n, given: n(given[0]).features,
            "aligner": align,
            "denoiser": lambda n, given: n(given[2], given[5], *given[2:4], given[2], given[2][:, :1], given[4])[0],
        }

    def inputs(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Two pictures, a latent, context tokens, σ and t."""
        generator = torch.Generator().manual_seed(0)
        height, width = config.height, config.width
        stride, c = config.autoencoder.stride, config.autoencoder.channels
        cells = height // stride, width // stride
        shapes = [(1, 3, height, width)] * 2 + [(1, c, *cells), (1, cells[0] * cells[1], config.denoiser.context_dim)]
        given = [torch.randn(shape, generator=generator).clamp(-1, 1).to(device, dtype) for shape in shapes]
        return [*given, torch.ones(1, 1, 1, 1, device=device, dtype=dtype), torch.full((1,), 500, device=device)]

    @torch.no_grad()
    def precisions(self, deadline: float) -> Lines:
        """Every network of the small and of the paper's model."""
        for name in ("mini", "deepfashion-256x176"):
            config = self.config(name)
            parts = [
                part for part in parts_of(config) if part != "decoder" and (self.whole or part in WITHOUT_DIFFUSERS)
            ]
            for part in parts:
                torch.manual_seed(0)
                network, use = PARTS[part](getattr(config, part)).eval(), self.uses(config)[part]
                # The aligner's positions stay in float32 at least, and its read-out begins with zeros.
                for weight in network.parameters():
                    weight.add_(0.02 * torch.randn_like(weight))
                wanted = use(network, self.inputs(config, torch.float32, torch.device("cpu"))).float()
                for dtype in (torch.float32, torch.float16, torch.bfloat16):
                    kind = str(dtype).removeprefix("torch.")
                    found = use(copy.deepcopy(network).to(self.device, dtype), self.inputs(config, dtype, self.device))
                    off = float((found.float().cpu() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
                    good = np.isfinite(off) and off <= TOLERANCE[kind]
                    yield f"  {name:22s} {part:12s} {kind:9s} {off:.1e}", bool(good)
                    if time.monotonic() > deadline:
                        return

    def sampling(self, deadline: float) -> Lines:
        """Every preset twice with one seed, guided and not, with its peak memory."""
        if not self.whole:
            return
        for name in MODELS:
            if time.monotonic() > deadline:
                yield f"  {name}: left out, the time is over", True
                continue
            pipeline = RePoseDMPipeline(self.networks(name), self.device)
            source, pose = self.person(pipeline.config)
            for label, strength in (("unguided", 0.0), ("guided", 1.0)):
                self.reset()
                told = {"field_strength": strength, "field_start": 0.0, "field_end": 1.0, "steps": STEPS, "seed": 1}
                one, again = (pipeline(source, pose, **told).latent for _ in range(2))
                off = float((one - again).square().mean().sqrt() / one.square().mean().sqrt())
                said = "to the last bit" if torch.equal(one, again) else f"but for {off:.1e}"
                # On the way back CUDA adds up in no fixed order.
                good = off == 0 if not strength or self.device.type == "cpu" else off <= SAME
                line = f"  {name:22s} {label:9s} the same for a seed: {said}{self.peak()}"
                yield line, good and bool(one.isfinite().all())

    def person(self, config: ModelConfig) -> tuple[Tensor, Pose]:
        """A random picture and a pose in it."""
        rng = np.random.default_rng(0)
        joints = rng.uniform(0.1, 0.9, (1, 18, 2)) * (config.width, config.height)
        pose = Pose(np.concatenate([joints, np.ones((1, 18, 1))], -1).astype(np.float32), config.height, config.width)
        return torch.rand(1, 3, config.height, config.width, generator=torch.Generator().manual_seed(0)), pose

    def training(self, deadline: float) -> Lines:
        """A step of each network, eager and compiled: the loss is finite and the weights move."""
        config = self.config("deepfashion-256x176")
        for part, loss in self.losses(config).items():
            if not self.whole and part.split()[0] not in WITHOUT_DIFFUSERS:
                continue
            times = {}
            for mode in ("eager", "compiled") if self.compiles else ("eager",):
                if time.monotonic() > deadline:
                    yield f"  {part} {mode}: left out, the time is over", True
                    continue
                torch.manual_seed(0)
                self.reset()
                network = PARTS[part.split()[0]](getattr(config, part.split()[0])).to(self.device).train()
                before = [weight.detach().clone() for weight in network.parameters()]
                called = torch.compile(network) if mode == "compiled" else network
                optimiser = torch.optim.AdamW(network.parameters(), 1e-4)

                def step(called=called, optimiser=optimiser, loss=loss) -> Tensor:
                    optimiser.zero_grad(set_to_none=True)
                    value = loss(called)
                    value.backward()
                    optimiser.step()
                    return value.detach()

                value = step()
                moved = any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
                times[mode] = self.seconds(step)
                line = f"  {part:24s} {mode:9s} {1e3 * times[mode]:8.1f} ms{self.peak()}"
                yield line, bool(value.isfinite()) and moved
            if len(times) == 2:
                self.ratios[f"compiled / eager, training step, {part}"] = times["compiled"] / times["eager"]
            if part == "denoiser with the field" and "eager" in times and "denoiser" in self.kept:
                self.ratios["training example with the field / without"] = times["eager"] / self.kept["denoiser"]
            self.kept |= {part: times["eager"]} if "eager" in times else {}

    def losses(self, config: ModelConfig) -> dict[str, Callable[[nn.Module], Tensor]]:
        """What each network is trained by, on one random example."""
        picture, other, x0, tokens, sigma, t = self.inputs(config, torch.float32, self.device)
        schedule, noise = DiffusionSchedule(config.schedule), torch.randn_like(x0)
        z, joints = schedule.add_noise(x0, noise, t), torch.rand(1, 17, 3, device=self.device) * config.width
        size, share = config.field_size(config.field.size), config.field.size
        known: dict[str, nn.Module] = {}

        def denoise(network: nn.Module, guided: bool) -> Tensor:
            prediction, variance = network(z, t, x0, tokens, x0, x0[:, :1], sigma)
            gradient = None
            if guided:
                if not known:
                    known["field"] = PoseInteractionField(
                        PARTS["estimator"](config.estimator).to(self.device), "features"
                    )
                    known["tiny"] = PARTS["tiny"](config.tiny).to(self.device).requires_grad_(False)
                target = joints_target(known["field"], joints, *size)
                gradient, _ = known["field"].gradient(
                    noise - prediction.detach(),
                    lambda latent: fit_image(known["tiny"].decode(reduced(latent, share)), *size),
                    target,
                )
            weights = {"vlb_weight": 1.0, "gradient": gradient, "field_weight": 1.0, "field_limit": 0.1}
            return training_loss(schedule, x0, noise, z, t, prediction, variance, **weights)["loss"]

        def align(network: nn.Module) -> Tensor:
            def encode(x: Tensor) -> Tensor:
                return nn.functional.avg_pool2d(x, 8).repeat(1, 2, 1, 1)[:, : config.aligner.latent_channels]

            found = network(picture, other, None, encode)
            return sum(maps.square().mean() for maps in found.maps) + sum(v.square().mean() for v in found.visibility)

        return {
            "denoiser": lambda network: denoise(network, False),
            "denoiser with the field": lambda network: denoise(network, True),
            "aligner": align,
            "estimator": lambda network: sum(maps.square().mean() for maps in network(picture).heatmaps),
        }

    def table(self, speeds: bool, deadline: float) -> Lines:
        """Ratios and, with `speeds`, pictures per second and the share of the card's peak, as Markdown for
        benchmarks/README.md."""
        rows = dict(self.ratios)
        if self.whole and speeds:
            for name in ("mini-256", "deepfashion-256x176"):
                if time.monotonic() < deadline:
                    rows |= self.speeds(name)
        yield f"| {self.machine()} | |", True
        yield "|---|---:|", True
        for what, value in rows.items():
            yield f"| {what} | {value:.3g} |", bool(np.isfinite(value))

    def speeds(self, name: str) -> dict[str, float]:
        """Of a preset's sampling: guided / unguided, bfloat16 / float32, pictures per second, share of the peak."""
        from reposedm_core.summary import cost

        seconds, steps = {}, PRESETS[name].steps if not self.tiny else 2
        for dtype in (torch.float32, torch.bfloat16):
            pipeline = RePoseDMPipeline(self.networks(name), self.device, dtype)
            source, pose = self.person(pipeline.config)
            for strength in (0.0, 1.0):
                told = {"field_strength": strength, "steps": steps, "field_start": 0.0, "field_end": 1.0}
                seconds[dtype, strength] = self.seconds(lambda p=pipeline, s=source, o=pose, k=told: p(s, o, **k), 1)
        whole, half = (seconds[dtype, 0.0] for dtype in (torch.float32, torch.bfloat16))
        found = {
            f"{name}: guided / unguided picture, {steps} steps": seconds[torch.float32, 1.0] / whole,
            f"{name}: bfloat16 / float32, seconds per picture": half / whole,
            f"{name}: pictures per second, bfloat16, unguided, one at a time": 1 / half,
        }
        peak = next((value for card, value in PEAKS.items() if card in self.machine()), None)
        if peak and not self.tiny:
            work = 2 * steps * cost(PRESETS[name], "denoiser").flops / half
            found[f"{name}: share of the card's {peak:g} TFLOP/s, U-Net alone, one picture at a time"] = (
                work / peak / 1e12
            )
        return found

    def seconds(self, run: Callable[[], object], repeats: int = 3) -> float:
        """Of a call, the first not counted: the least of `repeats`."""
        run()
        found = []
        for _ in range(repeats):
            self.wait()
            begun = time.perf_counter()
            run()
            self.wait()
            found.append(time.perf_counter() - begun)
        return min(found)

    def wait(self) -> None:
        """For what the device still has to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset(self) -> None:
        """Count memory anew."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> str:
        """The most memory that was in use since `reset`, in words."""
        if self.device.type != "cuda":
            return ""
        return f", {torch.cuda.max_memory_allocated(self.device) / 2**30:.2f} GiB"
