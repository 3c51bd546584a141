"""What Pose Interaction Field Guidance does to a checkpoint of your own: python workflows/study_guidance.py FILE FOLDER

FILE is whatever ComfyUI's Load Checkpoint takes (Stable Diffusion 1.5, 2.1, XL, 3, ...). The template "07 Pose guidance
on your own checkpoint" runs in a real ComfyUI with the same noise for every strength, and an estimator looks for the
pose in the pictures. Prints a row per strength and leaves guidance.md, guidance.json, guidance.png (the curve) and
guidance.jpg (pictures) in FOLDER.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from comfy_server import ComfyError, ComfyServer
from demo import WORKFLOWS
from graph import Prompt, find, load_workflow, to_api
from PIL import Image
from sheet import make_sheet

from reposedm_core import InputError, Pose
from reposedm_core.files import make_folder, write_json, write_picture, write_text
from reposedm_core.pose import load_pose_file, to_keypoints

TEMPLATE = WORKFLOWS / "07 Pose guidance on your own checkpoint.json"
POSES = sorted((WORKFLOWS / "examples").glob("*_pose.json"))
SHIPPED = "reposedm-mini.safetensors"
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Run:
    """What one picture came to.

    Attributes:
        pck: share of the pose's joints found within 5 % of the height.
        distance: mean distance of the found joints in pixels; NaN where none was found.
        change: mean difference from the unguided picture, in levels of 255.
    """

    pck: float
    distance: float
    change: float
    picture: Image.Image


def graph(
    template: Prompt,
    strengths: Sequence[float],
    pose: Pose,
    checkpoint: str,
    estimators: tuple[str, str],
    sampling: dict[str, object],
    prompt: str | None,
) -> Prompt:
    """The template, once per strength, with what the judging estimator finds behind each picture.

    Args:
        template: API format of `TEMPLATE`. pose: one person, on a canvas of the pictures' size.
        checkpoint, estimators: names in the model folders; of the estimators the guiding and the judging one.
        sampling: inputs of KSampler. prompt: in place of the template's; None keeps that.
    """
    result = {key: {**node, "inputs": dict(node["inputs"])} for key, node in template.items()}
    keys = {node["class_type"]: key for key, node in result.items()}
    result[keys["CheckpointLoaderSimple"]]["inputs"]["ckpt_name"] = checkpoint
    result[keys["RePoseDMEstimatorLoader"]]["inputs"]["estimator"] = estimators[0]
    result[keys["EmptyLatentImage"]]["inputs"].update(width=pose.width, height=pose.height)
    if prompt:
        result[find(result, "CLIPTextEncode", "Positive prompt")]["inputs"]["text"] = prompt

    def node(name: str, kind: str, **inputs: object) -> list[object]:
        result[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": name}}
        return [name, 0]

    judge = node("judge", "RePoseDMEstimatorLoader", estimator=estimators[1], width=0, height=0, udp="auto")
    wanted = node("wanted", "RePoseDMLoadPose", file="none", text=json.dumps(to_keypoints([pose])), width=0, height=0)
    parts = [keys[kind] for kind in ("RePoseDMPoseFieldGuidance", "KSampler", "VAEDecode")]
    guide, sampler, decode = (result.pop(key) for key in parts)
    for kind in ("SaveImage", "RePoseDMDrawPose", "PreviewImage", "RePoseDMExample"):
        del result[keys[kind]]
    for number, strength in enumerate(strengths):
        model = node(
            f"guide {number}", guide["class_type"], **{**guide["inputs"], "pose": wanted, "strength": strength}
        )
        latent = node(f"sample {number}", "KSampler", **{**sampler["inputs"], **sampling, "model": model})
        picture = node(f"decode {number}", "VAEDecode", **{**decode["inputs"], "samples": latent})
        node(f"picture {number}", "PreviewImage", images=picture)
        found = node(
            f"found {number}", "RePoseDMEstimatePose", pose_estimator=judge, image=picture, threshold=0.1, people=1
        )
        node(f"compare {number}", "RePoseDMPoseAccuracy", pose=found, wanted_pose=wanted)
        for name, output in (("pck", 0), ("distance", 3)):
            node(f"{name} {number}", "PreviewAny", source=[f"compare {number}", output])
    return result


def study(
    comfy: ComfyServer,
    checkpoint: str,
    estimators: tuple[str, str],
    strengths: Sequence[float],
    size: tuple[int, int],
    poses: int,
    seeds: int,
    sampling: dict[str, object],
    prompt: str | None = None,
) -> list[list[Run]]:
    """Every pose and seed at every strength.

    Args:
        comfy: a started server that has the files. size: width and height of the pictures.
        poses, seeds: so many of the examples' poses, and seeds from 0 for each.
        others: as for `graph`; the first strength is 0.

    Returns:
        a list per pose and seed, a run per strength.
    """
    template, rows = to_api(load_workflow(TEMPLATE), comfy.object_info()), []
    for file in POSES[:poses]:
        pose = load_pose_file(file)[0].select(0).resized(size[1], size[0])
        for seed in range(seeds):
            number = comfy.queue(
                graph(template, strengths, pose, checkpoint, estimators, {**sampling, "seed": seed}, prompt)
            )
            comfy.wait(number)
            outputs = comfy.history(number)["outputs"]
            pictures = [
                Image.open(io.BytesIO(comfy.images(number, f"picture {index}")[0])).convert("RGB")
                for index in range(len(strengths))
            ]
            plain = np.asarray(pictures[0]).astype(float)
            rows.append([
                Run(
                    *(float(outputs[f"{name} {index}"]["text"][0]) for name in ("pck", "distance")),
                    float(np.abs(np.asarray(picture) - plain).mean()),
                    picture,
                )
                for index, picture in enumerate(pictures)
            ])  # fmt: skip
            print(f"{file.stem}, seed {seed}: " + ", ".join(f"{run.pck:.2f}" for run in rows[-1]), flush=True)
    return rows


def summary(rows: Sequence[Sequence[Run]], strengths: Sequence[float]) -> list[dict[str, float]]:
    """A row per strength: means, and the standard error of the difference to no guidance, pair by pair."""
    pck = np.array([[run.pck for run in row] for row in rows])
    gain = pck - pck[:, :1]
    error = gain.std(0, ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else np.full(len(strengths), math.nan)
    distance = np.array([[run.distance for run in row] for row in rows])
    return [
        {
            "strength": strength,
            "pck": float(pck[:, k].mean()),
            "gain": float(gain[:, k].mean()),
            "error": float(error[k]),
            "distance": float(np.nanmean(distance[:, k])) if np.isfinite(distance[:, k]).any() else math.nan,
            "change": float(np.mean([row[k].change for row in rows])),
        }
        for k, strength in enumerate(strengths)
    ]


def table(lines: Sequence[dict[str, float]]) -> str:
    """The rows as Markdown."""
    head = "| strength | joints found (PCK@0.05) | gain, pair by pair | distance, px | change of the picture, levels |"
    return "\n".join([
        head,
        "|---|---|---|---|---|",
        *(
            f"| {line['strength']:g} | {line['pck']:.3f} | {line['gain']:+.3f} ± {line['error']:.3f} | "
            f"{line['distance']:.1f} | {line['change']:.1f} |"
            for line in lines
        ),
    ])  # fmt: skip


def curve(lines: Sequence[dict[str, float]], path: Path) -> None:
    """Joints found, and change of the picture, over the strength; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no curve: pip install matplotlib", file=sys.stderr)
        return
    figure = Figure((6, 3.5), layout="constrained")
    axes = figure.subplots()
    x = [line["strength"] for line in lines]
    axes.errorbar(x, [line["pck"] for line in lines], [line["error"] for line in lines], marker="o", capsize=3)
    axes.set(xlabel="strength", ylabel="joints found (PCK@0.05)")
    other = axes.twinx()
    other.plot(x, [line["change"] for line in lines], "C1--", marker="s")
    other.set_ylabel("change of the picture, levels", color="C1")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    write_picture(path, Image.open(data))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--estimator", type=Path, help="HigherHRNet or ViTPose file, which photographs need")
    parser.add_argument("--judge", type=Path, help="another one that looks for the joints; else the guiding one does")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--poses", type=int, default=len(POSES))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=7.0)
    parser.add_argument("--prompt")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI choose the device; else the CPU")
    options = parser.parse_args(arguments)
    try:
        if options.poses < 1 or options.seeds < 1:
            raise InputError(f"poses = {options.poses}, seeds = {options.seeds}: must be at least 1.")
        strengths = [0.0, *(value for value in options.strengths if value)]
        make_folder(options.out, "FOLDER")  # before the work, not after it
        with ComfyServer(() if options.gpu else ("--cpu",)) as comfy:
            names = [SHIPPED, SHIPPED]
            files = [(options.checkpoint, "checkpoints"), (options.estimator, "reposedm"), (options.judge, "reposedm")]
            for number, (file, folder) in enumerate(files):
                if file is None:
                    continue
                if not file.is_file():
                    raise InputError(f"there is no file {file}.")
                (comfy.models / folder).mkdir(exist_ok=True)
                place = comfy.models / folder / file.name
                if not place.exists():
                    place.symlink_to(file.resolve())
                if number:
                    names[number - 1 :] = [file.name] * (3 - number)
            sampling = {"steps": options.steps, "cfg": options.cfg}
            size = options.width, options.height
            rows = study(comfy, options.checkpoint.name, tuple(names), strengths, size, options.poses, options.seeds,
                         sampling, options.prompt)  # fmt: skip
        report(rows, strengths, options)
    except (ComfyError, InputError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def report(rows: Sequence[Sequence[Run]], strengths: Sequence[float], options: argparse.Namespace) -> None:
    """Write the files, print the table."""
    lines = summary(rows, strengths)
    asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    write_json(options.out / "guidance.json", {"options": asked, "rows": lines})
    judge = options.judge or options.estimator or SHIPPED
    text = (
        f"# Pose field guidance on {options.checkpoint.name}\n\n{len(rows)} pictures per strength, the same noise for "
        f"each. Joints were found by {Path(judge).name}"
        f"{'' if options.judge else ', which guides, too'}; ± is the standard error.\n\n{table(lines)}\n"
    )
    write_text(options.out / "guidance.md", text)
    curve(lines, options.out / "guidance.png")
    panels = [(f"strength {strength:g}", run.picture) for strength, run in zip(strengths, rows[0], strict=True)]
    write_picture(options.out / "guidance.jpg", make_sheet(panels, options.checkpoint.name), quality=90)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
