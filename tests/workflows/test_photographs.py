"""Photographs of people through the templates: which picture goes where, and what comes back at its own size."""

from __future__ import annotations

import importlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from reposedm_core import InputError
from reposedm_core.pose import load_pose_file
from workflows.comfy_server import ROOT
from workflows.graph import EXAMPLE, load_workflow, to_api

EXAMPLES = ROOT / "workflows" / "examples"
SIZES = {"blue_shirt": (230, 420), "lime_top": (150, 260)}
"""Width and height of the photographs, by the name of the example in them; by name the blue one is the first."""


@pytest.fixture(scope="module")
def photographs():
    with pytest.MonkeyPatch.context() as patch:  # the script's folder is first on the path when it runs
        patch.syspath_prepend(ROOT / "workflows")
        yield importlib.import_module("photographs")


@pytest.fixture(scope="module")
def people(photographs, tmp_path_factory):
    """Two people as a user would put them into a folder; the second one with a mask of the person."""
    folder = tmp_path_factory.mktemp("people")
    for name, (width, height) in SIZES.items():
        picture = Image.open(EXAMPLES / f"{name}.png").convert("RGB").resize((width, height))
        picture.save(folder / f"{name}.png")
        pose = load_pose_file(EXAMPLES / f"{name}_source.json")[0]
        joints = pose.joints * (width / pose.width, height / pose.height, 1)
        frame = {"people": [{"pose_keypoints_2d": joints[0].flatten().tolist()}]}
        (folder / f"{name}.json").write_text(json.dumps(frame))
    Image.new("L", SIZES["lime_top"], 255).save(folder / "lime_top_mask.png")
    return photographs.read_people(folder)


def test_people_of_a_folder(photographs, people, tmp_path):
    assert [(person.picture.stem, person.pose.width, person.pose.height) for person in people] == [
        (name, *size) for name, size in SIZES.items()
    ]
    assert people[0].mask is None and people[1].mask.name == "lime_top_mask.png"
    shutil.copy(people[0].picture, tmp_path)
    with pytest.raises(InputError, match=r"blue_shirt\.json"):
        photographs.read_people(tmp_path)
    shutil.copy(people[0].picture.with_suffix(".json"), tmp_path)
    with pytest.raises(InputError, match="has 1 pictures: put two or more there"):
        photographs.read_people(tmp_path)
    frame = json.loads((tmp_path / "blue_shirt.json").read_text())
    for joint in range(8, 14):  # a half-length portrait
        frame["people"][0]["pose_keypoints_2d"][3 * joint : 3 * joint + 3] = 0, 0, 0
    (tmp_path / "blue_shirt.json").write_text(json.dumps(frame))
    with pytest.raises(InputError, match=r"blue_shirt\.png: its pose lacks the left hip, right hip; give a picture"):
        photographs.read_people(tmp_path)


def test_wanted_pose_has_the_place_and_the_size_of_the_person(photographs, people):
    person, other = people
    pose = photographs.wanted(person, other)
    assert (pose.height, pose.width) == (person.pose.height, person.pose.width)

    def limbs(pose):
        joints = pose.joints[0, :, :2]
        return sum(np.linalg.norm(joints[k] - joints[k + 1]) for k in (2, 3, 5, 6, 8, 9, 11, 12))

    assert limbs(pose) == pytest.approx(limbs(person.pose), rel=0.1)
    hips = photographs.middle(person.pose, photographs.HIPS)
    assert np.allclose(photographs.middle(pose, photographs.HIPS), hips, atol=0.01)
    assert not np.allclose(pose.joints, person.pose.joints, atol=3)


def test_every_template_that_takes_a_photograph_gets_it(photographs, people, schemas):
    """Poses and masks are connected, and nothing hangs in the air."""
    names = [{"picture": "a.png"}, {"picture": "c.png"}]
    found = photographs.templates()
    assert {name[:2] for name in found} >= {"01", "02", "03", "04", "05", "06", "11"} and not any(
        name[:2] in ("07", "09") for name in found
    )
    for template, title in found.items():
        prompt = to_api(load_workflow(ROOT / "workflows" / f"{template}.json"), schemas)
        graph = photographs.with_people(prompt, people, names)
        assert not any(node["class_type"] == EXAMPLE for node in graph.values())
        assert any(node["_meta"]["title"] == title for node in graph.values()), template
        for node in graph.values():
            assert all(value[0] in graph for value in node["inputs"].values() if isinstance(value, list)), template
            if node["class_type"] == "RePoseDMEstimatePose":
                assert not str(node["inputs"]["image"][0]).startswith("picture "), "its pose is known"
            if node["class_type"] == "RePoseDMRecurrentPoseAligner":
                assert node["inputs"]["source"] == ["picture 0", 0] and node["inputs"]["source_pose"] == ["own 0", 0]
            if node["class_type"] == "RePoseDMGarmentTransfer":
                assert node["inputs"]["garment"] == ["picture 1", 0]
                mask = graph[node["inputs"]["mask"][0]]
                assert mask["class_type"] == "RePoseDMGarmentMask" and mask["inputs"]["what"] == "clothes"
                assert mask["inputs"]["image"] == ["picture 0", 0] and mask["inputs"]["pose"] == ["own 0", 0]


def test_results_have_the_size_of_the_photographs(photographs, people, comfy):
    only = ("01 Pose transfer (start here)", "04 Garment transfer", "11 Pose transfer with an edit model")
    rows = photographs.run(comfy, people, only)
    for row, (name, size) in zip(rows, SIZES.items(), strict=True):
        assert [label for label, _ in row] == ["Photograph", *only]
        shown = dict(row)
        assert all(shown[label].size == size for label in ("Photograph", *only[:2]))
        assert shown[only[2]].size == (768, 1024), "the crop, as it is warped for a model that is not there"
        own, dressed = (np.asarray(shown[label]).astype(int) for label in ("Photograph", only[1]))
        changed = np.abs(own - dressed).max(-1) > 0
        mask = np.asarray(Image.open(EXAMPLES / f"{name}_mask.png").convert("L").resize(size)) > 127
        assert changed[mask].mean() > 0.5 and changed[~mask].mean() < 0.2, name
    sheet = photographs.stack(rows, list(SIZES))
    assert sheet.width > 4 * 260 and sheet.height > 2 * 480
