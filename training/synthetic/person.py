"""Who a synthetic person is: body, skin, hair, background and light, from one random generator.

`sample_person(rng)` takes everything that all pictures of an identity share (clothes: `wardrobe`); poses, camera and
the light's changes are drawn afterwards, picture by picture, so that an identity looks the same however many pictures
are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.synthetic import materials as m
from training.synthetic.backgrounds import Background, sample_background
from training.synthetic.lights import Sun, sample_sun
from training.synthetic.wardrobe import Outfit, sample_colour, sample_outfit

_SKIN = [(0.96, 0.80, 0.69), (0.90, 0.72, 0.58), (0.80, 0.60, 0.44), (0.65, 0.46, 0.33), (0.48, 0.32, 0.22),
         (0.33, 0.22, 0.16)]  # fmt: skip
_HAIR = [(0.08, 0.06, 0.05), (0.22, 0.13, 0.08), (0.40, 0.26, 0.13), (0.72, 0.55, 0.30), (0.55, 0.20, 0.08),
         (0.85, 0.72, 0.45)]  # fmt: skip
_GREY = [(0.58, 0.57, 0.56), (0.82, 0.81, 0.80)]
_DYED = [(0.85, 0.25, 0.50), (0.20, 0.40, 0.80), (0.25, 0.62, 0.35), (0.50, 0.22, 0.65), (0.85, 0.12, 0.10)]
_LABELS = ("gender", "age", "muscle", "weight", "height", "proportions")
AGES = {"child": 0.16, "adult": 0.66, "old": 0.18}
"""Ages and their shares: Anny's age 0.24-0.48 (about 1.3 to 1.7 m), 0.55-0.85 and 0.85-1."""
STRANDS = {"cropped": 0.38, "bob": 0.10, "long": 0.18, "shoulder": 0.16, "ponytail": 0.12, "band": 0.06}
"""Hair cuts and their shares; a band is all that is left, from ear to ear."""


@dataclass(frozen=True)
class Person:
    """What all pictures of an identity share.

    phenotype: Anny's shape parameters in [0, 1]; outfit: colours and clothes; stature: standing height as a fraction of
    the picture; sun: the light around which that of each picture varies; words: what the card counts.
    """

    phenotype: dict[str, float]
    outfit: Outfit
    background: Background
    stature: float
    sun: Sun
    words: dict[str, str]

    @property
    def look(self) -> m.Look:
        return self.outfit.look


def sample_person(rng: np.random.Generator) -> Person:
    """Draw an identity."""
    phenotype = {name: float(rng.uniform(0.2, 0.8)) for name in _LABELS}
    phenotype["gender"] = float(rng.uniform(0, 1))  # Anny: 0 is male, 1 is female
    age = str(rng.choice(list(AGES), p=list(AGES.values())))
    phenotype["age"] = float(rng.uniform(*{"child": (0.24, 0.48), "adult": (0.55, 0.85), "old": (0.85, 1.0)}[age]))
    n = int(rng.integers(len(_SKIN)))
    between = rng.random()
    skin = (between * np.array(_SKIN[n]) + (1 - between) * np.array(_SKIN[max(n - 1, 0)])) * rng.uniform(0.95, 1.03)
    hair = _hair_colour(rng, age)
    outfit = sample_outfit(rng, skin, hair)
    cut = _style_hair(rng, outfit.look.style, bearded=age != "child" and phenotype["gender"] < 0.5)
    background = sample_background(rng, sample_colour, outfit.look.palette[m.TOP_A])
    stature = float(rng.uniform(0.66, 0.78) if age == "child" else rng.uniform(0.74, 0.88))
    sun = sample_sun(rng)
    words = {"age": age, "hair": cut, "background": background.kind, "light": "hard" if sun.hard else "soft"}
    return Person(phenotype, outfit, background, stature, sun, words | outfit.words)


BLACK = Background("plain", np.zeros((3, 3)), 0.7, 0.1, 0.0, np.zeros((2, 9, 7)), 0.0, 0)
"""A background of nothing, for colours without light."""


def _hair_colour(rng: np.random.Generator, age: str) -> np.ndarray:
    if age == "old" and rng.random() < 0.75:
        choices = _GREY
    else:
        choices = _DYED if rng.random() < 0.07 else _HAIR
    return np.array(choices[rng.integers(len(choices))]) * rng.uniform(0.8, 1.15)


def _style_hair(rng: np.random.Generator, style: np.ndarray, bearded: bool) -> str:
    """Write the hair's entries of `style` and return the cut's name."""
    cut = str(rng.choice(list(STRANDS), p=list(STRANDS.values())))
    style[m.HAIRLINE], style[m.NAPE] = rng.uniform(0.775, 0.803), rng.uniform(0.655, 0.70)
    hems = {"long": (0.2, 0.42), "shoulder": (0.5, 0.6), "bob": (0.62, 0.68), "ponytail": (0.34, 0.5)}
    style[m.HAIR_HEM] = rng.uniform(*hems[cut]) if cut in hems else m.NONE
    style[m.HAIR_WIDTH] = rng.uniform(0.03, 0.05) if cut == "ponytail" else m.NONE
    style[m.CROWN] = m.NONE
    if cut == "band":
        style[m.HAIRLINE], style[m.CROWN] = m.NONE, rng.uniform(0.745, 0.785)
    style[m.BEARD] = float(bearded and cut in ("cropped", "band", "shoulder") and rng.random() < 0.3)
    style[m.HAT] = float(cut in ("cropped", "band", "ponytail") and rng.random() < 0.16)
    style[m.GLASSES] = rng.choice([0, 1, 2], p=[0.84, 0.10, 0.06])
    return cut
