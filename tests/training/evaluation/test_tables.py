"""Tables in Markdown files, and the page in a real browser without a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training import evaluate, report
from training.evaluate import Options
from training.evaluation import tables
from training.evaluation.generate import OURS
from training.evaluation.html import chosen_pairs


@pytest.fixture(scope="module")
def results(figures: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("report")
    options = Options(figures, {OURS: weights}, split="train", pairs=5, field_strength=0, real="none", page=4)
    return evaluate.evaluate(options, out), out


def test_tables_go_between_the_markers_again_and_again(results, tmp_path, capsys):
    found, out = results
    page = tmp_path / "README.md"
    page.write_text(
        "# A\n\n<!-- results -->\nold\n<!-- /results -->\n\nrest\n<!-- results poses -->\n<!-- /results poses -->\n",
        encoding="utf-8",
    )
    given = [str(out / "results.json"), "--into", str(page)]
    for _ in range(2):
        assert report.main(given) == 0
        assert report.main([*given, "--name", "poses", "--columns", "ap", "pce"]) == 0
        text = page.read_text(encoding="utf-8")
        assert text.startswith("# A\n\n<!-- results -->\n\n| Pictures |") and "\nrest\n" in text and "old" not in text
    psnr = found["rows"][OURS]["psnr"]
    first, second = text.split("rest")
    assert f"| {psnr['mean']:.2f} [{psnr['low']:.2f}, {psnr['high']:.2f}] |" in first
    assert "5 pairs of 5 people (stick figures, split 'train')" in first
    assert "| compared with the true target | AP ↑ | PCE ↓ |" in second and "PSNR" not in second
    assert f"| {found['rows'][OURS]['ap']['mean']:.1%} |" in second
    assert not list(tmp_path.glob("*.part"))


def test_what_report_refuses(results, tmp_path, capsys):
    _, out = results
    page = tmp_path / "README.md"
    page.write_text("<!-- results -->\n", encoding="utf-8")
    for given, message in (
        ([str(out / "results.json"), "--into", str(page)], "must hold the lines"),
        ([str(out / "results.json"), "--into", str(tmp_path / "none.md")], "cannot be read"),
        ([str(page), "--into", str(page)], "is no results.json"),
    ):
        assert report.main(given) == 2
        assert message in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "<!-- results -->\n"


def test_a_cell_says_how_sure_it_is():
    cell = {"mean": 0.5, "low": 0.25, "high": 0.75}
    assert tables.shown(cell, "psnr") == "0.50 [0.25, 0.75]" and tables.shown(cell, "oks", True).startswith("+0.500 [+")
    assert tables.shown({"mean": 0.5, "low": None, "high": None}, "ap") == "50.0%"
    assert tables.shown(None, "ap") == tables.shown({"mean": None}, "ap") == "–"
    assert tables.heading("fid", "Inception-v3") == "FID, Inception-v3 ↓"


def test_of_many_pairs_the_page_shows_best_and_worst():
    values = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    assert chosen_pairs(values, 5).tolist() == [0, 1, 2, 3, 4]
    assert chosen_pairs(values, 2).tolist() == [1, 3] and chosen_pairs(values, 3).tolist() == [1, 3, 4]


@pytest.mark.browser
def test_the_page_needs_nothing_else_and_sorts(browser, results):
    found, out = results
    text = (out / "results.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", ""), "nothing is fetched"
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    numbers = {pair["number"]: pair["values"][OURS] for pair in data["pairs"]}
    assert len(numbers) == 4
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((out / "results.html").as_uri())
    shown = "sections => sections.map(section => Number(section.dataset.number))"

    def order() -> list[int]:
        return page.eval_on_selector_all("section.pair", shown)

    assert order() == sorted(numbers, key=lambda n: -numbers[n]["perceptual"]), "the worst comes first"
    page.select_option("#measure", "psnr")
    assert order() == sorted(numbers, key=lambda n: numbers[n]["psnr"])
    page.select_option("#order", "best")
    assert order() == sorted(numbers, key=lambda n: -numbers[n]["psnr"])
    page.select_option("#row", "warp only")
    warped = {pair["number"]: pair["values"]["warp only"]["psnr"] for pair in data["pairs"]}
    assert order() == sorted(warped, key=lambda n: -warped[n])
    widths = page.eval_on_selector_all("section.pair img", "images => images.map(image => image.naturalWidth)")
    assert widths == [48] * (4 * 8), "source, pose and six rows of each pair"
    cells = page.eval_on_selector_all("td", "cells => cells.map(cell => cell.textContent)")
    psnr = found["rows"][OURS]["psnr"]
    assert f"{psnr['mean']:.2f} [{psnr['low']:.2f}, {psnr['high']:.2f}]" in cells
    assert page.title() == "tiny.safetensors: 5 pairs" and not errors
    page.close()
