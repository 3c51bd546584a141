"""Nothing is lost: a killed preparation goes on, a full disk is told, other people's files are left alone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from reposedm_core.errors import InputError
from tests.fixtures.waiting import until
from training.data.people_set import People
from training.preparation.packing import PeopleWriter, open_folder
from training.preparation.plan import Item, Plan, Shares
from training.preparation.reading import Row
from training.prepare import prepare, table

from .conftest import LEFT_ANKLE, NOSE, keypoint_line, save_figure

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]
COUNT = 280


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """A Market-1501 of 280 pictures, large ones that take their time."""
    root = tmp_path_factory.mktemp("market")
    names = [f"{1 + n // 4:04d}_c{1 + n % 6}s1_{n:06d}_01.jpg" for n in range(COUNT)]
    for n, name in enumerate(names):
        if n == 17:
            (root / "bounding_box_train" / name).write_bytes(b"broken")
        else:
            save_figure(root / "bounding_box_train" / name, (640, 320), {NOSE: (150.0 + n % 50, 60.0)}, n % 200)
    lines = [keypoint_line(name, {NOSE: (20, 11), LEFT_ANKLE: (30, 100)}) for name in names]
    (root / "market-annotation-train.csv").write_text("name:keypoints_y:keypoints_x\n" + "".join(lines))
    return root


@pytest.fixture(scope="module")
def whole(originals, tmp_path_factory) -> Path:
    """The set of an uninterrupted run in this process."""
    out = tmp_path_factory.mktemp("whole") / "set"
    prepare("market1501", originals, out, estimator="none")
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def finished(folder: Path) -> int:
    """Rows that a reader would take; 0 before there is a file."""
    return int(np.load(folder / "done.npy").sum()) if (folder / "done.npy").is_file() else 0


def test_killed_at_random_and_started_again_it_ends_the_same(originals, whole, tmp_path):
    out, rng, kills = tmp_path / "set", np.random.default_rng(), 0
    command = [
        sys.executable,
        "training/prepare.py",
        "market1501",
        "--root",
        originals,
        "--out",
        out,
        "--workers",
        "1",
        "--estimator",
        "none",
    ]
    while kills < 2:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = finished(out)
        until(lambda: finished(out) > before, process)  # noqa: B023
        time.sleep(float(rng.uniform(0, 0.1)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = np.flatnonzero(np.load(out / "done.npy"))
        if finished(out) >= COUNT - 1:  # the kill came late, on a busy machine: from the start again
            shutil.rmtree(out)
            kills = 0
            continue
        kills += 1
        assert np.array_equal(np.load(out / "pictures.npy")[kept], np.load(whole / "pictures.npy")[kept])
        assert People(out, "train").counts.sum() <= len(kept), "what is there can be read"
    report = prepare("market1501", originals, out, estimator="none")
    assert report["written"] == COUNT - 1 and report["skipped"] == {"corrupt picture": 1}
    assert files(out) == files(whole)


def test_workers_change_no_byte(originals, whole, tmp_path):
    prepare("market1501", originals, tmp_path / "set", workers=2, estimator="none")
    assert files(tmp_path / "set") == files(whole)


def test_a_finished_set_is_left_as_it_is(originals, whole, capsys):
    before = files(whole)
    report = prepare("market1501", originals, whole, estimator="none")
    assert files(whole) == before
    text = table(report)
    assert "279 pictures written" in text and "corrupt picture" in text and "0005_c6s1_000017_01.jpg" in text


def test_other_arguments_or_originals_are_refused(originals, whole, tmp_path):
    with pytest.raises(InputError, match=r"other arguments or other originals \(height, width differ\)"):
        prepare("market1501", originals, whole, (64, 32), estimator="none")
    new = originals / "bounding_box_train/0099_c1s1_000001_01.jpg"
    save_figure(new, (128, 64), {})
    with pytest.raises(InputError, match=r"\(plan, rows differ\)"):
        prepare("market1501", originals, whole, estimator="none")
    new.unlink()
    lists = originals / "market-annotation-train.csv"
    before = lists.read_text()
    lists.write_text(before.replace("20", "21"))
    with pytest.raises(InputError, match=r"\(plan differ\)"):
        prepare("market1501", originals, whole, estimator="none")
    lists.write_text(before)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds no set but other files \(chapter1.tex\)"):
        prepare("market1501", originals, tmp_path / "thesis", estimator="none")
    assert files(tmp_path / "thesis") == {"chapter1.tex": b"years of work"}


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))      # no file grows beyond it, as on a full disk
from training.prepare import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_told_before_anything_is_lost(originals, tmp_path):
    command = [
        sys.executable,
        "-c",
        FULL_DISK,
        "market1501",
        "--root",
        originals,
        "--out",
        tmp_path / "set",
        "--workers",
        "1",
        "--estimator",
        "none",
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2, run.stderr
    assert "pictures.npy could not be written" in run.stderr and "run the same command again" in run.stderr
    assert "Traceback" not in run.stderr and not list((tmp_path / "set").glob("*.part"))
    report = prepare("market1501", originals, tmp_path / "set", estimator="none")  # there is room again
    assert report["written"] == COUNT - 1


def test_a_set_that_cannot_fit_is_refused_at_once(tmp_path):
    items = [Item(str(n), n, "train", tmp_path) for n in range(20_000)]
    open_folder(tmp_path / "set")
    with pytest.raises(InputError, match=r"needs \d+\.\d+ GB in .*, where .* GB are free"):
        PeopleWriter(tmp_path / "set", Plan(items), {}, (20_000, 20_000))
    assert not (tmp_path / "set/pictures.npy").exists()


def test_rows_are_reserved_on_the_disk_and_done_only_when_settled(tmp_path):
    items = [Item(name, n, "train", tmp_path) for n, name in enumerate(("a", "b\nc", "ä"))]
    row = Row(np.full((32, 16, 3), 7, np.uint8), np.ones((18, 3), np.float32), np.ones((17, 3), np.float32))
    open_folder(tmp_path / "set")
    with PeopleWriter(tmp_path / "set", Plan(items), {}, (32, 16)) as writer:
        used = (tmp_path / "set/pictures.npy").stat()
        assert used.st_blocks * 512 >= used.st_size, "not a file with holes"
        assert not writer.done.any()
        writer.write(1, row)
        assert np.load(tmp_path / "set/done.npy").tolist() == [0, 0, 0], "not yet on the disk"
        raised = pytest.raises(KeyboardInterrupt)
        with raised, writer:
            raise KeyboardInterrupt
    assert np.load(tmp_path / "set/done.npy").tolist() == [0, 1, 0], "kept when the user stops it"
    assert np.load(tmp_path / "set/pictures.npy")[:, 0, 0, 0].tolist() == [0, 7, 0]
    assert (tmp_path / "set/names.txt").read_text() == "a\nb\\nc\n\\u00e4\n", "one line a row, whatever the name"


def test_shares_that_leave_nobody_to_train_are_refused(originals, tmp_path):
    with pytest.raises(InputError, match="together below 1"):
        prepare("market1501", originals, tmp_path / "set", shares=Shares(0.5, 0.5))
