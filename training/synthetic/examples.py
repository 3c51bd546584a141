"""Export the example people that the workflows use: python training/synthetic/examples.py DATA workflows/examples

They are test identities, which no network was trained on, and were picked before any result was seen. For each:
NAME.png (source), NAME_mask.png (its clothes), NAME_source.json (its POSE_KEYPOINT), NAME_target.png (the true picture
in the target pose) and NAME_pose.json (the target POSE_KEYPOINT).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if not __package__:  # run as a script: modules are found from the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from PIL import Image, ImageFilter

from reposedm_core.files import write_picture, write_text
from reposedm_core.pose import Pose, to_keypoints
from training.data.people_set import People
from training.synthetic.materials import LABELS

EXAMPLES = {
    "blue_dress": (2150, 0, 3),
    "blue_shirt": (2350, 1, 5),
    "lime_top": (900, 1, 2),
    "red_trousers": (650, 0, 2),
    "striped_shirt": (2875, 0, 1),
    "teal_trousers": (325, 2, 4),
}
"""Name: identity (4,000 identities, 6 poses, seed 1, revision 3 of the generator), source and target picture."""

CLOTHES = [LABELS.index(name) for name in ("top", "bottom", "dress")]
MARGIN = 2
"""Pixels around the clothes that the mask covers too: their edges are blended with what is behind them."""


def export(data: People, folder: Path) -> None:
    """Write every example's files."""
    for name, (identity, source, target) in EXAMPLES.items():
        if identity not in data.identities:
            raise SystemExit(f"{data.root} has no test identity {identity}: make it with --identities 4000 --seed 1.")
        for suffix, index in (("", source), ("_target", target)):
            picture = data.read("pictures", np.array([identity]), np.array([index]))[0]
            write_picture(folder / f"{name}{suffix}.png", Image.fromarray(picture), optimize=True)
        worn = data.read("garments", np.array([identity]), np.array([source]))[0]
        clothes = Image.fromarray(np.isin(worn, CLOTHES).astype(np.uint8) * 255)
        clothes = clothes.filter(ImageFilter.MaxFilter(2 * MARGIN + 1))
        write_picture(folder / f"{name}_mask.png", clothes, optimize=True)
        for suffix, index in (("source", source), ("pose", target)):
            joints = data.openpose(np.array([identity]), np.array([index])).clip(max=[1e9, 1e9, 1])
            pose = to_keypoints(Pose(joints.round(2), data.height, data.width))
            write_text(folder / f"{name}_{suffix}.json", json.dumps(pose) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of the synthetic set")
    parser.add_argument("out", type=Path, help="folder to write to")
    options = parser.parse_args()
    export(People(options.data, "test"), options.out)
