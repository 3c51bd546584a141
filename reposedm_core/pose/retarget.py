"""A pose with the limb lengths of another person: **ours**, for drawn poses and videos of somebody else.

Every bone of the tree (`tree.py`) keeps the direction that it has in the target pose. Its length is multiplied by the
ratio of the two people's limbs, so that a limb which points at the camera, and looks short, stays short.

How long a limb really is cannot be seen in one picture: projection shortens it, and a joint that was found in the wrong
place makes it longer. The length that is taken is the median over its left and right side and all frames, the greater
one of two. It is at least `LEAST` times what a person of that size usually has, where the size is the median over the
limbs. What is longer than `MOST` times that is not believed: it counts as not seen, as do joints far outside of the
picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, quoted
from .keypoints import PARTS, Pose
from .limits import no_tick
from .people import broadcast_frames, who_is_who
from .skeleton import NECK, OPENPOSE18
from .tree import CARRIED, MID_HIP, NOSE, ORDER, PARENTS, way_up, with_mid_hip

LEAST = 0.7
"""Part of a limb's usual length below which it counts as foreshortened."""

MOST = 2.0
"""Times a limb's usual length above which one of its joints counts as found in the wrong place."""

_OUTSIDE = 0.5
"""How far outside of the canvas, in parts of its sides, a joint counts as found in the wrong place."""

ANCHORS = ("hips", "neck", "feet")
"""What of a person stays where it is: the middle of the hips, the neck, the lower ankle."""

_LEVEL = 0.03
"""Ankles whose heights differ by less, in diagonals of the body's box, are both kept in part: in a walk the hips would
jump where one ankle takes over from the other."""

_AT = {name: number for number, name in enumerate(OPENPOSE18)} | {"mid_hip": MID_HIP}
_BOTH_SIDES = {
    "shoulders": (("neck", "shoulder", 0.30),),
    "hips": (("mid_hip", "hip", 0.18),),
    "upper arm": (("shoulder", "elbow", 0.55),),
    "forearm": (("elbow", "wrist", 0.50),),
    "thigh": (("hip", "knee", 0.82),),
    "shin": (("knee", "ankle", 0.86),),
    "head": (("nose", "ear", 0.26), ("eye", "ear", 0.19)),
    "small head": (("nose", "eye", 0.10),),
}
_HAND = tuple((0, k, length) for k, length in ((5, 0.19), (9, 0.19), (13, 0.18), (17, 0.17)))


def _limbs() -> dict[str, list[tuple[int, int, float]]]:
    """Segments that tell the size of each limb: two points and the usual distance, in lengths of the torso.

    The usual lengths are those of the synthetic people (Anny's mean proportions).
    """
    limbs = {"torso": [(NECK, MID_HIP, 1.0)], "neck": [(NECK, NOSE, 0.45)]}
    for limb, segments in _BOTH_SIDES.items():
        limbs[limb] = [
            (_AT[one] if one in _AT else _AT[f"{side}_{one}"], _AT[f"{side}_{other}"], length)
            for one, other, length in segments
            for side in ("left", "right")
        ]
    limbs["head"].append((_AT["left_ear"], _AT["right_ear"], 0.28))
    limbs["small head"].append((_AT["left_eye"], _AT["right_eye"], 0.115))
    return limbs


LIMBS = _limbs()
_NAMES = [limb for limb in LIMBS if limb != "small head"]
# Each point's bone to its parent: the limb whose ratio it has, and its usual length.
_BONES = {NECK: ("torso", 0.0)} | {
    point: next(
        (limb, length)
        for limb, segments in LIMBS.items()
        for one, other, length in segments
        if {one, other} == {point, PARENTS[point]}
    )
    for point in ORDER
    if PARENTS[point] >= 0
}


@dataclass(frozen=True)
class _Ratios:
    """Factors on the limbs by name, and on the whole person."""

    limbs: dict[str, float]
    whole: float


