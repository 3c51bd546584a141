"""Hours of the paper's experiments on one GPU, reckoned: python benchmarks/hours.py [--peak TFLOPS] [--share PART]

Counts the floating-point operations of every network (torch's FlopCounterMode; a multiplication and an addition are
two), multiplies them by the passes that the configurations of training/configs ask for, and divides by the part of a
GPU's peak that is reached. Nothing is timed: the hours are reckoned, and stand or fall with --share.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the training's settings are not installed

from reposedm_core import ModelConfig
from reposedm_core.alignment import RecurrentPoseAligner
from reposedm_core.config import FieldConfig
from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.diffusion.denoiser import Denoiser
from reposedm_core.diffusion.guided import in_window
from reposedm_core.diffusion.tiny import TinyAutoencoder
from reposedm_core.estimator import HigherHRNet
from reposedm_core.reposesd.network import RePoseSD
from training.engine.settings import load_settings, model_of

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
PEAK, SHARE = 989.0, 0.15
"""TFLOP/s of an H100 SXM in bfloat16 without sparsity, and the part of it that is assumed to be reached."""
TRAINED, THROUGH, CHECKPOINTED = 3, 2, 1
"""Passes that a training step costs in all, of a network whose weights are trained, of a frozen one that a gradient
goes through, and those more that checkpointing computes again."""


@dataclass
class Counts:
    """Operations of one forward pass for one picture, by network.

    Attributes:
        inner: encodings of eq. 9 and decodings of eq. 10 by what does the inner work, see `TinyConfig`.
        iterations: of the aligner; 0 where there is none.
    """

    denoiser: float
    encode: float
    decode: float
    estimator: float
    inner: tuple[float, float]
    aligner: float = 0.0
    iterations: int = 0

    def field(self, config: FieldConfig, acts: int = 1) -> float:
        """∇G, `acts` times: a decoding and an estimate that the gradient goes through, of a picture of `config.size`.

        The target is estimated once, where it is a picture's; convolutions grow with the picture's area.
        """
        target = self.estimator if config.space == "features" or config.target == "picture" else 0
        return config.size**2 * (acts * THROUGH * (self.inner[1] + self.estimator) + (target if acts else 0))

    def aligning(self) -> float:
        """An alignment: the aligner; source, skeleton and N - 1 warped pictures for it, and E of the last one. The
        denoiser's skeleton is E's, too, which is another encoding where a tiny one does the inner work."""
        if not self.iterations:
            return 0.0
        ends = 1 if self.inner[0] == self.encode else 2
        return self.aligner + (self.iterations + 1) * self.inner[0] + ends * self.encode

    def aligning_trained(self, again: int) -> float:
        """An alignment that the loss trains, its activations computed `again` times: through the warped pictures'
        encodings goes a gradient, through those of source and skeleton none; the denoiser's skeleton is kept."""
        if not self.iterations:
            return 0.0
        warped = (self.iterations - 1) * self.inner[0] + self.encode
        return (TRAINED + again) * self.aligner + (THROUGH + again) * warped + 2 * self.inner[0]


