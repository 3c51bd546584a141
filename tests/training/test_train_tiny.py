"""`make train-tiny`: every stage runs through the entry point, and what it exports works in pipeline and nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core import RePoseDMPipeline
from reposedm_core.checkpoint import read_header
from reposedm_core.garments import load_parser
from reposedm_core.networks import NoAlignment
from reposedm_core.pose import Pose, to_keypoints
from reposedm_core.presets import VARIANTS
from reposedm_core.reposesd.network import load_reposesd
from training import train
from training.data.people_set import People

ROOT = Path(__file__).parents[2]
FILES = {"full": "full/reposedm-tiny", **{name: f"{name}/reposedm-tiny-{name}" for name in VARIANTS}}
SECOND = "second/reposedm-tiny-256"
STAGES = {"vae": "pictures_psnr", "estimator": "pck@0.1", "aligner": "epe1", "reposedm": "x0_mse_300"}

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished `make train-tiny`, its command run as it stands there."""
    pytest.importorskip("anny", reason="the synthetic people need anny")
    recipe = (ROOT / "Makefile").read_text().split("\ntrain-tiny:")[1].splitlines()[1].split()
    assert recipe == ["@$(PY)", "training/train_tiny.py", "$(ARGS)"]
    out = tmp_path_factory.mktemp("tiny")
    done = subprocess.run(
        [sys.executable, ROOT / recipe[1], "--out", out, "tracker=none"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Every stage ran" in done.stdout
    return out


@pytest.fixture(scope="module")
def example(trained):
    """A source picture (H, W, 3) uint8 and a target pose, of a person never trained on."""
    people = People(trained / "people", "test")
    picture = people.read("pictures", people.identities[:1], np.array([0]))[0]
    joints = people.openpose(people.identities[:1], np.array([1])).astype(np.float32).clip(max=[1e9, 1e9, 1])
    return picture, to_keypoints(Pose(joints, people.height, people.width))


def test_every_stage_leaves_its_result_log_curves_and_sheets(trained):
    for stage, measure in STAGES.items():
        folder = trained / "full"
        state = torch.load(folder / f"{stage}.state.pt", weights_only=True)
        assert state["step"] == 8 and [entry["step"] for entry in state["log"]["validations"]] == [4, 8]
        assert all(np.isfinite(entry[measure]) for entry in state["log"]["validations"])
        assert (folder / f"{stage}.safetensors").is_file() and Image.open(folder / f"{stage}.png").width > 400
        sheets = [Image.open(folder / "samples" / f"{stage}-{step:07d}.jpg") for step in (4, 8)]
        assert all(np.asarray(sheet).std() > 5 for sheet in sheets)


@pytest.mark.parametrize("name", FILES)
def test_the_exported_file_describes_itself(trained, name):
    header = read_header(trained / f"{FILES[name]}.safetensors")
    assert header["parts"] == sorted({"autoencoder", "estimator", "denoiser", *([] if name == "b1" else ["aligner"])})
    assert header["config"]["name"] == {"full": "tiny"}.get(name, f"tiny-{name}")
    card = header["card"]
    assert card["data"]["source"]["identities"] == 5 and card["settings"]["reposedm"]["pairs"] == 8
    assert card["reposedm"]["steps"] == 8 and card["reposedm"]["examples"] == 32
    assert card["reposedm"]["history"][-1]["step"] == 8
    if name == "full":
        assert all(card[stage]["validation"] for stage in STAGES)


@pytest.mark.parametrize("name", FILES)
def test_the_pipeline_samples_with_it(trained, example, name):
    pipe = RePoseDMPipeline.from_pretrained(trained / f"{FILES[name]}.safetensors")
    assert isinstance(pipe.aligner, NoAlignment) == (name == "b1")
    results = [pipe(Image.fromarray(example[0]), example[1], seed=seed, field_strength=0.0).image for seed in (1, 1, 2)]
    assert results[0].shape == (1, 3, 64, 48) and torch.isfinite(results[0]).all()
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("name", FILES)
def test_the_nodes_sample_with_it_what_the_pipeline_does(trained, example, pack, monkeypatch, name):
    path = trained / f"{FILES[name]}.safetensors"
    nodes = pack.nodes
    import folder_paths

    folder = nodes.host.folders.MODELS
    monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(path.parent)], {".safetensors"}))
    folder_paths.filename_list_cache.pop(folder, None)
    model, vae, aligner, _ = nodes.loaders.RePoseDMLoader.execute(path.name).args[:4]
    source = torch.from_numpy(example[0]).float()[None] / 255
    with torch.inference_mode():
        aligned = nodes.aligner.RecurrentPoseAlignerNode.execute(aligner, vae, source, example[1], 0, 0).args
        latent = nodes.sampler.RePoseDMKSampler.execute(model, *aligned[:3], 3, 2, 1.5, "ddim", "simple", 1.0).args[0][
            "samples"
        ]
    expected = RePoseDMPipeline.from_pretrained(path)(
        Image.fromarray(example[0]), example[1], seed=3, steps=2, guidance_scale=1.5, field_strength=0.0
    )
    assert (latent - expected.latent).abs().max() < 1e-4 * expected.latent.abs().max()


