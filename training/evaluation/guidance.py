"""What pose field guidance does: the same pairs and seeds with it and without."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from reposedm_core.config import FieldConfig
from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_json, write_picture, write_text
from reposedm_core.pipeline import RePoseDMPipeline
from training.data.people_set import Pairs, People
from training.engine.sheets import comparison_sheet
from training.evaluation.compare import Comparison, compare
from training.evaluation.generate import OFF, TRUTH, Contender, open_contender
from training.evaluation.measure import Judge, detector_of
from training.evaluation.tables import difference, markdown_table, summarise

STRENGTHS = {"heatmaps": (0.1, 1.0), "features": (0.001, 0.1)}
"""∇G has the unit of what is compared: features are larger numbers, and many more, than heat maps."""
WINDOWS = ((0.0, 1.0), (0.25, 0.75), (0.5, 0.75), (0.5, 1.0), (0.75, 1.0))
LIMITS = (0.05, 0.1, 0.2)
EVERY, SIZES = (1, 2, 3), (1.0, 0.5)
SHOWN = ("joint_error", "pck@0.05", "perceptual", "ssim_256@1.5", "colour_right")


def settings_to_compare(default: FieldConfig) -> list[FieldConfig]:
    """No guidance, the default, the default with fewer and smaller gradients, and its mask with every space, window,
    limit and strength, each once."""
    grid = [
        replace(default, strength=strength, start=start, end=end, space=space, limit=limit)
        for space, strengths in STRENGTHS.items()
        for start, end in WINDOWS
        for limit in LIMITS
        for strength in strengths
    ]
    cheaper = [replace(default, every=every, size=size) for every in EVERY for size in SIZES]
    return list(dict.fromkeys((OFF, default, *cheaper, *grid)))


def costs_to_compare(default: FieldConfig) -> list[FieldConfig]:
    """No guidance, and the default in all of the sampling, as the paper's is, with fewer and smaller gradients: pose
    error against cost, by which the defaults of the paper's presets are chosen."""
    whole = replace(default, start=0.0, end=1.0)
    return [OFF, *(replace(whole, every=every, size=size) for size in SIZES for every in EVERY)]


def default_of(own: FieldConfig) -> FieldConfig:
    """The guidance of a checkpoint, as the studies sample with it: strength 1 where it samples without."""
    return replace(own, strength=own.strength or 1.0, training=0.0, estimate="x0")


def check_counts(pairs: int, steps: int | None) -> None:
    """Raise an `InputError` unless there is a pair, and a step where they are given."""
    for name, value in (("pairs", pairs), ("steps", steps)):
        if value is not None and value < 1:
            raise InputError(f"{name} = {value}: must be at least 1.")


def label(kind: FieldConfig) -> str:
    """How a table names a setting."""
    if not kind.strength:
        return "off"
    step = "" if kind.update == "eq15" else f", {kind.update}"
    less = "" if kind.every == 1 else f", one step of {kind.every}"
    less += "" if kind.size == 1 else f", decoded at {kind.size:g} of the size"
    return f"{kind.space}, strength {kind.strength:g}, {kind.start:g} to {kind.end:g}, limit {kind.limit:g}{step}{less}"


def measure(
    pipe: RePoseDMPipeline,
    people: People,
    pairs: Pairs,
    kinds: list[FieldConfig],
    seed: int,
    judge: Judge,
    steps: int | None = None,
) -> Comparison:
    """Every setting, as a row under its label; in so many steps, None being the checkpoint's."""
    settings = steps or pipe.config.steps, pipe.config.guidance_scale
    return compare(people, pairs, [Contender(pipe, {label(kind): kind for kind in kinds}, *settings)], judge, [seed])