def counted(call: Callable[[], object]) -> float:
    """Operations of a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


@cache
def count(config: ModelConfig) -> Counts:
    """Of a preset, at its own size. Nothing is computed."""
    height, width = config.height, config.width
    h, w, channels = height // 8, width // 8, config.denoiser.latent_channels
    with torch.device("meta"):
        picture, latent, t = torch.zeros(1, 3, height, width), torch.zeros(1, channels, h, w), torch.zeros(1).long()
        vae, estimator = KLAutoencoder(config.autoencoder).vae, HigherHRNet(config.estimator)
        parts = {
            "encode": counted(lambda: vae.encoder(picture)),
            "decode": counted(lambda: vae.decoder(latent)),
            "estimator": counted(lambda: estimator(picture)),
        }
        parts["inner"] = parts["encode"], parts["decode"]
        if config.tiny.kind == "tiny":
            tiny = TinyAutoencoder(config.tiny).to("meta")
            parts["inner"] = counted(lambda: tiny.encoder(picture)), counted(lambda: tiny.decoder(latent))
        if config.denoiser.texture == "text":
            network = RePoseSD(config.denoiser)
            tokens = torch.zeros(1, 77, config.denoiser.context_dim)
            return Counts(denoiser=counted(lambda: network(latent, t, latent, tokens)), **parts)
        network, ones = Denoiser(config.denoiser), torch.zeros(1, 1, h, w)
        tokens = torch.zeros(1, h * w, config.denoiser.context_dim)
        parts["denoiser"] = counted(lambda: network(latent, t, latent, tokens, latent, ones, torch.ones(1)))
        encode, aligner = partial(_blank, channels=channels), RecurrentPoseAligner(config.aligner)
        parts["aligner"] = counted(lambda: aligner(picture, picture, encode=encode))
    return Counts(iterations=len(config.aligner.kernels), **parts)


def _blank(picture: Tensor, channels: int) -> Tensor:
    return picture.new_zeros(len(picture), channels, picture.shape[-2] // 8, picture.shape[-1] // 8)


def _stage(settings, config: ModelConfig):
    return settings.reposesd if config.denoiser.texture == "text" else settings.reposedm


def train(counts: Counts, settings, config: ModelConfig) -> float:
    """Operations of the denoiser's stage: examples × what one costs, see `example`."""
    stage = _stage(settings, config)
    return stage.steps * stage.batch * stage.accumulate * example(counts, settings, config)


def example(counts: Counts, settings, config: ModelConfig) -> float:
    """Operations of an example of the denoiser's stage, there and back."""
    stage = _stage(settings, config)
    again = CHECKPOINTED if stage.checkpointing else 0
    each = counts.denoiser * (TRAINED + again) + counts.field(config.field, bool(config.field.training))
    if getattr(stage, "train_aligner", False):
        each += counts.aligning_trained(again)
    return each


def guided_steps(config: FieldConfig, steps: int) -> int:
    """In how many steps of sampling the field acts."""
    inside = sum(in_window(n / steps, config.start, config.end, 1000) for n in range(steps))
    return -(-inside // config.every)


def sample(counts: Counts, pictures: int, steps: int, field: FieldConfig | None) -> float:
    """Operations of sampling: both passes of classifier-free guidance, the field, the aligner and the decoding."""
    guided = counts.field(field, guided_steps(field, steps)) if field is not None else 0
    return pictures * (steps * 2 * counts.denoiser + guided + counts.aligning() + counts.decode)


ROWS = (
    ("Table 1, Fig. 2: 256×176", "deepfashion-256x176", 8570),
    ("Table 1: 512×352", "deepfashion-512x352", 8570),
    ("Table 1, Fig. 3: Market-1501", "market-128x64", 12000),
    ("Table 4: Market-1501, each checkpoint", "market-128x64", 77600),
    ("Table 3, Fig. 6: RePoseSD", "reposesd", 4750),
)
"""What, the configuration, and about how many pictures are sampled."""


def table(peak: float, share: float, rows: Sequence[tuple[str, str, int]] = ROWS) -> str:
    """A Markdown table of the hours of `rows`."""
    speed = peak * 1e12 * share * 3600
    lines = [
        "| experiment | operations of a pass, GFLOP: U-Net, E, decoder, estimator, aligner | of a training example | "
        "training, hours | sampling, hours: without the field, with it |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for what, name, pictures in rows:
        settings = load_settings(CONFIGS / f"{name}.yaml", [])
        config = model_of(settings)
        counts = count(config)
        passes = (counts.denoiser, counts.encode, counts.decode, counts.estimator, counts.aligner)
        hours = [train(counts, settings, config) / speed]
        hours += [sample(counts, pictures, config.steps, field) / speed for field in (None, config.field)]
        lines.append(
            f"| {what} | {', '.join(f'{value / 1e9:.0f}' for value in passes)} | "
            f"{example(counts, settings, config) / 1e9:.0f} | {hours[0]:.0f} | "
            f"{hours[1]:.1f}, {hours[2]:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=float, default=PEAK, help="TFLOP/s of the GPU (default: %(default)s)")
    parser.add_argument("--share", type=float, default=SHARE, help="part of it that is reached (default: %(default)s)")
    options = parser.parse_args()
    print(table(options.peak, options.share))


if __name__ == "__main__":
    main()
