"""A sequence of frames of one source: its people, their bodies, and the canvas that they stand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InputError
from ..keypoints import PARTS, Pose
from ..limits import check_people
from .bodies import COUNTS, Body, choose_body
from .canvas import UNKNOWN, guess_canvas, written_canvas, written_guess
from .formats import REMEDY
from .points import UnreadableError, extent, plain, read_points, usable

# Part -> its name, its keys (old OpenPose files lack "_2d", COCO says "keypoints") and possible numbers of points.
_PARTS = {
    "joints": ("body", ("pose_keypoints_2d", "pose_keypoints", "keypoints"), COUNTS),
    "face": ("face", ("face_keypoints_2d", "face_keypoints"), (70, 68)),
    "left_hand": ("left hand", ("hand_left_keypoints_2d", "hand_left_keypoints"), (21,)),
    "right_hand": ("right hand", ("hand_right_keypoints_2d", "hand_right_keypoints"), (21,)),
    "feet": ("pair of feet", ("foot_keypoints_2d", "foot_keypoints"), (6,)),
}
_SCORES = ("keypoint_scores", "kp_scores", "kp_score")
_IDS = ("person_id", "track_id", "idx")
_NORMALISED, _NEAR_NORMALISED = 1.5, 4.0

Note = Callable[[str], object]


@dataclass
class _Person:
    """Points of one person by part, absent ones zero, still in the units of the file."""

    body: np.ndarray
    parts: dict[str, np.ndarray]
    number: int | None
    normalised: dict[str, bool] = field(default_factory=dict)

    @property
    def points(self) -> list[np.ndarray]:
        return [part[part[:, 2] > 0] for part in (self.body, *self.parts.values())]


@dataclass
class Frame:
    """A frame on its way to a `Pose`."""

    people: list[_Person]
    canvas: tuple[int, int]  # 0 for a side that nobody tells
    guessed: str


class Sequence:
    """One call of `parse_keypoints`: what was left out, and the canvas of frames that do not tell theirs."""

    def __init__(
        self,
        source: str,
        threshold: float,
        picture: tuple[int, int] | None,
        given: tuple[int, int],
        note: Note,
        tick: Callable[[], object],
    ) -> None:
        self.source, self.threshold, self.picture, self.given = source, threshold, picture, given
        self.note, self.tick = note, tick
        self.left_out: dict[str, list[str]] = {}
        self.guess: tuple[int, int, str] | None = None
        self.known: tuple[int, int] | None = None  # instead of a guess

    def frame(self, number: int, frame: dict) -> Frame:
        """A frame as it is in the file."""
        self.tick()
        where = f"{self.source}: frame {number}"
        people = plain(frame.get("people"))
        people = [] if not people or is_animal(frame) else people
        if not isinstance(people, list):
            raise InputError(f"{where}: 'people' is no list: {REMEDY}.")
        check_people(self.source, [len(people)], number)
        readable = (
            self._person(f"frame {number}, person {i}", person) for i, person in enumerate(people) if person is not None
        )
        found = [person for person in readable if person is not None]
        points = [part for person in found for part in person.points]
        written = written_canvas(frame, np.concatenate(points) if points else np.zeros((0, 3)), where)
        return Frame(found, _filled(self.given, written), "" if all(self.given) else written_guess(frame))

    def _person(self, where: str, person: Any) -> _Person | None:
        if not isinstance(person, dict):
            self._leave_out("person", f"{where} has no 'pose_keypoints_2d' list")
            return None
        parts = {}
        for part, (name, keys, counts) in _PARTS.items():
            value = next((person[key] for key in keys if person.get(key) is not None), None)
            scores = next((person[key] for key in _SCORES if key in person), None) if part == "joints" else None
            try:
                points = read_points(value, name, counts, scores)
            except UnreadableError as error:
                self._leave_out(part, f"{where} has {error}")
                points = None
            if points is not None:
                parts[part] = usable(points, self.threshold)
        body = parts.pop("joints", None)
        return None if body is None else _Person(body, parts, _number(person))

    def _leave_out(self, kind: str, text: str) -> None:
        self.left_out.setdefault(kind, []).append(text)

    def split_bodies(self, frames: list[Frame]) -> None:
        """Bodies as OpenPose's, with the feet, faces and hands that lie in them; people without a joint are dropped."""
        everybody = [person for frame in frames for person in frame.people]
        counts: dict[int, list[np.ndarray]] = {}
        for person in everybody:
            counts.setdefault(len(person.body), []).append(person.body)
        bodies = {count: choose_body(count, found) for count, found in counts.items()}
        for frame in frames:
            near = [_extents(person) for person in frame.people]
            some = any(each <= _NORMALISED for extents in near for each in extents.values())
            for person, extents in zip(frame.people, near, strict=True):
                self._split(person, bodies[len(person.body)], extents, _NEAR_NORMALISED if some else _NORMALISED)
            frame.people = [person for person in frame.people if person.parts["joints"][:, 2].any()]

    @staticmethod
    def _split(person: _Person, body: Body, extents: dict[str, float], limit: float) -> None:
        inside = body.split(person.body)
        own = person.parts
        person.parts, person.normalised = {}, {}
        for part, size in PARTS.items():
            given = own.get(part)
            if given is not None and given[:, 2].any():
                person.parts[part] = np.concatenate([given, np.zeros((size - len(given), 3))])
                person.normalised[part] = extents[part] <= limit
            else:
                person.parts[part] = inside[part]
                person.normalised[part] = extents["joints"] <= limit

    def find_canvases(self, frames: list[Frame]) -> None:
        """The size of frames that do not tell theirs: the picture's, that of other frames, or one guess for all."""
        known = [frame for frame in frames if all(frame.canvas) and not frame.guessed]
        known.sort(key=lambda frame: not frame.people)
        self.known = known[0].canvas if known else self.picture
        for frame in frames:
            if not any(frame.canvas) and self.known:
                frame.canvas = self.known
        unknown = [frame for frame in frames if not all(frame.canvas)]
        if not unknown:
            return
        for number, frame in enumerate(frames):
            if not all(frame.canvas) and any(any(person.normalised.values()) for person in frame.people):
                raise InputError(
                    f"{self.source}: frame {number}: the coordinates are in 0..1 and the canvas size is "
                    "missing: add canvas_width and canvas_height, or give the width and height."
                )
        size = guess_canvas(
            (part[part[:, 2] > 0] for frame in unknown for person in frame.people for part in person.parts.values()),
            self.source,
        )
        for frame in unknown:
            frame.guessed = "size" if not any(frame.canvas) else "width" if frame.canvas[0] else "height"
            frame.canvas = _filled(frame.canvas, size)
        if size != UNKNOWN:
            self.guess = *unknown[0].canvas, unknown[0].guessed

    def pose(self, frame: Frame | Pose) -> Pose:
        """A frame in pixels."""
        self.tick()
        if isinstance(frame, Pose):
            return frame.on_canvas(*self.known) if self.known else frame
        height, width = frame.canvas
        for person in frame.people:
            for part, points in person.parts.items():
                if person.normalised[part]:
                    points[:, :2] *= (width, height)
        parts = {
            part: np.array([person.parts[part] for person in frame.people]).reshape(-1, size, 3)
            for part, size in PARTS.items()
        }
        ids = tuple(person.number for person in frame.people)
        pose = Pose(**parts, height=height, width=width, ids=ids, guessed=frame.guessed)
        return pose.on_canvas(*self.known) if self.known else pose

    def refuse(self, frames: list[dict | Pose]) -> None:
        """Raise an `InputError` that says why nobody is there, if there is a reason."""
        if any(isinstance(frame, dict) and is_animal(frame) for frame in frames):
            raise InputError(f"{self.source}: this is an animal pose: only people can be posed, {REMEDY}.")
        for kind in ("person", "joints"):
            for text in self.left_out.get(kind, [])[:1]:
                raise InputError(f"{self.source}: {text}: {REMEDY}.")

    def tell(self) -> None:
        """A note for each kind of part that was left out, and one for a guess."""
        for kind, texts in self.left_out.items():
            what = "person" if kind in ("person", "joints") else _PARTS[kind][0]
            more = f", and so are {len(texts) - 1} more like it" if len(texts) > 1 else ""
            self.note(f"{self.source}: {texts[0]}; the {what} is left out{more}.")
        if self.guess and not self.known:
            height, width, side = self.guess
            self.note(
                f"{self.source}: the {side} of the picture is not given; {width} × {height} is guessed from where "
                "people are. Give width and height to Load Pose, or connect the picture where a node takes it."
            )


def _filled(canvas: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """`canvas` with the sides of `other` where it tells none."""
    return canvas[0] or other[0], canvas[1] or other[1]


def is_animal(frame: dict) -> bool:
    people, animals = plain(frame.get("people")), plain(frame.get("animals"))
    return frame.get("version") == "ap10k" or ("animals" in frame and not people) or (bool(animals) and not people)


def _number(person: dict) -> int | None:
    """Who a person is, as the file numbers people."""
    for value in (plain(person.get(key)) for key in _IDS):
        value = value[0] if isinstance(value, list) and value else value
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and abs(value) < 2**53
            and value == int(value)
        ):
            return int(value)
    return None


def _extents(person: _Person) -> dict[str, float]:
    return {"joints": extent(person.body), **{part: extent(points) for part, points in person.parts.items()}}