def test_the_second_generation_is_trained_and_sampled_with(trained, example):
    path = trained / f"{SECOND}.safetensors"
    header = read_header(path)
    assert header["parts"] == sorted({"autoencoder", "estimator", "denoiser", "aligner", "decoder", "parser", "layout"})
    assert header["config"]["name"] == "tiny-256" and header["card"]["data"]["source"]["identities"] == 5
    assert all(
        header["card"][stage]["steps"] == 8 and header["card"][stage]["validation"]
        for stage in ("vae", "estimator", "parser", "aligner", "layout", "reposedm", "decoder")
    )
    pipe = RePoseDMPipeline.from_pretrained(path)
    results = [pipe(Image.fromarray(example[0]), example[1], seed=seed, field_strength=0.0).image for seed in (1, 1, 2)]
    assert results[0].shape == (1, 3, 64, 48) and torch.isfinite(results[0]).all()
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_the_parser_is_a_file_that_its_loader_reads(trained):
    path = trained / "second" / "parser.safetensors"
    assert load_parser(path).config.widths == (4, 8, 8, 16)
    assert 0 < read_header(path)["card"]["parser"]["validation"]["miou"] < 1


def test_reposesd_is_a_file_that_its_loader_reads(trained):
    path = trained / "reposesd" / "reposesd.safetensors"
    assert load_reposesd(path).config.block_channels == (64, 128)
    assert read_header(path, "reposesd")["card"]["reposesd"]["steps"] == 4


def test_table_3_is_made_of_it(trained):
    found = json.loads((trained / "table-3" / "results.json").read_text(encoding="utf-8"))
    assert list(found["rows"]) == ["RePoseSD", "RePoseSD with the field", "ground truth"]
    assert len(list((trained / "table-3" / "pictures").glob("reposesd*/*.png"))) == 4


def test_the_experiments_leave_their_tables_and_their_page(trained):
    rows = json.loads((trained / "reid" / "results.json").read_text())["rows"]
    assert list(rows) == ["real only", "+ copies of real ones", "+ RePoseDM", "+ B1"]
    assert all(0 < cells["50"]["map"]["mean"] <= 100 for cells in rows.values())
    key = json.loads((trained / "perception" / "study.key.json").read_text())
    assert len(key["singles"]) == 1 + 1 + 1 and len(key["sets"]) == 1 + 1 and key["methods"] == ["RePoseDM", "B1"]
    assert key["study"] in (trained / "perception" / "study.html").read_text()
    assert Image.open(trained / "fig5.png").width > 1000 and (trained / "fig5.pdf").is_file()
    assert len(list((trained / "fig4" / "result").iterdir())) == 3


def test_running_it_again_trains_nothing_anew(trained, capsys):
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*.state.pt")}
    assert len(before) == 15
    config = str(ROOT / "training" / "configs" / "tiny.yaml")
    assert train.main([config, f"data={trained / 'people'}", f"out={trained / 'full'}", "tracker=none"]) == 0
    printed = capsys.readouterr().out
    assert "Exported" in printed and "was made by other settings" not in printed
    assert {file: file.stat().st_mtime_ns for file in before} == before
