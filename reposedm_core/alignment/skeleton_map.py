"""φ⁰: the sampling map that two skeletons give, without any network (**ours**).

Each limb that both people have carries the cells around it by a similarity transform (stretched along the limb, scaled
with the torso beyond its ends and to its sides); the limbs are blended by their distance, and off the person the map is
the identity. It works at any resolution.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks import check_tensor
from .warp import identity_map

LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (2, 8),
    (5, 11),
    (8, 11),
    (2, 5),
    (0, 14),
    (0, 15),
)
"""Pairs of OpenPose-18 joints: what is drawn, less the ears, and the four sides of the torso."""
RADII = (
    0.35,
    0.35,
    0.35,
    0.30,
    0.35,
    0.30,
    0.50,
    0.50,
    0.40,
    0.50,
    0.50,
    0.40,
    0.60,
    0.50,
    0.50,
    0.50,
    0.50,
    0.50,
    0.50,
)
"""How far each limb reaches to its sides, in `REACH` torso lengths."""
REACH = 0.35
FLOOR = 0.02
"""Weight of the identity in the blend; a limb's own is exp(-d²), d in radii."""
BODY = 1.2
"""How far from a limb its person reaches, in radii."""
ENDS = ((0, 1, 0.2, 0.30), (4, 3, 0.3, 0.22), (7, 6, 0.3, 0.22), (10, 9, 0.25, 0.3), (13, 12, 0.25, 0.3))
"""What is beyond a last joint, as a disc: the joint, that before it, how far on its middle is and how large it is, in
torso lengths."""
SOFT = 0.25
"""Share of its reach over which a mask of limbs fades."""
SHOULDERS_AND_HIPS = (2, 5, 8, 11)
TOGETHER = 2**16
"""Cells of all limbs that are computed at a time: a small map's at once, for speed, a large one's limb by limb."""
SHORT = 1e-3
"""Pixels; a limb that is shorter is seen end on and has no direction of its own."""


def torso_length(joints: Tensor) -> Tensor:
    """(B,) pixels from the middle of the shoulders to that of the hips of (B, 18, 3) joints.

    Where one of the four is unknown: 0.3 times the diagonal of the box around all that are known, about the same.
    """
    place, known = joints[..., :2], joints[..., 2:] > 0
    right, left, hip_right, hip_left = (place[:, n] for n in SHOULDERS_AND_HIPS)
    length = (0.5 * (right + left - hip_right - hip_left)).norm(dim=-1)
    low = torch.where(known, place, torch.full_like(place, float("inf"))).amin(1)
    high = torch.where(known, place, torch.full_like(place, -float("inf"))).amax(1)
    box = 0.3 * (high - low).clamp(min=0).nan_to_num(0, 0, 0).norm(dim=-1)
    whole = known[:, list(SHOULDERS_AND_HIPS), 0].all(1)
    return torch.where(whole, torch.maximum(length, 0.5 * box), box).clamp(min=1e-3)


def skeleton_map(
    source: Tensor,
    target: Tensor,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    cells: tuple[int, int],
    floor: float = FLOOR,
) -> tuple[Tensor, Tensor]:
    """The map that the skeletons give.

    Args:
        source, target: OpenPose-18 joints (B, 18, 3) of the pictures: x, y in pixels and a score, 0 for unknown.
        source_size, target_size: (height, width) of the pictures in pixels.
        cells: (h, w) of the map.
        floor: weight of the identity; the less, the further from the limbs they carry all.

    Returns:
        φ⁰ (B, 2, h, w), see `alignment.warp`, and how much of it is the limbs' (B, 1, h, w), from 0, where it is the
        identity, to 1.

    Raises:
        InputError: joints of another shape.
    """
    identity = identity_map(*cells, source.device, torch.float32)
    place = identity * floor
    total = torch.full_like(identity[:, :1], floor)
    for shown, distance, known in _limbs(source, target, source_size, target_size, cells):
        weight = torch.exp(-distance) * known
        place = place + (weight[:, :, None] * shown).sum(1)
        total = total + weight.sum(1, keepdim=True)
    return place / total, 1 - floor / total


