"""The paper's sheets: the right picture in each cell, labels over the columns, cells of one size, PDF and PNG."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import figures
from training.evaluation.figure_sheets import Look, choose, draw_sheet, pictures_in, save_sheet

NAMES = ("00000_000001_000_001", "00001_000001_001_000", "00002_000007_000_002")
FOLDERS = {"pose": 0, "copy-the-source": 1, "ground-truth": 2, "b1": 3, "ours": 4}
SIZE = (22, 32)


def colour(column: int, row: int) -> tuple[int, int, int]:
    return 40 * column, 80 * row, 250


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """A folder as `evaluate.py --save-pictures` leaves it, every picture of a colour of its own; one is larger."""
    root = tmp_path / "pictures"
    for folder, column in FOLDERS.items():
        (root / folder).mkdir(parents=True)
        for row, name in enumerate(NAMES):
            size = (44, 64) if (folder, row) == ("b1", 0) else SIZE
            Image.new("RGB", size, colour(column, row)).save(root / folder / f"{name}.png")
    return root


def test_every_cell_holds_its_picture_under_its_label(evaluation, tmp_path, capsys):
    out = tmp_path / "sheets" / "fig5"
    given = ["--pictures", str(evaluation), "--method", "B1", "--method", f"Ours={evaluation / 'ours'}", "--dpi", "100"]
    assert figures.main(["fig5", *given, "--out", str(out)]) == 0
    assert "fig5.pdf" in capsys.readouterr().out
    columns = {label: pictures_in(evaluation / folder) for label, folder in zip("abcde", FOLDERS, strict=True)}
    look = Look(dpi=100)
    figure = draw_sheet(columns, NAMES, look=look)
    sheet = np.array(Image.open(f"{out}.png").convert("RGB"))
    assert sheet.shape[1] == round(100 * look.width)
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 15
    sides = np.array([(box.width * figure.get_figwidth(), box.height * figure.get_figheight()) for box in boxes])
    assert np.ptp(sides, 0).max() < 1e-9, "cells of one size"
    assert sides[0, 1] / sides[0, 0] == pytest.approx(SIZE[1] / SIZE[0])
    for n, box in enumerate(boxes):
        x, y = (box.x0 + box.x1) / 2 * sheet.shape[1], (1 - (box.y0 + box.y1) / 2) * sheet.shape[0]
        assert tuple(sheet[int(y), int(x)]) == colour(n % 5, n // 5)
    assert [text.get_text() for text in figure.texts] == list("abcde")
    pdf = Path(f"{out}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Subtype /Image") == 15 and b"Type3" not in pdf
    assert figures.main(["fig5", *given, "--out", str(out)]) == 0
    assert Path(f"{out}.pdf").read_bytes() == pdf, "the same bytes again"


def test_headings_of_the_figures(evaluation, monkeypatch, tmp_path):
    seen = {}
    real = figures.draw_sheet

    def noting(columns, rows, captions, across, bold, look):
        figure = real(columns, rows, captions, across, bold, look)
        seen.update(rows=rows, bold=bold, texts=[" ".join(text.get_text().split()) for text in figure.texts])
        return figure

    monkeypatch.setattr(figures, "draw_sheet", noting)
    common = ["--dpi", "40", "--out", str(tmp_path / "sheet")]
    pictures = ["--pictures", str(evaluation)]
    assert (
        figures.main(["fig2", *pictures, "--method", "B1", "--method", "Ours", "--rows", "00002", "00000", *common])
        == 0
    )
    heads = ["Target pose", "Source", "Ground truth", "B1", "Ours"]
    assert seen["texts"] == 2 * heads and seen["bold"] == ["Ours"] and seen["rows"] == [NAMES[2], NAMES[0]]
    assert figures.main(["fig3", *pictures, "--method", "Ours", "--across", "1", "--count", "2", *common]) == 0
    assert seen["texts"] == [*heads[:3], "Ours"] and seen["rows"] == list(NAMES[:2])
    folders = [f"--{name}={evaluation / folder}" for name, folder in
               (("reference", "pose"), ("garment", "b1"), ("result", "ours"))]  # fmt: skip
    assert figures.main(["fig4", *folders, "--across", "1", *common]) == 0
    assert seen["texts"] == ["Reference", "Garment", "Result"] and not seen["bold"]
    (tmp_path / "captions.json").write_text(json.dumps({NAMES[0]: "Jesus and two others " * 8}))
    captions = ["--captions", str(tmp_path / "captions.json"), "--across", "1"]
    assert figures.main(["fig6", *pictures, "--method", "B1", "--method", "Ours", *captions, *common]) == 0
    assert seen["texts"][:3] == ["Target pose", "B1", "Ours"]
    assert seen["texts"][3] == ("Jesus and two others " * 8).strip() and len(seen["texts"]) == 4


def test_mistakes_are_one_clear_line(evaluation, tmp_path, capsys):
    def refused(*given: str) -> str:
        assert figures.main([*given, "--out", str(tmp_path / "sheet")]) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error and not list(tmp_path.glob("sheet.*"))
        return error

    pictures = f"--pictures={evaluation}"
    assert "'Target pose' as --pose" in refused("fig2", "--method=a=b")
    assert "at least one --method" in refused("fig2", pictures)
    assert "no folder of pictures" in refused("fig2", pictures, "--method=PIDM")
    assert "one heading" in refused("fig2", pictures, "--method=Ours", "--method=Ours")
    assert "rows: 0000: 3 names begin with it" in refused("fig2", pictures, "--method=Ours", "--rows", "0000")
    (evaluation / "ours" / f"{NAMES[1]}.png").unlink()
    assert "the columns Ours have none" in refused("fig2", pictures, "--method=Ours", "--rows", "00001")
    (evaluation / "b1" / f"{NAMES[0]}.png").write_bytes(b"no picture")
    assert "cannot be read as a picture" in refused("fig2", pictures, "--method=B1", "--rows", "00000")
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", SIZE).save(other / "x.png")
    assert "one name in all columns" in refused("fig2", pictures, f"--method=Other={other}")
    Image.new("RGB", SIZE).save(other / "x.jpg")
    assert "leave one of both" in refused("fig2", pictures, f"--method=Other={other}")


def test_rows_of_all_columns_alone_are_chosen(evaluation):
    (evaluation / "b1" / f"{NAMES[0]}.png").unlink()
    columns = {folder: pictures_in(evaluation / folder) for folder in FOLDERS}
    assert choose(columns, (), 20) == list(NAMES[1:])


def test_a_long_label_stays_over_its_column(evaluation, tmp_path):
    columns = {f"RePoseSD with the field {n}": pictures_in(evaluation / folder) for n, folder in enumerate(FOLDERS)}
    figure = draw_sheet(columns, NAMES[:1], bold=list(columns), look=Look(width=5, dpi=100))
    save_sheet(figure, tmp_path / "sheet")
    for text, axes in zip(figure.texts, figure.axes, strict=True):
        label, cell = text.get_window_extent(), axes.get_window_extent()
        assert cell.x0 <= label.x0 and label.x1 <= cell.x1 and label.y0 >= cell.y1
        assert label.y1 <= figure.bbox.height


def test_a_picture_of_another_aspect_is_shown_whole(tmp_path):
    for name, size in (("a", (20, 40)), ("b", (40, 20))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size, (0, 0, 0)).save(tmp_path / name / "1.png")
    columns = {name: pictures_in(tmp_path / name) for name in "ab"}
    written = save_sheet(draw_sheet(columns, ["1"], look=Look(width=2, gap=0, dpi=100)), tmp_path / "sheet")
    assert [path.suffix for path in written] == [".pdf", ".png"]
    sheet = np.array(Image.open(io.BytesIO(written[1].read_bytes())).convert("L"))
    black = (sheet[-200:] < 128).mean(0)
    assert black[10:90].min() > 0.99 and black[110:190].max() < 0.3, "fitted in, white above and below"
