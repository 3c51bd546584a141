"""Does a GPU do what the CPU does, and how quickly? `make gpu-check`, or python benchmarks/gpu_check.py

Networks in three precisions against the CPU, sampling with and without the field, a training step of each network with
and without torch.compile, windowed attention by flex_attention and in tiles, and a table of ratios for this folder's
README.md. Weights are random: they cost what trained ones cost. It needs nothing but what requirements.txt names,
starts with less, and says first what is missing and what is therefore left out. `--device cpu --tiny` is a dry run on
few channels; `--device cpu --only compiled --minutes 30` tries torch.compile on a processor.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(1, str(ROOT))

NEEDED = ("torch", "numpy", "einops", "safetensors", "PIL", "scipy")
"""Without these there is nothing to check."""
OPTIONAL = {"diffusers": "the denoiser, Stable Diffusion's and the tiny autoencoder: all sampling and their training"}
"""What is left out without the others."""
MINUTES = 5.0
"""What is not begun by then is left out, and said to be."""
SECTIONS = ("precisions", "sampling", "training", "windows", "compiled")
"""The checks, in their order."""


def lacking(find: Callable[[str], object] = importlib.util.find_spec) -> tuple[list[str], list[str]]:
    """The libraries that are missing: those without which nothing runs, and the others."""
    return [name for name in NEEDED if find(name) is None], [name for name in OPTIONAL if find(name) is None]


def main(argv: list[str] | None = None) -> int:
    """0 where every check held; 1 where one did not; 2 where nothing could be checked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="few channels and small pictures: that it runs, no more")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what is not begun by then is left out")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="some of the checks")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    options = parser.parse_args(argv)
    needed, optional = lacking()
    for name in needed:
        print(f"missing: {name}: nothing can be checked without it; pip install -r requirements.txt")
    for name in optional:
        print(f"missing: {name}: left out: {OPTIONAL[name]}")
    if needed:
        return 2
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: --device cuda: torch sees no CUDA device here; --device cpu --tiny is a dry run.", file=sys.stderr
        )
        return 2
    from gpu_checks import Checks

    checks = Checks(torch.device(options.device), options.tiny, not optional, not options.no_compile)
    print(f"{checks.machine()} · torch {torch.__version__}" + (" · TINY: no number counts" if options.tiny else ""))
    deadline, failed = time.monotonic() + 60 * options.minutes, 0
    for name, lines in sections(checks, options.only):
        if time.monotonic() > deadline:
            print(f"\n{name}: left out, {options.minutes:g} minutes are over")
            continue
        print(f"\n{name}")
        for line, good in lines(deadline):
            failed += not good
            print(line if good else f"{line}  <- FAILED", flush=True)
    print(f"\n{failed} checks failed." if failed else "\nEvery check held.")
    return 1 if failed else 0


def sections(checks, chosen: Sequence[str]) -> Iterator[tuple[str, Callable[[float], Iterator[tuple[str, bool]]]]]:
    """What is checked, in this order; the ratios come last and are the table."""
    import gpu_compilers

    known = {
        "precisions": ("networks against the CPU in float32, difference as a share of the result", checks.precisions),
        "sampling": ("sampling, with the field and without", checks.sampling),
        "training": ("one training step of each network", checks.training),
        "windows": (
            "windowed attention by flex_attention against tiles, difference as a share of the result",
            partial(gpu_compilers.windows, checks),
        ),
        "compiled": (
            "a pass of the denoiser compiled against eager, difference as a share of the result",
            partial(gpu_compilers.compiling, checks),
        ),
    }
    for name in SECTIONS:
        if name in chosen:
            yield known[name]
    yield "table", partial(checks.table, "sampling" in chosen)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main())
