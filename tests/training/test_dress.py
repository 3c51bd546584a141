"""Figure 4's pictures: the clothes of one test person on another, inside a mask, stopped and gone on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from reposedm_core.errors import InputError
from training import dress, figures
from training.data.people_set import People


def test_rows_for_the_figure(weights, people, tmp_path, capsys):
    out, data = tmp_path / "fig4", tmp_path / "people"
    given = ["--weights", str(weights), "--out", str(out), "--steps", "1", "--count", "2", "--data"]
    assert dress.main([*given, str(people)]) == 2 and "two people or more" in capsys.readouterr().err
    shutil.copytree(people, data)
    np.save(data / "split.npy", np.full_like(np.load(data / "split.npy"), 2))
    assert dress.main([*given, str(data)]) == 0
    rows = {name: sorted((out / name).iterdir()) for name in ("reference", "garment", "mask", "result")}
    assert all([path.name for path in files] == ["00000.png", "00001.png"] for files in rows.values())
    first = [np.array(Image.open(rows[name][0])) for name in rows]
    reference, garment, mask, result = first
    assert np.array_equal(garment, np.array(Image.open(rows["reference"][1]))), "the next person's clothes"
    assert np.array_equal(result[mask == 0], reference[mask == 0]) and (result != reference).any()
    for other in (["--seed", "1"], ["--steps", "2"]):
        assert dress.main([*given, str(data), *other]) == 2
        assert f"other settings ({other[0][2:]})" in capsys.readouterr().err
    retrained = tmp_path / weights.name
    retrained.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert dress.main([*given, str(data), "--weights", str(retrained)]) == 2
    assert "other settings (sha256)" in capsys.readouterr().err
    rows["result"][1].unlink()
    kept = rows["result"][0].stat().st_mtime_ns
    assert dress.main([*given, str(data)]) == 0
    assert rows["result"][0].stat().st_mtime_ns == kept and rows["result"][1].is_file()
    folders = [f"--{name}={out / name}" for name in ("reference", "garment", "result")]
    assert figures.main(["fig4", *folders, "--dpi", "50", "--out", str(tmp_path / "sheet")]) == 0


def test_who_shows_no_upper_body_is_passed_over_and_named(people, tmp_path, capsys):
    data = tmp_path / "people"
    shutil.copytree(people, data)
    np.save(data / "split.npy", np.full_like(np.load(data / "split.npy"), 2))
    (data / "garments.npy").unlink(missing_ok=True)
    whole = list(dress.dressed_people(People(data, "test")))
    hidden = People(data, "test")
    first, second = hidden.identities[:2]
    names = [name for name in ("openpose", "joints") if name in hidden.arrays]
    for name in names:
        path = data / f"{name}.npy"
        joints = np.load(path)
        flat = joints.reshape(-1, *joints.shape[-2:])
        flat[hidden.rows(np.array([first]), np.array([0]))] = 0
        flat[hidden.rows(np.full(hidden.counts[1], second), np.arange(hidden.counts[1]))] = 0
        np.save(path, joints)
    capsys.readouterr()
    found = list(dress.dressed_people(People(data, "test")))
    told = capsys.readouterr().out
    assert f"person {first}: picture 1" in told and f"person {second} is passed over" in told
    assert [int(each.who[0]) for each in found] == [int(each.who[0]) for each in whole if each.who[0] != second]
    assert int(found[0].index[0]) == 1 and np.array(found[0].mask).any()


def test_the_mask_is_the_upper_body_and_what_is_worn():
    joints = np.zeros((18, 3))
    for joint, (x, y) in {2: (20, 20), 5: (44, 20), 8: (24, 60), 11: (40, 60), 3: (12, 40), 4: (10, 58)}.items():
        joints[joint] = x, y, 1
    mask = np.array(dress.upper_body(joints, 128, 64))
    assert set(np.unique(mask)) == {0, 255}
    assert mask[40, 32] and mask[49, 11] and not mask[100].any() and not mask[5].any(), "trunk and arm alone"
    garments = np.zeros((128, 64), np.uint8)
    garments[110:120, 30:40] = dress.WORN[1]
    worn = np.array(dress.upper_body(joints, 128, 64, garments))
    assert worn[115, 35] and np.array_equal(worn[:110], mask[:110])
    joints[2, 2] = 0
    with pytest.raises(InputError, match="neither its pose nor its labels"):
        dress.upper_body(joints, 128, 64)
