"""Whole evaluations on tiny sets: rows and columns, seeds, pictures in folders, bad input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from reposedm_core import Pose, RePoseDMPipeline
from reposedm_core.checkpoint import load_parts
from reposedm_core.errors import InputError
from training import evaluate, metrics
from training.data.people_set import People
from training.evaluate import Options
from training.evaluation.generate import OURS, Batch, Contender, align, find_source, open_contender, transfer
from training.metrics import vgg

HEIGHT, WIDTH = 64, 48  # of the sets in conftest.py
FIELD = 3e-6
"""A field strength that does not throw an untrained network off the scale."""
GUIDED = f"{OURS} + field {FIELD:g}"
BASELINES, ENDS = ["copy the source", "skeleton map", "warp only"], ["autoencoder reconstruction", "ground truth"]
PICTURES = {
    "perceptual",
    "psnr",
    "ssim_256@1.2",
    "ssim_256@1.5",
    "foreground_l1",
    "colour_right",
    "colour_difference",
    "sharpness",
    "background",
    *(["vgg"] if vgg.installed() else []),
}
POSES = {
    "pck@0.05",
    "pck@0.1",
    "pck_torso@0.2",
    "pck_head@0.5",
    "joint_error",
    "oks",
    "ap",
    "ap_m",
    "cap_published",
    "cap",
    "pce",
}


@pytest.fixture(scope="module")
def results(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("results")
    options = Options(
        data,
        {OURS: weights, "B1": weights},
        pairs=3,
        batch=2,
        field_strength=FIELD,
        seeds=[5],
        save_pictures=out / "pictures",
    )
    return evaluate.evaluate(options, out), out


@pytest.mark.parametrize("strength", [0.0, FIELD])
@pytest.mark.parametrize(
    ("generation", "space", "source_pose"),
    [
        ("weights", "heatmaps", "estimated"),
        ("weights_256", "heatmaps", "estimated"),
        ("weights_256", "features", "true"),
    ],
)
def test_a_batch_gives_what_the_pipeline_gives_one_by_one(data, generation, space, source_pose, strength, request):
    people = People(data, "test")
    pipe = RePoseDMPipeline.from_pretrained(request.getfixturevalue(generation))
    given = Batch.read(people, people.fixed_pairs(3), 0, 3)
    aligned = align(pipe, given, find_source(pipe, given, source_pose))
    batch = transfer(
        pipe, aligned, [7, 8, 9], 3, 1.5, replace(pipe.config.field, strength=strength, space=space), given.target_pose
    )
    for i in range(3):
        source_joints = Pose(given.source_pose[i : i + 1], HEIGHT, WIDTH) if source_pose == "true" else None
        single = pipe(
            given.source[i],
            Pose(given.target_pose[i : i + 1], HEIGHT, WIDTH),
            seed=7 + i,
            steps=3,
            guidance_scale=1.5,
            field_strength=strength,
            field_space=space,
            source_pose=source_joints,
        )
        for mine, theirs in ((batch[i], single.image[0]), (aligned.seen.image[i], single.aligned[0])):
            assert ((mine.clamp(-1, 1) + 1) / 2 - theirs).abs().max() < 1e-3
    assert (batch[0] - batch[1]).abs().max() > 0.1, "the pairs differ"


def test_rows_and_columns(results):
    found, _ = results
    ours = [OURS, GUIDED, "B1", f"B1 + field {FIELD:g}"]
    assert list(found["rows"]) == [*BASELINES, *ours, *ENDS]
    for row, cells in found["rows"].items():
        if row == ENDS[1]:
            assert set(cells) == POSES, "the truth is not compared with itself"
        else:
            assert set(cells) == PICTURES | POSES | {"pck_ratio", "fid", "kid"}
    assert list(found["differences"]) == [
        f"{name} − {base}" for name in ours for base in ("copy the source", "warp only")
    ]
    assert found["protocol"]["identities"] == 1 and found["protocol"]["pairs"] == 3
    without, guided = (found["rows"][name]["perceptual"]["mean"] for name in (OURS, GUIDED))
    assert without != guided, "the field did something"
    assert found["rows"]["B1"] == found["rows"][OURS], "the same checkpoint under another name"


def saved(folder: Path) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in sorted(folder.iterdir())])


def test_numbers_are_those_of_the_pictures(results, data):
    found, out = results
    people = People(data, "test")
    pairs = people.fixed_pairs(3)
    copies, truth = (people.read("pictures", pairs.identity, index) for index in (pairs.source, pairs.target))
    assert (saved(out / "pictures" / "copy-the-source") == copies).all()
    for row, folder in (("copy the source", "copy-the-source"), (OURS, "reposedm"), (GUIDED, "reposedm-field-3e-06")):
        pictures = saved(out / "pictures" / folder)
        assert found["rows"][row]["psnr"]["mean"] == pytest.approx(metrics.psnr(pictures, truth).mean(), abs=1e-5)
        garments = people.garments(pairs.identity, pairs.target)
        colour = metrics.colour_measures(pictures, truth, garments)["colour_difference"]
        assert found["rows"][row]["colour_difference"]["mean"] == pytest.approx(np.nanmean(colour), abs=1e-5)
    difference = found["differences"][f"{OURS} − copy the source"]["psnr"]["mean"]
    rows = found["rows"]
    assert difference == pytest.approx(rows[OURS]["psnr"]["mean"] - rows["copy the source"]["psnr"]["mean"], abs=1e-5)


def test_files_say_the_same_and_say_it_again(results, data, weights, tmp_path, capsys):
    found, out = results
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == found
    given = ["--weights", str(weights), "--also", f"B1={weights}", "--data", str(data), "--out", str(tmp_path)]
    assert evaluate.main([*given, "--pairs=3", "--batch=2", f"--field-strength={FIELD}", "--seeds", "5"]) == 0
    for name in ("results.json", "results.md", "results.html", "sheet.jpg"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), f"{name} differs between two runs"
    table = (out / "results.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    psnr = found["rows"]["warp only"]["psnr"]["mean"]
    assert any(line.startswith("| warp only |") and f" {psnr:.2f} " in line for line in table.splitlines())
    assert "FID, EfficientNet-Lite0 ↓" in table and "the true targets of the pairs (3 pictures)" in table
    assert f"the estimator of {OURS}" in table and "SSIM is left out: the pictures are smaller" in table
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.width > 3 * 5 * 2 * WIDTH and sheet.height > 2 * HEIGHT


def test_several_seeds_are_the_mean_of_each(data, weights, tmp_path):
    def run(*seeds: int) -> dict:
        options = Options(data, {OURS: weights}, pairs=3, field_strength=0, seeds=list(seeds), real="none")
        return evaluate.evaluate(options, tmp_path)["rows"]

    both, one, other = run(6, 7), run(6), run(7)
    for row in (*BASELINES, *ENDS):
        assert both[row] == one[row], "no seed plays a part"
    for name in ("psnr", "perceptual", "joint_error", "oks", "ap", "cap"):
        each = [run[OURS][name]["mean"] for run in (one, other)]
        assert both[OURS][name]["seeds"] == each
        assert both[OURS][name]["mean"] == pytest.approx(np.mean(each), abs=2e-6)
    assert one[OURS] != other[OURS]
    assert "Seed 7. In brackets" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_pictures_in_a_folder_are_measured_as_those_that_were_made(results, data, tmp_path):
    found, out = results
    options = Options(data, pictures={"mine": out / "pictures" / "reposedm"}, pairs=3, batch=3)
    small = tmp_path / "small"
    shutil.copytree(out / "pictures" / "reposedm", small)
    for path in small.iterdir():
        Image.open(path).resize((24, 32)).save(path)
    with pytest.raises(InputError, match="is 24×32, the set has 48×64"):
        evaluate.evaluate(replace(options, pictures={"mine": small}), tmp_path)
    alone = evaluate.evaluate(options, tmp_path)
    assert list(alone["rows"]) == ["copy the source", "skeleton map", "mine", "ground truth"]
    for name in (*PICTURES, "fid", "kid"):
        assert alone["rows"]["mine"][name]["mean"] == pytest.approx(found["rows"][OURS][name]["mean"], abs=2e-4)
    assert alone["protocol"]["judge"] == "reposedm-mini.safetensors", "the shipped estimator finds the joints"
    next((out / "pictures" / "b1").iterdir()).unlink()
    with pytest.raises(InputError, match=r"has no 0000\d_000000_00\d_00\d\.png"):
        evaluate.evaluate(replace(options, pictures={"mine": out / "pictures" / "b1"}), tmp_path)


def test_a_set_without_masks_and_garments_has_no_such_columns(figures, weights, tmp_path):
    shutil.copytree(figures, tmp_path / "set", ignore=shutil.ignore_patterns("garments.npy"))
    options = Options(
        tmp_path / "set",
        {OURS: weights},
        split="train",
        pairs=0,
        field_strength=0,
        steps=1,
        guidance_scale=1,
        batch=32,
        real="none",
    )
    found = evaluate.evaluate(options, tmp_path)
    assert found["protocol"]["pairs"] == 6 * 3 * 2, "every pair"
    assert not {"colour_right", "colour_difference", "foreground_l1", "fid", "kid"} & set(found["rows"][OURS])
    cell = found["rows"][OURS]["psnr"]
    assert cell["low"] < cell["mean"] < cell["high"]
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "colours right" not in table and "foreground" not in table and "FID" not in table and "PSNR" in table


def test_the_published_real_set_is_every_training_picture(results, figures, tmp_path):
    """Pictures that are the training set itself: FID 0, whatever the targets of the pairs are."""
    people = People(figures, "test")
    pairs = people.fixed_pairs(2)
    assert len(pairs) == 2
    options = Options(figures, pictures={"mine": tmp_path / "mine"}, pairs=2, real="train")
    (tmp_path / "mine").mkdir()
    for n in range(2):
        name = f"{n:05d}_{pairs.identity[n]:06d}_{pairs.source[n]:03d}_{pairs.target[n]:03d}.png"
        Image.fromarray(people.read("pictures", pairs.identity[n : n + 1], pairs.target[n : n + 1])[0]).save(
            tmp_path / "mine" / name
        )
    found = evaluate.evaluate(options, tmp_path / "out")
    assert found["protocol"]["real_pictures"] == 18 == len(People(figures, "train").identities) * 3
    assert found["rows"]["ground truth"]["fid"]["mean"] == pytest.approx(found["rows"]["mine"]["fid"]["mean"], 1e-4)
    assert found["rows"]["mine"]["fid"]["mean"] > 1
    assert "all training pictures" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


def test_guided_rows_are_the_checkpoint_s_own_by_default(figures, weights):
    people = People(figures, "test")
    own, off = open_contender(weights, people), open_contender(weights, people, "B2", strength=0)
    assert isinstance(own, Contender) and list(own.kinds) == [OURS, f"{OURS} + field 1"]
    assert [kind.strength for kind in own.kinds.values()] == [0, 1] and list(off.kinds) == ["B2"]


def test_bad_input_is_one_clear_line(data, weights, tmp_path, capsys):
    def refused(**changes) -> str:
        options = {"weights": weights, "data": data, "out": tmp_path / "out", "pairs": 1, **changes}
        code = evaluate.main(
            [
                part
                for name, value in options.items()
                if value is not None
                for part in (f"--{name.replace('_', '-')}", str(value))
            ]
        )
        assert code == 2 and not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "no such file" in refused(weights=tmp_path / "none.safetensors")
    assert "generate.py" in refused(data=tmp_path / "nothing")
    assert "pairs = -1" in refused(pairs=-1)
    assert "steps = 2000" in refused(steps=2000)
    assert "seeds = [-1]" in refused(seeds=-1)
    assert "kid_pairs = -1" in refused(kid_pairs=-1)
    assert "inception_v3_google" in refused(extractor="inception", backbones=tmp_path)
    assert "one name" in refused(also=f"warp only={weights}") and "one name" in refused(also=f"person={weights}")
    parts, header = load_parts(weights)
    save_file(
        {f"autoencoder.{key}": value for key, value in parts["autoencoder"].items()},
        tmp_path / "part.safetensors",
        {"reposedm": json.dumps({**header, "parts": ["autoencoder"]})},
    )
    assert "holds autoencoder and no pose estimator; choose" in refused(judge=tmp_path / "part.safetensors")
    small = tmp_path / "small"
    shutil.copytree(data, small)
    pictures = np.load(small / "pictures.npy")
    np.save(small / "pictures.npy", pictures[..., :32, :])
    message = refused(data=small)
    assert message.startswith("error: ") and "32×64" in message and "48×64" in message and "--height 64" in message


def test_what_the_command_line_refuses(data, weights, tmp_path, capsys):
    given = ["--weights", str(weights), "--data", str(data), "--out", str(tmp_path)]
    for more, message in (
        (["--also", f"{OURS}={weights}"], "have the same name"),
        (["--also", str(weights)], "is not NAME=PATH"),
    ):
        with pytest.raises(SystemExit):
            evaluate.main([*given, *more])
        assert message in capsys.readouterr().err
    assert evaluate.main([*given[:-1], str(weights / "below"), "--real", "none"]) == 2
    assert "out: " in capsys.readouterr().err, "said before the first picture is made"
    assert evaluate.main([*given, "--lpips", "--real", "none", "--backbones", str(tmp_path)]) == 2
    assert "alexnet-owt-7be5be79.pth" in capsys.readouterr().err


def test_a_warm_start_begins_at_the_aligned_latent(data, weights, tmp_path):
    pipe = RePoseDMPipeline.from_pretrained(weights)
    aligned = align(pipe, Batch.read(People(data, "test"), People(data, "test").fixed_pairs(1), 0, 1), None)

    def distance(start: float) -> float:
        made = transfer(pipe, aligned, [0], 1, 1.0, start=start)
        return float((made - pipe.decode(aligned.condition.aligned)).abs().mean())

    assert distance(0.001) < 0.1 * distance(1.0), "with hardly any noise nothing else can come out"

    def evaluated(start: float) -> dict:
        return evaluate.evaluate(
            Options(data, {OURS: weights}, pairs=3, field_strength=0, warm_start=start, real="none"), tmp_path
        )

    assert evaluated(1.0)["rows"][OURS] != evaluated(0.5)["rows"][OURS]
    assert "from the aligned latent at 0.5" in (tmp_path / "results.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="warm start = 0"):
        evaluated(0.0)
