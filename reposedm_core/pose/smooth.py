"""A sequence of poses without the faults of a detector: **ours**, for videos of somebody.

People are told apart through the frames (`tracking.py`), a joint that jumps away for a frame or two counts as missing,
what is missing for a while is made from the poses before and after (`interpolate.py`), and the one-euro filter
(Casiez, Roussel, Vogel 2012) takes the trembling away: an average over time, over less time the faster a point moves.
It is run forwards and backwards, and the mean of both is taken, so that nothing lags behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError
from .interpolate import person_between
from .keypoints import PARTS, Pose
from .limits import no_tick
from .tracking import Track, most_seen, track_people
from .tree import CARRIED, MID_HIP, ORDER, PARENTS

_STARTS = np.cumsum([0, *PARTS.values()])
_PLACES = {name: slice(*_STARTS[number : number + 2]) for number, name in enumerate(PARTS)}
_JUMP = 0.15
"""How far from its way a joint is that jumped, in diagonals of the person."""

_LONGEST_JUMP = 2
"""Frames that a jump lasts at most; what stays away longer, or was on the way, is where the person is."""

_SPEED_OVER = 3.0
"""Frames over which the speed itself is averaged."""

_SPEED_GAIN = 25.0
"""Weight of the newest frame, over that of the past, that each diagonal of the person per frame gives."""


def smooth_poses(
    frames: Sequence[Pose],
    smoothing: float = 3.0,
    fast_moves: float = 1.0,
    gap: int = 8,
    one_person: bool = False,
    tick: Callable[[], object] = no_tick,
) -> list[Pose]:
    """The same sequence, smooth in time.

    Args:
        frames: poses; each keeps its canvas.
        smoothing: frames over which a point at rest is averaged, 0 or more; 0 does not smooth.
        fast_moves: how much less a point is averaged that moves, 0 or more; 0 averages all alike.
        gap: frames for which a point or a person may be missing and is made from before and after, 0 or more. Nothing
            is made before somebody's first frame or after his last. Who is missing for longer is the same person when
            he comes back near where he was. Jumps that last longer are kept.
        one_person: only the person who is largest and longest in the picture.
        tick: called for every frame at least; it may raise, to stop.

    Returns:
        As many frames. People have the same order in all of them, that in which they appear; those who have an id
        keep the one that they have most often and nobody beside them has, and where there are several people everybody
        gets one.

    Raises:
        InputError: a number below 0, or not finite; more people than `limits.MOST_PEOPLE` in a frame.
    """
    for name, value in (("smoothing", smoothing), ("fast_moves", fast_moves), ("fill_gaps", gap)):
        if not 0 <= value < np.inf:
            raise InputError(f"{name}: it is {value}; use 0 or more.")
    if not frames:
        return []
    height, width = frames[0].height, frames[0].width
    fitted = [frame.resized(height, width) for frame in frames]
    tracks = track_people(fitted, tick)
    if one_person and tracks:
        tracks = [most_seen(tracks, fitted)]
    people: list[dict[int, np.ndarray]] = []  # of every track, by frame
    for track in tracks:
        first, points = _points(track, fitted, tick)
        if gap:
            _drop_jumps(points, gap)
            points = _filled(points, gap, tick)
        if smoothing:
            points = _smoothed(points, smoothing, fast_moves, tick)
        people.append({number: person for number, person in enumerate(points, first) if (person[:, 2] > 0).any()})
    shown: list[list[tuple[np.ndarray, int | None]]] = [[] for _ in frames]
    for who, where in zip(_names(tracks, fitted, people), people, strict=True):
        for number, person in where.items():
            shown[number].append((person, who))
    made = []
    for frame, old, here in zip(fitted, frames, shown, strict=True):
        if not here:
            made.append(old.take([]))
            continue
        parts = np.stack([person for person, _ in here])
        pose = frame.with_parts(*(parts[:, place] for place in _PLACES.values()), ids=[who for _, who in here])
        made.append(pose if (old.height, old.width) == (height, width) else pose.unfitted(old.height, old.width))
    return made


def _names(tracks: Sequence[Track], frames: Sequence[Pose], shown: Sequence[dict[int, np.ndarray]]) -> list[int | None]:
    """The id of every track: what its person is called most often, unless another beside him is called so; else a free
    number. `shown` has the frames in which each will be."""
    names: list[int | None] = []
    for number, track in enumerate(tracks):
        taken = {who for who, other in zip(names, shown, strict=False) if not shown[number].keys().isdisjoint(other)}
        ids = [frames[frame].ids[person] for frame, person in track.where.items()]
        known = [who for who in ids if who is not None and who not in taken]
        names.append(max(known, key=known.count) if known else None)
    if len(tracks) == 1:
        return names
    free = itertools.filterfalse(set(names).__contains__, itertools.count())
    return [next(free) if who is None else who for who in names]


def _points(track: Track, frames: Sequence[Pose], tick: Callable[[], object]) -> tuple[int, np.ndarray]:
    """The track's first frame, and all points (T, 136, 3) float64 of its person from there to his last; else zeros."""
    first = next(iter(track.where))
    points = np.zeros((track.seen_at - first + 1, _STARTS[-1], 3))
    for frame, number in track.where.items():
        tick()
        points[frame - first] = np.concatenate([part[number] for part in frames[frame].parts])
    return first, points


