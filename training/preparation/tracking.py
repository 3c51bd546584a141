"""People who move before a camera that stands still: found against the background, and followed from frame to frame.

Nothing is learned from elsewhere: a mixture of Gaussians a pixel is the background (Zivkovic, "Improved adaptive
Gaussian mixture model for background subtraction", ICPR 2004, OpenCV's MOG2), and blobs of a standing person's shape
are matched to the tracks so far by the overlap of their boxes (the Hungarian method), if their colours are alike. Pure
tracks are wanted, not all: a track ends where two people meet, and who comes back is somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

LOOK = 384
"""Height in pixels at which frames are looked at."""
WARM_UP = 20
"""Frames from which the background is learned before anybody is looked for."""
LEAST_HEIGHT = 0.07
"""Of the frame: smaller people are not worth a picture."""
ASPECTS = (1.6, 4.5)
"""Height by width of one standing or walking person; two side by side are wider."""
LEAST_FILLED = 0.35
LEAST_OVERLAP = 0.3
LEAST_ALIKE = 0.5
"""Common part of the colour histograms of each half of a person, 0..1, from a frame to the track so far."""
MISSES = 2
"""Frames in a row in which a person may be missed."""
LEAST_LENGTH = 8
LEAST_WAY = 0.5
"""A track's way in heights of its box: what stands still is a hole in the background."""


@dataclass(frozen=True)
class Blob:
    """Something that moves: box (left, top, right, bottom) in pixels of the frame."""

    box: np.ndarray


@dataclass(frozen=True)
class Walker(Blob):
    """A person, whole in the frame, and his colours (see `Detector`)."""

    colours: np.ndarray


@dataclass
class Track:
    """One person: frame numbers, boxes, whether nobody else is near, and the colours' running mean."""

    colours: np.ndarray
    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    missed: int = 0

    def predicted(self) -> np.ndarray:
        """Where the next box is at the speed of the last frames."""
        steps = self.boxes[-4:]
        return self.boxes[-1] + ((steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 0)

    def pictures(self, every: int) -> list[tuple[int, np.ndarray]]:
        """Frames and boxes that show the person whole and alone, `every` so many frames."""
        boxes = np.array(self.boxes)
        sizes = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], 1)
        found: list[tuple[int, np.ndarray]] = []
        for n, frame in enumerate(self.frames):
            usual = np.median(sizes[max(0, n - 7) : n + 8], axis=0)
            whole = (np.abs(sizes[n] / usual - 1) < (0.5, 0.15)).all()  # a walker's width changes, height hardly
            if whole and self.alone[n] and (not found or frame - found[-1][0] >= every):
                found.append((frame, boxes[n]))
        return found

    @property
    def moved(self) -> bool:
        """Whether it is a person's way, and not something that lies there."""
        boxes = np.array(self.boxes)
        way = np.linalg.norm(boxes[:, :2] - boxes[0, :2], axis=1).max()
        return len(self.frames) >= LEAST_LENGTH and way > LEAST_WAY * np.median(boxes[:, 3] - boxes[:, 1])


def follow(frames: Iterable[np.ndarray]) -> list[Track]:
    """The people in a video.

    Args:
        frames: (h, w, 3) uint8, all of one size.

    Returns:
        tracks in the order in which they begin; those without a way of their own are left out.
    """
    detector: Detector | None = None
    tracks: list[Track] = []
    active: list[Track] = []
    for number, frame in enumerate(frames):
        detector = detector or Detector(*frame.shape[:2])
        people, others = detector(frame)
        if number >= WARM_UP:
            active = _assign(tracks, active, number, people, others)
    return [track for track in tracks if track.moved]


