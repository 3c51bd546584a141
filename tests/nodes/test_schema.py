"""What ComfyUI's page shows of the nodes: every one is there, and explains itself."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.fixtures.waiting import CEILING
from workflows.comfy_server import ROOT, read_host

NAMES = {
    "RePoseDMLoader": "RePoseDM Loader",
    "RePoseDMLoadPose": "Load Pose",
    "RePoseDMEstimatorLoader": "Pose Estimator Loader",
    "RePoseDMEstimatePose": "Estimate Pose",
    "RePoseDMDrawPose": "Draw Pose",
    "RePoseDMPoseEditor": "Pose Editor",
    "RePoseDMSavePose": "Save Pose",
    "RePoseDMSelectPerson": "Select Person",
    "RePoseDMSmoothPoses": "Smooth Poses",
    "RePoseDMRetargetPose": "Retarget Pose",
    "RePoseDMEditPose": "Edit Pose",
    "RePoseDMInterpolatePoses": "Interpolate Poses",
    "RePoseDMPoseAccuracy": "Compare Poses",
    "RePoseDMRecurrentPoseAligner": "Recurrent Pose Aligner",
    "RePoseDMSkeletonWarp": "Skeleton Warp",
    "RePoseDMPoseFieldGuidance": "Pose Interaction Field Guidance",
    "RePoseDMKSampler": "RePoseDM KSampler",
    "RePoseDMDecode": "RePoseDM Decode",
    "RePoseDMGarmentTransfer": "Garment Transfer",
    "RePoseDMGarmentMask": "Garment Mask",
    "RePoseDMRevealMask": "Reveal Mask",
    "RePoseDMCropToPerson": "Crop to Person",
    "RePoseDMPasteBack": "Paste Back",
    "RePoseDMKeepFace": "Keep Face",
    "ReposeSDLoader": "RePoseSD Loader",
    "RePoseDMSDLoader": "RePoseSD Loader",
    "RePoseDMSDConditioning": "RePoseSD Conditioning",
    "RePoseDMExample": "RePoseDM Example",
}


@pytest.fixture(scope="module")
def schemas(comfy):
    module = f"custom_nodes.{read_host()[1]}"
    return {node: info for node, info in comfy.object_info().items() if info["python_module"] == module}


def inputs_of(schema):
    """(name, type, options) of every input."""
    for section in ("required", "optional"):
        for name, (kind, *rest) in schema["input"].get(section, {}).items():
            yield name, kind, rest[0] if rest else {}


def test_every_node_of_the_pack_is_there_and_no_other(schemas):
    assert {node: schema["display_name"] for node, schema in schemas.items()} == NAMES


@pytest.mark.parametrize("node", NAMES)
def test_every_input_and_output_has_a_tooltip(schemas, node):
    schema = schemas[node]
    assert schema["category"].split("/")[0] == "RePoseDM"
    assert schema["description"].endswith(".") and schema["search_aliases"]
    for name, _, options in inputs_of(schema):
        assert len(options.get("tooltip", "")) > 10, f"{node}.{name}"
    assert len(schema["output_tooltips"]) == len(schema["output"])
    for name, tooltip in zip(schema["output_name"], schema["output_tooltips"], strict=True):
        assert tooltip, f"{node}.{name}"


@pytest.mark.parametrize("node", NAMES)
def test_help_page_is_served_and_names_inputs_and_outputs(comfy, schemas, node):
    url = f"{comfy.url}/extensions/{read_host()[1]}/docs/{node}.md"
    with urllib.request.urlopen(url, timeout=CEILING) as answer:
        page = answer.read().decode()
    schema = schemas[node]
    assert page.startswith(f"# {schema['display_name']}\n")
    shown = [options.get("display_name", name) for name, _, options in inputs_of(schema)]
    for name in [*shown, *schema["output_name"]]:
        assert f"**{name}**" in page, f"{node}: the page does not explain {name}"


@pytest.mark.parametrize("node", NAMES)
def test_help_page_has_its_sections(node):
    lines = (ROOT / "nodes" / "web" / "docs" / f"{node}.md").read_text("utf-8").splitlines()
    assert {"## Inputs", "## Outputs", "## Example", "## Limits"} <= set(lines)


def test_every_help_page_belongs_to_a_node():
    assert {page.stem for page in (ROOT / "nodes" / "web" / "docs").iterdir()} == set(NAMES)


def test_stock_types_on_the_sockets(schemas):
    loader, aligner = schemas["RePoseDMLoader"], schemas["RePoseDMRecurrentPoseAligner"]
    assert loader["output"] == ["MODEL", "VAE", "REPOSEDM_ALIGNER", "POSE_ESTIMATOR"]
    assert aligner["output"] == ["CONDITIONING", "CONDITIONING", "LATENT", "IMAGE", "MASK", "IMAGE", "MASK", "MASK"]
    assert schemas["RePoseDMLoadPose"]["output"] == ["POSE_KEYPOINT"]
    assert schemas["ReposeSDLoader"]["output"] == ["MODEL", "CLIP", "VAE"]


def test_id_of_before_is_there_and_not_offered(schemas):
    now, before = schemas["ReposeSDLoader"], schemas["RePoseDMSDLoader"]
    assert before["deprecated"] and not now["deprecated"]
    assert all(before[key] == now[key] for key in ("input", "output", "output_name", "display_name"))


def test_id_reads_as_a_name():
    """As the page writes it where a file is missing: "Repose SD Loader is missing a required model file."."""
    words = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", "ReposeSDLoader")
    assert re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", words) == "Repose SD Loader"


def test_sampler_defaults_are_those_of_the_shipped_preset(schemas):
    from reposedm_core.presets import PRESETS, SHIPPED_PRESET

    defaults = {name: options.get("default") for name, _, options in inputs_of(schemas["RePoseDMKSampler"])}
    preset = PRESETS[SHIPPED_PRESET]
    assert (defaults["steps"], defaults["cfg"]) == (preset.steps, preset.guidance_scale)
    assert (defaults["sampler_name"], defaults["scheduler"], defaults["denoise"]) == ("ddim", "simple", 1.0)


def test_pictures_of_help_pages_are_served(comfy):
    """The page reads their addresses as from the folder of the help pages."""
    docs = ROOT / "nodes" / "web" / "docs"
    found = {name for page in docs.iterdir() for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text("utf-8"))}
    assert "../images/guidance-curve.png" in found
    for name in found:
        address = urllib.parse.urljoin(f"{comfy.url}/extensions/{read_host()[1]}/docs/", name)
        with urllib.request.urlopen(address, timeout=CEILING) as answer:
            assert answer.headers["Content-Type"] == "image/png" and answer.read() == (docs / name).read_bytes()


def test_unknown_help_page_is_not_served(comfy):
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{comfy.url}/extensions/{read_host()[1]}/docs/Nothing.md", timeout=CEILING)
