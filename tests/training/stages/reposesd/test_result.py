"""What RePoseSD's training leaves: measures, a sheet, and one file that describes itself, by the entry point."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from reposedm_core.checkpoint import read_header
from reposedm_core.diffusion.autoencoder import load_autoencoder
from reposedm_core.reposesd.network import load_reposesd, reposesd_config
from tests.fixtures.launching import in_two_processes
from tests.training.test_train_processes import ROUNDING
from training.engine.loop import train
from training.stages.reposesd.source import StableDiffusion
from training.train import CONFIGS, main

from .conftest import HEIGHT, PRESET, WIDTH, prepared, same, stage_of, started


def test_validation_and_sheet(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    module = started(stage).eval()
    with torch.no_grad():
        values, sheet = stage.validate(module), stage.sheet(module)
    assert values["mse"] == pytest.approx(np.mean([values[f"mse_{level}"] for level in (50, 300, 600, 900)]))
    assert values["without_pose"] == pytest.approx(values["mse"], rel=1e-5), "at step 0 the pose has no influence"
    assert sheet.width > 3 * 2 * WIDTH and sheet.height > 3 * 2 * HEIGHT


def test_the_result_is_read_by_the_package_and_is_a_start_again(folder, figures, tmp_path):
    stage = prepared(folder, figures, tmp_path)
    network, _ = train(stage, tmp_path, 0, Accelerator(cpu=True))
    path = tmp_path / "result.safetensors"
    stage.save(network, path, {"notes": "two steps"})
    config = reposesd_config(path)
    assert config.schedule.prediction == "v_prediction" and (config.height, config.width) == (HEIGHT, WIDTH)
    for loaded, kept in (
        (load_reposesd(path), network),
        (load_autoencoder(path, config.autoencoder), stage.autoencoder),
    ):
        assert all(
            torch.equal(value, kept.state_dict()[key].half().float()) for key, value in loaded.state_dict().items()
        )
    again = StableDiffusion(path, PRESET, str(folder / "tokenizer"))
    assert again.config == config
    text, ids = again.text_encoder(), stage.text.ids(["red hat"])
    torch.testing.assert_close(text(ids), stage.text(ids), rtol=1e-2, atol=1e-2)
    more = started(stage_of(path, figures, tmp_path, tokenizer=str(folder / "tokenizer")))
    assert same(more.state_dict(), load_reposesd(path).state_dict())
    fresh = stage.build()
    stage.start_from(fresh, path)
    assert same(fresh.state_dict(), more.state_dict())


@pytest.mark.processes
@pytest.mark.parametrize("space", ["off", "features"])
def test_the_entry_point_makes_the_file(folder, figures, tmp_path, estimator, capsys, space):
    field = ["model.field.training=0"] if space == "off" else [f"reposesd.estimator={estimator}"]
    arguments = [
        str(CONFIGS / "reposesd.yaml"),
        f"data={figures}",
        f"out={tmp_path}",
        f"reposesd.start={folder}",
        *field,
        "device=cpu",
        "tracker=none",
        "threads=1",
        "reposesd.steps=2",
        "reposesd.accumulate=2",
        "reposesd.batch=2",
        "reposesd.workers=1",
    ]
    assert main(arguments) == 0
    path = tmp_path / "reposesd.safetensors"
    card = read_header(path, "reposesd")["card"]
    assert card["reposesd"]["steps"] == 2 and card["reposesd"]["examples"] == 8
    assert set(card["reposesd"]["validation"]) >= {"mse", "without_pose"}
    assert load_reposesd(path).config.block_channels == (64, 128)
    state = torch.load(tmp_path / "reposesd.state.pt", weights_only=True)
    assert ("field" in state["log"]["history"][-1]) == (space != "off")
    if space == "off":
        made = load_file(path)
        path.unlink()
        assert main(arguments) == 0, "a finished run writes its result again"
        assert same(load_file(path), made) and reposesd_config(path).height == HEIGHT
        assert main([*arguments, "reposesd.train=all", "reposesd.steps=3"]) == 2
        assert "other weights are trained" in capsys.readouterr().err


def test_a_mistake_at_the_entry_point_is_told_in_one_line(figures, tmp_path, capsys):
    assert main([str(CONFIGS / "reposesd.yaml"), f"data={figures}", f"out={tmp_path}", "tracker=none"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: reposesd.start = ''") and "\n" not in error


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one_with_twice_the_batch(folder, figures, tmp_path):
    common = [
        str(CONFIGS / "reposesd.yaml"),
        f"data={figures}",
        "device=cpu",
        "tracker=none",
        "threads=1",
        f"reposesd.start={folder}",
        "model.field.training=0",
        "reposesd.steps=3",
        "reposesd.warmup=0",
        "reposesd.accumulate=1",
        "reposesd.lr=1e-3",
        "reposesd.eps=1e-4",
        "reposesd.bf16=false",
        "reposesd.workers=0",
        "reposesd.validate_every=0",
        "reposesd.dropout=0.3",
    ]
    assert main([*common, f"out={tmp_path / 'one'}", "reposesd.batch=4"]) == 0
    in_two_processes("train.py", *common, f"out={tmp_path / 'two'}", "reposesd.batch=2")
    one, two = (torch.load(tmp_path / name / "reposesd.state.pt", weights_only=True) for name in ("one", "two"))
    worst = max(float((value - two["network"][key]).abs().max()) for key, value in one["network"].items())
    moved = max(float((value - one["average"][key]).abs().max()) for key, value in one["network"].items())
    assert worst < ROUNDING / 2 and moved > 1e-4, "half as many steps"