def _assign(
    tracks: list[Track], active: list[Track], number: int, people: list[Walker], others: list[Blob]
) -> list[Track]:
    """One frame: longer tracks, new ones (added to `tracks`), and those that go on."""
    overlaps = np.array(
        [
            [overlap(track.predicted(), blob.box) * _alike(track.colours, blob.colours) for blob in people]
            for track in active
        ]
    ).reshape(len(active), len(people))
    matched = {
        row: column
        for row, column in zip(*linear_sum_assignment(-overlaps), strict=True)
        if overlaps[row, column] >= LEAST_OVERLAP
    }
    everything = [*people, *others]
    going = []
    for row, track in enumerate(active):
        if row in matched:
            _extend(track, number, people[matched[row]], everything)
            going.append(track)
        else:
            track.missed += 1
            met = any(overlap(track.predicted(), blob.box) > 0.1 for blob in everything)
            if track.missed <= MISSES and not met:
                going.append(track)
    for column in sorted(set(range(len(people))) - set(matched.values())):
        track = Track(people[column].colours)
        _extend(track, number, people[column], everything)
        tracks.append(track)
        going.append(track)
    return going


def _extend(track: Track, number: int, blob: Walker, everything: list[Blob]) -> None:
    width, height = blob.box[2:] - blob.box[:2]
    around = blob.box + np.array([-0.4 * width, -0.1 * height, 0.4 * width, 0.1 * height])
    track.frames.append(number)
    track.boxes.append(blob.box)
    track.alone.append(not any(_common(around, other.box) for other in everything if other is not blob))
    track.colours = 0.9 * track.colours + 0.1 * blob.colours
    track.missed = 0


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """1 where two people's colours are alike enough, else 0."""
    return float(np.minimum(a, b).sum(1).min() >= LEAST_ALIKE)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    common = _common(a, b)
    return common / (_area(a) + _area(b) - common) if common else 0.0


def _common(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return float(np.prod(np.maximum(high - low, 0)))


def _area(box: np.ndarray) -> float:
    return float(np.prod(box[2:] - box[:2]))


class Detector:
    """Blobs that differ from the background so far; frames must come in order."""

    def __init__(self, height: int, width: int):
        import cv2  # slow to import, and only videos need it

        self.cv2, self.scale = cv2, min(1.0, LOOK / height)
        self.size = round(width * self.scale), round(height * self.scale)  # width, height
        self.background = cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=25, detectShadows=True)
        self.kernel = np.ones((max(3, self.size[1] // 40), max(3, self.size[1] // 80)), np.uint8)

    def __call__(self, frame: np.ndarray) -> tuple[list[Walker], list[Blob]]:
        """People, whole in the frame, and all else that moves."""
        cv2, (width, height) = self.cv2, self.size
        small = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA) if self.scale < 1 else frame
        mask = (self.background.apply(small) == 255).astype(np.uint8)  # 127 is a shadow
        mask = cv2.morphologyEx(cv2.medianBlur(mask, 5), cv2.MORPH_CLOSE, self.kernel)
        people, others = [], []
        for left, top, w, h, area in cv2.connectedComponentsWithStats(mask)[2][1:]:
            box = np.array([left, top, left + w, top + h]) / self.scale
            whole = left > 1 and top > 1 and left + w < width - 1 and top + h < height - 1
            person = h >= LEAST_HEIGHT * height and ASPECTS[0] <= h / w <= ASPECTS[1] and area >= LEAST_FILLED * w * h
            if whole and person:
                place = slice(top, top + h), slice(left, left + w)
                people.append(Walker(box, self._colours(small[place], mask[place])))
            elif area > (LEAST_HEIGHT * height) ** 2 / 20:
                others.append(Blob(box))
        return people, others

    def _colours(self, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Histograms of the upper and the lower half, (2, 64): 4 steps a channel, each of sum 1."""
        half = len(picture) // 2
        parts = [
            self.cv2.calcHist([picture[rows]], [0, 1, 2], mask[rows], [4, 4, 4], [0, 256] * 3).ravel()
            for rows in (slice(half), slice(half, None))
        ]
        return np.stack([part / max(1.0, part.sum()) for part in parts])
