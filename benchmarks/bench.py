"""One table of ratios measured in one run, judged against the budgets of the design: `make bench`.

Every ratio is the median of rounds in which both sides ran after each other, so that a busy machine slows both. Without
--full it takes some five minutes on two cores; --full also times ComfyUI's start, `make demo`, `make test` and every N
of the paper's aligner. A missed budget is printed as MISSED and named again below the table; the exit code is 0 unless
--strict.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":  # the scripts of this folder first, then the checkout
    sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import aligner
import commands
import context
import denoising
import growth
import guided
import operators
import stages
import table
import torch
import whole
from models import ROOT, Bench
from table import Row
from timing import Effort, machine
from tqdm import tqdm

Section = Callable[[Bench], Iterator[Row]]

SECTIONS: list[Section] = [
    operators.rows,
    aligner.rows,
    context.rows,
    guided.rows,
    denoising.rows,
    whole.rows,
    commands.rows,
    stages.rows,
    growth.rows,
]
"""What is measured, in this order; a new group of rows is one more function here."""


def measure(bench: Bench, sections: list[Section]) -> list[Row]:
    """All rows, those of one budget together."""
    rows: list[Row] = []
    with tqdm(sections, unit="section", file=sys.stderr, desc="bench") as progress:
        bench.say = progress.set_postfix_str
        for section in progress:
            rows += section(bench)
    order = list(dict.fromkeys(row.design for row in rows))
    order.sort(key=lambda design: design == table.GROWTH)
    return sorted(rows, key=lambda row: order.index(row.design))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: its own choice)")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="the machine has other work: one thread, processor time instead of wall-clock time",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: shows that it works, no more")
    parser.add_argument("--full", action="store_true", help="also ComfyUI's start, make demo, make test, every N")
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a budget is missed")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "bench.json", help="JSON file to write")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown instead")
    parser.add_argument(
        "--readme",
        type=Path,
        nargs="?",
        const=ROOT / "benchmarks" / "README.md",
        help=f"also rewrite the table between {table.BEGIN} and {table.END} of this file",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, sections: list[Section] | None = None) -> int:
    arguments = parse(argv)
    if arguments.busy or arguments.threads:
        torch.set_num_threads(1 if arguments.busy else arguments.threads)
    device = torch.device(arguments.device)
    if arguments.busy and device.type != "cpu":
        print("error: --busy counts the processor's work: it goes with --device cpu.", file=sys.stderr)
        return 2
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda: torch sees no CUDA device here.", file=sys.stderr)
        return 2
    clock = time.process_time if arguments.busy else time.perf_counter
    effort = Effort(seconds=0.2, rounds=3, least=1, clock=clock) if arguments.quick else Effort(clock=clock)
    bench = Bench(device, arguments.quick, arguments.full, effort)
    report = {
        "version": 1,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine(device),
        "clock": "processor" if arguments.busy else "wall",
        "quick": arguments.quick,
        "full": arguments.full,
    }
    rows = measure(bench, SECTIONS if sections is None else sections)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(table.as_json(rows, report), indent=1, ensure_ascii=False, allow_nan=False)
    arguments.out.write_text(data + "\n", encoding="utf-8")
    markdown = table.as_markdown(rows, report)
    print(markdown if arguments.markdown else table.as_text(rows, report))
    if arguments.readme:
        try:
            table.rewrite(arguments.readme, markdown)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 1 if arguments.strict and table.missed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
