"""The layout of a result before it is painted: what every pixel of it will show, and in which colour (**ours**).

A small network predicts the target's labels from the source's, as the map warps them, and both skeletons; the field
calls it a parsing generator (PISE, Zhang et al., CVPR 2021). It sees no colours, so that those of the clothes do not
matter to it. Each label takes the mean colour that it has in the source.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import Alignment
from .alignment.multi_source import Seen
from .alignment.warp import warp
from .checks import check_tensor
from .crop import resize
from .garment_parser import GarmentParser, LabelNetwork, ParserConfig
from .letterbox import size_of

SCARCE = 1e-4
"""Share of the picture that a label must cover in the source for its own colour to count as much as the person's."""


@dataclass
class Layout:
    """What B results will show.

    Attributes:
        logits: of the labels, (B, L, h, w) at any size, the background first.
        colours: of the labels in the source, (B, L, 3) in [-1, 1]; that of the background means nothing.
    """

    logits: Tensor
    colours: Tensor

    def drawn(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """At a size (H, W): where the person will be, (B, 1, H, W) in 0..1, and the person in the labels' colours,
        (B, 3, H, W) in [-1, 1], where there is none in those of the likeliest label."""
        logits = F.interpolate(self.logits, size, mode="bilinear", align_corners=False)
        person = logits[:, 1:].logsumexp(1, keepdim=True) - logits[:, :1]
        shares = logits[:, 1:].softmax(1)
        return person.sigmoid(), torch.einsum("blhw,blc->bchw", shares, self.colours[:, 1:])


class LayoutNetwork(LabelNetwork):
    """Labels of the target, by the network of `GarmentParser` on what is known before anything is painted."""

    def __init__(self, config: ParserConfig):
        super().__init__(config, 2 * 3 + 2 * len(config.labels) + 2)

    def forward(
        self,
        skeleton: Tensor,
        source_skeleton: Tensor,
        labels: Tensor,
        warped: Tensor,
        visibility: Tensor,
        person: Tensor,
    ) -> Tensor:
        """Logits (B, L, H/2, W/2) of the target's labels.

        Args:
            skeleton, source_skeleton: both poses drawn, (B, 3, H, W) in [-1, 1], H and W multiples of the stride.
            labels, warped: probabilities of the source's labels, (B, L, H, W), as they are and as the map warps them.
            visibility, person: (B, 1, H, W) in 0..1, the aligner's: does the source show this part of the person, and
                is the person here?

        Raises:
            InputError: tensors of other shapes.
        """
        stride = self.config.stride
        sizes = check_tensor(skeleton, "skeleton", "B 3 H W", multiples={"H": stride, "W": stride})
        check_tensor(source_skeleton, "source_skeleton", "B 3 H W", dict(sizes))
        for name, values in (("labels", labels), ("warped", warped)):
            check_tensor(values, name, "B L H W", {**sizes, "L": len(self.config.labels)})
        for name, values in (("visibility", visibility), ("person", person)):
            check_tensor(values, name, "B 1 H W", dict(sizes))
        return self.label(torch.cat([skeleton, source_skeleton, labels, warped, visibility, person], 1))


def parse_source(parser: GarmentParser, source: Tensor, skeleton: Tensor, logits: Tensor) -> Tensor:
    """Probabilities of the source's labels, (B, L, H, W) at the picture's size.

    Whether a pixel is of the person at all is decided by the parser's odds times the aligner's: the parser sees the
    picture finer; what it takes for a second person, the aligner seldom does, too.

    Args:
        source: (B, 3, H, W) in [-1, 1]. skeleton: the source's, at any size, black where the pose is unknown.
        logits: the aligner's of that person, (B, 1, h, w) at any size.
    """
    size, own = size_of(source), (parser.config.height, parser.config.width)
    found = parser(resize(source, own), resize(skeleton, own)).float()
    background = found.log_softmax(1)[:, :1]
    # log(1 - p) of the background's log p; the clamp keeps what is certain finite
    person = torch.log(-torch.expm1(background.clamp(max=-1e-6)))
    was = (resize(person - background, size) + resize(logits, size)).sigmoid()
    return torch.cat([1 - was, was * resize(found[:, 1:].softmax(1), size)], 1)


def person_of(labels: Tensor) -> Tensor:
    """(B, 1, H, W): the probability that a pixel is of the person, of those of its labels (B, L, H, W)."""
    return labels[:, 1:].sum(1, keepdim=True)


def mean_colours(source: Tensor, labels: Tensor) -> Tensor:
    """(B, L, 3): the mean colour of every label in pictures (B, 3, H, W); the person's, where it covers hardly any.

    Pixels count by the square of their label's probability (B, L, H, W), so that doubtful ones hardly do.
    """
    weights = labels.square().flatten(2)
    sums, counts = weights @ source.flatten(2).mT, weights.sum(2, keepdim=True)
    of_person = sums[:, 1:].sum(1, keepdim=True) / counts[:, 1:].sum(1, keepdim=True).clamp(min=1e-6)
    few = SCARCE * weights.shape[2]
    return (sums + few * of_person) / (counts + few)


def predict_layout(
    network: LayoutNetwork,
    source: Tensor,
    skeleton: Tensor,
    source_skeleton: Tensor,
    labels: Tensor,
    alignment: Alignment,
    seen: Seen,
) -> Layout:
    """The layout of B results of S sources each; poses are those of each result's first source.

    Args:
        source, skeleton: (B·S, 3, H, W) in [-1, 1]. source_skeleton: (B·S, 3, h, w), black where it is unknown.
        labels: of `parse_source`, (B·S, L, H, W).
        alignment: of all sources, with masks. seen: what they show together.
    """
    size, own = size_of(source), (network.config.height, network.config.width)
    count = seen.weights.shape[1]
    warped = warp(labels, alignment.maps[-1])
    if count > 1:
        share = F.interpolate(seen.weights.flatten(0, 1), size, mode="bilinear", align_corners=False)
        warped = (share * warped).unflatten(0, (-1, count)).sum(1)
    if alignment.person is None:
        raise ValueError('alignment: it has no masks; only an aligner of kind "matching" finds them.')
    person = alignment.person.unflatten(0, (-1, count)).mean(1).sigmoid()
    given = skeleton[::count], source_skeleton[::count], labels[::count], warped, seen.visibility, person
    logits = network(*(resize(values, own) for values in given)).float()
    together = (values.unflatten(0, (-1, count)).movedim(1, 2).flatten(2, 3) for values in (source, labels))
    return Layout(logits, mean_colours(*together))
