"""The study of several sources: which pictures it takes, and that a row is what the pipeline makes of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reposedm_core import RePoseDMPipeline
from reposedm_core.errors import InputError
from reposedm_core.images import to_uint8
from reposedm_core.pose import Pose
from training import study_sources
from training.data.people_set import People
from training.evaluation.generate import Batch
from training.evaluation.several_sources import results_from, sources_of


def test_the_source_comes_first_and_the_target_never(people):
    held_out = People(people, "test")
    pairs = held_out.fixed_pairs(6)
    sources = sources_of(held_out, pairs, 2)
    assert sources.shape == (6, 2) and (sources[:, 0] == pairs.source).all()
    for row, target in zip(sources, pairs.target, strict=True):
        assert sorted([*row, target]) == [0, 1, 2]
    with pytest.raises(InputError, match=r"3 sources and a target are 4 pictures, and person .* has 3"):
        sources_of(held_out, pairs, 3)


def test_a_row_is_what_the_pipeline_makes_of_those_pictures(people, weights):
    held_out, pipe = People(people, "test"), RePoseDMPipeline.from_pretrained(weights)
    pairs = held_out.fixed_pairs(2)
    sources = sources_of(held_out, pairs, 2)
    batch = Batch.read(held_out, pairs, 0, 2)
    found = results_from(pipe, held_out, batch, sources, 3)
    first, second = held_out.read("pictures", np.repeat(pairs.identity[1], 2), sources[1])
    pose = Pose(batch.target_pose[1][None], held_out.height, held_out.width)
    result = pipe(first, pose, 3_000_001, field_strength=0, more_sources=[second])
    assert np.array_equal(found[1], to_uint8(2 * result.image[0] - 1).movedim(0, -1).numpy())
    assert not np.array_equal(found, results_from(pipe, held_out, batch, sources[:, :1], 3))


def test_the_command_writes_its_tables_and_a_sheet(people, weights, tmp_path, capsys):
    command = ["--weights", str(weights), "--data", str(people), "--out", str(tmp_path), "--pairs", "2"]
    assert study_sources.main([*command, "--counts", "1", "2"]) == 0
    results, table = json.loads((tmp_path / "sources.json").read_text()), (tmp_path / "sources.md").read_text()
    assert table in capsys.readouterr().out and (tmp_path / "sources.jpg").is_file()
    assert list(results["rows"]) == ["1 picture", "2 pictures"]
    one, two = (results["rows"][row]["perceptual"]["mean"] for row in results["rows"])
    assert results["difference"]["2 pictures − 1 picture"]["perceptual"]["mean"] == pytest.approx(two - one, abs=2e-6)
    assert one != two and f"| 1 picture | {results['rows']['1 picture']['ssim_256@1.5']['mean']:.3f} " in table


@pytest.mark.parametrize("more", [["--pairs", "0"], ["--counts", "0", "1"], ["--counts", "2", "2"], ["--counts", "3"]])
def test_what_cannot_be_is_refused_before_anything_is_written(people, weights, tmp_path, capsys, more):
    out = tmp_path / "study"
    assert study_sources.main(["--weights", str(weights), "--data", str(people), "--out", str(out), *more]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not out.exists()
