"""Turn a public set of pictures, a folder or a video into a people set that training reads.

    python training/prepare.py NAME --root ORIGINALS --out FOLDER [--size 256x176] [--workers N]

NAME is deepfashion, market1501, folder, video, laion_human or human_art; training/data/README.md says which files go
where. Run the same command again after an interruption and it goes on. What was left out, and why, is in
FOLDER/report.json and in the table at the end; what was fixed since is taken up by another run.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections import Counter
from pathlib import Path

if not __package__:  # run as a script: modules are found from the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from reposedm_core.errors import InputError
from reposedm_core.files import disk_full, write_json
from training.adapters import ADAPTERS
from training.data.people_set import SPLITS
from training.evaluation.picture_files import picture_size
from training.preparation.captioning import CaptionedAdapter, prepare_captions
from training.preparation.estimation import load_estimator
from training.preparation.packing import PeopleWriter, open_folder
from training.preparation.plan import Plan, Shares, Skip
from training.preparation.reading import Reading


def prepare(
    name: str,
    root: str | Path,
    out: str | Path,
    size: tuple[int, int] | None = None,
    workers: int = 1,
    estimator: str | None = None,
    openpose_weights: str = "",
    least_joints: int = 6,
    shares: Shares | None = None,
) -> dict:
    """Make the set, or finish it; returns the report.

    Args:
        name: of the adapter.
        root: where the originals lie. out: folder of the set.
        size: height and width of the rows; the adapter's own if None.
        workers: processes that read pictures; they change no byte. 1 is this process.
        estimator: for pictures without annotation, see `load_estimator`; the adapter's own if None.
        least_joints: a picture is left out if the estimator finds fewer of COCO's 17 joints.
        shares: parts of the people that are held out where the set has no such split.

    Raises:
        InputError: an unknown name, no such originals, a folder that holds something else, or a full disk.
    """
    if name not in ADAPTERS:
        raise InputError(f"{name!r}: no such set; known are {', '.join(ADAPTERS)}.")
    adapter, root, out, shares = ADAPTERS[name](), Path(root), Path(out), shares or Shares()
    if not root.exists():
        raise InputError(f"root = {root}: there is no such file or folder.")
    if not 1 <= workers <= 256:
        raise InputError(f"workers = {workers}: must be 1 to 256.")
    if min(shares.val, shares.test) < 0 or shares.val + shares.test >= 1:
        raise InputError(f"val = {shares.val}, test = {shares.test}: shares from 0, together below 1.")
    open_folder(out)
    if isinstance(adapter, CaptionedAdapter):  # another form on disk
        return prepare_captions(adapter, root, out, size or adapter.size, workers, shares)
    size = size or adapter.size
    plan = adapter.plan(root, shares, out)
    estimator = estimator or ("none" if plan.annotated else adapter.estimator)
    reading = Reading(size, adapter.resize, estimator, openpose_weights, least_joints)
    if not plan.items:
        raise InputError(
            f"{root}: no picture of {adapter.title} found there ({_counted(plan.skipped) or 'nothing'}); "
            "training/data/README.md shows the folders that are expected."
        )
    check_order(plan)
    if estimator != "none" and any(item.openpose is None for item in plan.items):
        load_estimator(estimator, openpose_weights)  # wrong weights are reported before anything is written
    description = {
        "name": adapter.title,
        "licence": adapter.licence,
        "resize": adapter.resize,
        "source": {
            "adapter": name,
            "root": root.name,
            "estimator": estimator,
            "least_joints": least_joints,
            "val": shares.val,
            "test": shares.test,
        },
        "plan": fingerprint(plan),
    }
    skipped = list(plan.skipped)
    with PeopleWriter(out, plan, description, size) as writer:
        missing = np.flatnonzero(~writer.done).tolist()
        with tqdm(total=len(plan.items), initial=len(plan.items) - len(missing), desc=name, unit="picture") as bar:
            for number, result in adapter.rows(plan, missing, reading, workers):
                if isinstance(result, Skip):
                    skipped.append(result)
                    bar.set_postfix(skipped=len(skipped), refresh=False)
                else:
                    writer.write(number, result)
                bar.update()
        writer.flush()
        report = summary(name, plan, writer.done, sorted(skipped), adapter.paper_pairs)
    write_json(out / "report.json", report)
    return report


def check_order(plan: Plan) -> None:
    """An adapter's mistake is not written to disk: names are unique, and one person's rows are together."""
    labels = np.array([item.identity for item in plan.items])
    names = Counter(item.name for item in plan.items)
    if (np.diff(labels) < 0).any() or max(names.values()) > 1:
        raise AssertionError("rows are not ordered by identity, or a name is there twice")


def fingerprint(plan: Plan) -> int:
    """Changes with any row, pair or annotated joint: a set that was begun is only continued with the same originals."""
    text = "\n".join(f"{item.name} {item.identity} {item.split} {item.canvas}" for item in plan.items)
    total = zlib.crc32((text + repr(plan.pairs)).encode("utf-8", "backslashreplace"))
    for item in plan.items:
        total = zlib.crc32(b"" if item.openpose is None else item.openpose.astype("<f4").tobytes(), total)
    return total


def summary(
    name: str, plan: Plan, done: np.ndarray, skipped: list[Skip], paper_pairs: dict[str, int] | None = None
) -> dict:
    """What the set holds, what was left out, and how its pairs differ from `Adapter.paper_pairs`; JSON."""
    labels = np.array([item.identity for item in plan.items])
    kinds = np.array([SPLITS.index(item.split) for item in plan.items])
    splits = {}
    for code, split in enumerate(SPLITS):
        kept = labels[(kinds == code) & (done > 0)]
        counts = np.unique(kept, return_counts=True)[1]
        splits[split] = {"people": len(counts), "pictures": len(kept), "pairs": int((counts * (counts - 1)).sum())}
    if plan.pairs is not None:
        good = {item.name: item.split for item, whole in zip(plan.items, done, strict=True) if whole}
        official = Counter(good[a] for a, b in plan.pairs if a in good and b in good)
        for split in SPLITS:
            splits[split]["official pairs"] = official[split]
        splits["lists"] = {"official pairs": len(plan.pairs)}
    return {
        **compared(splits, plan.pairs is not None, paper_pairs or {}),
        "adapter": name,
        "written": int((done > 0).sum()),
        "splits": splits,
        "skipped": dict(Counter(skip.reason for skip in skipped).most_common()),
        "skipped_files": [skip._asdict() for skip in skipped],
    }


def compared(splits: dict[str, dict[str, int]], listed: bool, paper_pairs: dict[str, int]) -> dict:
    """{"paper's pairs": list → counts here and in the paper, and their difference}; people held out to validate are of
    the list that the paper trains on. Empty for a set of which the paper names no pairs."""
    if not paper_pairs:
        return {}
    counts = {split: splits[split]["official pairs" if listed else "pairs"] for split in SPLITS}
    here = {"train": counts["train"] + counts["val"], "test": counts["test"]}
    found = {
        name: {"here": here[name], "paper": paper, "difference": here[name] - paper}
        for name, paper in paper_pairs.items()
    }
    return {"paper's pairs": {"listed": listed, **found}}


def table(report: dict) -> str:
    """The report for a terminal."""
    lines = [f"{report['written']} pictures written"]
    for split, counts in report["splits"].items():
        lines.append(f"  {split:6} " + ", ".join(f"{value} {key}" for key, value in counts.items()))
    if message := dict(report.get("paper's pairs", {})):
        of = "" if message.pop("listed") else " (no pair list was found: all ordered pairs of a person are counted)"
        lines.append(f"  pairs beside the paper's{of}:")
        for name, count in message.items():
            lines.append(
                f"    {name:6} {count['here']:,} of {count['paper']:,}, a difference of {count['difference']:+,}"
            )
    lines.append(f"{len(report['skipped_files'])} left out" + (":" if report["skipped"] else ""))
    for reason, count in report["skipped"].items():
        first = next(skip for skip in report["skipped_files"] if skip["reason"] == reason)
        lines.append(
            f"  {count:7} {reason:24} such as {first['name']}" + (f" ({first['detail']})" if first["detail"] else "")
        )
    return "\n".join(lines)


def _counted(skipped: list[Skip]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(s.reason for s in skipped).most_common())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(ADAPTERS))
    parser.add_argument("--root", type=Path, required=True, help="folder (or video) with the originals")
    parser.add_argument("--out", type=Path, required=True, help="folder of the set, new or begun")
    parser.add_argument(
        "--size", type=picture_size, help="HEIGHTxWIDTH of the pictures; the set's usual one by default"
    )
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes; changes no byte")
    parser.add_argument(
        "--estimator", help="for pictures without annotation: ours, openpose, none, or a file with HigherHRNet weights"
    )
    parser.add_argument("--openpose-weights", default="", help="folder with OpenPose's body_pose_model.pth")
    parser.add_argument(
        "--least-joints", type=int, default=6, help="leave out pictures in which the estimator finds fewer of 17 joints"
    )
    parser.add_argument("--val", type=float, default=Shares.val, help="share of the people held out to validate")
    parser.add_argument("--test", type=float, default=Shares.test, help="to test, where the set has no test split")
    options = parser.parse_args(arguments)
    try:
        report = prepare(
            options.name,
            options.root,
            options.out,
            options.size,
            options.workers,
            options.estimator,
            options.openpose_weights,
            options.least_joints,
            Shares(options.val, options.test),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        message = disk_full(error, options.out)
        if message is error:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
