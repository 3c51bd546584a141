"""Reads the answers of a perception study's raters, and counts them: R2G, G2R, JAB, agreement, time per answer."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reposedm_core.errors import InputError, quoted
from reposedm_core.files import LARGEST_JSON, read_json, reason
from training.metrics.agreement import fleiss_kappa, wilson
from training.perception.make import CHECK, GENERATED, KEY_FORMAT, REAL

FORMAT = "perception study answers"
ANSWERS = (REAL, GENERATED)
LONGEST = 1e12
"""Milliseconds of an answer: no rater takes thirty years."""


@dataclass(frozen=True)
class Rater:
    """One rater's answers: item → (choice, milliseconds), in the order they were given.

    `complete`: every item was answered. `failed` of `checked` attention checks were answered wrongly.
    """

    name: str
    file: str
    answers: dict[str, tuple[str, float]]
    complete: bool
    failed: int
    checked: int


def read_key(path: Path) -> dict[str, Any]:
    """The key of a study.

    Raises:
        InputError: no such file, or no key of a study.
    """
    key = read_json(path, str(path), "give the study.key.json that was written with the page")
    if key.get("format") != KEY_FORMAT or key.get("version") != 1 or not _is_whole(key):
        raise InputError(f"{path} is no key of a perception study: give the study.key.json written with the page.")
    return key


def _is_whole(key: dict[str, Any]) -> bool:
    singles, sets, methods = key.get("singles"), key.get("sets"), key.get("methods", [])
    return (
        isinstance(key.get("study"), str)
        and isinstance(singles, dict)
        and isinstance(sets, dict)
        and isinstance(methods, list)
        and all(isinstance(known, dict) and known.get("kind") in (REAL, GENERATED, CHECK) for known in singles.values())
        and all(isinstance(known, dict) and _is_set(known, methods) for known in sets.values())
    )


def _is_set(known: dict[str, Any], methods: list) -> bool:
    options = known.get("options")
    if not (isinstance(known.get("check"), bool) and isinstance(options, dict) and len(options) > 1):
        return False
    return all(method in methods for method in options.values())


def read_answers(folder: Path, key: dict[str, Any]) -> tuple[list[Rater], list[str]]:
    """The raters of all .json files right in a folder, and one line for each file that does not count.

    A file that is broken, or of another study, does not count. Of several files of one rater the one with the most
    answers counts, of equals the first by name.

    Raises:
        InputError: no such folder, or nobody's answers in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name the one with the raters' answer files.")
    found: dict[str, Rater] = {}
    lines: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            rater = _read(path, key)
        except (OSError, ValueError, RecursionError) as error:
            lines.append(f"{path.name}: left out: {reason(error)}")
            continue
        before = found.get(rater.name)
        if before is None:
            found[rater.name] = rater
            continue
        same = before.answers == rater.answers
        kept, other = (rater, before) if len(rater.answers) > len(before.answers) else (before, rater)
        found[rater.name] = kept
        what = "the same answers" if same else f"{len(other.answers)} answers against {len(kept.answers)}"
        lines.append(f"{other.file}: left out: rater {quoted(rater.name)} again, {what}; {kept.file} counts")
    if not found:
        raise InputError(
            f"{folder}: nobody's answers to the study {key['study']} are there"
            + (f" ({lines[0]})" if lines else "")
            + ". Put the files that the page saved right into this folder."
        )
    return list(found.values()), lines


