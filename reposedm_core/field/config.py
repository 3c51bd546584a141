"""Sizes of the pose estimator, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from ..ranges import check_counts, check_known, check_ranges, wrong

SPACES, MASKS = ("heatmaps", "features"), ("union", "predicted")
"""What the field compares, and where."""


@dataclass(frozen=True)
class EstimatorConfig:
    """Sizes of a HigherHRNet; the defaults are `mini` (**ours**), `ESTIMATORS` holds the official ones too.

    Attributes:
        joints: K, joints of the COCO layout.
        stem: channels of the first convolution, at 1/2 of the picture.
        bottleneck: inner channels of the stage 1 blocks, which emit four times as many at 1/4 of the picture.
        bottlenecks: blocks of stage 1.
        channels: channels of each branch, at 1/4, 1/8, 1/16 (and 1/32) of the picture.
        modules: exchange modules of stage 2, 3 (and 4): one number fewer than `channels`.
        blocks: residual blocks of each branch in each module.
        deconv_channels: channels at 1/2 of the picture, after the one transposed convolution.
        deconv_blocks: residual blocks there.
        normalise: "imagenet" maps [-1, 1] to ImageNet's mean and deviation inside `forward`, "none" nothing.
        sigma: deviation in heat-map cells of the Gaussians that the network was trained on.
        udp: the network was trained with UDP's unbiased data processing: cells lie by its rule (`pose.heatmaps`).
    """

    joints: int = 17
    stem: int = 32
    bottleneck: int = 16
    bottlenecks: int = 1
    channels: tuple[int, ...] = (24, 48, 96)
    modules: tuple[int, ...] = (1, 1)
    blocks: int = 1
    deconv_channels: int = 24
    deconv_blocks: int = 0
    normalise: str = "imagenet"
    sigma: float = 1.5
    udp: bool = False

    @property
    def strides(self) -> tuple[int, ...]:
        """Picture pixels a cell of both heat maps, coarsest first."""
        return (4, 2)

    def __post_init__(self) -> None:
        check_counts(self, channels=(2, 4))
        if len(self.modules) != len(self.channels) - 1:
            raise wrong(self, "modules", f"give one number for each of channels = {self.channels} but the first")
        check_ranges(self, joints=(1, 512), stem=(1, 4096), bottleneck=(1, 4096), bottlenecks=(1, 64),
                     channels=(1, 4096), modules=(1, 64), blocks=(1, 64), deconv_channels=(1, 4096),
                     deconv_blocks=(0, 64), sigma=(0.01, 1000))
        check_known(self, normalise=("imagenet", "none"))


def _official(width: int) -> EstimatorConfig:
    """HigherHRNet-W`width` (Cheng et al., 2020, section 3.2)."""
    return EstimatorConfig(
        stem=64,
        bottleneck=64,
        bottlenecks=4,
        channels=(width, 2 * width, 4 * width, 8 * width),
        modules=(1, 4, 3),
        blocks=4,
        deconv_channels=width,
        deconv_blocks=4,
        sigma=2.0,
    )


ESTIMATORS: dict[str, EstimatorConfig] = {
    "mini": EstimatorConfig(),
    "w32": _official(32),
    "w48": _official(48),
}
"""`mini` is for 128 x 96 pictures on a CPU; `w32` loads the official pose_higher_hrnet_w32_512.pth and `w48`
pose_higher_hrnet_w48_640.pth. For one of mmpose's that was trained with UDP: `replace(ESTIMATORS["w32"], udp=True)`."""