def limb_maps(
    source: Tensor, target: Tensor, source_size: tuple[int, int], target_size: tuple[int, int], cells: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What each limb alone would say; arguments and errors are those of `skeleton_map`.

    Returns:
        maps (B, L, 2, h, w), the identity where a limb is unknown, and how near it is, (B, L, h, w): 1 / (1 + d²), d
        in radii, 0 where it is unknown.
    """
    identity = identity_map(*cells, source.device, torch.float32)
    maps, near = [], []
    for shown, distance, known in _limbs(source, target, source_size, target_size, cells):
        maps.append(torch.where(known[:, :, None], shown, identity[:, None]))
        near.append(known / (1 + distance))
    return torch.cat(maps, 1), torch.cat(near, 1)


def limb_mask(joints: Tensor, size: tuple[int, int], cells: tuple[int, int], width: float = BODY) -> Tensor:
    """About where the people of skeletons are, head, hands and feet too: (B, 1, h, w), 1 near their limbs, 0 elsewhere.

    Args:
        joints: OpenPose-18 joints (B, 18, 3) in pixels of pictures of `size` (height, width).
        cells: (h, w).
        width: where the mask is a half, in radii of each limb; other than `BODY` scales everything alike.
    """
    mask = joints.new_zeros(len(joints), 1, *cells, dtype=torch.float32)
    for _, distance, known in _limbs(joints, joints, size, size, cells):
        mask = torch.maximum(mask, (_within(distance.sqrt() / width) * known).amax(1, keepdim=True))
    pixels = joints.new_tensor([size[1] / 2, size[0] / 2])[:, None, None]
    place = (identity_map(*cells, joints.device, torch.float32) + 1) * pixels
    torso = torso_length(joints)[:, None]
    for joint, before, on, radius in ENDS:
        end, known = joints[:, joint, :2], (joints[:, joint, 2] > 0)[:, None, None, None]
        whole = (joints[:, before, 2:] > 0) & (joints[:, joint, 2:] > 0)
        along = _direction(end - joints[:, before, :2], torch.zeros_like(end)) * whole
        middle = (end + on * torso * along)[..., None, None]
        distance = (place - middle).norm(dim=1, keepdim=True) / (radius * torso)[..., None, None]
        mask = torch.maximum(mask, _within(distance * (BODY / width)) * known)
    return mask


def _within(distance: Tensor) -> Tensor:
    """1 well below a distance of 1, 0 well above it."""
    return ((1 - distance) / SOFT + 0.5).clamp(0, 1)


def _limbs(
    source: Tensor, target: Tensor, source_size: tuple[int, int], target_size: tuple[int, int], cells: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of some limbs after the others: their maps (B, n, 2, h, w), the squared distance in radii (B, n, h, w), are they
    known (B, n, 1, 1)."""
    sizes = check_tensor(source, "source joints", "B 18 3")
    check_tensor(target, "target joints", "B 18 3", sizes, like=source)
    source, target = (torch.where(joints[..., 2:] > 0, joints, 0).float() for joints in (source, target))
    (source_height, source_width), (height, width), (h, w) = source_size, target_size, cells
    half = source.new_tensor([width / 2, height / 2])
    source_half = source.new_tensor([source_width / 2, source_height / 2])[:, None, None]
    identity = identity_map(h, w, source.device, source.dtype)
    x, y = ((identity + 1) * half[:, None, None])[0, :, None, None]  # 1, 1, h, w in pixels
    source_torso, target_torso = (torso_length(joints)[:, None, None] for joints in (source, target))
    scale = (source_torso / target_torso)[..., None]
    ends = [list(joints) for joints in zip(*LIMBS, strict=True)]
    start, end, from_start, from_end = (joints[:, n, :2] for joints in (target, source) for n in ends)  # B, L, 2
    long, from_long = (
        (q - p).norm(dim=-1, keepdim=True).clamp(min=SHORT)[..., None]
        for p, q in ((start, end), (from_start, from_end))
    )
    # Seen end on in one of the pictures, a limb is taken to point where it does in the other.
    along = _direction(end - start, _direction(from_end - from_start, source.new_tensor([0.0, 1.0])))
    from_along = _direction(from_end - from_start, along)
    known = ((source[..., 2] > 0) & (target[..., 2] > 0))[:, torch.tensor(LIMBS, device=source.device)].all(-1)
    reach = (source.new_tensor(RADII)[:, None] * REACH * target_torso).square().clamp(min=1e-6)[..., None]
    step = max(1, TOGETHER // (len(source) * h * w))
    for first in range(0, len(LIMBS), step):
        some = slice(first, first + step)
        (x0, y0), (ax, ay), (from_x, from_y), (from_ax, from_ay) = (
            t[:, some, :, None, None].unbind(2) for t in (start, along, from_start, from_along)
        )
        u, v = (x - x0) * ax + (y - y0) * ay, (y - y0) * ax - (x - x0) * ay
        inside = torch.minimum(u.clamp(min=0), long[:, some])
        forth, aside = inside / long[:, some] * from_long[:, some] + (u - inside) * scale, v * scale
        shown = torch.stack([from_x + forth * from_ax - aside * from_ay, from_y + forth * from_ay + aside * from_ax], 2)
        distance = ((u - inside).square() + v.square()) / reach[:, some]
        yield shown / source_half - 1, distance, known[:, some, None, None]


def _direction(limb: Tensor, otherwise: Tensor) -> Tensor:
    """`limb` (…, 2) at length 1; `otherwise` where it is too short to have a direction."""
    length = limb.norm(dim=-1, keepdim=True)
    return torch.where(length > SHORT, limb / length.clamp(min=SHORT), otherwise)
