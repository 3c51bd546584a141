r"""The paper's sheets of pictures from folders of pictures: Figures 2 to 6, each as PDF and PNG.

    python training/figures.py fig2 --pictures EVALUATION --method PIDM=FOLDER --method Ours=FOLDER --out figures/fig2
    python training/figures.py fig3 …    the same of Market-1501
    python training/figures.py fig4 --reference FOLDER --garment FOLDER --result FOLDER --out figures/fig4
    python training/figures.py fig5 --pictures EVALUATION --method B1 --method B2 --method RePoseDM --out figures/fig5
    python training/figures.py fig6 --pictures TABLE_3/pictures --method HumanSD --method "RePoseSD with the field" …

A folder holds one column; the pictures of a row have one name in all folders. EVALUATION is what `evaluate.py
--save-pictures` wrote: target poses, sources, true targets, and a folder for each row of the table, which --method NAME
finds without a folder. Every picture is shown in cells of one size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from reposedm_core.files import read_json
from training.evaluation.figure_sheets import Look, choose, draw_sheet, pictures_in, save_sheet
from training.evaluation.generate import COPY, TRUTH
from training.evaluation.picture_files import POSES, folder_name

GIVEN = {"pose": ("Target pose", POSES), "source": ("Source", COPY), "truth": ("Ground truth", TRUTH)}
"""Option → heading, and the row of an evaluation that holds the pictures."""
FIGURES: dict[str, tuple[str, tuple[str, ...], int, int]] = {
    "fig2": ("methods side by side on DeepFashion", ("pose", "source", "truth"), 2, 20),
    "fig3": ("methods side by side on Market-1501", ("pose", "source", "truth"), 2, 12),
    "fig4": ("the garment of one picture on the person of another", ("reference", "garment", "result"), 2, 8),
    "fig5": ("ablation: B1, B2 and the full model", ("pose", "source", "truth"), 1, 5),
    "fig6": ("pairs of text models", ("pose",), 2, 8),
}
"""Figure → what it shows, the columns before the methods, blocks side by side, and rows in all."""


def columns_of(options: argparse.Namespace) -> dict[str, dict[str, Path]]:
    """Heading → stem → picture, in the order of the sheet.

    Raises:
        InputError: a column's folder is not given, or not there, or two columns have one heading.
    """
    _, given, _, _ = FIGURES[options.figure]
    found: list[tuple[str, Path]] = []
    for name in given:
        heading, row = GIVEN.get(name, (name.capitalize(), None))
        folder = getattr(options, name)
        if folder is None and row is not None and options.pictures is not None:
            folder = options.pictures / folder_name(row)
        if folder is None:
            where = f", or --pictures of evaluate.py --save-pictures, which holds {folder_name(row)}" if row else ""
            raise InputError(f"{options.figure}: give the folder of the column {heading!r} as --{name}{where}.")
        found.append((heading, folder))
    for value in getattr(options, "method", None) or ():
        name, _, folder = value.partition("=")
        if not folder and options.pictures is None:
            raise InputError(f"method = {value}: give its folder, {name}=FOLDER, or --pictures with a folder for it.")
        found.append((name, Path(folder) if folder else options.pictures / folder_name(name)))
    if "method" in options and not options.method:
        raise InputError(f"{options.figure}: give at least one --method.")
    if len({heading for heading, _ in found}) < len(found):
        raise InputError(f"Two columns have one heading ({', '.join(h for h, _ in found)}): name them apart.")
    return {heading: pictures_in(folder) for heading, folder in found}


def make(options: argparse.Namespace) -> list[Path]:
    """Draw and write the figure; the files."""
    columns = columns_of(options)
    rows = choose(columns, options.rows, options.count)
    captions = None
    if options.captions is not None:
        captions = {name: str(text) for name, text in read_json(options.captions, str(options.captions)).items()}
    look = Look(width=options.width, font=options.font, dpi=options.dpi)
    last = list(columns)[-1:] if options.figure != "fig4" else ()
    return save_sheet(draw_sheet(columns, rows, captions, options.across, last, look), options.out)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for figure, (what, given, across, count) in FIGURES.items():
        command = commands.add_parser(figure, help=what, description=f"Figure {figure[3:]}: {what}.")
        for name in given:
            command.add_argument(f"--{name}", type=Path, metavar="FOLDER")
        if figure != "fig4":
            command.add_argument("--pictures", type=Path, help="folder of evaluate.py --save-pictures, or of Table 3")
            command.add_argument(
                "--method", action="append", metavar="NAME[=FOLDER]", help="one more column; the last is set in bold"
            )
        command.add_argument("--captions", type=Path, help="JSON of name → text, which stands under the row")
        command.add_argument("--rows", nargs="+", default=[], help="names of pictures, or how they begin, e.g. 00012")
        command.add_argument("--count", type=int, default=count, help="else the first so many (default: %(default)s)")
        command.add_argument("--across", type=int, default=across, help="blocks side by side (default: %(default)s)")
        command.add_argument("--width", type=float, default=Look.width, help="inches (default: %(default)s)")
        command.add_argument("--font", type=float, default=Look.font, help="points (default: %(default)s)")
        command.add_argument("--dpi", type=int, default=Look.dpi, help="of the PNG (default: %(default)s)")
        command.add_argument("--out", type=Path, required=True, help="the files, without an ending")
    options = parser.parse_args(arguments)
    low = [n for n in ("count", "across", "width", "font", "dpi") if not 0 < getattr(options, n) <= 10_000]
    if low:
        parser.error(f"{', '.join(low)}: must be above 0 and at most 10,000.")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options.pictures = getattr(options, "pictures", None)
    try:
        written = make(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {' and '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
