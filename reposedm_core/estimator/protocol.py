"""What the pose interaction field and the readers of joints ask of a pose estimator; HigherHRNet is the paper's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor, nn


class EstimatorOutput(NamedTuple):
    """What HigherHRNet sees in (B, 3, H, W) pictures.

    Attributes:
        heatmaps_quarter: (B, K, H/4, W/4), about 1 where a joint is, else about 0 (no activation).
        tags_quarter: (B, K, H/4, W/4), associative embedding: joints of one person carry similar values.
        heatmaps_half: (B, K, H/2, W/2).
        features: (B, F, H/4, W/4), the trunk features P_φ of eq. 11.
    """

    heatmaps_quarter: Tensor
    tags_quarter: Tensor
    heatmaps_half: Tensor
    features: Tensor

    @property
    def heatmaps(self) -> tuple[Tensor, ...]:
        """The heat maps of every resolution, coarsest first."""
        return self.heatmaps_quarter, self.heatmaps_half

    @property
    def tags(self) -> Tensor:
        """The tags at whatever resolution they have."""
        return self.tags_quarter


class HeatmapConfig(Protocol):
    """How heat maps are to be read.

    Attributes:
        joints: K, in the COCO order where there are 17.
        strides: picture pixels per cell of every resolution, coarsest first: (4, 2) for HigherHRNet.
        sigma: deviation in cells, at every resolution, of the Gaussians that the network was trained on.
        udp: it was trained with UDP (see `pose.heatmaps`).
    """

    @property
    def joints(self) -> int: ...

    @property
    def strides(self) -> tuple[int, ...]: ...

    @property
    def sigma(self) -> float: ...

    @property
    def udp(self) -> bool: ...


def picture_size(config: HeatmapConfig) -> tuple[int, int] | None:
    """Height and width of the only pictures that an estimator takes: its configuration's `picture_size`.

    None where there is none, as of a HigherHRNet, which takes any size.
    """
    return getattr(config, "picture_size", None)


class PoseMaps(Protocol):
    """An estimator's output.

    Attributes:
        heatmaps: (B, K, H/s, W/s) for every stride s.
        features: (B, F, h, w) of any resolution; only space "features" reads them.
        tags: (B, K, h, w) of any resolution; only `predict_people` reads them. None: it sees one person a picture.
    """

    @property
    def heatmaps(self) -> tuple[Tensor, ...]: ...

    @property
    def features(self) -> Tensor: ...

    @property
    def tags(self) -> Tensor | None: ...


class PoseEstimator(nn.Module):
    """A module that maps pictures (B, 3, H, W) in [-1, 1] to `PoseMaps`, and says how to read them."""

    config: HeatmapConfig

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> PoseMaps: ...
