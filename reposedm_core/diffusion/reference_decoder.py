"""A decoder that sees the source (**ours**): latent, warped source, background plate, layout and masks → picture.

It copies pixels where the warp or the plate is right, by a learned share per pixel, and paints the rest from the
latent. diffusers' AsymmetricAutoencoderKL, which sees the picture around a mask, is a relative.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_tensor
from ..config import DecoderConfig
from .autoencoder import ResidualBlock

BLOCK = 4
"""Side of the pixels that the network takes together at its finest."""
FLAT = -3.0
"""Logit of the share of the layout's flat colours in what the decoder paints, before training."""
MASKS = ("hidden", "visibility", "person")
"""Fields of a `Reference` of one channel; the others are pictures."""


@dataclass
class Reference:
    """What the decoder sees beside the latent, all (B, *, H, W) at the picture's size; pictures in [-1, 1].

    Attributes:
        warped: W(I_S; φᴺ). plate: the source with its person filled in.
        hidden: 0..1, where the plate is filled in. visibility: 0..1, does the source show this part of the person?
        person: 0..1, is the person here in the target? skeleton: the target's, drawn.
        flat: the target's layout in the mean colours of the source's clothes, on the plate (`layout.Layout`); of a
            model that predicts none, the warp on the plate.
    """

    warped: Tensor
    plate: Tensor
    hidden: Tensor
    visibility: Tensor
    person: Tensor
    skeleton: Tensor
    flat: Tensor

    def map(self, function) -> Reference:
        """The same with `function` applied to every tensor."""
        return Reference(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def __getitem__(self, rows) -> Reference:
        return self.map(lambda value: value[rows])


def smooth(values: Tensor) -> Tensor:
    """Values (B, C, H, W) averaged over 4 and over 2 pixels across and down: the grid of blocks does not show."""
    kernel = values.new_tensor([1, 2, 2, 2, 1]) / 8
    kernel = torch.outer(kernel, kernel).expand(values.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(values, (2, 2, 2, 2), mode="replicate"), kernel, groups=values.shape[1])


class ReferenceDecoder(nn.Module):
    """`decoder(decoded, latent, reference)`: a U-Net over blocks of 4×4 pixels, whose output, sharpened at the
    picture's own size where the configuration has `detail`, says for each pixel how much of the warp, of the plate and
    of what it paints itself."""

    def __init__(self, config: DecoderConfig, operations=nn):
        super().__init__()
        self.config = config
        inputs = 3 + 3 + 3 + 1 + 1 + 1 + 3 + (3 if config.flat else 0)
        self.outputs = 7 if config.flat else 6
        channels, deeper = config.widths, config.widths[1:]
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(BLOCK),
            operations.Conv2d(inputs * BLOCK**2, channels[0], 3, padding=1),
            ResidualBlock(channels[0], operations),
        )
        self.down = nn.ModuleList(
            nn.Sequential(operations.Conv2d(a, b, 4, stride=2, padding=1), ResidualBlock(b, operations))
            for a, b in zip(channels, deeper, strict=False)
        )
        self.latent = operations.Conv2d(config.latent_channels, channels[-1], 1)
        self.middle = nn.Sequential(ResidualBlock(channels[-1], operations), ResidualBlock(channels[-1], operations))
        self.up = nn.ModuleList(
            nn.Sequential(operations.Conv2d(b, a * 4, 1), nn.PixelShuffle(2))
            for a, b in zip(channels, deeper, strict=False)
        )
        self.after = nn.ModuleList(
            nn.Sequential(ResidualBlock(a, operations), ResidualBlock(a, operations)) for a in channels[:-1]
        )
        last = operations.Conv2d(channels[0], self.outputs * BLOCK**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.read = nn.Sequential(nn.SiLU(), last, nn.PixelShuffle(BLOCK))
        self.detail = None
        if config.detail:
            first = operations.Conv2d(inputs + self.outputs, config.detail, 3, padding=1)
            second = operations.Conv2d(config.detail, config.detail, 3, padding=1)
            change = operations.Conv2d(config.detail, self.outputs, 3, padding=1)
            nn.init.zeros_(change.weight)
            nn.init.zeros_(change.bias)
            self.detail = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), change)
        self.to(memory_format=torch.channels_last)

    def forward(
        self, decoded: Tensor, latent: Tensor, reference: Reference, with_paint: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W), about [-1, 1]; `with_paint` also those that are its own paint everywhere.

        Arguments and errors are those of `shares`.
        """
        shares, paint = self.shares(decoded, latent, reference)
        warp, plate, own = shares.split(1, 1)
        picture = warp * reference.warped + plate * reference.plate + own * paint
        return (picture, paint) if with_paint else picture

    def shares(self, decoded: Tensor, latent: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
        """What a picture is mixed of, so that it can be mixed at another size (`full_size.pasted`).

        Args:
            decoded: the autoencoder's picture of the latent, (B, 3, H, W), H and W divisible by 4.
            latent: (B, C, h, w).

        Returns:
            the shares of the warp, of the plate and of what the decoder paints, (B, 3, H, W), which sum to 1; and what
            it paints, (B, 3, H, W), about [-1, 1].

        Raises:
            InputError: an argument whose shape does not fit.
        """
        sizes = check_tensor(decoded, "decoded", "B 3 H W", multiples={"H": BLOCK, "W": BLOCK})
        check_tensor(latent, "latent", "B C h w", {"B": sizes["B"], "C": self.config.latent_channels})
        for field in fields(reference):
            channels = 1 if field.name in MASKS else 3
            check_tensor(getattr(reference, field.name), f"reference.{field.name}", f"B {channels} H W", dict(sizes))
        names = [field.name for field in fields(reference) if self.config.flat or field.name != "flat"]
        shown = torch.cat([decoded, *(getattr(reference, name) for name in names)], 1)
        shown = shown.contiguous(memory_format=torch.channels_last)
        x = self.stem(shown)
        kept = [x]
        for down in self.down:
            below, right = (side % 2 for side in x.shape[-2:])  # half an odd side is rounded up: `up` must cover it
            x = down(F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x)
            kept.append(x)
        x = self.middle(x + F.interpolate(self.latent(latent), x.shape[-2:], mode="bilinear", align_corners=False))
        for n in reversed(range(len(self.up))):
            x = self.after[n](kept[n] + self.up[n](x)[..., : kept[n].shape[-2], : kept[n].shape[-1]])
        values = smooth(self.read(x))
        if self.detail is not None:
            values = values + self.detail(torch.cat([shown, values], 1))
        change, choice, *tone = values.split([3, 3, 1][: self.outputs - 4], 1)
        # Before training: the warp where the source shows the person, the plate off the person, else the latent.
        seen = reference.person * reference.visibility
        prior = torch.cat([seen, 1 - reference.person, reference.person - seen], 1).clamp(min=0.01).log()
        logits = choice + prior
        if not self.training:
            logits = self.config.decision * (logits + logits.new_tensor([self.config.copying, 0, 0])[:, None, None])
        if tone:  # the layout's colours in place of the latent's; of few before training
            share = (tone[0] + FLAT).sigmoid()
            decoded = share * reference.flat + (1 - share) * decoded
        return logits.softmax(1), decoded + change
