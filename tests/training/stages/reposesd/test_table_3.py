"""Table 3 from one command: a RePoseSD and a HumanSD file sampled with the field and without, stopped and gone on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reposedm_core.config import FieldConfig
from reposedm_core.reposesd.network import save_reposesd
from tests.fixtures.launching import in_two_processes
from training import evaluate_captioned
from training.data.captioned_set import Captioned
from training.evaluation import text_models
from training.evaluation.generate import OFF
from training.evaluation.protocols import PROTOCOLS
from training.train_tiny import write_clip

from .conftest import HEIGHT, WIDTH, prepared, started


@pytest.fixture(scope="module")
def files(folder, crowd, tmp_path_factory) -> dict[str, Path]:
    """The same random weights as a file of this package and as a folder of diffusers, which is taken for HumanSD's."""
    out = tmp_path_factory.mktemp("models")
    stage = prepared(folder, crowd, out)
    network = started(stage)
    torch.manual_seed(1)
    weight = network.unet.conv_in.weight.data
    weight[:, 4:] = weight[:, :4].std() * torch.randn_like(weight[:, 4:])  # the pose has an influence
    own = out / "own.safetensors"
    field = FieldConfig(1.0, 0.0, 1.0)
    config = replace(stage.config, height=HEIGHT, width=WIDTH, guidance_scale=2.0, field=field)
    save_reposesd(own, network, stage.autoencoder, stage.text.network.state_dict(), config, dtype=torch.float32)
    shutil.copytree(folder, out / "humansd")
    network.unet.save_pretrained(out / "humansd" / "unet")
    return {"own": own, "public": out / "humansd"}


@pytest.fixture
def command(crowd, folder, estimator, tmp_path):
    """The command's arguments."""
    common = ["--data", crowd, "--split", "train", "--out", tmp_path / "out", "--tokenizer", folder / "tokenizer"]
    return [
        str(part) for part in [*common, "--estimator", estimator, "--steps", "2", "--sample-batch", "2", "--count", "3"]
    ]


def pictures(out: Path, row: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((out / "pictures" / row).glob("*.png"))]


