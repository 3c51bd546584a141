"""Pose Estimator Loader and Estimate Pose in ComfyUI's hands."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from reposedm_core.estimator import HigherHRNet
from reposedm_core.networks import SHIPPED
from reposedm_core.pipeline import RePoseDMPipeline
from reposedm_core.pose import parse_keypoints
from tests.estimator.test_load import flat, micro
from tests.estimator.test_vitpose import save_tiny
from tests.field.conftest import MICRO

KINDS = ["reposedm", "official", "mmpose", "vitpose"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny):
    """A models/reposedm with an estimator of every kind, by kind."""
    import shutil

    root = tmp_path_factory.mktemp("reposedm")
    (root / "public").mkdir()
    torch.save(flat(micro()), root / "public" / "pose_higher_hrnet_w4_128.pth")
    torch.save(
        {
            "state_dict": {
                ("keypoint_head." if key.startswith(("final", "deconv")) else "backbone.") + key: value
                for key, value in flat(micro()).items()
            }
        },
        root / "higher_hrnet4_128x128_udp.pth",
    )
    save_tiny(root / "vitpose-tiny")
    shutil.copy(tiny, root / "own.safetensors")
    (root / "notes.txt").write_text("no weights")
    (root / "some-folder").mkdir()
    (root / "some-folder" / "config.json").write_text("{}")
    names = {
        "reposedm": "own.safetensors",
        "official": "public/pose_higher_hrnet_w4_128.pth",
        "mmpose": "higher_hrnet4_128x128_udp.pth",
        "vitpose": "vitpose-tiny",
    }
    return root, names


@pytest.fixture
def nodes(pack, files, monkeypatch):
    import folder_paths

    folder, extensions = folder_paths.folder_names_and_paths["reposedm"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "reposedm", ([str(files[0]), *folder], extensions))
    return pack.nodes.estimators


@pytest.fixture
def load(nodes, files):
    def run(kind, **options):
        with torch.inference_mode():
            return nodes.PoseEstimatorLoader.execute(files[1].get(kind, kind), **options).args[0]

    return run


def estimate(nodes, estimator, image, threshold=0.1, **options):
    with torch.inference_mode():
        return nodes.EstimatePose.execute(estimator, image, threshold, **options).args[0]


def test_list_has_files_and_vitpose_folders(nodes, files):
    names = list(nodes.estimator_names())
    assert set(files[1].values()) <= set(names) and SHIPPED.name in names
    assert not [name for name in names if name.startswith(("notes", "some-folder")) or "vitpose-tiny/" in name]
    assert nodes.PoseEstimatorLoader.define_schema().inputs[0].default == SHIPPED.name


@pytest.mark.parametrize(
    "name", ["gone.pth", "../own.safetensors", "notes.txt", "some-folder", "", ".", "vitpose-tiny/config.json"]
)
def test_other_names_are_refused(nodes, name):
    problem = str(nodes.PoseEstimatorLoader.validate_inputs(name))
    assert problem.startswith(f"there is no {name!r} in models/reposedm; put")
    with pytest.raises(nodes.InputError, match="estimator: there is no"):
        nodes.PoseEstimatorLoader.execute(name)


@pytest.mark.parametrize(
    ("kind", "size", "several", "udp"),
    [
        ("reposedm", (64, 48), False, False),
        ("official", (128, 128), True, False),
        ("mmpose", (128, 128), True, True),
        ("vitpose", (64, 48), False, True),
    ],
)
def test_every_kind_is_loaded_as_what_it_is(load, kind, size, several, udp):
    found = load(kind)
    assert (found.height, found.width) == size and found.several == several
    assert found.patcher.model.config.udp == udp
    assert not any(weight.is_inference() for weight in found.patcher.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_passes_through_a_copy_of_every_kind(pack, load, kind):
    from reposedm_core.field import PoseInteractionField

    found = load(kind)
    field = pack.reposedm_core.field.PoseInteractionField(pack.nodes.host.patchers.own_copy(found.patcher))
    assert type(field).__name__ == PoseInteractionField.__name__
    size = found.height, found.width
    joints = torch.rand(1, 17, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([48, 64, 1.0])
    latent = torch.randn(1, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        gradient, distance = field.gradient(
            latent,
            lambda z: torch.nn.functional.interpolate(z, size=size).tanh(),
            field.target_from_joints(joints, *size),
        )
    assert distance > 0 and gradient.abs().max() > 0 and gradient.isfinite().all()
    assert all(weight.grad is None for weight in field.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_read_again_where_weights_are_streamed(load, kind):
    patcher = load(kind).patcher
    build, arguments = patcher.cached_patcher_init
    again = build(*arguments, disable_dynamic=True).model
    assert again is not patcher.model
    for key, value in patcher.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_size_and_udp_of_one_s_own(nodes, load):
    found = load("official", width=96, height=160, udp="yes")
    assert (found.height, found.width, found.patcher.model.config.udp) == (160, 96, True)
    assert load("mmpose", udp="no").patcher.model.config.udp is False
    with pytest.raises(nodes.InputError, match=r"width × height = 100 × 128: both must be divisible by 32"):
        load("official", width=100)
    with pytest.raises(nodes.InputError, match=r"vitpose-tiny sees pictures of 48 × 64 only; set both to 0"):
        load("vitpose", width=64)
    assert load("vitpose", width=48, height=64).width == 48


def test_fingerprint_follows_the_files(nodes, files):
    import os

    loader = nodes.PoseEstimatorLoader
    assert loader.fingerprint_inputs(estimator=None) == "linked"
    for kind, file in (("official", files[1]["official"]), ("vitpose", "vitpose-tiny/model.safetensors")):
        before = loader.fingerprint_inputs(estimator=files[1][kind], width=0, height=0, udp="auto")
        later = (files[0] / file).stat().st_mtime_ns + 10**11
        os.utime(files[0] / file, ns=(later, later))
        assert loader.fingerprint_inputs(estimator=files[1][kind]) == later > before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(80, 64), (1, 1)])
def test_estimate_pose_with_every_kind(nodes, load, kind, size):
    image = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(0))
    for people in (1, 5):
        frames = estimate(nodes, load(kind), image, people=people)
        assert [(frame["canvas_height"], frame["canvas_width"]) for frame in frames] == [size] * 2
        assert all(len(frame["people"]) <= people for frame in frames)


def test_default_is_the_one_person_of_before(nodes, pack):
    """The shipped estimator, bit for bit, with and without the new input."""
    import comfy.utils  # noqa: F401, the host must be there

    example = sorted(pack.nodes.host.folders.EXAMPLES.glob("*_target.png"))[0]
    image = pack.nodes.loaders.to_comfy(pack.nodes.loaders.to_image(example))
    estimator = nodes.load_in_patcher(SHIPPED)
    (pose,) = parse_keypoints(estimate(nodes, estimator, image))
    expected = RePoseDMPipeline.from_pretrained().estimate(example)
    np.testing.assert_allclose(pose.joints, expected.joints, atol=1e-3)
    assert estimate(nodes, estimator, image, people=7) == estimate(nodes, estimator, image), "it sees one person"


class Crowd(torch.nn.Module):
    """Sees the same people in every picture."""

    config = MICRO

    def __init__(self, people: torch.Tensor):
        super().__init__()
        self.people = torch.nn.Parameter(people, requires_grad=False)

    def forward(self, images):
        from reposedm_core.pose.heatmaps import render_heatmaps

        maps = [
            torch.stack([render_heatmaps(person[None], 64, 64, 1.0, stride) for person in self.people]).amax(0)
            for stride in (4, 2)
        ]
        tags = torch.zeros_like(maps[0])
        for number, person in enumerate(self.people):
            where = render_heatmaps(person[None], 64, 64, 1.0, 4) > 0.05
            tags = torch.where(where, 5.0 * number, tags)
        return HigherHRNetOutput(maps, tags, len(images))


class HigherHRNetOutput:
    def __init__(self, maps, tags, batch):
        self.heatmaps = tuple(value.expand(batch, -1, -1, -1) for value in maps)
        self.tags = tags.expand(batch, -1, -1, -1)
        self.features = self.tags


def test_several_people_best_first_and_no_more_than_asked_for(nodes, pack):
    people = torch.rand(3, 17, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([14.0, 14.0, 0.0])
    people += torch.tensor([[4.0, 4.0, 1.0], [44.0, 4.0, 1.0], [4.0, 44.0, 1.0]])[:, None]
    estimator = pack.nodes.host.sockets.LoadedEstimator(
        pack.nodes.host.patchers.in_patcher(Crowd(people)), 64, 64, several=True
    )
    image = torch.zeros(2, 128, 128, 3)
    for asked, found in ((1, 1), (2, 2), (9, 3)):
        frames = parse_keypoints(estimate(nodes, estimator, image, people=asked))
        assert [len(frame.joints) for frame in frames] == [found] * 2
    for person in parse_keypoints(estimate(nodes, estimator, image, people=9))[0].joints:
        middle = person[[0, *range(2, 18)], :2].mean(0) / 2
        assert min(np.linalg.norm(middle - one[:, :2].mean(0).numpy()) for one in people) < 2


def test_nobody_in_the_picture_is_an_empty_frame(nodes, pack):
    nobody = torch.zeros(1, 17, 3)
    estimator = pack.nodes.host.sockets.LoadedEstimator(
        pack.nodes.host.patchers.in_patcher(Crowd(nobody)), 64, 64, several=True
    )
    for people in (1, 4):
        (frame,) = estimate(nodes, estimator, torch.zeros(1, 32, 32, 3), people=people)
        assert frame["people"] == [] and frame["canvas_width"] == 32


@pytest.mark.parametrize("kind", ["official", "vitpose"])
def test_released_like_any_model(nodes, load, kind):
    import comfy.model_management as management

    management.unload_all_models()
    found = load(kind)
    network = weakref.ref(found.patcher.model)
    estimate(nodes, found, torch.zeros(1, 64, 48, 3))
    assert found.patcher in [loaded.model for loaded in management.current_loaded_models]
    del found
    gc.collect()
    management.cleanup_models()
    assert network() is None and not management.current_loaded_models


def test_isinstance_of_core_s_own(pack, load):
    """One core, the pack's: a second copy would break the folding of a HigherHRNet's batch norms."""
    assert isinstance(load("official").patcher.model, pack.reposedm_core.estimator.HigherHRNet)
    assert not isinstance(load("official").patcher.model, HigherHRNet)


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0])
def test_nobody_is_in_a_plain_picture(nodes, colour, caplog):
    """The shipped estimator gives every picture seventeen joints, of which it is not sure."""
    frames = estimate(nodes, nodes.load_in_patcher(SHIPPED), torch.full((2, 256, 192, 3), colour))
    assert [frame["people"] for frame in frames] == [[], []]
    assert "Nobody was found in frame 0, 1" in caplog.text


def test_what_is_not_as_asked_is_told(nodes, pack):
    nobody, somebody = (
        pack.reposedm_core.Pose(np.zeros((0, 18, 3)), 8, 8),
        pack.reposedm_core.Pose(np.ones((1, 18, 3)), 8, 8),
    )
    assert nodes.notes_on([somebody], people=3, several=True) == nodes.notes_on([somebody], 1, several=False) == []
    (note,) = nodes.notes_on([nobody], 1, several=True)
    assert note == "Nobody was found."
    assert "sees one person a picture" in nodes.notes_on([somebody], people=3, several=False)[0]


@pytest.mark.parametrize("people", [0, -3, 101])
def test_impossible_numbers_of_people_through_a_link(nodes, load, people):
    with pytest.raises(nodes.InputError, match=rf"people = {people}: must be 1 to 100"):
        estimate(nodes, load("reposedm"), torch.zeros(1, 64, 48, 3), people=people)
