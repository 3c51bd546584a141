"""Poses between poses: **ours**, for short animations.

Limbs turn instead of shrinking. Each bone's angle goes the short way *relative to the bone that it hangs on*, so that
an arm stays with a turning body and an elbow does not fold backwards; upper arms and thighs that turn about half a
circle go around the outside of the body. Its length changes evenly. Shoulders, hips, eyes
and ears, whose distance mostly tells how far the person is turned, move on a straight line in the frame of torso or
head, and so do fingers, feet and the points of the face.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError, quoted
from .keypoints import PARTS, Pose
from .limits import check_people, no_tick
from .people import match_people
from .skeleton import NECK, OPENPOSE18
from .tree import CARRIED, MID_HIP, ORDER, PARENTS, way_up, with_mid_hip

_EASINGS = {
    "even": lambda t: t,
    "ease in": lambda t: t * t,
    "ease out": lambda t: t * (2 - t),
    "ease in and out": lambda t: t * t * (3 - 2 * t),
}
EASINGS = tuple(_EASINGS)
"""How time passes over the whole animation: evenly, slow at its beginning, at its end, or at both."""

METHODS = ("limb angles", "straight lines")
"""How joints move from pose to pose."""

MATCHES = ("nearest", "as given")
"""Who is who in the next pose: by the least sum of distances (`match_people`), or first with first."""

_TURNING = {MID_HIP} | {
    number
    for number, name in enumerate(OPENPOSE18)
    if name == "nose" or name.endswith(("elbow", "wrist", "knee", "ankle"))
}
_OUTSIDE = {OPENPOSE18.index(f"{side}_{name}") for side in ("left", "right") for name in ("elbow", "knee")}
# Hands turn as wrist and the middle finger's first joint, feet as heel and big toe.
_ENDS = {"left_hand": (0, 9), "right_hand": (0, 9), "feet": (2, 0)}
_HALF_CIRCLE = math.radians(150)
_SHORT = 1e-6  # pixels; a shorter bone has no direction


def interpolate_poses(
    poses: Sequence[Pose],
    count: int,
    method: str = "limb angles",
    easing: str = "even",
    match: str = "nearest",
    loop: bool = False,
    tick: Callable[[], object] = no_tick,
) -> list[Pose]:
    """Frames from the first through all poses to the last.

    Args:
        poses: two or more; all are letterboxed to the canvas of the first.
        count: of the frames that are made, 1 or more.
        method: one of `METHODS`.
        easing: one of `EASINGS`.
        match: one of `MATCHES`. Who has no counterpart in the next pose, and joints that only one of the two poses has,
            are shown in the half of the time that is nearer to the pose which has them.
        loop: go on from the last pose to the first, and stop one frame before it, so that the frames repeat smoothly.
        tick: called for every pose and every frame; it may raise, to stop.

    Returns:
        `count` frames. A frame that falls on one of the poses, as the first and (without `loop`) the last do, is
        exactly that pose; people keep their order from frame to frame.

    Raises:
        InputError: fewer than two poses, no frame, too many people, or an unknown method, easing or match.
    """
    if len(poses) < 2:
        raise InputError("pose: there is one frame only, nothing lies between; give two poses or more.")
    if count < 1:
        raise InputError(f"frames: {count} frames cannot be made; ask for 1 or more.")
    for name, value, known in (("method", method, METHODS), ("easing", easing, EASINGS), ("match", match, MATCHES)):
        if value not in known:
            raise InputError(f"{name}: there is no {quoted(value)}; choose {', '.join(known)}.")
    height, width = poses[0].height, poses[0].width
    keys = [pose if (pose.height, pose.width) == (height, width) else pose.resized(height, width) for pose in poses]
    keys = [*keys, keys[0]] if loop else keys
    tracks = _tracks(keys, match, tick)
    check_people("frames", [max(len(key.joints) for key in keys)] * count)
    times = np.arange(count) / (count if loop else max(count - 1, 1))
    frames = []
    for time in times:
        tick()
        position = _EASINGS[easing](float(time)) * (len(keys) - 1)
        nearest = round(position)
        if abs(position - nearest) < 1e-9:
            frames.append(keys[nearest].take([track[nearest] for track in tracks if track[nearest] is not None]))
        else:
            first = math.floor(position)
            frames.append(
                _between(
                    keys[first],
                    keys[first + 1],
                    [track[first : first + 2] for track in tracks],
                    position - first,
                    method == METHODS[0],
                )
            )
    return frames


def fill_empty(frames: Sequence[Pose], tick: Callable[[], object] = no_tick) -> list[Pose]:
    """Frames without anybody, such as those in which a detector saw nobody, are made from their neighbours.

    Between two frames with people they are `interpolate_poses`; before the first and after the last they repeat it.
    Every frame keeps its canvas; where all are empty they stay so. `tick` is that of `interpolate_poses`.
    """
    seen = [number for number, frame in enumerate(frames) if len(frame.joints)]
    if not seen:
        return list(frames)
    filled = [frames[min(max(number, seen[0]), seen[-1])] for number in range(len(frames))]
    for first, last in itertools.pairwise(seen):
        if last > first + 1:
            made = interpolate_poses([frames[first], frames[last]], last - first + 1, tick=tick)
            filled[first + 1 : last] = made[1:-1]
    return [made.resized(frame.height, frame.width) for made, frame in zip(filled, frames, strict=True)]


def _tracks(keys: Sequence[Pose], match: str, tick: Callable[[], object]) -> list[list[int | None]]:
    """Everybody's number in each pose, or None where he is not in it."""
    tracks: list[list[int | None]] = [[i] for i in range(len(keys[0].joints))]
    for number, (one, other) in enumerate(itertools.pairwise(keys), 1):
        tick()
        if match == "nearest":
            pairs = dict(match_people(one, other))
        else:
            pairs = {i: i for i in range(min(len(one.joints), len(other.joints)))}
        for track in tracks:
            track.append(None if track[-1] is None else pairs.get(track[-1]))
        new = set(range(len(other.joints))) - set(pairs.values())
        tracks += [[None] * number + [i] for i in sorted(new)]
    return tracks