def _size(points: np.ndarray) -> float:
    """The person's diagonal in pixels: the median over the frames, of his joints, or of what else there is."""
    for part in (points[:, _PLACES["joints"]], points):
        place = np.where(part[..., 2:] > 0, part[..., :2], np.nan)
        place = place[~np.isnan(place).all((1, 2))]
        if len(place):
            size = float(np.median(np.hypot(*(np.nanmax(place, 1) - np.nanmin(place, 1)).T)))
            if size > 1:
                return size
    return 1.0


def _drop_jumps(points: np.ndarray, gap: int) -> None:
    """Body joints that are far from the way between the frames around, and what hangs on them, become absent.

    Only for as long as it can be filled; and not those that move as far in the frames before or after, as in a kick.
    """
    joints = points[:, _PLACES["joints"]]
    jump = _JUMP * _size(points)
    for length in range(1, min(_LONGEST_JUMP, gap) + 1):
        before, after = joints[: -length - 1], joints[length + 1 :]
        way = np.linalg.norm(after[..., :2] - before[..., :2], axis=-1)
        steps = np.linalg.norm(np.diff(joints[..., :2], axis=0), axis=-1)
        steps *= (joints[1:, :, 2] > 0) & (joints[:-1, :, 2] > 0)
        way[1:] = np.maximum(way[1:], steps[: max(len(way) - 1, 0)])
        way[:-1] = np.maximum(way[:-1], steps[length + 1 :])
        seen = (before[..., 2] > 0) & (after[..., 2] > 0)
        away = np.ones_like(seen)
        for step in range(1, length + 1):
            between = joints[step : step - length - 1]
            expected = before[..., :2] + (after[..., :2] - before[..., :2]) * step / (length + 1)
            off = np.linalg.norm(between[..., :2] - expected, axis=-1)
            away &= (between[..., 2] > 0) & (off > jump) & (off > 2 * way)
        away &= seen
        for step in range(1, length + 1):
            joints[step : step - length - 1][away] = 0
            for name, places, joint in CARRIED:
                points[step : step - length - 1, _PLACES[name]][:, places][away[:, joint]] = 0


def _filled(points: np.ndarray, gap: int, tick: Callable[[], object]) -> np.ndarray:
    """Points that are missing for at most `gap` frames, between frames that have them, made from these."""
    seen = points[..., 2] > 0
    filled = points.copy()
    holes: dict[tuple[int, int], list[int]] = {}
    for point in np.flatnonzero(~seen.all(0)).tolist():
        for first, last in itertools.pairwise(np.flatnonzero(seen[:, point]).tolist()):
            if 1 < last - first <= gap + 1:
                holes.setdefault((first, last), []).append(point)
    wanted: dict[int, list[tuple[tuple[int, int], list[int]]]] = {}
    for (first, last), missing in holes.items():
        for frame in range(first + 1, last):
            wanted.setdefault(frame, []).append(((first, last), missing))
    for frame, around in sorted(wanted.items()):
        tick()
        between: dict[int, np.ndarray] = {}  # of every missing point: the person between the frames that have it
        for (first, last), missing in around:
            before, after = ([points[end, place] for place in _PLACES.values()] for end in (first, last))
            made = np.concatenate(person_between(before, after, (frame - first) / (last - first), True))
            between |= dict.fromkeys(missing, made)
        _place(filled[frame], between)
    return filled


def _place(person: np.ndarray, between: dict[int, np.ndarray]) -> None:
    """Put missing points into `person` (136, 3), each as far from what it hangs on as in the person `between`."""

    def put(point: int, above: int) -> None:
        made = between[point]
        while above >= 0 and (above == MID_HIP or not (person[above, 2] > 0 and made[above, 2] > 0)):
            above = PARENTS[above]
        person[point] = made[point]
        if above >= 0:
            person[point, :2] += person[above, :2] - made[above, :2]

    for joint in ORDER:
        if joint != MID_HIP and joint in between:
            put(joint, PARENTS[joint])
    for name, places, joint in CARRIED:
        for point in range(len(person))[_PLACES[name]][places]:
            if point in between:
                put(point, joint)


def _smoothed(points: np.ndarray, smoothing: float, fast_moves: float, tick: Callable[[], object]) -> np.ndarray:
    """One-euro filter over the first axis of (T, K, 3), both ways; it begins anew after every gap of a point."""
    seen = points[..., 2] > 0
    place = points[..., :2] / _size(points)
    ways = []
    for step in (1, -1):
        way, there = place[::step], seen[::step]
        passed = np.empty_like(way)
        value, speed, had = way[0].copy(), np.zeros_like(way[0]), np.zeros_like(there[0])
        for number, (now, has) in enumerate(zip(way, there, strict=True)):
            tick()
            on = (had & has)[:, None]
            moved = np.where(on, now - (way[number - 1] if number else now), 0)
            speed = np.where(on, speed + (moved - speed) / (1 + _SPEED_OVER), 0)
            # 2 pi times the cut-off frequency of the filter, per frame; its weight is that of a low-pass of first order
            rate = 1 / smoothing + fast_moves * _SPEED_GAIN * np.linalg.norm(speed, axis=-1, keepdims=True)
            value = np.where(on, value + (now - value) * rate / (1 + rate), now)
            passed[number], had = value, has
        ways.append(passed[::step])
    smooth = points.copy()
    smooth[..., :2] = np.where(seen[..., None], (ways[0] + ways[1]) / 2 * _size(points), points[..., :2])
    return smooth
