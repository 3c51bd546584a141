"""Pose transfer in a real ComfyUI without a window: `make demo`, or python workflows/demo.py.

Queues the template "Pose transfer" over ComfyUI's HTTP interface twice and leaves two picture sheets: a
synthetic person that the shipped weights have never seen, and a photograph of a person with a pose taken from
another photograph. From the environment:

    SOURCE   picture of a person (JPEG, PNG, ...) to use instead of the photograph
    POSE     POSE_KEYPOINT JSON file to use instead of the pose; its first person counts
    OUT      folder for the sheets, output/demo by default

With --thumbnails it instead runs every workflow once and renews the pictures of the template browser beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from comfy_server import ROOT, ComfyError, ComfyServer
from graph import EXAMPLE, Prompt, find, load_workflow, part, replace_example, to_api
from PIL import Image, UnidentifiedImageError
from sheet import make_card, make_sheet, make_thumbnail
from tqdm import tqdm

from reposedm_core import PRESETS, InputError, Pose, RePoseDMPipeline
from reposedm_core.files import write_picture
from reposedm_core.pose import fit_to_frame, load_pose_file, one_pose, openpose_to_coco, to_keypoints
from reposedm_core.presets import SHIPPED_PRESET

WORKFLOWS = ROOT / "workflows"
START = "01 Pose transfer (start here)"
"""The page shows a template by the name of its file, in their order."""

VIDEO = ROOT / ".host" / "vtest.avi"
# A woman in a red jacket, frame counted from 0; the box (left, top, right, bottom) gives her 81 % of its height.
SOURCE_FRAME, SOURCE_BOX = 430, (656, 261, 749, 385)
# A man in frame 744, who strides the other way; his joints were marked by hand, in pixels of the frame.
PEDESTRIAN = WORKFLOWS / "examples" / "vtest_pedestrian.json"
MODEL = PRESETS[SHIPPED_PRESET]
# The training pictures' joints span 68 % of the height in the median.
FILL = 0.68
TOLERANCE = 0.05
# Distances are given in pixels of a picture of this height, whatever the model's size, so that they compare.
HEIGHT = 128
# Least width of a panel of a sheet; a panel is a whole number of times as wide as the model's pictures.
PANEL = 288

SYNTHETIC_NOTE = "A rendered person of the test set, whom the weights have never seen."
PHOTOGRAPH_NOTE = (
    "The shipped weights were trained on synthetic people only and are weak on photographs. "
    "This is their result as it is."
)


@dataclass(frozen=True)
class Accuracy:
    """How near the joints found in a picture are to a pose.

    Attributes:
        pck: share of the pose's joints found within `TOLERANCE` of the picture's height; a joint not found misses.
        distance: mean distance of the found joints, in pixels of a picture `HEIGHT` high; NaN if none was found.
    """

    pck: float
    distance: float

    def __str__(self) -> str:
        if np.isnan(self.distance):
            return "PCK 0%, no joint found"
        return f"PCK {self.pck:.0%}, mean joint distance {self.distance:.1f} px of {HEIGHT}"


def measure(pipeline: RePoseDMPipeline, picture: Image.Image, target: Pose) -> Accuracy:
    """`Accuracy` of the pose that the shipped estimator finds in a picture, against the target's first person."""
    found = pipeline.estimate(picture)
    wanted = openpose_to_coco(target.resized(picture.height, picture.width).joints[0])
    # The estimator finds nobody in a bad picture: every joint is missed.
    joints = openpose_to_coco(found.joints[0]) if len(found.joints) else np.zeros_like(wanted)
    there = wanted[:, 2] > 0
    distance = np.linalg.norm(joints[:, :2] - wanted[:, :2], axis=1) / picture.height
    hit = there & (joints[:, 2] > 0)
    mean = float(distance[hit].mean() * HEIGHT) if hit.any() else float("nan")
    return Accuracy(float((distance[hit] <= TOLERANCE).sum() / max(1, there.sum())), mean)