def _between(one: Pose, other: Pose, people: Sequence[Sequence[int | None]], t: float, turn: bool) -> Pose:
    """The frame at a time strictly between two poses."""
    shown, ids = [], []
    for i, j in people:
        if i is not None and j is not None:
            shown.append(person_between([part[i] for part in one.parts], [part[j] for part in other.parts], t, turn))
            ids.append(other.ids[j] if one.ids[i] is None else one.ids[i])
        elif i is not None and t < 0.5:
            shown.append([part[i] for part in one.parts])
            ids.append(one.ids[i])
        elif j is not None and t >= 0.5:
            shown.append([part[j] for part in other.parts])
            ids.append(other.ids[j])
    if not shown:
        return one.take([])
    return one.with_parts(*(np.stack(parts) for parts in zip(*shown, strict=True)), ids=ids)


def person_between(one: Sequence[np.ndarray], other: Sequence[np.ndarray], t: float, turn: bool) -> list[np.ndarray]:
    """The `PARTS` of one person between those of two poses."""
    old, new = with_mid_hip(one[0]), with_mid_hip(other[0])
    has_old, has_new = old[:, 2] > 0, new[:, 2] > 0
    both = has_old & has_new
    joints = np.zeros_like(old)
    turned = np.zeros(len(old))  # how far each bone turns in all, radians
    if turn and both[NECK] and both[MID_HIP]:
        turned[NECK] = _angle(old[MID_HIP] - old[NECK], new[MID_HIP] - new[NECK], 0.0)
    for point in ORDER:
        shared, alone = both[point], (has_old if t < 0.5 else has_new)[point]
        if not shared and not alone:
            continue
        above, _ = way_up(point, both if shared else joints[:, 2] > 0)
        if above < 0:
            joints[point] = _lerp(old[point], new[point], t) if shared else (old if t < 0.5 else new)[point]
            continue
        inherited = turned[above]
        bones = old[point, :2] - old[above, :2], new[point, :2] - new[above, :2]
        turned[point] = inherited
        if not shared:
            # on the bone's place in the pose that has it, turned as what it hangs on
            bone = _rotated(bones[0], inherited * t) if t < 0.5 else _rotated(bones[1], inherited * (t - 1))
            score = (old if t < 0.5 else new)[point, 2]
        else:
            if turn and point in _TURNING:
                turned[point] = _angle(*bones, inherited)
                root = PARENTS[above]
                if point in _OUTSIDE and above == PARENTS[point] and both[root]:
                    before, after = (points[above, :2] - points[root, :2] for points in (old, new))
                    turned[point] = _outside(turned[point], bones[0], before + _rotated(after, -inherited), inherited)
            bone = _bone_between(*bones, turned[point], t, turn and point in _TURNING)
            score = _lerp(old[point, 2], new[point, 2], t)
        joints[point] = [*(joints[above, :2] + bone), score]
    one_part, other_part = (dict(zip(PARTS, parts, strict=True)) for parts in (one, other))
    made = {name: np.zeros((size, 3)) for name, size in PARTS.items()} | {"joints": joints[:MID_HIP]}
    for name, points, joint in CARRIED:
        made[name][points] = _part_between(
            one_part[name][points].astype(np.float64),
            other_part[name][points].astype(np.float64),
            (old[joint], new[joint], joints[joint]) if both[joint] else None,
            turned[joint],
            t,
            _ENDS.get(name) if turn else None,
        )
    return list(made.values())


