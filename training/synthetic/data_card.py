"""The data card of a set of synthetic people: what it is, how it was made, and what is in it, measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from reposedm_core.files import checksum, write_text
from training.data.people_set import SPLITS
from training.synthetic.materials import LABELS
from training.synthetic.poses import KINDS
from training.synthetic.render import sample_identity

_TURNS = {"front (to 30°)": (0, 30), "half side (to 70°)": (30, 70), "side (to 110°)": (70, 110), "back": (110, 181)}
_WORDS = ("age", "hair", "lower", "sleeves", "neckline", "shoes", "top pattern", "lower pattern", "print", "background",
          "light")  # fmt: skip

_CARD = """# Synthetic people, {identities} identities, {poses} pictures each

Rendered people in clothes, {height}×{width} pixels. Every picture comes with joints, visibility, masks and garment
labels that are exact by construction. Nobody in it is real.

![The first identities](sheet.jpg)

## How it was made

```
{command}
```

The same command gives the same bytes with the same versions of the libraries (revision {revision} of the generator).
Bodies are Anny's; clothes and hair are MakeHuman's shells, coloured procedurally; poses are joint-limited random ones
and frames of motion clips. `training/generate.py` describes the arrays, `training/synthetic/checks.py` checks them.

## How many

{counts}

## What the people are like

As they were drawn.

{people}

## What the pictures show

Measured from the arrays.

{pictures}

## Use

For training and measuring pose-guided generation of people, estimators and aligners. Hands are stiff, cloth does not
fall in folds and faces differ little: what is learned here alone is weak on photographs. Ages, skins and bodies are
drawn evenly, not as they are found among people.

## Licence

{licence}

## Checksums

{checksums}
"""


def write_card(folder: Path) -> None:
    """Write README.md into the folder of a finished set; the same set gives the same bytes."""
    source = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    arguments = {key: value for key, value in source["source"].items() if key not in ("generator", "revision")}
    card = _CARD.format(
        **arguments,
        revision=source["source"]["revision"],
        licence=source["licence"],
        command=_command(arguments),
        counts=_counts(folder),
        people=_people(arguments),
        pictures=_pictures(folder),
        checksums=_checksums(folder),
    )
    write_text(folder / "README.md", card)


def _command(arguments: dict) -> str:
    """The generator's command line for these arguments."""
    words = ["python training/generate.py"]
    for name, value in arguments.items():
        option = "--" + name.replace("_", "-")
        words += [option] if value is True else [] if value is False else [f"{option} {value}"]
    return " ".join(words) + " --out FOLDER"


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _counts(folder: Path) -> str:
    identity, split = np.load(folder / "identity.npy"), np.load(folder / "split.npy")
    rows = [
        (name, len(np.unique(identity[split == kind])), int((split == kind).sum())) for kind, name in enumerate(SPLITS)
    ]
    return _table(("split", "identities", "pictures"), rows)


def _people(arguments: dict) -> str:
    people = [sample_identity(arguments["seed"], identity) for identity in range(arguments["identities"])]
    rows = []
    for word in _WORDS:
        counted = Counter(person.words[word] for person in people).most_common()
        rows.append((word, ", ".join(f"{value} {count / len(people):.0%}" for value, count in counted)))
    return _table(("", "share of the identities"), rows)


def _pictures(folder: Path) -> str:
    views, joints = np.load(folder / "views.npy"), np.load(folder / "joints.npy", mmap_mode="r")
    turn = np.abs(views[:, 0])
    rows = [
        ("turn", ", ".join(f"{name} {((turn >= a) & (turn < b)).mean():.0%}" for name, (a, b) in _TURNS.items())),
        ("pose", ", ".join(f"{name} {(views[:, 1] == n).mean():.0%}" for n, name in enumerate(KINDS))),
        ("joints", ", ".join(f"{name} {(joints[..., 2] == state).mean():.1%}"
                             for state, name in ((2, "visible"), (1, "hidden"), (0, "outside the picture")))),
    ]  # fmt: skip
    shown, cover, second, count = np.zeros(len(LABELS)), 0.0, 0, len(views)
    garments, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("garments", "masks"))
    for first in range(0, count, 256):
        part = garments[first : first + 256].reshape(-1, garments[0].size)
        shown += [(part == label).any(1).sum() for label in range(len(LABELS))]
        cover += float((part > 0).mean(1).sum())
        second += int((masks[first : first + 256] == 2).any((1, 2)).sum())
    rows.append(("garments seen in", ", ".join(f"{name} {shown[n] / count:.0%}" for n, name in enumerate(LABELS) if n)))
    rows.append(("person", f"covers {cover / count:.1%} of a picture in the mean"))
    rows.append(("second person", f"in {second / count:.1%} of the pictures"))
    return _table(("", "share of the pictures"), rows)


def _checksums(folder: Path) -> str:
    rows = []
    for path in sorted(folder.glob("*.npy")):
        rows.append((f"`{path.name}`", f"`{checksum(path)}`"))
    return _table(("file", "SHA-256"), rows)