def video_frame(video: Path, number: int) -> Image.Image:
    """A frame of a video, counted from 0."""
    import av

    with av.open(str(video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == number:
                return frame.to_image()
    raise InputError(f"{video} has no frame {number}: fetch it anew (Debian's opencv-doc).")


@dataclass(frozen=True)
class RealInput:
    """A picture file, a pose that fills the model's frame, and a heading."""

    picture: Path
    pose: Pose
    title: str


def real_input(environment: Mapping[str, str], out: Path) -> RealInput | None:
    """The photograph and the pose from SOURCE and POSE, or from the video; None where there is no photograph.

    The crop of the video's frame is written to the folder `out`.

    Raises:
        InputError: SOURCE or POSE cannot be read, or the pose shows nobody.
    """
    source, pose = environment.get("SOURCE"), environment.get("POSE")
    frame = one_pose(Path(pose) if pose else PEDESTRIAN)
    person = fit_to_frame(frame.select(0), MODEL.height, MODEL.width, FILL)
    if source:
        picture = Path(source)
        try:
            Image.open(picture).load()
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"SOURCE={source} cannot be read ({error}): give a JPEG or PNG file.") from None
    elif VIDEO.is_file():
        picture = out / "photograph.png"
        write_picture(picture, video_frame(VIDEO, SOURCE_FRAME).crop(SOURCE_BOX))
    else:
        print(
            "No photograph here: .host/vtest.avi (from Debian's opencv-doc) could not be fetched; "
            "give one with SOURCE=picture POSE=keypoints.json."
        )
        return None
    whose = f"the pose of {Path(pose).name}" if pose else "the pose of a passer-by"
    return RealInput(picture, person, f"A photograph ({picture.name if source else VIDEO.name}) in {whose}")


@dataclass(frozen=True)
class Outcome:
    """Pictures of one run by the title of the node that showed them, and seconds a sampling step and in all."""

    pictures: dict[str, Image.Image]
    step: float
    total: float


def run(comfy: ComfyServer, prompt: Prompt, label: str) -> Outcome:
    """Queue a graph and show the sampler's steps as they are done."""
    steps = prompt[find(prompt, "RePoseDMKSampler")]["inputs"]["steps"]
    times: list[tuple[int, float]] = []  # the host drops messages that come too fast: steps done, and when
    started = time.monotonic()
    with tqdm(total=steps, desc=label, unit="step") as bar:

        def on_progress(value: int, maximum: int, _node: str) -> None:
            if maximum == steps:
                times.append((value, time.monotonic()))
                bar.update(value - bar.n)

        prompt_id = comfy.queue(prompt)
        comfy.wait(prompt_id, on_progress)
    total = time.monotonic() - started
    pictures = {
        node["_meta"]["title"]: Image.open(io.BytesIO(comfy.images(prompt_id, key)[0])).convert("RGB")
        for key, node in prompt.items()
        if node["class_type"] in ("PreviewImage", "SaveImage")
    }
    done = times[-1][0] - times[0][0] if times else 0
    step = (times[-1][1] - times[0][1]) / done if done else total / steps
    return Outcome(pictures, step, total)


def report(outcome: Outcome, target: Pose, title: str, note: str, pipeline: RePoseDMPipeline, path: Path) -> None:
    """Write the sheet of a run to `path`; print the path and the numbers."""
    order = ("Source", "Pose", "Aligned source", "Result", "True target")
    panels = [(name, outcome.pictures[name]) for name in order if name in outcome.pictures]
    result, source = (measure(pipeline, outcome.pictures[name], target) for name in ("Result", "Source"))
    numbers = f"{outcome.step:.2f} s a step, {outcome.total:.1f} s in all. {result} (source unmoved: {source})."
    meaning = (
        f"PCK: share of the target's joints that the shipped estimator, itself trained on synthetic people, finds "
        f"within {TOLERANCE:.0%} of the height."
    )
    times = -(-PANEL // MODEL.width)
    write_picture(path, make_sheet(panels, title, (note, numbers, meaning), times * MODEL.width, times * MODEL.height))
    print(f"{path}\n  {numbers}\n  {meaning}\n  {note}", flush=True)


def transfer(comfy: ComfyServer, real: RealInput | None, out: Path) -> list[Path]:
    """Both runs on a started ComfyUI; returns the paths of the sheets."""
    prompt = to_api(load_workflow(WORKFLOWS / f"{START}.json"), comfy.object_info())
    pipeline = RePoseDMPipeline.from_pretrained()
    name = prompt[find(prompt, EXAMPLE)]["inputs"]["example"]
    target = load_pose_file(WORKFLOWS / "examples" / f"{name}_pose.json")[0]
    paths = [out / "pose_transfer_synthetic.png"]
    outcome = run(comfy, prompt, "synthetic person")
    report(outcome, target, f"A synthetic person ({name})", SYNTHETIC_NOTE, pipeline, paths[0])
    if real is not None:
        uploaded = comfy.upload_image(real.picture, f"source{real.picture.suffix.lower()}")
        prompt = replace_example(prompt, uploaded, json.dumps(to_keypoints([real.pose])))
        with Image.open(real.picture) as picture:
            if picture.width < MODEL.width:  # at its own size the result would lose detail
                prompt[find(prompt, "RePoseDMRecurrentPoseAligner")]["inputs"]["output_size"] = "model"
        paths.append(out / "pose_transfer_photograph.png")
        report(run(comfy, prompt, "photograph"), real.pose, real.title, PHOTOGRAPH_NOTE, pipeline, paths[1])
    return paths


SHOWN = {
    START: ("Source", "Pose", "Aligned source", "Result"),
    "08 Pose guidance, with and without": ("Source", "Pose", "Without guidance", "Result"),
    "02 Pose transfer from two photographs": ("Source", "Picture of the pose", "Pose", "Result"),
    "04 Garment transfer": ("Source", "Clothes", "Mask", "Result"),
    "05 Animation from two poses": ("Result 0", "Result 2", "Result 4", "Result 6"),
    "03 Pose drawn by hand": ("Source", "Drawn pose", "Aligned source", "Result"),
    "12 Photograph that moves": ("Result 0", "Result 2", "Result 4", "Result 6"),
    "10 How well the result keeps to the pose": ("Result", "Poses in the result", "True target", "Poses in the truth"),
}
"""What thumbnails show: titles of nodes, and the picture of a batch."""

UNSHOWN = {
    "06 Pose transfer with your own checkpoint": (
        "Warped, on its background",
        "Your checkpoint paints what is missing",
    ),
    "07 Pose guidance on your own checkpoint": ("Pose", "Your checkpoint, bent towards a pose"),
    "09 Text and pose to picture (HumanSD)": ("Pose", "HumanSD or RePoseSD: text and pose"),
    "11 Pose transfer with an edit model": (
        "Warped, on its background",
        "An edit model paints: Flux.2 Klein, Kontext, Qwen",
    ),
}
"""Workflows that need weights which are not in the pack: their thumbnail is a picture of theirs and these words."""


def renew_thumbnails(comfy: ComfyServer) -> None:
    """Run every workflow, those without weights up to what they can show, and write its .jpg."""
    schemas = comfy.object_info()
    for name in (*SHOWN, *UNSHOWN):
        path = WORKFLOWS / f"{name}.json"
        prompt = to_api(load_workflow(path), schemas)
        if name in UNSHOWN:
            title, words = UNSHOWN[name]
            pictures = shown(comfy, part(prompt, find(prompt, "PreviewImage", title)))
            thumbnail = make_card(pictures[f"{title} 0"], words)
        else:
            pictures = shown(comfy, prompt)
            thumbnail = make_thumbnail([pictures.get(title) or pictures[f"{title} 0"] for title in SHOWN[name]])
        write_picture(path.with_suffix(".jpg"), thumbnail, quality=90)
        print(path.with_suffix(".jpg"), flush=True)


def shown(comfy: ComfyServer, prompt: Prompt) -> dict[str, Image.Image]:
    """Run a graph; what its nodes show, by their title and the number in the batch."""
    editor = find(prompt, "RePoseDMPoseEditor")
    if editor is not None:  # it shows its pose in the page alone
        prompt = {
            **prompt,
            "drawn": {"class_type": "RePoseDMDrawPose", "inputs": {"pose": [editor, 0], "width": 0, "height": 0}},
            "show": {
                "class_type": "PreviewImage",
                "inputs": {"images": ["drawn", 0]},
                "_meta": {"title": "Drawn pose"},
            },
        }
    prompt_id = comfy.queue(prompt)
    comfy.wait(prompt_id)
    return {
        f"{node['_meta']['title']} {number}": Image.open(io.BytesIO(png)).convert("RGB")
        for key, node in prompt.items()
        if node["class_type"] in ("PreviewImage", "SaveImage", "MaskPreview")
        for number, png in enumerate(comfy.images(prompt_id, key))
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description="Pose transfer in a headless ComfyUI.")
    arguments.add_argument("--thumbnails", action="store_true", help="renew workflows/*.jpg instead")
    thumbnails = arguments.parse_args().thumbnails
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the server as Ctrl-C does
    out = Path(os.environ.get("OUT") or ROOT / "output" / "demo")
    try:
        real = None if thumbnails else real_input(os.environ, out)
        print("Starting ComfyUI ...", flush=True)
        with ComfyServer() as comfy:
            if thumbnails:
                renew_thumbnails(comfy)
            else:
                transfer(comfy, real, out)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ComfyError, InputError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
