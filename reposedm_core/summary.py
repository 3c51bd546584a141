"""Parameters and compute of every preset as one Markdown table: python -m reposedm_core.summary

Networks are built and run on PyTorch's meta device: shapes flow through them and no number is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .config import ModelConfig
from .diffusion.autoencoder import build_autoencoder
from .diffusion.reference_decoder import MASKS, Reference, ReferenceDecoder
from .diffusion.tiny import TinyAutoencoder
from .garment_parser import GarmentParser
from .layout import LayoutNetwork
from .networks import NETWORKS, needs_aligner
from .presets import PRESETS, VARIANTS, variants_of
from .reposesd.network import RePoseSD

Network = TypeVar("Network", bound=nn.Module)

TEXT_TOKENS = 77
"""Tokens of a prompt in Stable Diffusion's text encoder."""


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and the floating-point operations of one use of it for one picture.

    A multiplication and an addition count as two; only matrix products, convolutions and attention are counted.
    """

    parameters: int
    flops: int


def measure(build: Callable[[], Network], use: Callable[[Network], object]) -> Cost:
    """Cost of a network: `build` makes it, `use` runs it on meta tensors."""
    with torch.device("meta"), torch.no_grad():
        network = build().eval()
        with FlopCounterMode(display=False) as counter:
            use(network)
    return Cost(sum(p.numel() for p in network.parameters()), counter.get_total_flops())


def cost(config: ModelConfig, part: str) -> Cost | None:
    """Cost of one part of a model at the model's own picture size.

    Args:
        part: "denoiser", one pass of ε_θ (eq. 16 takes two a step); "aligner", all N iterations, once per picture,
            without the encodings that it asks for; "encodings", those; "decode", the autoencoder's decoder and, if
            there is one, the reference decoder; "inner decode", the tiny autoencoder's, which the field sees;
            "estimator", one picture.

    Returns:
        None where the model has no such part.
    """
    if part == "inner decode" and config.tiny.kind == "none":
        return None
    if part in ("aligner", "encodings") and (config.denoiser.texture == "text" or not needs_aligner(config)):
        return None
    # Only what the cost depends on, so that models share it. B1's U-Net is that of the others.
    used = {name: getattr(config, name) for name in USED[part]}
    if used.get("denoiser", config.denoiser).texture == "source":
        used["denoiser"] = replace(config.denoiser, texture="aligned")
    return _cost(replace(ModelConfig(), height=config.height, width=config.width, **used), part)


USED = {
    "denoiser": ("denoiser", "autoencoder"),
    "aligner": ("aligner", "autoencoder", "tiny", "parser", "layout"),
    "encodings": ("aligner", "autoencoder", "tiny"),
    "decode": ("autoencoder", "decoder"),
    "inner decode": ("tiny", "autoencoder"),
    "estimator": ("estimator", "autoencoder"),
}
"""Which configurations the cost of a part depends on."""


def _empty(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """A picture and a latent of the model's size, without values."""
    c, stride = config.autoencoder.channels, config.autoencoder.stride
    sizes = (3, config.height, config.width), (c, config.height // stride, config.width // stride)
    picture, latent = (torch.empty(1, *size, device="meta") for size in sizes)
    return picture, latent


@cache
def _aligner(config: ModelConfig) -> tuple[Cost, tuple[int, ...]]:
    """Cost of the aligner, and a number for each encoding that it asks for: 1 by the tiny autoencoder, else 0."""
    picture, latent = _empty(config)
    calls: list[int] = []

    def encoder(number: int) -> Callable[[Tensor], Tensor]:
        def encode(_: Tensor) -> Tensor:
            calls.append(number)
            return latent

        return encode

    inner: dict[str, Any] = {} if config.tiny.kind == "none" else {"inner": encoder(1)}
    own = measure(
        lambda: NETWORKS["aligner"](config.aligner), lambda n: n(picture, picture, encode=encoder(0), **inner)
    )
    return own, tuple(calls)


@cache
def _cost(config: ModelConfig, part: str) -> Cost:
    picture, latent = _empty(config)
    if part == "decode":
        own = measure(lambda: build_autoencoder(config.autoencoder), lambda n: n.decode(latent))
        if config.decoder.kind == "none":
            return own
        reference = Reference(*(picture[:, :1] if field.name in MASKS else picture for field in fields(Reference)))
        more = measure(lambda: ReferenceDecoder(config.decoder), lambda n: n(picture, latent, reference))
        return Cost(own.parameters + more.parameters, own.flops + more.flops)
    if part == "inner decode":
        return measure(lambda: TinyAutoencoder(config.tiny, ["decoder"]), lambda n: n.decode(latent))
    if part == "estimator":
        seen = torch.empty(1, 3, *config.network_size, device="meta")
        return measure(lambda: NETWORKS[part](config.estimator), lambda n: n(seen))
    if part == "aligner":
        own = _aligner(config)[0]
        if config.parser.kind == "none":
            return own
        seen = torch.empty(1, 3, config.parser.height, config.parser.width, device="meta")
        finders = [measure(lambda: GarmentParser(config.parser), lambda n: n(seen))]
        if config.layout.kind != "none":
            size = config.layout.height, config.layout.width
            planes = (torch.empty(1, n, *size, device="meta") for n in (3, 3, *2 * [len(config.layout.labels)], 1, 1))
            finders.append(measure(lambda: LayoutNetwork(config.layout), lambda n: n(*planes)))
        return Cost(
            own.parameters + sum(each.parameters for each in finders), own.flops + sum(each.flops for each in finders)
        )
    if part == "encodings":
        calls = _aligner(config)[1]
        once = measure(lambda: build_autoencoder(config.autoencoder), lambda n: n.encode(picture))
        if config.tiny.kind == "none":
            return Cost(once.parameters, len(calls) * once.flops)
        tiny = measure(lambda: TinyAutoencoder(config.tiny, ["encoder"]), lambda n: n.encode(picture))
        count = sum(calls)
        return Cost(once.parameters + tiny.parameters, (len(calls) - count) * once.flops + count * tiny.flops)
    t = torch.empty(1, device="meta")
    if config.denoiser.texture == "text":
        tokens = torch.empty(1, TEXT_TOKENS, config.denoiser.context_dim, device="meta")
        return measure(lambda: RePoseSD(config.denoiser), lambda n: n(latent, t, latent, tokens))
    tokens = torch.empty(1, latent[0, 0].numel(), config.denoiser.context_dim, device="meta")
    sigma = torch.empty(1, 1, 1, 1, device="meta")

    def run(network: nn.Module) -> Tensor:
        return network(latent, t, latent, tokens, latent, latent[:, :1], sigma)[0]

    return measure(lambda: NETWORKS[part](config.denoiser), run)


COLUMNS = (
    "preset",
    "picture",
    "latent",
    "texture",
    "U-Net channels",
    "N",
    "denoiser, M",
    "aligner, M",
    "autoencoder, M",
    "estimator, M",
    "denoiser pass",
    "aligner",
    "its encodings",
    "decode",
    "inner decode",
    "estimator",
)
NOTE = """\
Pictures and latents are width × height (× channels); M: million parameters; the last six columns are GFLOPs for one
picture, a multiplication and an addition counting as two. A step with classifier-free guidance takes two passes of the
denoiser. The aligner runs once per picture; with features from the latent it encodes the skeleton, the source and the
picture as each iteration warped it, by the tiny autoencoder where there is one, otherwise only the last of these, which
the denoiser reads; what the field looks at the tiny autoencoder decodes, where there is one, and of `mini` and
`mini-256` the linear part of their own, which costs nothing to speak of. Autoencoder and decode are with the decoder
that also sees the source, the aligner with parser and layout network, where a model has them (`mini-256`)."""


def row(config: ModelConfig) -> list[str]:
    """The cells of one model."""
    costs = {part: cost(config, part) for part in USED}
    coder = config.autoencoder
    texture = config.denoiser.texture + (" + channels" if config.denoiser.channel_condition else "")
    parameters = [costs[part] for part in ("denoiser", "aligner", "decode", "estimator")]
    return [
        config.name,
        f"{config.width} × {config.height}",
        f"{config.width // coder.stride} × {config.height // coder.stride} × {coder.channels}",
        texture,
        ", ".join(map(str, config.denoiser.block_channels)),
        str(len(config.aligner.kernels)) if costs["aligner"] else "–",
        *(f"{c.parameters / 1e6:.1f}" if c else "–" for c in parameters),
        *(f"{c.flops / 1e9:.1f}" if c else "–" for c in costs.values()),
    ]


def differences(config: ModelConfig, other: ModelConfig) -> str:
    """What `other` has that `config` has not: "denoiser.texture = 'source', …", the names left out."""
    old, new = asdict(config), asdict(other)
    changed = []
    for part in old:
        if isinstance(old[part], dict):
            changed += [f"{part}.{key} = {new[part][key]!r}" for key in old[part] if old[part][key] != new[part][key]]
        elif part != "name" and old[part] != new[part]:
            changed.append(f"{part} = {new[part]!r}")
    return ", ".join(changed)


def table() -> str:
    """The Markdown table of all presets, what its columns mean, and what the ablations change."""
    rows = [COLUMNS, ["---"] * 6 + ["---:"] * (len(COLUMNS) - 6), *(row(config) for config in PRESETS.values())]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    changes = [
        f"- `{name}-{kind}`: {differences(PRESETS[name], PRESETS[f'{name}-{kind}'])}."
        for name in PRESETS
        for kind in VARIANTS
        if f"{name}-{kind}" in PRESETS and kind in variants_of(PRESETS[name])
    ]
    return "\n".join(
        [*lines, "", NOTE, "", "The ablations of Table 2 differ from the model of the same name in", "", *changes]
    )


if __name__ == "__main__":
    print(table())
