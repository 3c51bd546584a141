"""Photographs of people through the templates, on one sheet: python workflows/photographs.py FOLDER SHEET.png

FOLDER holds, per person, NAME.jpg or NAME.png; NAME.json, the pose as OpenPose JSON in its pixels (from ComfyUI's
SDPose nodes, DWPose, ...), with shoulders and hips at least; and, if there is one, NAME_mask.png, white where the
person is. Everybody gets the pose of the next one, in a body as large as the own one, and in the template of garments
the clothes of the next one. Of templates that need weights which are not in the pack, what they show without them.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from comfy_server import ComfyError, ComfyServer
from demo import UNSHOWN, WORKFLOWS, shown
from graph import EXAMPLE, Prompt, find, load_workflow, part, to_api
from PIL import Image
from sheet import make_sheet

from reposedm_core import InputError, Pose
from reposedm_core.files import write_picture
from reposedm_core.pose import load_pose_file, retarget_pose, to_keypoints
from reposedm_core.pose.skeleton import OPENPOSE18

PICTURE, POSE, TARGET, MASK, OWN = range(5)
"""Outputs of RePoseDM Example; a photograph has no true picture, the third."""
READERS = {
    "RePoseDMRecurrentPoseAligner": "source_pose",
    "RePoseDMGarmentTransfer": "garment_pose",
    "RePoseDMGarmentMask": "pose",
}
"""Input of a node that takes the pose of the person in a photograph."""
HIPS, TORSO = (8, 11), (2, 5, 11, 8)
"""Joints of OpenPose's body: both hips; shoulders and hips, round."""


@dataclass(frozen=True)
class Person:
    """A photograph of a person.

    Attributes:
        pose: in its pixels, one person.
        mask: file that is white where the person is; None is everywhere.
    """

    picture: Path
    pose: Pose
    mask: Path | None


def read_people(folder: Path) -> list[Person]:
    """The people of a folder, by name.

    Raises:
        InputError: there are fewer than two, or one has no pose, or none with shoulders and hips: by these poses and
            clothes are placed.
    """
    people = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png") or path.stem.endswith("_mask"):
            continue
        with Image.open(path) as picture:
            width, height = picture.size
        pose = load_pose_file(path.with_suffix(".json"), width=width, height=height)[0].select(0)
        if lost := [OPENPOSE18[joint].replace("_", " ") for joint in TORSO if not pose.joints[0, joint, 2] > 0]:
            raise InputError(
                f"{path}: its pose lacks the {', '.join(lost)}; give a picture that shows the person down to the hips."
            )
        mask = path.with_name(f"{path.stem}_mask.png")
        people.append(Person(path, pose, mask if mask.is_file() else None))
    if len(people) < 2:
        raise InputError(f"{folder} has {len(people)} pictures: put two or more there, each with its .json.")
    return people


def middle(pose: Pose, joints: Sequence[int]) -> np.ndarray:
    """Mean place (2,) of joints of the first person, in pixels."""
    return pose.joints[0, list(joints), :2].mean(0)


def wanted(person: Person, other: Person) -> Pose:
    """The pose of `other` where `person` is, with a body as large as hers or his."""
    own = person.pose
    (pose,) = retarget_pose([other.pose.resized(own.height, own.width)], [own], size=True)
    joints = pose.joints.copy()
    joints[..., :2] += np.where(joints[..., 2:] > 0, middle(own, HIPS) - middle(pose, HIPS), 0)
    return Pose(joints, own.height, own.width)


