"""Results at the source's own size, or any other (**ours**): a sampling map has no resolution.

The networks see pictures letterboxed into a small frame. What they find there (maps, masks, shares) is enlarged to the
cells of a `View`, and the colours are read from the source at its own resolution. A picture is made in bands of rows,
so that memory beyond the picture itself does not grow with its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment.flow_image import flow_colours
from .alignment.mipmaps import Mipmaps, stretch
from .alignment.warp import identity_map, sample
from .checks import check_int
from .diffusion.reference_decoder import Reference, ReferenceDecoder
from .errors import InputError, quoted
from .images import round_to, shown, to_image
from .letterbox import Letterbox, Size, size_of
from .pose.limits import no_tick
from .reference import near_people

MODEL, SOURCE = "model", "source"
"""Sizes of a result that have a name: the networks' frame, and the picture that it is put back into."""
STEP = 8
"""Pixels of which the width to a given height is a multiple, for autoencoders."""
LARGEST = 16384
"""Pixels a side."""
BAND = 2**20
"""Pixels that are made at once."""


@dataclass(frozen=True)
class View:
    """A picture of another size that shows what a picture shows that was letterboxed into the networks' frame.

    Attributes:
        picture: height and width of the picture that is shown. frame: of the networks' pictures. size: of the view.
    """

    picture: Size
    frame: Size
    size: Size

    def bands(self) -> Iterator[tuple[int, int]]:
        """First row and the row after the last, of parts of at most `BAND` pixels."""
        rows = max(1, BAND // self.size[1])
        for first in range(0, self.size[0], rows):
            yield first, min(first + rows, self.size[0])

    def places(self, first: int, last: int, device: torch.device | None = None) -> Tensor:
        """(1, 2, last − first, W): where in the frame the pixels of these rows lie; see `alignment.warp`."""
        x = identity_map(1, self.size[1], device, torch.float32)[:, :1]
        y = identity_map(self.size[0], 1, device, torch.float32)[:, 1:, first:last]
        here = torch.cat([x.expand(-1, -1, last - first, -1), y.expand(-1, -1, -1, self.size[1])], 1)
        scale, offset = _lies(Letterbox(self.picture, self.frame), here)
        return here * scale + offset

    def map(self, sampling: Tensor) -> Tensor:
        """φ (B, 2, h, w) of the frame as a map of the picture that is shown, at about as many cells per pixel."""
        box = Letterbox(self.picture, self.frame)
        rows, columns = (
            max(1, round(side * inner / frame))
            for side, inner, frame in zip(sampling.shape[-2:], box.inner, self.frame, strict=True)
        )
        scale, offset = _lies(box, sampling)
        places = identity_map(rows, columns, sampling.device, sampling.dtype) * scale + offset
        return (read_map(sampling, places) - offset) / scale

    def colours(self, sampling: Tensor) -> Tensor:
        """`flow_colours` of the picture that is shown, at the view's size, drawn at `BAND` pixels at most."""
        share = min(1.0, (BAND / (self.size[0] * self.size[1])) ** 0.5)
        small = [max(1, round(side * share)) for side in self.size]
        drawn = flow_colours(self.map(sampling), *small)
        return drawn if share == 1 else F.interpolate(drawn, self.size, mode="bilinear", align_corners=False)

    def enlarge(self, values: Tensor) -> Tensor:
        """Masks or pictures (B, C, h, w) of the frame at the view's pixels, (B, C, H, W): bilinear."""
        return torch.cat([at(values, self.places(*rows, values.device)) for rows in self.bands()], -2)


def view(output: str | int, picture: Size, frame: Size) -> View | None:
    """The view that `output` asks for: None for "model", which is the networks' own frame.

    Args:
        output: "model", "source" (the size of `picture`), or a height in pixels, with the width to it.

    Raises:
        InputError: something else.
    """
    if output == MODEL:
        return None
    if output == SOURCE:
        return View(picture, frame, picture)
    if isinstance(output, str):
        raise InputError(f"output_size = {quoted(output)}: use {MODEL!r}, {SOURCE!r} or a height in pixels.")
    height = check_int(output, "output_size", 1, LARGEST)
    return View(picture, frame, (height, min(LARGEST, round_to(picture[1] * height / picture[0], STEP))))


def _lies(box: Letterbox, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and offset (2, 1, 1) from a picture's normalised coordinates to those of the frame that it lies in."""
    inner, frame, corner = (like.new_tensor(pair[::-1])[:, None, None] for pair in (box.inner, box.frame, box.corner))
    return inner / frame, (2 * corner + inner) / frame - 1


def at(values: Tensor, places: Tensor) -> Tensor:
    """Values (B, C, h, w) at places (1, 2, n, m): (B, C, n, m), bilinear."""
    return sample(values, places.to(values).expand(len(values), -1, -1, -1))


def read_map(sampling: Tensor, places: Tensor) -> Tensor:
    """φ at places (1, 2, n, m); its distance from the identity is what is interpolated, as `resize_map` does."""
    shift = sampling - identity_map(*size_of(sampling), sampling.device, sampling.dtype)
    return places + at(shift, places)


@dataclass
class Detail:
    """What B results of S sources each are made of at another size than the networks'.

    Attributes:
        view: what a result shows.
        sources: pictures (H, W, 3 or more) in 0..1. rows: for each result the places of its S sources among them.
        sampling: φᴺ (B, S, 2, h, w). weights: of the sources in each cell, (B, S, 1, h, w), see `multi_source.Seen`.
        background: what the results are put on, (H, W, 3 or more) in 0..1; None is each one's first source.
    """

    view: View
    sources: Sequence[Tensor]
    rows: Sequence[Sequence[int]]
    sampling: Tensor
    weights: Tensor
    background: Tensor | None = None

    def take(self, results: Sequence[int]) -> Detail:
        """Of some of the results."""
        rows = list(results)
        return Detail(
            self.view,
            self.sources,
            [self.rows[row] for row in rows],
            self.sampling[rows],
            self.weights[rows],
            self.background,
        )

    def base(self, result: int) -> Tensor:
        """What a result is put on, (1, 3, H, W) in 0..1, at the view's size; its own pixels where it has that size."""
        picture = self.sources[self.rows[result][0]] if self.background is None else self.background
        picture = picture[..., :3].movedim(-1, 0)[None]
        if tuple(picture.shape[-2:]) == self.view.size:
            return picture
        return F.interpolate(picture.float(), self.view.size, mode="bilinear", align_corners=False, antialias=True)

    def warps(self, result: int, kept: dict[int, Mipmaps]) -> Callable[[Tensor], Tensor]:
        """places (1, 2, n, m) in the frame → what the sources show there, (1, 3, n, m) in 0..1.

        `kept` holds the sources' halves from one result to the next.
        """
        rows = self.rows[result]
        for row in rows:
            if row not in kept:
                if len(rows) == 1:
                    kept.clear()
                kept[row] = Mipmaps(shown(to_image(self.sources[row][..., :3], channels_last=True)))
        parts = []
        for place, row in enumerate(rows):
            halves = kept[row]
            sampling = self.sampling[result, place][None].to(halves.level(0))
            scale, offset = _lies(Letterbox(halves.size, self.view.frame), sampling)
            parts.append((halves, sampling, scale, offset, footprint(sampling, halves.size, self.view)))
        weights = self.weights[result].to(sampling)

        def read(places: Tensor) -> Tensor:
            found = (
                halves.sample((read_map(sampling, places) - offset) / scale, at(apart, places))
                for halves, sampling, scale, offset, apart in parts
            )
            if len(parts) == 1:
                return next(found)
            return reduce(
                torch.add, (at(weight[None], places) * each for weight, each in zip(weights, found, strict=True))
            )

        return read


def footprint(sampling: Tensor, source: Size, view: View) -> Tensor:
    """(B, 1, h, w): pixels of the source between two neighbours of the view, along the side where they are more."""
    there, here = Letterbox(source, view.frame), Letterbox(view.picture, view.frame)
    # Normalised coordinates of the frame a pixel: 2/frame, over the pixels that lie in it.
    unit = [side / inner for side, inner in zip(source[::-1], there.inner[::-1], strict=True)]
    step = [inner / side for side, inner in zip(view.size[::-1], here.inner[::-1], strict=True)]
    frame = view.frame[::-1]
    dx_dx, dy_dx, dx_dy, dy_dy = stretch(sampling).unbind(1)
    along = torch.hypot(dx_dx * unit[0], dy_dx * unit[1] * frame[1] / frame[0]) * step[0]
    down = torch.hypot(dx_dy * unit[0] * frame[0] / frame[1], dy_dy * unit[1]) * step[1]
    return torch.maximum(along, down)[:, None]


def aligned(detail: Detail, reference: Reference | None, tick: Callable[[], None] = no_tick) -> Tensor:
    """The sources as the maps warp them, at the view's size, on the plate where there are masks: (B, H, W, 3) in 0..1.

    Args:
        reference: of the B results at the networks' size; None of an aligner that finds no masks.
        tick: called before each band of rows; what it raises ends the work.
    """

    def mix(warped: Tensor, base: Tensor, channels: Tensor | None) -> Tensor:
        if channels is None:
            return warped
        person, hidden, plate = channels[:, :1], channels[:, 1:2], channels[:, 2:]
        return person * warped + (1 - person) * (hidden * plate + (1 - hidden) * base)

    channels = None
    if reference is not None:
        channels = torch.cat([reference.person, reference.hidden, shown(reference.plate)], 1)
    return _made(detail, channels, mix, tick)


def painted(
    decoder: ReferenceDecoder | None, decoded: Tensor, latent: Tensor, reference: Reference
) -> tuple[Tensor, Tensor]:
    """What `ReferenceDecoder.shares` says; without a decoder all is the autoencoder's own picture `decoded`."""
    if decoder is not None:
        return decoder.shares(decoded, latent, reference)
    one = torch.ones_like(reference.person)
    return torch.cat([torch.zeros_like(one), torch.zeros_like(one), one], 1), decoded


def pasted(
    detail: Detail, reference: Reference, shares: Tensor, own: Tensor, tick: Callable[[], None] = no_tick
) -> Tensor:
    """The decoder's picture with the sources' own detail wherever it copies: (B, H, W, 3) in 0..1.

    Away from both persons it is, bit for bit, what the result is put on.

    Args:
        shares: of the warp, of the plate and of what the decoder paints, (B, 3, h, w).
        own: what it paints, (B, 3, h, w) in [-1, 1]. See `painted`.
        tick: see `aligned`.
    """

    def mix(warped: Tensor, base: Tensor, channels: Tensor) -> Tensor:
        warp, plate, paint, hidden, near = channels[:, :5].split(1, 1)
        behind = hidden * channels[:, 5:8] + (1 - hidden) * base
        picture = (warp * warped + plate * behind + paint * channels[:, 8:]).clamp(0, 1)
        return torch.where(near > 0, near * picture + (1 - near) * base, base)

    near = near_people(reference)
    channels = torch.cat([shares, reference.hidden, near, shown(reference.plate), shown(own)], 1)
    return _made(detail, channels, mix, tick)


def _made(
    detail: Detail,
    channels: Tensor | None,
    mix: Callable[..., Tensor],
    tick: Callable[[], None],
) -> Tensor:
    """Pictures of mix(what the sources show, what the result is put on, other channels), band by band."""
    device = detail.sources[0].device
    pictures = torch.empty(len(detail.rows), *detail.view.size, 3, device=device)
    kept: dict[int, Mipmaps] = {}
    for result in range(len(pictures)):
        warp, base = detail.warps(result, kept), detail.base(result).to(device)
        for first, last in detail.view.bands():
            tick()
            places = detail.view.places(first, last, device)
            here = None if channels is None else at(channels[result : result + 1].to(device, torch.float32), places)
            picture = mix(warp(places), base[..., first:last, :], here)
            pictures[result, first:last] = picture[0].movedim(0, -1)
    return pictures
