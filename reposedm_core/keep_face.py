"""The face of the source kept in the result, where both poses show it from about the same side (**ours**).

The head's joints of the two poses (nose, eyes, ears, and the points of the face where both have them) are fitted by a
similarity: turned, scaled and moved, never mirrored. What is left of the distances says whether the two heads look the
same way; where they do not, or a hand is before the face, the result stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .alignment.mipmaps import Mipmaps
from .alignment.warp import identity_map
from .crop import Crop
from .errors import InputError
from .letterbox import size_of
from .paste_back import Seam, paste_back
from .pose import Pose
from .pose.keypoints import Array
from .pose.skeleton import OPENPOSE18

NOSE, RIGHT_EYE, LEFT_EYE, RIGHT_EAR, LEFT_EAR = (
    OPENPOSE18.index(name) for name in ("nose", "right_eye", "left_eye", "right_ear", "left_ear")
)
HEAD = (NOSE, RIGHT_EYE, LEFT_EYE, RIGHT_EAR, LEFT_EAR)
ALIKE, TURNED = 0.15, 0.25
"""Distance that is left between the two heads' joints, in `Face.unit`s, up to which they look the same way, and from
which they do not; between the two the face fades, as a head turns. (What `find_face` refuses goes at once.)"""
FRONTAL = 0.45
"""Least part of the unit that the eyes are apart, across the face: less is seen from the side, or from behind."""
WIDE, LONG, BELOW = 1.0, 1.4, 0.35
"""Half axes of the face, and how far its middle is below that of the eyes, in units."""
HAND = 0.5
"""How far a hand reaches beyond the wrist, in forearms."""
ROOM = 1.7
"""Sides of the part of the result that is worked on, in those of the face."""


@dataclass(frozen=True)
class Face:
    """Where a face is.

    Attributes:
        eyes: (2,) the middle of the eyes, x and y in pixels. down: (2,) unit vector from the forehead to the chin.
        unit: about the distance of the eyes of a face seen from the front, in pixels.
    """

    eyes: np.ndarray
    down: np.ndarray
    unit: float

    def distance(self, x: Array, y: Array) -> Array:
        """0 in the middle of the face, 1 at its edge."""
        x, y = x - self.eyes[0], y - self.eyes[1]
        down = (x * self.down[0] + y * self.down[1]) / self.unit - BELOW
        across = (x * self.down[1] - y * self.down[0]) / self.unit
        return ((across / WIDE) ** 2 + (down / LONG) ** 2) ** 0.5


def find_face(pose: Pose) -> Face | None:
    """The first person's face, or None where it is not seen: no nose or eye, from the side or behind, behind a hand."""
    joints = pose.joints[0].astype(np.float64)
    if not (joints[[NOSE, RIGHT_EYE, LEFT_EYE], 2] > 0).all():
        return None
    across = joints[LEFT_EYE, :2] - joints[RIGHT_EYE, :2]
    eyes = (joints[LEFT_EYE, :2] + joints[RIGHT_EYE, :2]) / 2
    nose = joints[NOSE, :2] - eyes
    ears = joints[[RIGHT_EAR, LEFT_EAR]]
    heads = [np.linalg.norm(across), np.linalg.norm(nose) / 0.7]
    if (ears[:, 2] > 0).all():
        heads.append(np.linalg.norm(ears[1, :2] - ears[0, :2]) / 2.2)
    unit = float(np.median(heads)) if len(heads) == 3 else float(max(heads))
    if not unit >= 1:
        return None
    # Down is across the line of the eyes, on the side where the nose is if left and right are where they should be.
    down = np.array([-across[1], across[0]]) / max(np.linalg.norm(across), 1e-6)
    face = Face(eyes, down, unit)
    if np.linalg.norm(across) < FRONTAL * unit or nose @ down < 0.2 * unit:
        return None
    hands = [part[0][part[0][:, 2] > 0, :2] for part in (pose.left_hand, pose.right_hand)]
    for side in ("left", "right"):
        elbow, wrist = joints[[OPENPOSE18.index(f"{side}_elbow"), OPENPOSE18.index(f"{side}_wrist")]]
        if wrist[2] > 0:
            along = (wrist - elbow)[:2] if elbow[2] > 0 else np.zeros(2)
            hands.append(wrist[:2] + np.linspace(0, HAND, 4)[:, None] * along)
    x, y = np.concatenate(hands).T
    return None if (face.distance(x, y) < 1).any() else face


