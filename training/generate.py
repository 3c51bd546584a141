"""Generate the synthetic people: a people set of dressed people in many poses, with all that is known of them.

    python training/generate.py --identities 4000 --poses 6 --seed 1 --out data/synthetic --workers 2

writes a people set (training/data/README.md): a folder of plain .npy arrays, I identities of K pictures each, H × W
pixels; row i·K + k is picture k of identity i.

    pictures    (n, H, W, 3) uint8   sRGB
    joints      (n, 17, 3) float32   COCO-17: x, y in pixels, 0 outside / 1 hidden / 2 visible
    openpose    (n, 18, 3) float32   OpenPose-18, the same meaning; the neck is the middle of the shoulders
    identity    (n,) int64           i
    split       (n,) uint8           0 train, 1 val (i % 25 == 1), 2 test (i % 25 == 0)
    views       (n, 2) float32       turn of the body in degrees (0 faces the camera) and kind of pose
    (`synthetic.poses.KINDS`) masks       (n, H, W) uint8      1 on the person, 2 on the second person
    garments    (n, H, W) uint8      what the person's pixels show: `synthetic.materials.LABELS`
    done        (n,) uint8           1 once the row is on disk; a stopped run goes on from here
    others      (n, 17, 3) float32   with --second-person: that person's joints, zero where there is none
    flow        (n, K, h, w, 2) float16   with --correspondence, [source row, number of the target picture], h × w cells
                                     of --cell pixels: where the surface point at a target cell's centre lies in the
                                     source, in grid_sample's coordinates (align_corners=False); 0 off the person
    visibility  (n, K, h, w) uint8   with it: 0 not the person, 1 hidden in the source, 2 visible in the source
    surface     (n, h, w, 3) float16 with it: which point of the body a picture shows at a cell's centre, by the rest
                                     coordinates of the template (`body`), the same for everybody; 0 off the person

and README.md, the data card, and sheet.jpg, the first identities. Identity i depends on (seed, i) only, so neither the
number of workers nor an interruption changes a byte.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a script: make `training` importable from the project root
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __package__ = "training"

from reposedm_core.errors import InputError
from training.synthetic.contact_sheet import save_contact_sheet
from training.synthetic.data_card import write_card
from training.synthetic.generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=4000)
    parser.add_argument("--poses", type=int, default=6, help="pictures an identity (default 6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("data/synthetic"), help="folder of the set")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2); does not change the data")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--correspondence", action="store_true", help="also write flow, visibility and surface")
    parser.add_argument("--cell", type=int, default=4, help="pixels of a correspondence cell's side (default 4)")
    parser.add_argument(
        "--second-person", type=float, default=0.0, metavar="SHARE", help="pictures with a second person"
    )
    parser.add_argument("--sheet", type=Path, help="contact sheet (default: sheet.jpg in the folder)")
    args = vars(parser.parse_args())
    out, workers, sheet = args.pop("out"), args.pop("workers"), args.pop("sheet")
    try:
        generate(out, workers=workers, **args)
        save_contact_sheet(out, sheet or out / "sheet.jpg")
        write_card(out)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
