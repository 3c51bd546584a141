"""Skeleton pictures: OpenPose's colours in two widths, HumanSD's and mmpose's COCO style.

Everything is a capsule (a segment with a radius; a joint is one of length 0), painted in order with an edge
that fades over one pixel. Only the pixels in a capsule's box are looked at, for all pictures of a chunk at
once, and of large boxes some rows at a time. It is NumPy on the CPU in double precision, element by element,
whatever the caller's device: a pose gives the same bytes in training, in the pipeline and in a node, alone or
in a batch.

Coordinates are pixels, with pixel centres at +0.5.
"""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import InputError, quoted
from .keypoints import openpose_to_coco
from .limits import check_pixels
from .skeleton import (
    COCO_COLOURS,
    COCO_LIMB_COLOURS,
    COCO_LIMBS,
    HAND_LIMBS,
    HUMANSD_COLOURS,
    HUMANSD_LIMBS,
    OPENPOSE_COLOURS,
    OPENPOSE_LIMBS,
)

if TYPE_CHECKING:
    from .keypoints import Pose

# Of the picture's height: 1.3 and 1.9 pixels at 128.
LIMB_HALF_WIDTH = 0.0102
JOINT_RADIUS = 0.0148
LIMB_BRIGHTNESS = 0.6
# What the preprocessors of ControlNet draw at a shorter side of 512, which ControlNets were trained with: bodies with
# lines 8 pixels wide and joints of radius 4, hands with lines 2 wide and the same joints, faces with radius 3.
CONTROLNET = {"body": (4 / 512, 4 / 512), "hand": (1 / 512, 4 / 512), "face": (0.0, 3 / 512)}
# HumanSD: OpenCV lines of thickness 10 at 512, the shorter side of its pictures; such a line covers 5.45 pixels to
# both sides. The proportion at other sizes is **ours**.
HUMANSD_HALF_WIDTH = 5.45 / 512
_CHUNK = 32  # pictures painted together: their canvas stays in the processor's cache
_AT_ONCE = 2**20  # pixels of boxes that are looked at together, some 100 MB
_HAND_COLOURS = tuple(
    tuple(255 * channel for channel in colorsys.hsv_to_rgb(i / 20, 1, 1)) for i in range(len(HAND_LIMBS))
)