def test_one_command_makes_the_table_and_goes_on_where_it_was_stopped(files, command, tmp_path, monkeypatch, capsys):
    out, clip = tmp_path / "out", tmp_path / "clip-small"
    write_clip(clip)
    weights = [f"--weights=Ours={files['own']}", f"--weights=HumanSD={files['public']}"]
    made = []
    write = text_models.write_picture

    def stopping(path: Path, picture: Image.Image) -> None:
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(path)
        write(path, picture)

    monkeypatch.setattr(text_models, "write_picture", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate_captioned.main([*command, *weights, f"--clip={clip}"])
    monkeypatch.setattr(text_models, "write_picture", write)
    kept = {path: path.stat().st_mtime_ns for path in made}
    assert evaluate_captioned.main([*command, *weights, f"--clip={clip}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == kept and len(kept) == 4
    rows = ("ours", "ours-with-the-field", "humansd", "humansd-with-the-field")
    by_row = {row: pictures(out, row) for row in rows}
    assert [len(by_row[row]) for row in rows] == [3] * 4
    assert all(len({by_row[row][n] for row in rows}) == 4 for n in range(3)), "field, skeleton and null pose all count"
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert list(found["rows"]) == [
        "Ours", "Ours with the field", "HumanSD", "HumanSD with the field", "ground truth",
    ]  # fmt: skip
    assert all(0 <= cells["clip"]["mean"] <= 100 for cells in found["rows"].values()) and found["scenes"] == {}
    sampled = found["protocol"]["sampled"]
    assert [sampled[row]["guidance_scale"] for row in ("Ours", "HumanSD")] == [2.0, 7.5]
    assert [sampled[row]["skeleton"] for row in ("Ours", "HumanSD")] == ["openpose", "humansd"]
    assert sampled["Ours"]["field"] is None and sampled["Ours with the field"]["field"]["strength"] > 0
    assert len(pictures(out, "pose")) == 3 and len(set(pictures(out, "pose"))) == 3
    captions = json.loads((out / "pictures" / "captions.json").read_text(encoding="utf-8"))
    assert list(captions) == ["00000", "00001", "00002"] and captions["00001"] == "people b"
    text = (out / "results.md").read_text(encoding="utf-8")
    assert "CLIP score ↑" in text and "clip-small" in text and "2 DDIM steps, w_c 7.5" in text
    assert evaluate_captioned.main([*command, weights[0], "--seed", "3"]) == 2
    assert "other settings (seed)" in capsys.readouterr().err
    assert evaluate_captioned.main([*command, weights[0], "--estimator-udp"]) == 2
    assert "other settings (field)" in capsys.readouterr().err
    retrained = tmp_path / files["own"].name
    retrained.write_bytes(files["own"].read_bytes()[:-1] + b"x")  # as long as the one before, as every retraining
    assert evaluate_captioned.main([*command, f"--weights=Ours={retrained}"]) == 2
    assert "other settings (sha256)" in capsys.readouterr().err


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_make_the_same_table(files, crowd, folder, tmp_path):
    """Of three pictures one process has two: none may wait for the other within a measure."""
    write_clip(tmp_path / "clip")
    given = [f"--data={crowd}", "--split=train", "--count=3", "--steps=1", "--sample-batch=1", "--batch=1"]
    given += [f"--weights=Ours={files['own']}", f"--tokenizer={folder / 'tokenizer'}", f"--clip={tmp_path / 'clip'}"]
    assert evaluate_captioned.main([*given, f"--out={tmp_path / 'one'}"]) == 0
    in_two_processes("evaluate_captioned.py", *given, f"--out={tmp_path / 'two'}")
    one, two = (json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert pictures(tmp_path / "one", "ours") == pictures(tmp_path / "two", "ours")
    assert one["protocol"] == two["protocol"] and list(one["rows"]) == list(two["rows"])
    for row, cells in one["rows"].items():
        known = {name: cell["mean"] for name, cell in cells.items() if cell["mean"] is not None}
        other = {name: cell["mean"] for name, cell in two["rows"][row].items() if cell["mean"] is not None}
        assert other == pytest.approx(known, rel=1e-3, abs=1e-4), row


def test_strength_0_of_the_field_and_nobody_to_guide_change_nothing(
    files, folder, crowd, estimator, tmp_path, monkeypatch
):
    how = text_models.Sampling(PROTOCOLS["ours"], estimator, tokenizer=folder / "tokenizer", steps=2)
    model = text_models.TextModel("a", files["own"], (HEIGHT, WIDTH), how)
    data = Captioned(crowd, "train")
    example = data.read(0)
    off = model.sample([0], [example], OFF)
    kind = model.rows["a" + text_models.WITH_FIELD]
    assert not torch.equal(off, model.sample([0], [example], kind))
    assert torch.equal(off, model.sample([0], [example], replace(kind, strength=0.0)))
    # a picture of nobody: its folder with the field holds what the one without holds
    nobody = replace(example, joints=np.zeros((0, 17, 3), np.float32), poses=np.zeros((0, 18, 3), np.float32))
    monkeypatch.setattr(Captioned, "read", lambda *_: nobody)
    folders = text_models.sample_set(data, 1, model, tmp_path)
    one, other = ([path.read_bytes() for path in folder.glob("*.png")] for folder in folders.values())
    assert one == other and len(one) == 1


def test_the_field_compares_pictures_of_the_file_s_size(files, folder, crowd, estimator):
    """As the pipeline and the training do: the decoded latent and the target alike."""
    how = text_models.Sampling(PROTOCOLS["ours"], estimator, tokenizer=folder / "tokenizer", steps=2)
    model = text_models.TextModel("a", files["own"], (HEIGHT, WIDTH), how)
    kind, example, shown = model.rows["a" + text_models.WITH_FIELD], Captioned(crowd, "train").read(0), []
    model.field.estimator.register_forward_hook(lambda _, given, __: shown.append(tuple(given[0].shape[-2:])))
    whole = model.sample([0], [example], kind)
    assert set(shown) == {(HEIGHT, WIDTH)}
    shown.clear()
    half = model.sample([0], [example], replace(kind, size=0.5))
    assert set(shown) == {(HEIGHT // 2, WIDTH // 2)} and half.isfinite().all() and not torch.equal(half, whole)


def test_the_protocol_of_humansd(files, command, tmp_path):
    assert evaluate_captioned.main([*command[:-6], "--count=1", "--field-strength=0", "--protocol=humansd",
                                    f"--weights=HumanSD={files['public']}"]) == 0  # fmt: skip
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    made = found["protocol"]["sampled"]["HumanSD"]
    assert (made["steps"], made["guidance_scale"]) == (50, 9.0) and made["negative"].startswith("longbody")
    assert list(found["rows"]) == ["HumanSD", "ground truth"]
    assert any("no scenes" in note for note in found["protocol"]["notes"])


def test_mistakes_are_told_before_anything_is_sampled(files, command, tmp_path, capsys):
    weights = f"--weights=Ours={files['own']}"

    def refused(*more: str, without: str = "") -> str:
        given = [*command, weights, *more]
        if without:
            place = given.index(without)
            del given[place : place + 2]
        assert evaluate_captioned.main(given) == 2
        assert not list((tmp_path / "out").rglob("*.png"))
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
        return error

    assert "there is no config.json" in refused(f"--clip={tmp_path}")
    assert "as --tokenizer" in refused(without="--tokenizer")
    assert "weights-inception-2015" in refused("--extractor=fid", f"--backbones={tmp_path}")
    assert "one name" in refused(f"--pictures=Ours={tmp_path}")
    assert "one name" in refused(f"--weights=Ours={files['public']}")
    assert "weights Gone" in refused("--weights=Gone=none.safetensors")
