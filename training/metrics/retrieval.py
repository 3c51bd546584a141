"""Re-identification by Market-1501's protocol: single query, average precision and CMC.

For each query the gallery is sorted by distance. Pictures of the query's person by the query's own camera, and junk
(person -1), neither help nor harm. Everybody else's pictures are wrong, those of distractors (person 0) too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reposedm_core.errors import InputError

JUNK = -1
"""Person of pictures that count neither as right nor as wrong."""


@dataclass(frozen=True)
class Retrieval:
    """What was found, query by query, (q,) float64 each; NaN for a query that no gallery picture matches.

    Attributes:
        ap: average precision, the mean of the precisions at the matches.
        ap_toolkit: as Market-1501's own code has it, the area under the precision-recall curve by trapezia.
        first: place of the first match, counted from 1.
    """

    ap: np.ndarray
    ap_toolkit: np.ndarray
    first: np.ndarray

    def cmc(self, places: int) -> np.ndarray:
        """(q,) 1 where a match is among the first so many, else 0; NaN as above."""
        return np.where(np.isnan(self.first), np.nan, self.first <= places)


def retrieve(
    distances: np.ndarray,
    query_person: np.ndarray,
    query_camera: np.ndarray,
    gallery_person: np.ndarray,
    gallery_camera: np.ndarray,
) -> Retrieval:
    """Rank the gallery for every query; pictures at one distance keep the gallery's order.

    Args:
        distances: (q, g).
        query_person, query_camera: (q,). gallery_person, gallery_camera: (g,); a person may be `JUNK`.

    Raises:
        InputError: a distance that is no number.
    """
    if np.isnan(distances).any():
        raise InputError("Some distances between pictures are no numbers: the network's features are not finite.")
    found = np.full((3, len(distances)), np.nan)
    for n, row in enumerate(distances):
        same = gallery_person == query_person[n]
        counts = (gallery_person != JUNK) & ~(same & (gallery_camera == query_camera[n]))
        order = np.argsort(row[counts], kind="stable")
        places = np.flatnonzero(same[counts][order]) + 1.0
        if not len(places):
            continue
        matches = np.arange(1, len(places) + 1)
        precision = matches / places
        # just before a match the precision is that of the matches so far; before any picture at all it is 1
        before = np.where(places == 1, 1.0, (matches - 1) / np.maximum(places - 1, 1))
        found[:, n] = precision.mean(), (precision + before).mean() / 2, places[0]
    return Retrieval(*found)