def paint_capsules(
    canvas: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    present: np.ndarray,
    radius: float,
    colour: tuple,
    hard: bool = False,
) -> None:
    """Blend one capsule a picture into `canvas` (N, H, W, 3) float32; ends (N, 2); present (N,) bool.

    A `hard` one covers the pixels whose centres lie in it wholly, and no other.
    """
    pictures = np.flatnonzero(present)
    if not len(pictures):
        return
    height, width = canvas.shape[1:3]
    start, end = start[pictures], end[pictures]
    reach = radius + 0.5
    limits = (width, height)
    first = np.clip(np.floor(np.minimum(start, end) - reach), 0, limits).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(start, end) + reach), 0, limits).astype(np.int64)
    columns, top, bottom = int((last - first)[:, 0].sum()), int(first[:, 1].min()), int(last[:, 1].max())
    step = max(1, _AT_ONCE // max(1, columns))
    if top + step >= bottom:
        return _paint_boxes(canvas, pictures, start, end, first, last, radius, colour, hard)
    for row in range(top, bottom, step):
        upper, lower = (np.column_stack([corner[:, 0], corner[:, 1].clip(row, row + step)]) for corner in (first, last))
        _paint_boxes(canvas, pictures, start, end, upper, lower, radius, colour, hard)


def _paint_boxes(
    canvas: np.ndarray,
    pictures: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    radius: float,
    colour: tuple,
    hard: bool,
) -> None:
    """The pixels of capsules that lie in boxes: `first` and, after the last, `last` (N, 2) are columns and rows."""
    height, width = canvas.shape[1:3]
    reach = radius + 0.5
    columns, rows = (last - first).T
    areas = columns * rows
    total = int(areas.sum())
    if not total:
        return
    # Every pixel of every box, as flat lists: `owner` is the capsule, (x, y) the pixel.
    owner = np.repeat(np.arange(len(pictures)), areas)
    local = np.arange(total) - (np.cumsum(areas) - areas)[owner]
    row = local // columns[owner]
    x = local - row * columns[owner] + first[owner, 0]
    y = row + first[owner, 1]
    direction = end - start
    squared = np.maximum((direction * direction).sum(1), 1e-12)
    from_x = x + 0.5 - start[owner, 0]
    from_y = y + 0.5 - start[owner, 1]
    direction_x, direction_y = direction[owner, 0], direction[owner, 1]
    along = np.clip((from_x * direction_x + from_y * direction_y) / squared[owner], 0, 1)
    from_x -= along * direction_x
    from_y -= along * direction_y
    alpha = reach - np.sqrt(from_x * from_x + from_y * from_y)
    if hard:
        alpha = (alpha >= 0.5).astype(np.float64)
    covered = np.flatnonzero(alpha > 0)
    alpha = np.minimum(alpha[covered], 1).astype(np.float32)[:, None]
    # A pixel occurs once in this list, so reading and writing by index is safe.
    index = (pictures[owner[covered]] * height + y[covered]) * width + x[covered]
    pixels = canvas.reshape(-1, 3)
    pixels[index] += alpha * (np.asarray(colour, np.float32) - pixels[index])


def _paint_parts(
    canvas: np.ndarray,
    joints: np.ndarray,
    limbs: tuple,
    limb_colours: tuple,
    joint_colours: tuple,
    sizes: tuple[float, float],
    brightness: float = LIMB_BRIGHTNESS,
) -> None:
    """Limbs, then joints, of one body part a picture; joints (N, K, 3) float64.

    `sizes` are half the width of a limb and the radius of a joint in pixels.
    """
    width, radius = sizes
    points = joints[..., :2]
    present = (joints[..., 2] > 0) & np.isfinite(joints).all(-1)
    for (a, b), colour in zip(limbs, limb_colours, strict=False):
        colour = tuple(brightness * channel for channel in colour)
        both = present[:, a] & present[:, b]
        paint_capsules(canvas, points[:, a], points[:, b], both, width, colour)
    for k, colour in enumerate(joint_colours):
        paint_capsules(canvas, points[:, k], points[:, k], present[:, k], radius, colour)


def _sizes(canvas: np.ndarray, scale: float) -> tuple[float, float]:
    return scale * LIMB_HALF_WIDTH * canvas.shape[1], scale * JOINT_RADIUS * canvas.shape[1]


def _paint_body(canvas: np.ndarray, joints: np.ndarray, sizes: tuple[float, float] | None = None) -> None:
    sizes = _sizes(canvas, 1.0) if sizes is None else sizes
    _paint_parts(canvas, joints, OPENPOSE_LIMBS, OPENPOSE_COLOURS, OPENPOSE_COLOURS, sizes)


def _paint_whole(
    canvas: np.ndarray, pose: Pose, body: tuple, hands: tuple, faces: tuple, hand_brightness: float = LIMB_BRIGHTNESS
) -> None:
    """Bodies, later people over earlier ones, then hands, then faces, each with its sizes."""
    for person in pose.joints.astype(np.float64):
        _paint_body(canvas, person[None], body)
    for hand in np.concatenate([pose.left_hand, pose.right_hand]).astype(np.float64):
        _paint_parts(canvas, hand[None], HAND_LIMBS, _HAND_COLOURS, ((0, 0, 255),) * 21, hands, hand_brightness)
    for face in pose.face.astype(np.float64):
        _paint_parts(canvas, face[None], (), (), ((255, 255, 255),) * 70, faces)


def _paint_openpose(canvas: np.ndarray, pose: Pose, line_width: float) -> None:
    fine = _sizes(canvas, 0.4 * line_width)
    _paint_whole(canvas, pose, _sizes(canvas, line_width), fine, fine)


def _paint_controlnet(canvas: np.ndarray, pose: Pose, line_width: float) -> None:
    scale = line_width * min(canvas.shape[1:3])
    body, hands, faces = ((scale * line, scale * joint) for line, joint in CONTROLNET.values())
    _paint_whole(canvas, pose, body, hands, faces, hand_brightness=1.0)


def _paint_coco(canvas: np.ndarray, pose: Pose, line_width: float) -> None:
    sizes = _sizes(canvas, line_width)
    for joints in openpose_to_coco(pose.joints.astype(np.float64)):
        _paint_parts(canvas, joints[None], COCO_LIMBS, COCO_LIMB_COLOURS, COCO_COLOURS, sizes, brightness=1.0)


def _paint_humansd(canvas: np.ndarray, pose: Pose, line_width: float) -> None:
    """Limbs with round, hard ends; coordinates cut to whole pixels.

    Joints outside of the picture and their limbs are left out: HumanSD's training cut them off, so that a network
    trained with it never saw a limb that runs out of the picture.
    """
    height, width = canvas.shape[1:3]
    radius = line_width * HUMANSD_HALF_WIDTH * min(height, width)
    for joints in openpose_to_coco(pose.joints.astype(np.float64)):
        points = np.floor(joints[:, :2])
        inside = ((points >= 0) & (points < (width, height))).all(-1) & (joints[:, 2] > 0)
        points = points[None] + 0.5
        for (a, b), colour in zip(HUMANSD_LIMBS, HUMANSD_COLOURS, strict=True):
            paint_capsules(canvas, points[:, a], points[:, b], inside[None, a] & inside[b], radius, colour, hard=True)


_STYLES = {"openpose": _paint_openpose, "humansd": _paint_humansd, "coco": _paint_coco, "controlnet": _paint_controlnet}
STYLES = tuple(_STYLES)
"""Names of the styles of `draw_pose`."""


def to_picture(canvas: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) float32 in 0..255 -> (N, 3, H, W) uint8; the canvas is rounded in place."""
    return np.ascontiguousarray(np.rint(canvas, out=canvas).astype(np.uint8).transpose(0, 3, 1, 2))


def to_floats(canvas: np.ndarray) -> torch.Tensor:
    """(1, H, W, 3) float32 in 0..255 -> (3, H, W) float32 in 0..1, multiples of 1/255."""
    picture = to_picture(canvas)[0].astype(np.float32)
    picture /= np.float32(255)
    return torch.from_numpy(picture)


def draw_joints(joints: np.ndarray | torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Draw one person a picture.

    Args:
        joints: (N, 18, 3) OpenPose-18: x, y in pixels of the height x width picture, and a score. A joint
            whose score is 0 or whose numbers are not finite is not drawn, nor are its limbs.
        height, width: of the pictures; line widths follow the height.

    Returns:
        (N, 3, height, width) uint8 on the CPU: black background, limbs at 60 % brightness under the joints.

    Raises:
        InputError: joints of another shape, a size below 1, or too many pixels.
    """
    if isinstance(joints, torch.Tensor):
        joints = joints.detach().to("cpu", torch.float64).numpy()
    joints = np.asarray(joints, np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (18, 3):
        raise InputError(f"The joints have shape {joints.shape}: drawing needs (pictures, 18, 3).")
    _check_size(height, width, len(joints))
    pictures = np.empty((len(joints), 3, height, width), np.uint8)
    for first in range(0, len(joints), _CHUNK):
        part = joints[first : first + _CHUNK]
        canvas = np.zeros((len(part), height, width, 3), np.float32)
        _paint_body(canvas, part)
        pictures[first : first + _CHUNK] = to_picture(canvas)
    return torch.from_numpy(pictures)


def draw_pose(
    pose: Pose,
    height: int | None = None,
    width: int | None = None,
    style: str = "openpose",
    line_width: float = 1.0,
) -> torch.Tensor:
    """Draw everybody in a pose, on black.

    Styles:

    - "openpose": bodies exactly as `draw_joints` paints them, later people over earlier ones; hands and face points
      are thinner and on top.
    - "humansd": what HumanSD's public code feeds its network: the sixteen limbs of COCO-17 that it knows, in its
      colours, thickness 10 at a shorter side of 512, with hard edges; joints outside of the picture are left out.
    - "coco": COCO-17 in the limbs and colours of mmpose: the person's left green, the right orange. Widths are
      those of "openpose" (**ours**).

    - "controlnet": OpenPose's colours in the widths that ControlNet's preprocessors draw, 8 pixels at a shorter side of
      512, hands and faces too; the tapered ends of their limbs are round here.

    "humansd" and "coco" have no hands, faces and necks.

    Args:
        pose: the people; its canvas is letterboxed into the picture when the sizes differ (`Pose.resized`).
        height, width: of the picture in pixels; the pose's own canvas where None.
        style: one of `STYLES`.
        line_width: factor on the widths of limbs and joints.

    Returns:
        (3, height, width) float32 in 0..1, a multiple of 1/255.

    Raises:
        InputError: a size below 1, too many pixels, another style, or a line width that is not positive.
    """
    height = pose.height if height is None else height
    width = pose.width if width is None else width
    _check_size(height, width)
    if style not in _STYLES:
        raise InputError(f"style: there is no {quoted(style)}; choose {', '.join(STYLES)}.")
    if not 0 < line_width < float("inf"):
        raise InputError(f"line_width: {line_width} is no width; 1 draws lines as wide as the style has them.")
    if (height, width) != (pose.height, pose.width):
        pose = pose.resized(height, width)
    canvas = np.zeros((1, height, width, 3), np.float32)
    _STYLES[style](canvas, pose, line_width)
    return to_floats(canvas)


def _check_size(height: int, width: int, pictures: int = 1) -> None:
    if height < 1 or width < 1:
        raise InputError(f"The picture size {width}x{height} is too small to draw a pose: use at least 1x1.")
    check_pixels("pose", pictures, height, width)
