"""The two ways in which pictures of captions and poses are sampled and measured for Table 3, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from reposedm_core.errors import InputError
from training.metrics.people import people_measures

HUMANSD_NEGATIVE = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)


@dataclass(frozen=True)
class Protocol:
    """How pictures are made and measured.

    Attributes:
        steps, guidance_scale: DDIM steps and w_c; None is each file's own.
        negative: the caption of the unconditional pass.
        people: most people of a picture that are asked for, the largest; 0 is all.
        batch: so many pictures at a time give one AP, AP(m) and CAP, of which the mean counts; 0 is all at once.
        scenes: FID and KID are taken scene by scene, and their means over the scenes count.
        notes: what the report says of it.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    negative: str = ""
    people: int = 0
    batch: int = 0
    scenes: bool = False
    notes: tuple[str, ...] = ()

    def asked_for(self, poses: np.ndarray) -> np.ndarray:
        """Of the people (Q, 17, 3) of a picture, largest first, those that are measured."""
        return poses[: self.people or None]

    def people_measures(self, found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, float]:
        """AP, AP(m) and CAP of pictures, see `metrics.people.people_measures`, batch by batch where there are any."""
        size = self.batch or max(1, len(found))
        parts = [
            people_measures(list(found[first : first + size]), list(truth[first : first + size]))
            for first in range(0, len(found), size)
        ]
        found_in = {name: np.array([part[name] for part in parts]) for name in parts[0]}
        return {
            name: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
            for name, values in found_in.items()
        }


PROTOCOLS = {
    "ours": Protocol(
        notes=(
            "Protocol “ours” (the paper names no settings): each file's own steps and w_c, no negative caption, all "
            "people of a picture, and every measure over all pictures at once.",
        )
    ),
    "humansd": Protocol(
        steps=50,
        guidance_scale=9.0,
        negative=HUMANSD_NEGATIVE,
        people=3,
        batch=10,
        scenes=True,
        notes=(
            "Protocol “humansd”, after HumanSD's public code: 50 DDIM steps, w_c 9, its negative caption; all people "
            "of a picture are drawn and three of them judged (there: ten and three), AP, AP(m) and CAP are means over "
            "batches of ten pictures, FID and KID means over the scenes.",
            "Not taken over from that code: flips and colour changes of the test pictures, absent joints at (−1, −1) "
            "in a person's box, ImageNet's normalisation of pictures that Inception normalises itself, KID's subsets "
            "(all pictures of a scene are compared), and the first three people of a file (here the three largest).",
        ),
    ),
}
"""`--protocol` → how it is done."""


def protocol_of(name: str) -> Protocol:
    """The protocol of that name, or an `InputError`."""
    if name not in PROTOCOLS:
        raise InputError(f"protocol = {name!r}: known are {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def scene_of(name: str) -> str | None:
    """The scene of a picture of Human-Art, images/GROUP/SCENE/FILE; None for pictures of other sets."""
    parts = PurePosixPath(name).parts
    return parts[2] if len(parts) == 4 and parts[0] == "images" else None
