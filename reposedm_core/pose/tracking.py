"""Who is who through a sequence of frames, by where people were and how they moved: **ours**.

Each frame's people are matched with everybody seen so far (`match_people`), who is expected a little further on in the
direction he went. Whoever detectors call first, or whatever number they give, does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .keypoints import Pose
from .limits import no_tick
from .people import match_people, people_boxes

_REACH = 0.6
"""How far from where he is expected somebody is found again, in diagonals of his box."""

_COAST = 3
"""For how many frames somebody who is not seen is expected to go on as he went; then he is waited for where he is."""


@dataclass
class Track:
    """One person of a sequence.

    Attributes:
        where: frame → his number in that frame, in the order of the frames.
        last: as he was seen last.
        speed: (2,) pixels per frame that his joints moved by lately.
        seen_at: the frame of `last`.
    """

    last: Pose
    seen_at: int
    where: dict[int, int] = field(default_factory=dict)
    speed: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def see(self, frame: int, number: int, pose: Pose) -> None:
        """He is person `number` of this frame, later than those before; `pose` is of him alone."""
        if self.where:
            both = (self.last.joints[0, :, 2] > 0) & (pose.joints[0, :, 2] > 0)
            if both.any():
                moved = np.median(pose.joints[0, both, :2] - self.last.joints[0, both, :2], 0)
                # half of it: a box that a detector places anew jumps, and so would the expectation
                self.speed = (self.speed + moved / (frame - self.seen_at)) / 2
        self.where[frame] = number
        self.last, self.seen_at = pose, frame

    def expected(self, frame: int) -> Pose:
        """Where he would be in this frame."""
        right, down = self.speed * min(frame - self.seen_at, _COAST)
        return self.last._moved(1.0, right, down, self.last.height, self.last.width)


def track_people(frames: Sequence[Pose], wait: int, tick: Callable[[], object] = no_tick) -> list[Track]:
    """Everybody in the frames, in the order in which they appear.

    Args:
        frames: on one canvas.
        wait: for how many frames somebody may be missing; who comes later is somebody new.
        tick: called for every frame; it may raise, to stop.

    Raises:
        InputError: more people than `limits.MOST_PEOPLE` in a frame.
    """
    tracks: list[Track] = []
    waited_for: list[Track] = []
    for number, frame in enumerate(frames):
        tick()
        waited_for = [track for track in waited_for if number - track.seen_at <= wait + 1]
        new = set(range(len(frame.joints)))
        if waited_for and new:
            expected = [track.expected(number) for track in waited_for]
            parts = [np.concatenate(parts) for parts in zip(*(pose.parts for pose in expected), strict=True)]
            everybody = frame.with_parts(*parts, ids=[None] * len(expected))
            for row, column in match_people(everybody, frame, reach=_REACH):
                waited_for[row].see(number, column, frame.take([column]))
                new.discard(column)
        for column in sorted(new):
            person = frame.take([column])
            track = Track(person, number)
            track.see(number, column, person)
            tracks.append(track)
            waited_for.append(track)
    return tracks


def most_seen(tracks: Sequence[Track], frames: Sequence[Pose]) -> Track:
    """Who is largest and longest in the picture: the greatest sum of the diagonals of his boxes over the frames."""
    diagonals = [np.nan_to_num(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T)) for boxes in map(people_boxes, frames)]
    return max(tracks, key=lambda track: sum(diagonals[frame][number] for frame, number in track.where.items()))
