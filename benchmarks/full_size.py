"""Time and memory of a picture of the shipped model at the photograph's own size.

python benchmarks/full_size.py [WIDTHxHEIGHT …] [--threads 1]

Each size is a process of its own: seconds of its second picture, all steps and the field included, and its largest
resident set less what torch alone takes, so with the weights and the libraries that the pack loads. The photograph is
an example, enlarged.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from timing import largest_resident

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "workflows" / "examples"
GIB = 2**30


def measure(width: int, height: int, threads: int) -> None:
    """One size: prints seconds and GiB."""
    before = largest_resident()
    from PIL import Image

    from reposedm_core import RePoseDMPipeline

    torch.set_num_threads(threads or torch.get_num_threads())
    pipe = RePoseDMPipeline.from_pretrained()
    source = Image.open(EXAMPLES / "red_trousers.png").convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    for _ in range(2):
        result = None  # or the first would be held beside the second
        begun = time.perf_counter()
        result = pipe(source, str(EXAMPLES / "red_trousers_pose.json"), seed=1, output_size="source")
        seconds = time.perf_counter() - begun
    if result.to_pil().size != (width, height):
        raise SystemExit(f"the result is {result.to_pil().size}")
    print(f"{seconds:.2f} {(largest_resident() - before) / GIB:.2f}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "sizes", nargs="*", default=["192x256", "1024x1536", "7680x4320"], help="WIDTHxHEIGHT (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: its own)")
    parser.add_argument("--case", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes]
    if options.case:
        measure(*sizes[0], options.threads)
        return 0
    print("| width × height | seconds | GiB |\n|---|---:|---:|")
    for (width, height), size in zip(sizes, options.sizes, strict=True):
        case = [sys.executable, __file__, size, "--case", "--threads", str(options.threads)]
        run = subprocess.run(case, cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            print(run.stderr, file=sys.stderr)
            return run.returncode
        print(f"| {width} × {height} | {' | '.join(run.stdout.split())} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(1, str(ROOT))
    sys.exit(main())
