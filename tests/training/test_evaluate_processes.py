"""Two real processes under accelerate launch measure what one does, to the last digit."""

from __future__ import annotations

import json

import pytest
import torch

from tests.fixtures.launching import in_two_processes
from training import evaluate

pytestmark = pytest.mark.processes


def test_two_processes_write_the_results_of_one(figures, weights, tmp_path):
    """Five pairs in three batches, the last one short; FID's real set is shared among the processes too."""
    one, two = tmp_path / "one", tmp_path / "two"
    given = [
        f"--weights={weights}",
        f"--data={figures}",
        "--split=train",
        "--pairs=5",
        "--batch=2",
        "--real=train",
        "--field-strength=0",
        "--seeds",
        "1",
        "2",
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert evaluate.main([*given, f"--out={one}", f"--save-pictures={one / 'pictures'}"]) == 0
    finally:
        torch.set_num_threads(threads)
    done = in_two_processes("evaluate.py", *given, f"--out={two}", f"--save-pictures={two / 'pictures'}")
    assert done.stdout.count("Wrote results.json") == 1, "one process reports"
    assert "measuring: 100%" in done.stderr and "3/3" not in done.stderr, "the three batches were shared"
    found = json.loads((two / "results.json").read_text(encoding="utf-8"))
    assert found == json.loads((one / "results.json").read_text(encoding="utf-8"))
    assert len(found["rows"]["RePoseDM"]["psnr"]["seeds"]) == 2 and found["protocol"]["pairs"] == 5
    for name in ("results.md", "results.html", "sheet.jpg"):
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    files = sorted(path.relative_to(one) for path in (one / "pictures").rglob("*.png"))
    assert len(files) == 5 * (6 + 2) and all((two / f).read_bytes() == (one / f).read_bytes() for f in files)
