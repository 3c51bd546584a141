"""How much is drawn, matched and made at once: more is refused before memory is taken."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError

MOST_PIXELS = 2**29
"""Pixels of all pictures that are drawn at once: 6 GiB as ComfyUI's IMAGE."""

MOST_PEOPLE = 2000
"""People in one frame: matching two frames compares each with each."""

MOST_PEOPLE_OF_ALL = 250_000
"""People of all frames together, 3 GB as POSE_KEYPOINT."""


def no_tick() -> None:
    """What loops over frames call for each of them, unless they are given something that may raise, to stop."""


def check_pixels(source: str, pictures: int, height: int, width: int) -> None:
    """Raise an `InputError` if so many pictures of this size are too many to draw."""
    if pictures * height * width > MOST_PIXELS:
        raise InputError(
            f"{source}: {pictures} pictures of {width} × {height} are {pictures * height * width:,} pixels; up to "
            f"{MOST_PIXELS:,} are drawn at once. Give fewer frames, or a smaller width and height."
        )


def check_people(source: str, people: Sequence[int], first: int = 0) -> None:
    """Raise an `InputError` if there are too many people; `people` are their numbers in frames from `first` on."""
    most, whole = max(people, default=0), sum(people)
    if most > MOST_PEOPLE:
        raise InputError(
            f"{source}: there are {most:,} people in frame {first + list(people).index(most)}; up to "
            f"{MOST_PEOPLE:,} in a frame can be handled. Remove some."
        )
    if whole > MOST_PEOPLE_OF_ALL:
        raise InputError(
            f"{source}: there are {whole:,} people in {len(people):,} frames; up to "
            f"{MOST_PEOPLE_OF_ALL:,} in all frames can be handled. Give fewer frames."
        )
