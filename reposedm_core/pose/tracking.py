"""Who is who through a sequence of frames, by where people were and how they moved: **ours**.

Each frame's people are matched with everybody seen so far (`match_people`), who is expected a little further on in the
direction he went; those seen lately choose first, so that nobody who left long ago takes the place of somebody who is
there. Whoever detectors call first, or whatever number they give, does not matter.
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
"""For how many frames somebody who is not seen is expected to go on as he went; then the last position is kept,
and those who are there come before him."""

_REMEMBERED = 100
"""People who left that are waited for, those seen last: a long video has many who were there for a moment."""


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


def track_people(frames: Sequence[Pose], tick: Callable[[], object] = no_tick) -> list[Track]:
    """Everybody in the frames, in the order in which they appear.

    Who was missing, for however long, is found again near where he was; who appears elsewhere is somebody new.

    Args:
        frames: on one canvas.
        tick: called for every frame; it may raise, to stop.

    Raises:
        InputError: more people than `limits.MOST_PEOPLE` in a frame.
    """
    tracks: list[Track] = []
    for number, frame in enumerate(frames):
        tick()
        lately = [track for track in tracks if number - track.seen_at <= _COAST + 1]
        new = _found_again(lately, number, frame, range(len(frame.joints)))
        if new:
            left = sorted((track for track in tracks if number - track.seen_at > _COAST + 1), key=lambda t: t.seen_at)
            new = _found_again(left[-_REMEMBERED:], number, frame, new)
        for column in new:
            person = frame.take([column])
            track = Track(person, number)
            track.see(number, column, person)
            tracks.append(track)
    return tracks


def _found_again(tracks: Sequence[Track], number: int, frame: Pose, people: Sequence[int]) -> list[int]:
    """See these people of frame `number` as whom of the tracks they are; returns those who are none of them."""
    if not tracks or not people:
        return list(people)
    expected = [track.expected(number) for track in tracks]
    parts = [np.concatenate(parts) for parts in zip(*(pose.parts for pose in expected), strict=True)]
    everybody = frame.with_parts(*parts, ids=[None] * len(expected))
    new = set(people)
    for row, column in match_people(everybody, frame.take(people), reach=_REACH):
        tracks[row].see(number, people[column], frame.take([people[column]]))
        new.discard(people[column])
    return sorted(new)


def most_seen(tracks: Sequence[Track], frames: Sequence[Pose]) -> Track:
    """Who is largest and longest in the picture: the greatest sum of the diagonals of his boxes over the frames."""
    diagonals = [np.nan_to_num(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T)) for boxes in map(people_boxes, frames)]
    return max(tracks, key=lambda track: sum(diagonals[frame][number] for frame, number in track.where.items()))