def limb_sizes(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """How large the limbs of everybody look, in pixels of the torso that usually goes with them.

    Returns:
        (P, 9) float64 in the order of torso, neck, shoulders, hips, upper arm, forearm, thigh, shin, head: the median
        of what is seen of both sides, the greater one of two, over its usual length; NaN for what is not seen. And (P,)
        for the hands.
    """
    people = [_sizes([pose.take([person])]) for person in range(len(pose.joints))]
    sizes = np.array([[_median(limb) for limb in person] for person in people]).reshape(-1, len(_NAMES) + 1)
    return sizes[:, :-1], sizes[:, -1]


def retarget_pose(
    target: Sequence[Pose],
    source: Sequence[Pose],
    size: bool = False,
    anchor: str = "hips",
    together: bool = True,
    tick: Callable[[], object] = no_tick,
) -> list[Pose]:
    """Give the people of the target the limbs of the people of the source.

    The first takes those of the first, the second of the second; one person of the source serves everybody. Who is
    who in the frames is said by the ids, where everybody has one, else by the order. Who has no counterpart stays as he
    is. Hands, feet and faces move with their limb and take the source's size, a hand that
    the source does not show that of its forearm, feet that of the shins. Limbs that cannot be compared, because one of
    the two does not show them, change as the whole person does. They are compared with the target's canvas letterboxed
    into the source's picture, as the pose is where that picture gets it.

    Args:
        target: frames of poses.
        source: frames of the people whose limbs are wanted.
        size: take the overall size too. Otherwise the lengths of the compared limbs keep their sum.
        anchor: one of `ANCHORS`, what keeps its place; where it is absent, the hips, then the neck, then the middle.
        together: the frames of the target show the same people, and so do those of the source: their limbs are
            measured over all frames, and do not change from frame to frame. Otherwise every frame is measured alone.
        tick: called for every frame, and for every person that is measured; it may raise, to stop.

    Returns:
        One frame for each of the target, with its canvas (`together`), else as many as `broadcast_frames` makes.

    Raises:
        InputError: there is no limb in both of them, another anchor, or numbers of frames that do not fit.
    """
    if anchor not in ANCHORS:
        raise InputError(f"keep: there is no {quoted(anchor)}; choose {', '.join(ANCHORS)}.")
    if together:
        size_of_source = source[0].height, source[0].width
        fitted, others = ([frame.resized(*size_of_source) for frame in frames] for frames in (target, source))
        ratios = _people_ratios(fitted, others, size, tick)
        plans = [
            (frame, [ratios[who] for who in order]) for frame, order in zip(target, who_is_who(target), strict=True)
        ]
    else:
        plans = [
            (frame, _people_ratios([frame.resized(other.height, other.width)], [other], size, tick))
            for frame, other in broadcast_frames(pose=target, source_pose=source)
        ]
    compared = any(found is not None for _, ratios in plans for found in ratios)
    if not compared:
        raise InputError(
            "source_pose: it shows no limb that the pose shows too, so nothing can be measured; "
            "give a picture of the person that shows more of the body."
        )
    rebuilt = []
    for frame, ratios in plans:
        tick()
        rebuilt.append(_frame_rebuilt(frame, ratios, anchor))
    return rebuilt


def _lengths(points: np.ndarray, segments: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """The lengths of segments that are seen in points (N, K, 3), over their usual lengths; perhaps none."""
    found = []
    for one, other, usual in segments:
        seen = (points[:, one, 2] > 0) & (points[:, other, 2] > 0)
        found.append(np.linalg.norm(points[seen, one, :2] - points[seen, other, :2], axis=-1) / usual)
    lengths = np.concatenate(found)
    return lengths[lengths > 0]  # two joints in one place tell nothing


def _median(values: np.ndarray) -> float:
    """The greater one of two in the middle, as of a limb's two sides the shorter one is foreshortened; NaN of none."""
    return float(np.sort(values)[len(values) // 2]) if len(values) else np.nan


def _sizes(frames: Sequence[Pose]) -> list[np.ndarray]:
    """All lengths that frames of one person show of each limb, and of the hands at last, over their usual lengths."""
    joints = np.concatenate([_in_reach(frame) for frame in frames])
    points = with_mid_hip(joints)
    sizes = {limb: _lengths(points, segments) for limb, segments in LIMBS.items()}
    # the distances of eyes and nose are a few pixels only: where an ear is seen they are not needed
    small = sizes.pop("small head")
    if not len(sizes["head"]):
        sizes["head"] = small
    hands = np.concatenate([hand for frame in frames for hand in (frame.left_hand, frame.right_hand)])
    return [*(sizes[limb] for limb in _NAMES), _lengths(hands.astype(np.float64), _HAND)]


def _in_reach(frame: Pose) -> np.ndarray:
    """The joints (P, 18, 3) of a frame, without those far outside of the picture, unless most of a person's are."""
    joints, canvas = frame.joints.copy(), np.array([frame.width, frame.height])
    seen = joints[..., 2] > 0
    far = seen & ((joints[..., :2] < -_OUTSIDE * canvas) | (joints[..., :2] > (1 + _OUTSIDE) * canvas)).any(-1)
    joints[far & (2 * far.sum(1) < seen.sum(1))[:, None]] = 0
    return joints


def _people_ratios(
    target: Sequence[Pose], source: Sequence[Pose], size: bool, tick: Callable[[], object]
) -> list[_Ratios | None]:
    """The ratios of everybody in the target's frames; None for who has no counterpart or nothing to compare."""
    people, others = (_by_person(frames) for frames in (target, source))
    ratios = []
    for person, seen in enumerate(people):
        tick()
        number = 0 if len(others) == 1 else person
        ratios.append(_ratios(_measured(seen), _measured(others[number] if number < len(others) else []), size))
    return ratios


def _by_person(frames: Sequence[Pose]) -> list[list[Pose]]:
    """The frames of every person alone."""
    found: dict[int, list[Pose]] = {}
    for frame, order in zip(frames, who_is_who(frames), strict=True):
        for number, who in enumerate(order):
            found.setdefault(who, []).append(frame.take([number]))
    return [found[who] for who in range(len(found))]


def _frame_rebuilt(frame: Pose, ratios: Sequence[_Ratios | None], anchor: str) -> Pose:
    people = []
    for i, joints in enumerate(frame.joints):
        person, found = frame.take([i]), ratios[i]
        people.append(_rebuilt(person, found, anchor) if found and joints[:, 2].any() else person)
    if not people:
        return frame
    return frame.with_parts(*map(np.concatenate, zip(*(person.parts for person in people), strict=True)))


def _measured(frames: Sequence[Pose]) -> tuple[np.ndarray, float]:
    """Sizes of the limbs (9,) and hands of one person over frames of him alone; NaN for what none shows."""
    if not frames:
        return np.full(len(_NAMES), np.nan), np.nan
    seen = _sizes(frames)
    medians = np.array([_median(limb) for limb in seen])
    if not np.isnan(medians[:-1]).all():
        for _ in range(2):  # once for the size of a person with limbs that are too long, once without them
            whole = np.nanmedian(medians[:-1])  # never NaN: the shortest limbs are not too long
            medians = np.array([_median(limb[limb <= MOST * whole]) for limb in seen])
        medians = np.maximum(medians, LEAST * whole)
    return medians[:-1], float(medians[-1])


def _ratios(target: tuple[np.ndarray, float], source: tuple[np.ndarray, float], size: bool) -> _Ratios | None:
    """What the limbs of one person are multiplied by; None if none can be compared."""
    usual = np.array([LIMBS[limb][0][2] for limb in _NAMES])
    compared = np.isfinite(target[0]) & np.isfinite(source[0]) & (target[0] > 0) & (source[0] > 0)
    if not compared.any():
        return None
    whole = float((source[0] * usual)[compared].sum() / (target[0] * usual)[compared].sum())
    unit = 1.0 if size else whole
    limbs = {limb: float(source[0][i] / target[0][i] if compared[i] else whole) / unit for i, limb in enumerate(_NAMES)}
    hand = source[1] / target[1] / unit if source[1] > 0 and target[1] > 0 else limbs["forearm"]
    return _Ratios(limbs | {"small head": limbs["head"], "hand": hand}, whole / unit)


def _rebuilt(person: Pose, ratios: _Ratios, anchor: str) -> Pose:
    """One person with every bone multiplied by its limb's ratio."""
    old = with_mid_hip(person.joints)[0]
    present = old[:, 2] > 0
    kept = _anchor(old, anchor)
    fixed = kept @ old[:, :2]
    new = old.copy()
    for point in ORDER:
        if not present[point]:
            continue
        above, way = way_up(point, present)
        if above < 0:
            # nothing to hang on: from what stays where it is, as the whole person
            new[point, :2] = fixed + ratios.whole * (old[point, :2] - fixed)
            continue
        bones = [_BONES[step] for step in way]
        ratio = sum(ratios.limbs[limb] * usual for limb, usual in bones) / sum(usual for _, usual in bones)
        new[point, :2] = new[above, :2] + ratio * (old[point, :2] - old[above, :2])
    new[present, :2] += fixed - kept @ new[:, :2]

    sizes = {"face": ratios.limbs["head"], "feet": ratios.limbs["shin"]}
    parts = {name: part.astype(np.float64) for name, part in zip(PARTS, person.parts, strict=True)}
    parts["joints"] = new[None, :MID_HIP]
    for name, points, joint in CARRIED:
        moved = parts[name][0, points]
        above = joint if present[joint] else way_up(joint, present)[0]
        if above < 0 or not (moved[:, 2] > 0).any():
            before, after = fixed, fixed
        elif above == joint:
            before, after = old[joint, :2], new[joint, :2]
        else:
            # its own joint is absent: its first point moves as that joint would
            before = moved[np.argmax(moved[:, 2] > 0), :2].copy()
            after = new[above, :2] + ratios.limbs[_BONES[joint][0]] * (before - old[above, :2])
        moved[:, :2] = after + sizes.get(name, ratios.limbs["hand"]) * (moved[:, :2] - before)
    return person.with_parts(*parts.values())


def _anchor(points: np.ndarray, anchor: str) -> np.ndarray:
    """What is to keep its place, as shares (19,) of points (19, 3) that sum to 1."""
    present = points[:, 2] > 0
    shares = np.zeros(len(points))
    right, left = _AT["right_ankle"], _AT["left_ankle"]
    if anchor == "feet" and (present[right] or present[left]):
        level = _LEVEL * np.linalg.norm(np.ptp(points[present, :2], axis=0))
        lower = (points[right, 1] - points[left, 1]) / max(2 * level, 1e-6)
        shares[right] = np.clip(0.5 + lower, 0, 1) if present[right] and present[left] else float(present[right])
        shares[left] = 1 - shares[right]
        return shares
    order = (NECK, MID_HIP) if anchor == "neck" else (MID_HIP, NECK)
    kept = next((point for point in order if present[point]), None)
    shares[present if kept is None else kept] = 1
    return shares / shares.sum()