def _read(path: Path, key: dict[str, Any]) -> Rater:
    """One file; ValueError says in one line why it does not count."""
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError("it is too large for a file of answers")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))  # some mail programs and editors add the mark
    except ValueError:
        raise ValueError("it is no whole JSON file; ask the rater to save it again") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != 1:
        raise ValueError("it is no file of answers that a study's page saved")
    if data.get("study") != key["study"]:
        raise ValueError(f"it answers the study {quoted(data.get('study'))}, this key is that of {key['study']}")
    name, given = data.get("rater"), data.get("answers")
    if not isinstance(name, str) or not name.strip() or not isinstance(given, list):
        raise ValueError("it names no rater, or has no list of answers")
    answers: dict[str, tuple[str, float]] = {}
    for number, entry in enumerate(given, 1):
        item, choice, time = (
            entry.get(k) if isinstance(entry, dict) else None for k in ("item", "choice", "milliseconds")
        )
        if not isinstance(item, str) or not isinstance(choice, str) or choice not in possible(key, item):
            raise ValueError(
                f"answer {number} chooses {quoted(choice)} for {quoted(item)}, which the study does not offer"
            )
        if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 <= time < LONGEST:
            raise ValueError(f"answer {number} took {quoted(time)} milliseconds")
        if item in answers:
            raise ValueError(f"answer {number} is a second one to {quoted(item)}")
        answers[item] = choice, float(time)
    if not answers:
        raise ValueError("it has no answer")
    checks = {item: right for item, right in right_answers(key).items() if item in answers}
    failed = sum(answers[item][0] != right for item, right in checks.items())
    return Rater(
        name.strip(), path.name, answers, len(answers) == len(key["singles"]) + len(key["sets"]), failed, len(checks)
    )


def possible(key: dict[str, Any], item: str) -> Iterable[str]:
    """The choices that an item offers; none for what is no item."""
    if item in key["singles"]:
        return ANSWERS
    return key["sets"][item]["options"] if item in key["sets"] else ()


def right_answers(key: dict[str, Any]) -> dict[str, str]:
    """Attention check → its only right answer: what is out of order is generated, and not the best."""
    singles = {item: GENERATED for item, known in key["singles"].items() if known["kind"] == CHECK}
    return singles | {item: next(iter(known["options"])) for item, known in key["sets"].items() if known["check"]}


def share(hits: int, asked: int) -> dict[str, float | int | None]:
    """A share as results.json holds it."""
    numbers = (None if math.isnan(x) else round(x, 6) for x in wilson(hits, asked))
    return dict(zip(("share", "low", "high"), numbers, strict=True)) | {"hits": hits, "of": asked}


def count(raters: list[Rater], key: dict[str, Any]) -> dict[str, Any]:
    """What the raters said.

    Returns:
        "r2g": real pictures taken for generated ones; "g2r": generated ones taken for real; "jab": method → sets in
        which it was taken for the best; each a `share` of all answers. "kappa_singles" and "kappa_sets": Fleiss' κ.
        "seconds": scheme → quartiles of the time per answer. Attention checks are in none of them.
    """
    marked: Counter[tuple[str, str]] = Counter()
    best: Counter[str] = Counter()
    times: dict[str, list[float]] = {"singles": [], "sets": []}
    singles = [item for item, known in key["singles"].items() if known["kind"] != CHECK]
    sets = [item for item, known in key["sets"].items() if not known["check"]]
    methods = key.get("methods", [])
    tables = {"singles": np.zeros((len(singles), len(ANSWERS))), "sets": np.zeros((len(sets), len(methods)))}
    place = {item: ("singles", n) for n, item in enumerate(singles)} | {
        item: ("sets", n) for n, item in enumerate(sets)
    }
    for rater in raters:
        for item, (choice, milliseconds) in rater.answers.items():
            if item not in place:
                continue
            scheme, n = place[item]
            times[scheme].append(milliseconds / 1000)
            if scheme == "singles":
                marked[key["singles"][item]["kind"], choice] += 1
                tables[scheme][n, ANSWERS.index(choice)] += 1
            else:
                method = key["sets"][item]["options"][choice]
                best[method] += 1
                tables[scheme][n, methods.index(method)] += 1
    asked = {kind: sum(marked[kind, choice] for choice in ANSWERS) for kind in ANSWERS}
    kappas = {f"kappa_{scheme}": fleiss_kappa(table) for scheme, table in tables.items()}
    return {
        "r2g": share(marked[REAL, GENERATED], asked[REAL]),
        "g2r": share(marked[GENERATED, REAL], asked[GENERATED]),
        "jab": {method: share(best[method], best.total()) for method in methods},
        **{name: None if math.isnan(kappa) else round(kappa, 6) for name, kappa in kappas.items()},
        "seconds": {
            scheme: [round(float(x), 3) for x in np.quantile(values, (0.25, 0.5, 0.75))]
            for scheme, values in times.items()
            if values
        },
    }
