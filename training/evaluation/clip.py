"""Does a person keep face and clothes from frame to frame? Clips of synthetic people, made anew frame by frame."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reposedm_core import Pose, RePoseDMPipeline
from reposedm_core.files import write_json, write_picture, write_text
from reposedm_core.images import to_pil
from reposedm_core.keep_face import find_face, keep_face
from reposedm_core.pose import smooth_poses
from training.data.clip import Clip
from training.metrics.temporal import warp_error

LOG = logging.getLogger(__name__)
TRUTH, OWN, ONE = "truth", "noise of its own for each frame", "one noise for all frames"
FACE, FOUND, SMOOTH = "and the face kept", "poses as the estimator finds them", "and Smooth Poses"
ROWS = {
    TRUTH: "the rendered frames themselves",
    OWN: "exact poses, each frame sampled from its own noise",
    ONE: "exact poses, every frame sampled from the same noise",
    f"{ONE}, {FACE}": "then Keep Face",
    FOUND: "of the rendered frames, one noise for all",
    f"{FOUND}, {SMOOTH}": "with its defaults",
    f"{FOUND}, {SMOOTH}, {FACE}": "then Keep Face",
}


def measure_clips(
    pipe: RePoseDMPipeline, clips: Iterable[Clip], out: str | Path, steps: int | None = None
) -> dict[str, Any]:
    """Make the frames of clips from the picture of the standing person, and measure them; writes clip.json, clip.md and
    a sheet of each clip, a line a row of the table, to the folder `out`.

    Args:
        clips: at least one, of the model's size. steps: of sampling; None is the preset's.
    """
    folder, rows, frames = Path(out), [], []
    for number, clip in enumerate(clips):
        made = make_frames(pipe, clip, steps)
        rows.append({row: _measures(pictures, made[TRUTH], clip) for row, pictures in made.items()})
        frames.append(len(clip.pictures))
        sheet = torch.cat([torch.cat(list(pictures[:: max(1, frames[-1] // 6)]), 2) for pictures in made.values()], 1)
        write_picture(folder / f"clip-{number}.png", to_pil(sheet))
        LOG.info("clip %d is measured", number + 1)
    measures = rows[0][TRUTH]
    table = {row: {key: _mean([each[row][key] for each in rows]) for key in measures} for row in rows[0]}
    found = {"model": pipe.config.name, "clips": len(rows), "frames": sum(frames) // len(rows), "rows": table}
    write_json(folder / "clip.json", found)
    write_text(folder / "clip.md", markdown(found))
    return found


def _mean(values: list[float]) -> float | None:
    """Of those that are numbers; None, JSON's null, where no clip has one, as where no face is seen."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else None


def make_frames(pipe: RePoseDMPipeline, clip: Clip, steps: int | None) -> dict[str, Tensor]:
    """Frames (T, 3, H, W) in 0..1 of every row."""
    height, width = clip.source.shape[:2]
    source = torch.from_numpy(clip.source).movedim(-1, 0).float() / 255

    def pose(joints: np.ndarray) -> Pose:
        return Pose(joints.clip(max=[np.inf, np.inf, 1])[None], height, width)

    def sampled(poses: list[Pose], seeds: range | list[int]) -> Tensor:
        pictures = [
            pipe(clip.source, each, seed=seed, steps=steps, source_pose=own).image[0]
            for each, seed in zip(poses, seeds, strict=True)
        ]
        return torch.stack(pictures).cpu()

    def with_face(pictures: Tensor, poses: list[Pose]) -> Tensor:
        return torch.stack([keep_face(each, source, own, pose)[0] for each, pose in zip(pictures, poses, strict=True)])

    own, exact = pose(clip.source_pose), [pose(joints) for joints in clip.poses]
    one = [0] * len(exact)
    found = [pipe.estimate(picture) for picture in clip.pictures]
    smooth = smooth_poses(found, one_person=True)
    # somebody whom the estimator does not find has no result to measure: he stays as he was last seen
    found, smooth = (_without_gaps(poses, exact[0]) for poses in (found, smooth))
    made = {TRUTH: torch.from_numpy(clip.pictures).movedim(-1, 1).float() / 255, OWN: sampled(exact, range(len(exact)))}
    made[ONE] = sampled(exact, one)
    made[f"{ONE}, {FACE}"] = with_face(made[ONE], exact)
    made[FOUND] = sampled(found, one)
    made[f"{FOUND}, {SMOOTH}"] = sampled(smooth, one)
    made[f"{FOUND}, {SMOOTH}, {FACE}"] = with_face(made[f"{FOUND}, {SMOOTH}"], smooth)
    return {row: made[row] for row in ROWS}


def _without_gaps(poses: list[Pose], first: Pose) -> list[Pose]:
    last, filled = first, []
    for each in poses:
        last = each if len(each.joints) else last
        filled.append(last)
    return filled


def _measures(pictures: Tensor, truth: Tensor, clip: Clip) -> dict[str, float]:
    """Warp error of the person and of the face, and the difference from the truth, all in % of the range."""
    height, width = truth.shape[-2:]
    y, x = np.mgrid[:height, :width] + 0.5
    faces = np.zeros((len(truth), height, width), bool)
    for number, joints in enumerate(clip.poses):
        face = find_face(Pose(joints[None], height, width))
        if face is not None:
            faces[number] = face.distance(x, y) < 1
    person = torch.from_numpy(clip.seen)
    off = (pictures - truth)[1:].abs().mean(1)
    return {
        "warp error, person": warp_error(pictures, clip.flow, clip.seen),
        "warp error, face": warp_error(pictures, clip.flow, clip.seen & faces[1:]),
        "off the truth, person": 100 * float(off[person].mean()),
        "off the truth, face": 100 * float(off[person & torch.from_numpy(faces[1:])].mean()),
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of `measure_clips`."""
    columns = list(next(iter(found["rows"].values())))
    lines = [
        f"`{found['model']}`, {found['clips']} clips of {found['frames']} frames of test people, in % of the range of "
        "values; less is better.",
        "",
        f"| frames | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row, values in found["rows"].items():
        lines.append(
            f"| {row} | " + " | ".join("–" if values[c] is None else f"{values[c]:.2f}" for c in columns) + " |"
        )
    return "\n".join(lines) + "\n"
