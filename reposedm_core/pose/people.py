"""Several people and several frames: whom to take, who is who, and which frames belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InputError, quoted
from .keypoints import Pose
from .limits import check_people, no_tick

_ORDERS = {
    "as given": lambda pose: np.arange(len(pose.joints)),
    "largest": lambda pose: -np.hypot(*(people_boxes(pose)[:, 2:] - people_boxes(pose)[:, :2]).T),
    "most central": lambda pose: np.hypot(*(_centres(pose) - (pose.width / 2, pose.height / 2)).T),
    "most confident": lambda pose: -pose.joints[..., 2].mean(1),
    "left to right": lambda pose: _centres(pose)[:, 0],
}
_FAR = 1e12  # pixels
_AT_ONCE = 2**14  # pairs of people whose joints are compared at once, some 10 MB

ORDERS = tuple(_ORDERS)
"""Names of the orders of `order_people`."""


def people_boxes(pose: Pose) -> np.ndarray:
    """Boxes (P, 4) float64 of the body joints: left, top, right, bottom in pixels; NaN for somebody without one."""
    points = np.where(pose.joints[..., 2:] > 0, pose.joints[..., :2], np.nan).astype(np.float64)
    boxes = np.full((len(points), 4), np.nan)
    seen = ~np.isnan(points).all((1, 2))
    boxes[seen] = np.concatenate([np.nanmin(points[seen], 1), np.nanmax(points[seen], 1)], 1)
    return boxes


def _centres(pose: Pose) -> np.ndarray:
    boxes = people_boxes(pose)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def order_people(pose: Pose, by: str = "as given") -> list[int]:
    """Numbers of the people in an order; who is equal stays as given.

    "largest" goes by the diagonal of the box of the body joints, "most central" by the distance of its centre from that
    of the canvas, "most confident" by the mean score of the 18 body joints, absent ones counting 0, and "left to
    right" by its centre.

    Raises:
        InputError: there is no such order.
    """
    if by not in _ORDERS:
        raise InputError(f"order: there is no {quoted(by)}; choose {', '.join(ORDERS)}.")
    return np.argsort(_ORDERS[by](pose), kind="stable").tolist()


def select_people(
    frames: Sequence[Pose],
    by: str = "as given",
    first: int = 0,
    count: int = 1,
    follow: bool = False,
    tick: Callable[[], object] = no_tick,
) -> list[Pose]:
    """Some people of each frame, in an order (`order_people`).

    Args:
        frames: poses.
        by: one of `ORDERS`.
        first: number of the first that is taken, counted from 0 in that order.
        count: how many are taken; 0 takes all that follow.
        follow: take the people of the first frame that has any in the other frames too, whatever their order there:
            each is matched to where it was last seen (`match_people`), at most the length of its box's diagonal away.
            Else every frame is taken for itself.
        tick: called for every frame; it may raise, to stop.

    Returns:
        Frames of the same canvas. Where there are too few people, those that there are, perhaps none.

    Raises:
        InputError: there is nobody to take in any frame.
    """
    stop = first + count if count else None
    chosen: list[Pose] = []
    last: Pose | None = None
    for frame in frames:
        tick()
        if follow and last is not None:
            if (last.height, last.width) != (frame.height, frame.width):
                last = last.resized(frame.height, frame.width)
            pairs = dict(match_people(last, frame, reach=1.0))
            taken = frame.take([pairs[i] for i in sorted(pairs)])
            # whoever is not seen for a while keeps the last position
            waiting = [i for i in range(len(last.joints)) if i not in pairs]
            last = _joined(taken, last.take(waiting)).take(np.argsort(sorted(pairs) + waiting))
        else:
            taken = frame.take(order_people(frame, by)[first:stop])
            last = taken if len(taken.joints) else None
        chosen.append(taken)
    if not any(len(frame.joints) for frame in chosen):
        most = max((len(frame.joints) for frame in frames), default=0)
        raise InputError(
            f"index: there is no person {first}; the fullest frame has {most}, counted from 0. Choose a smaller index."
        )
    return chosen


def match_people(one: Pose, other: Pose, reach: float = np.inf) -> list[tuple[int, int]]:
    """Who in one frame is who in the other, by the least sum of distances (the assignment problem, scipy's solver).

    The distance of two people is the mean over the joints that both have, or that of their boxes' centres where they
    share none; canvases of different sizes are brought to that of `one` first.

    Args:
        one, other: P and Q people.
        reach: pairs further apart than this many diagonals of the first one's box are left out.

    Returns:
        Pairs of numbers, in the order of `one`; min(P, Q) of them where `reach` leaves out none.

    Raises:
        InputError: more people than `limits.MOST_PEOPLE` in a frame.
    """
    from scipy.optimize import linear_sum_assignment

    check_people("match", [len(one.joints), len(other.joints)])
    if not len(one.joints) or not len(other.joints):
        return []
    if (one.height, one.width) != (other.height, other.width):
        other = other.resized(one.height, one.width)
    step = max(1, _AT_ONCE // len(other.joints))
    cost = np.concatenate(
        [
            _distances(one.take(range(start, min(start + step, len(one.joints)))), other)
            for start in range(0, len(one.joints), step)
        ]
    )
    boxes = people_boxes(one)
    limit = np.maximum(reach * np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T), 1)[:, None] if np.isfinite(reach) else np.inf
    # who is out of reach, or has no body joint, must not draw others away from their counterparts
    cost = np.where(cost <= limit, cost, _FAR)
    rows, columns = linear_sum_assignment(cost)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in pairs if cost[i, j] < _FAR or not np.isfinite(reach)]


def _distances(one: Pose, other: Pose) -> np.ndarray:
    """(P, Q): the mean distance of the joints that two people share, or that of their centres where they share none."""
    shared = (one.joints[:, None, :, 2] > 0) & (other.joints[None, :, :, 2] > 0)
    apart = np.linalg.norm(one.joints[:, None, :, :2].astype(np.float64) - other.joints[None, :, :, :2], axis=-1)
    mean = (apart * shared).sum(-1) / np.maximum(shared.sum(-1), 1)
    centres = np.linalg.norm(_centres(one)[:, None] - _centres(other)[None], axis=-1)
    return np.where(shared.any(-1), mean, centres)


def broadcast_frames(**frames: Sequence) -> list[tuple]:
    """Frames that belong together: a tuple of one of each, a single frame serving all.

    Args:
        frames: lists by the names of the inputs they came from.

    Raises:
        InputError: two have different numbers of frames, neither being one.
    """
    count = max(len(each) for each in frames.values())
    wrong = {name: len(each) for name, each in frames.items() if len(each) not in (1, count)}
    if wrong:
        longest = next(name for name, each in frames.items() if len(each) == count)
        name, number = next(iter(wrong.items()))
        raise InputError(
            f"{name}: it has {number} frames and {longest} has {count}; give the same number, or one for all."
        )
    return list(zip(*(each if len(each) == count else [each[0]] * count for each in frames.values()), strict=True))


def _joined(one: Pose, other: Pose) -> Pose:
    parts = (np.concatenate(pair) for pair in zip(one.parts, other.parts, strict=True))
    return one.with_parts(*parts, ids=one.ids + other.ids)


def who_is_who(frames: Sequence[Pose]) -> list[list[int]]:
    """Who everybody in each frame is, counted from 0: by the ids in the order in which they appear, or by the place.

    Returns:
        a number for each person of each frame; by the place where somebody has no id, or two of a frame have the same.
    """
    if any(None in frame.ids or len(set(frame.ids)) < len(frame.ids) for frame in frames):
        return [list(range(len(frame.joints))) for frame in frames]
    order: dict[int | None, int] = {}
    return [[order.setdefault(who, len(order)) for who in frame.ids] for frame in frames]