def with_people(prompt: Prompt, people: Sequence[Person], names: Sequence[dict[str, str]]) -> Prompt:
    """The graph with photographs in place of its examples.

    Args:
        prompt: API format. The first example becomes the first person, the second the second.
        names: of everybody's files in the server's input folder: "picture", and "mask" if there is one.

    Returns:
        a copy in which poses and masks are connected wherever a note asks for them; without what shows true pictures,
        except where the picture of the pose is one.
    """
    examples = [key for key, node in prompt.items() if node["class_type"] == EXAMPLE]
    ours: Prompt = {}

    def node(name: str, kind: str, **inputs: object) -> None:
        ours[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": name}}

    for number, (person, other, files) in enumerate(zip(people, (*people[1:], people[0]), names, strict=True)):
        node(f"picture {number}", "LoadImage", image=files["picture"])
        for name, pose in (("own", person.pose), ("wanted", wanted(person, other))):
            text = json.dumps(to_keypoints([pose]))
            node(f"{name} {number}", "RePoseDMLoadPose", file="none", text=text, width=0, height=0)
        if "mask" in files:
            node(f"mask {number}", "LoadImageMask", image=files["mask"], channel="red")
    links = {
        (key, output): [f"{name} {number}", 0]
        for number, key in enumerate(examples)
        for output, name in ((PICTURE, "picture"), (POSE, "wanted"), (OWN, "own"))
    }
    if len(examples) > 1:  # the second one's is a picture of a pose
        links[examples[1], TARGET] = ["picture 1", 0]
    result = dict(ours)
    for key, one in copy.deepcopy(prompt).items():
        inputs = one["inputs"]
        taken = {
            name: tuple(value) for name, value in inputs.items() if isinstance(value, list) and value[0] in examples
        }
        if key in examples or any(value not in links for value in taken.values()):
            continue
        inputs.update({name: links[value] for name, value in taken.items()})
        if one["class_type"] in READERS:
            inputs.setdefault(READERS[one["class_type"]], ["own 1" if "garment" in inputs else "own 0", 0])
        if one["class_type"] == "RePoseDMCropToPerson" and "mask" in names[0]:
            inputs["mask"] = ["mask 0", 0]
        if one["class_type"] == "RePoseDMSkeletonWarp" and "mask" in names[0]:
            cropped = prompt.get(inputs["source"][0], {}).get("class_type") == "RePoseDMCropToPerson"
            inputs["mask"] = [inputs["source"][0], MASK] if cropped else ["mask 0", 0]
        result[key] = one
    for key, one in list(result.items()):  # the notes: an estimator that knows photographs in its place
        shown_to = one["inputs"].get("image") if one["class_type"] == "RePoseDMEstimatePose" else None
        if isinstance(shown_to, list) and str(shown_to[0]).startswith("picture "):
            del result[key]
            pose = [str(shown_to[0]).replace("picture", "own"), 0]
            for other in result.values():
                other["inputs"].update({name: pose for name, value in other["inputs"].items() if value == [key, 0]})
    while lost := [
        key
        for key, one in result.items()
        if any(isinstance(value, list) and value[0] not in result for value in one["inputs"].values())
    ]:
        for key in lost:
            del result[key]
    return result


def templates() -> dict[str, str]:
    """Names of the templates that take a photograph, and the title of the node that shows what becomes of it."""
    found = {}
    for path in sorted(WORKFLOWS.glob("*.json")):
        workflow = load_workflow(path)
        examples = {node["id"] for node in workflow["nodes"] if node["type"] == EXAMPLE}
        if any(link[1] in examples and link[2] == PICTURE for link in workflow["links"]):
            found[path.stem] = UNSHOWN.get(path.stem, ("Result",))[0]
    return found


def run(comfy: ComfyServer, people: Sequence[Person], only: Sequence[str] = ()) -> list[list[tuple[str, Image.Image]]]:
    """Everybody through every template.

    Args:
        comfy: a started server.
        only: templates; empty is all that take a photograph.

    Returns:
        per person, the photograph and the results under the templates' names; of an animation the last picture.
    """
    schemas, names = comfy.object_info(), []
    for number, person in enumerate(people):
        files = {"picture": person.picture, **({"mask": person.mask} if person.mask else {})}
        names.append(
            {key: comfy.upload_image(file, f"{key}{number}{file.suffix.lower()}") for key, file in files.items()}
        )
    rows = []
    for number, person in enumerate(people):
        order = [(number + step) % len(people) for step in range(len(people))]
        row = [("Photograph", Image.open(person.picture).convert("RGB"))]
        for template, title in templates().items():
            if only and template not in only:
                continue
            prompt = to_api(load_workflow(WORKFLOWS / f"{template}.json"), schemas)
            prompt = with_people(prompt, [people[each] for each in order], [names[each] for each in order])
            if template in UNSHOWN:
                prompt = part(prompt, find(prompt, "PreviewImage", title))
            pictures = [picture for key, picture in shown(comfy, prompt).items() if key.rpartition(" ")[0] == title]
            row.append((template, pictures[-1]))
            print(person.picture.name, template, pictures[-1].size, flush=True)
        rows.append(row)
    return rows


def stack(rows: Sequence[Sequence[tuple[str, Image.Image]]], names: Sequence[str]) -> Image.Image:
    """The rows as one sheet."""
    sheets = [
        make_sheet([(label[:30], picture) for label, picture in row], name, (), 260, 480)
        for row, name in zip(rows, names, strict=True)
    ]
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        people = read_people(Path(arguments[0]))
        with ComfyServer() as comfy:
            rows = run(comfy, people)
        write_picture(Path(arguments[1]), stack(rows, [person.picture.name for person in people]))
    except (ComfyError, InputError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