def study(
    weights: str,
    data: str,
    out: str,
    pairs: int = 64,
    judge: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    shown: int = 12,
    compare: bool = True,
    cost: bool = False,
    steps: int | None = None,
) -> dict:
    """Compare settings on validation people, measure the default on test people, and write the report into `out`.

    Args:
        compare: False leaves out the former.
        cost: compare `costs_to_compare` instead of the grid, also pair by pair; the default acts in all steps.
        steps: of every run; None: the checkpoint's.

    Raises:
        InputError: no such checkpoint, set or judge, pictures of another size than the checkpoint's, or fewer than 1
            pair or step.
    """
    check_counts(pairs, steps)
    validation, test = People(data, "val"), People(data, "test")
    pipe = open_contender(weights, validation, device=device).pipe
    judging = Judge(detector_of(judge, pipe, device), device=device)
    folder = Path(out)
    make_folder(folder, "out")  # before the work, not after it
    own = pipe.config.field
    default = default_of(own)
    if cost:
        default = costs_to_compare(default)[1]
    compared, against = {}, {}
    if compare:
        chosen = validation.fixed_pairs(pairs)
        kinds = costs_to_compare(default) if cost else settings_to_compare(default)
        found = measure(pipe, validation, chosen, kinds, seed, judging, steps)
        values = {label(kind): found.values(label(kind)) for kind in kinds}
        compared = summarise(values, chosen.identity)
        if cost:
            off = values[label(OFF)]
            pairwise = {f"{name} − off": difference(row, off) for name, row in values.items() if row is not off}
            against = summarise(pairwise, chosen.identity)
    held_out = test.fixed_pairs(pairs)
    found = measure(pipe, test, held_out, [OFF, default], seed, judging, steps)
    rows = {label(kind): found.values(label(kind)) for kind in (OFF, default)}
    off, on = rows.values()
    results = {
        "protocol": {
            "weights": Path(weights).name,
            "pairs": pairs,
            "seed": seed,
            "steps": steps or pipe.config.steps,
            "guidance_scale": pipe.config.guidance_scale,
            "default": asdict(default),
            "own_strength": own.strength,
            "whole": cost,
            "judge": Path(judge).name if judge else None,
        },
        "validation": compared,
        "validation_difference": against,
        "test": summarise(rows, held_out.identity),
        "difference": summarise({"on − off": difference(on, off)}, held_out.identity),
    }
    write_json(folder / "guidance.json", results)
    write_text(folder / "guidance.md", markdown(results))
    # The pairs that guidance moves most, in either direction: there is something to see in them.
    order = np.argsort(-np.abs(np.nan_to_num(on["joint_error"] - off["joint_error"])))[:shown].tolist()
    columns = {"source": "source", "pose": "pose", "off": label(OFF), "on": label(default), "target": TRUTH}
    captions = [
        f"{n}: joints off by {off['joint_error'][n]:.1f} px without and {on['joint_error'][n]:.1f} px with guidance"
        for n in order
    ]
    sheet = comparison_sheet({name: found.shown(row, order) for name, row in columns.items()}, captions, across=2)
    write_picture(folder / "guidance.jpg", sheet, quality=90)
    return results


def markdown(results: dict) -> str:
    """guidance.md: what was measured, both tables, and who judged."""
    p = results["protocol"]
    default = "the default" if p["own_strength"] else "strength 1 (the checkpoint samples without guidance)"
    default += " in all steps" if p["whole"] else ""
    judge = f"another estimator than the guiding one ({p['judge']})" if p["judge"] else "the guiding estimator itself"
    parts = [
        f"# Pose field guidance off and on: {p['weights']}",
        f"{p['pairs']} pairs, {p['steps']} DDIM steps, w_c {p['guidance_scale']:g}, seed {p['seed']}, the same noise "
        f"for every row. Joints are found by {judge}. In brackets: 95 % bootstrap interval.",
        f"## Test people, {default}",
        markdown_table(results["test"], list(SHOWN), "guidance"),
        markdown_table(results["difference"], list(SHOWN), "pair by pair", signed=True),
    ]
    if results["validation"]:
        parts += ["## Validation people, every setting", markdown_table(results["validation"], list(SHOWN), "guidance")]
    if results["validation_difference"]:
        parts.append(markdown_table(results["validation_difference"], list(SHOWN), "pair by pair", signed=True))
    return "\n\n".join(parts) + "\n"
