"""Memory of the gradient through Stable Diffusion's decoder, with and without checkpointing.

python benchmarks/decoder_memory.py [SIDE …] [--dtype bfloat16] [--only checkpointed]

Each case is a process of its own, whose largest resident set is read: what was there before the decoding is taken off.
Weights are random. 1024 without checkpointing takes 12 GiB in bfloat16, and 26 in float32.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
MODES = ("plain", "checkpointed")


def measure(side: int, dtype: str, forgets: bool, out: str) -> None:
    """One case: prints GiB and processor seconds, and leaves the gradient in the file `out`."""
    import torch
    from timing import largest_resident

    from reposedm_core.diffusion import checkpointing
    from reposedm_core.diffusion.autoencoder import KLAutoencoder
    from reposedm_core.presets import STABLE_DIFFUSION_VAE

    with suppress(OSError):  # where memory runs out, it is this process that ends
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.manual_seed(0)
    network = KLAutoencoder(STABLE_DIFFUSION_VAE).eval().requires_grad_(False).to(getattr(torch, dtype))
    latent = torch.randn(1, 4, side // 8, side // 8).to(getattr(torch, dtype)).requires_grad_()
    checkpointing.LARGE = 0 if forgets else side * side + 1
    before, begun = largest_resident(), time.process_time()
    (gradient,) = torch.autograd.grad(network.decode(latent).float().square().mean(), latent)
    print(f"{(largest_resident() - before) / GIB:.2f} {time.process_time() - begun:.1f}")
    torch.save(gradient, out)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sides", nargs="*", type=int, default=[512], help="pixels, multiples of 8 (default: 512)")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--only", choices=MODES, help="one of the two")
    parser.add_argument("--case", nargs=2, metavar=("MODE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.case:
        measure(options.sides[0], options.dtype, options.case[0] == "checkpointed", options.case[1])
        return 0
    import torch

    print(f"{options.dtype}, {torch.get_num_threads()} threads\n")
    print("| side | | GiB | processor seconds |\n|---|---|---:|---:|")
    same = True
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sides:
            gradients = []
            for mode in [options.only] if options.only else MODES:
                file = Path(folder, mode)
                case = [str(side), "--dtype", options.dtype, "--case", mode, str(file)]
                run = subprocess.run([sys.executable, __file__, *case], cwd=ROOT, capture_output=True, text=True)
                if run.returncode:
                    lines = run.stderr.strip().splitlines() or [f"ended by signal {-run.returncode}"]
                    print(f"| {side} | {mode} | {lines[-1]} | |", flush=True)
                    continue
                print(f"| {side} | {mode} | {' | '.join(run.stdout.split())} |", flush=True)
                gradients.append(torch.load(file, weights_only=True))
            if len(gradients) == 2:
                same &= torch.equal(*gradients)
                print(f"\n{side}: the gradients are {'the same' if torch.equal(*gradients) else 'DIFFERENT'}\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.path.insert(1, str(ROOT))
    sys.exit(main())
