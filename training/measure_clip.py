"""Does a person stay the same from frame to frame? python training/measure_clip.py --out FOLDER [--weights FILE]

Renders clips of synthetic people who move, makes every frame anew from a picture of the person standing, and measures
how much the colour of a point of the surface changes from one frame to the next, by the renderer's correspondence: with
noise of its own for each frame and with one for all, with the face kept, with poses from the estimator as they are
and smoothed. Writes clip.json, clip.md and a sheet per clip. Needs `anny`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core import RePoseDMPipeline
from reposedm_core.errors import InputError
from training.evaluation.clip import markdown, measure_clips
from training.synthetic.body import load_body
from training.synthetic.clip import movement, render_clip

MOVEMENTS = (("walk", 0, 0), ("dance_a", 3, 20), ("punch", 2, -20), ("dance_b", 0, 10), ("run", 4, -25))
"""Captured clip, its first frame, and the turn of the body in degrees, for one person after another."""
EVERY = 25
"""Of the identities of a set every so manieth is a test person, whom no network was trained on."""


def at_least(least: int) -> Callable[[str], int]:
    """What reads a whole number that is not less."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for clip.json, clip.md and the sheets")
    parser.add_argument("--weights", help="checkpoint exported by training/train.py; that of the package if left out")
    parser.add_argument("--clips", type=at_least(1), default=5)
    parser.add_argument("--frames", type=at_least(2), default=12)
    parser.add_argument("--steps", type=int, help="of sampling, those of the preset if left out")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        pipe = RePoseDMPipeline.from_pretrained(options.weights, options.device)
        moving = [MOVEMENTS[number % len(MOVEMENTS)] for number in range(options.clips)]
        vectors = [(movement(name, first, options.frames), yaw) for name, first, yaw in moving]
        body, size = load_body(), (pipe.config.height, pipe.config.width)
        clips = (render_clip(body, 1, EVERY * number, *moves, *size) for number, moves in enumerate(vectors))
        found = measure_clips(pipe, clips, options.out, options.steps)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