def fit_heads(source: Pose, target: Pose) -> tuple[complex, complex, float] | None:
    """The similarity from a first person's head to another's, of complex numbers x + iy: source = a · target + b.

    Returns:
        a, b and the distance that is left, the root of its weighted mean square, in pixels of the source; None of heads
        with fewer than three joints in common.
    """
    parts = [(pose.joints[0, list(HEAD)], pose.face[0]) for pose in (source, target)]
    there, here = (np.concatenate(pair).astype(np.float64) for pair in parts)
    both = (there[:, 2] > 0) & (here[:, 2] > 0)
    if both[: len(HEAD)].sum() < 3:
        return None
    weight = np.where(np.arange(len(there)) < len(HEAD), 1.0, 5.0 / max(both[len(HEAD) :].sum(), 5))[both]
    weight = weight / weight.sum()
    there, here = (points[both, 0] + 1j * points[both, 1] for points in (there, here))
    mean_there, mean_here = weight @ there, weight @ here
    spread = weight @ np.abs(here - mean_here) ** 2
    if not spread > 1e-6:
        return None
    turn = weight @ ((there - mean_there) * np.conj(here - mean_here)) / spread
    shift = mean_there - turn * mean_here
    left = math.sqrt(float(weight @ np.abs(there - turn * here - shift) ** 2))
    return complex(turn), complex(shift), left


def keep_face(
    result: Tensor,
    source: Tensor,
    source_pose: Pose,
    pose: Pose,
    feather: float = 25.0,
    match: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The result with the face that the source shows; where it cannot be kept, the result bit for bit.

    Args:
        result: (C, H, W) in 0..1, 3 channels or more.
        source: (3, h, w) in 0..1, of any size.
        source_pose: of the source; its canvas is fitted to it. The first person is whose face is kept.
        pose: of the result, likewise.
        feather: over what width the face fades into the result, and to where the source ends, in percent of the face's
            height, 0 to 50.
        match: how much of the difference in colour around the face is taken from the source, 0 to 1.

    Returns:
        the result, and the share of the source's face in it, (H, W) in 0..1: 0 all over where it was not kept.

    Raises:
        InputError: a number out of range.
    """
    if not 0 <= feather <= 50:
        raise InputError(f"feather = {feather}: must be 0 to 50.")
    size = size_of(result)
    nothing = result, torch.zeros(size, dtype=torch.float32, device=result.device)
    source_pose, pose = source_pose.resized(*source.shape[-2:]), pose.resized(*size)
    if not len(source_pose.joints) or not len(pose.joints):
        return nothing
    there, here, fit = find_face(source_pose), find_face(pose), fit_heads(source_pose, pose)
    if there is None or here is None or fit is None or fit[2] >= TURNED * there.unit or abs(fit[0]) < 1e-6:
        return nothing
    turn, shift, left = fit
    # the source's face as it comes to lie in the result: what is pasted is what the source shows
    middle = (complex(*there.eyes) - shift) / turn
    down = complex(*there.down) / turn * abs(turn)
    face = Face(np.array([middle.real, middle.imag]), np.array([down.real, down.imag]), there.unit / abs(turn))
    crop = _box(face, size)
    if crop is None:
        return nothing
    places = (identity_map(crop.height, crop.width, result.device, torch.float32)[0] + 1) / 2
    x, y = places[0] * crop.width + crop.left, places[1] * crop.height + crop.top
    fade = feather / 100 * 2  # of the half axis
    mask = ((1 - face.distance(x, y)) / max(fade, 1e-6)).clamp(0, 1) if fade else (face.distance(x, y) < 1).float()
    from_x = turn.real * x - turn.imag * y + shift.real
    from_y = turn.imag * x + turn.real * y + shift.imag
    height, width = source.shape[-2:]
    inside = torch.minimum(torch.minimum(from_x, width - from_x), torch.minimum(from_y, height - from_y))
    mask = torch.minimum(mask, (inside / max(fade * LONG * there.unit, 1e-6)).clamp(0, 1))
    mask = mask * mask * (3 - 2 * mask)
    at = torch.stack([from_x / width * 2 - 1, from_y / height * 2 - 1])[None]
    picture = source[None, :3].to(device=result.device, dtype=torch.float32)
    seen = Mipmaps(picture).sample(at, torch.full_like(at[:, :1], abs(turn)))[0]
    kept = min(1.0, (TURNED - left / there.unit) / (TURNED - ALIKE))
    return paste_back(result, seen, crop, kept * mask, Seam(0, 0, match))


def _box(face: Face, size: tuple[int, int]) -> Crop | None:
    """The part of a picture around a face; None where the face is outside."""
    side = ROOM * LONG * face.unit
    middle = face.eyes + BELOW * face.unit * face.down
    if not np.isfinite(middle).all() or side > 4 * max(size):
        return None
    left, top = np.floor(np.clip(middle - side, 0, (size[1], size[0]))).astype(int).tolist()
    right, bottom = np.ceil(np.clip(middle + side, 0, (size[1], size[0]))).astype(int).tolist()
    if right - left < 2 or bottom - top < 2:
        return None
    return Crop(top, left, bottom - top, right - left, size)