def _part_between(
    old: np.ndarray,
    new: np.ndarray,
    root: tuple[np.ndarray, ...] | None,
    inherited: float,
    t: float,
    ends: tuple[int, int] | None,
) -> np.ndarray:
    """A hand, foot or face (K, 3), which hangs on a joint: `root` is its old, new and present place.

    Where it has two `ends` it turns as they do, else as the bone that it hangs on.
    """
    both = (old[:, 2] > 0) & (new[:, 2] > 0)
    if root is None:
        if not both.any():
            return old if t < 0.5 else new
        old_root, new_root = old[both].mean(0), new[both].mean(0)
        root = old_root, new_root, _lerp(old_root, new_root, t)
    turned = inherited
    if ends and both[list(ends)].all():
        turned = _angle(old[ends[1]] - old[ends[0]], new[ends[1]] - new[ends[0]], inherited)
    before, after = (points[:, :2] - place[:2] for points, place in zip((old, new), root, strict=False))
    straight = _lerp(before, _rotated(after, -turned), t)
    alone = before if t < 0.5 else _rotated(after, -turned)
    place = _rotated(np.where(both[:, None], straight, alone), turned * t) + root[2][:2]
    score = np.where(both, _lerp(old[:, 2], new[:, 2], t), (old if t < 0.5 else new)[:, 2])
    return np.concatenate([place, score[:, None]], 1)


def _bone_between(old: np.ndarray, new: np.ndarray, turned: float, t: float, turns: bool) -> np.ndarray:
    before, after = np.linalg.norm(old), np.linalg.norm(new)
    if turns and min(before, after) > _SHORT:
        return _rotated(old, turned * t) * ((before + t * (after - before)) / before)
    return _rotated(_lerp(old, _rotated(new, -turned), t), turned * t)


def _angle(old: np.ndarray, new: np.ndarray, inherited: float) -> float:
    """How far a bone turns, radians: the way that is short beside what it hangs on; as that, if it has no direction."""
    if min(np.linalg.norm(old[:2]), np.linalg.norm(new[:2])) <= _SHORT:
        return inherited
    own = math.atan2(new[1], new[0]) - math.atan2(old[1], old[0]) - inherited
    return inherited + (own + math.pi) % (2 * math.pi) - math.pi


def _outside(turned: float, bone: np.ndarray, outward: np.ndarray, inherited: float) -> float:
    """The other way round for a limb that would turn about half a circle through the body.

    `bone` and twice `outward`, from the middle of the body to where the limb begins, are those of the first pose.
    """
    own = turned - inherited
    half_way = _rotated(bone, own / 2)
    # who is seen from the side has no outside
    if abs(own) < _HALF_CIRCLE or half_way @ outward > -0.2 * (half_way @ half_way):
        return turned
    return turned - math.copysign(2 * math.pi, own)


def _rotated(points: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def _lerp(old: np.ndarray, new: np.ndarray, t: float) -> np.ndarray:
    return old + t * (new - old)
