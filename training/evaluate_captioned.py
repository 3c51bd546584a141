r"""Table 3: sample RePoseSD and HumanSD on captions and poses, and measure what they made.

    python training/evaluate_captioned.py --data FOLDER --out FOLDER --weights NAME=FILE --tokenizer FOLDER \
        --estimator FILE --judge FILE --clip FOLDER --protocol humansd

Each --weights is sampled without the pose interaction field and, with --estimator, with it, from the same noise, into
OUT/pictures, beside the drawn poses and the captions; a run that was stopped goes on there. --pictures NAME=FOLDER
measures pictures that anything else made: one PNG for each picture of the set, 00000.png and so on in its order.

Do the pictures show the people that were asked for (AP, AP(m), CAP, PCE), do they look like the set's (FID, KID), and
do they fit their captions (CLIP score)? Two protocols have names: "ours" measures all pictures at once, "humansd" as
HumanSD's public code does it, scene by scene. Writes results.json and results.md. Under `accelerate launch` the
pictures are shared among the processes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder
from training.data.captions import open_captions
from training.data.people_set import SPLITS
from training.evaluation.captioned import FID, Tools, evaluate
from training.evaluation.compare import join_processes, processes
from training.evaluation.picture_files import named
from training.evaluation.protocols import PROTOCOLS, protocol_of
from training.evaluation.text_models import WITH_FIELD, Sampling, TextModel, open_source, sample_set, save_asked
from training.metrics.distribution import EXTRACTORS


def sample(
    data: Path, split: str, count: int, weights: dict[str, Path], how: Sampling, out: Path
) -> tuple[dict[str, Path], dict[str, dict]]:
    """Sample every model of `weights` into OUT/pictures: row → its folder, and row → how it was sampled."""
    captioned = open_captions(data, split)
    total = min(count or len(captioned), len(captioned))
    folders: dict[str, Path] = {}
    settings: dict[str, dict] = {}
    for name, path in weights.items():  # what may fail, before the first is sampled
        open_source(name, path, how)
    for name, path in weights.items():
        model = TextModel(name, path, (captioned.height, captioned.width), how)
        made = sample_set(captioned, total, model, out / "pictures")
        folders |= made
        settings |= {row: model.settings(row, captioned.name) for row in made}
        del model  # before the next one is read: two at once would take twice the memory
    if weights:
        save_asked(captioned, total, out / "pictures")
    return folders, settings


def parse(arguments: list[str] | None) -> dict:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="captioned set written by training/prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--weights",
        type=named,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="RePoseSD, HumanSD, or a folder of diffusers, to be sampled",
    )
    parser.add_argument(
        "--pictures", type=named, action="append", default=[], metavar="NAME=FOLDER", help="pictures made elsewhere"
    )
    parser.add_argument("--protocol", default="ours", choices=tuple(PROTOCOLS))
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--count", type=int, default=0, help="the first pictures of the split (default: all)")
    sampling = parser.add_argument_group("sampling (of --weights)")
    sampling.add_argument("--tokenizer", type=Path, help="folder of CLIP's tokenizer, which a checkpoint file needs")
    sampling.add_argument("--estimator", type=Path, help="pose estimator of the rows with the field (without: no such)")
    sampling.add_argument("--estimator-udp", action="store_true", help="these public weights were trained with UDP")
    sampling.add_argument("--field-strength", type=float, help="of these rows (default: the file's; 0: no such rows)")
    sampling.add_argument("--steps", type=int, help="DDIM steps (default: the protocol's, else the file's)")
    sampling.add_argument("--guidance-scale", type=float, help="w_c (default: the protocol's, else the file's)")
    sampling.add_argument("--seed", type=int, default=0)
    sampling.add_argument("--sample-batch", type=int, default=4, help="pictures sampled at once (default: %(default)s)")
    sampling.add_argument("--bf16", action="store_true", help="the U-Net computes in bfloat16")
    parser.add_argument(
        "--judge",
        type=Path,
        help="public HigherHRNet weights, which find several people, "
        "estimator.safetensors of a training run, or the folder of a ViTPose (default: the shipped estimator)",
    )
    parser.add_argument(
        "--judge-udp", action="store_true", help="the public weights were trained with UDP (a name may say it)"
    )
    parser.add_argument("--clip", type=Path, help="folder of a CLIP, such as clip-vit-base-patch16 (without: no score)")
    parser.add_argument("--extractor", default="auto", choices=("auto", FID, *EXTRACTORS))
    parser.add_argument("--backbones", type=Path, help="folder of the weights of Inception-v3")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8, help="pictures measured at once (default: %(default)s)")
    return vars(parser.parse_args(arguments))


def run(options: dict) -> dict:
    """Sample and measure; what `evaluate` returns."""
    given_pictures, given_weights = options.pop("pictures"), options.pop("weights")
    pictures, weights = dict(given_pictures), dict(given_weights)
    if (not pictures and not weights) or options["count"] < 0 or min(options["batch"], options["sample_batch"]) < 1:
        raise InputError(
            f"count = {options['count']}, batch = {options['batch']}, sample_batch = {options['sample_batch']}, "
            f"{len(weights)} models and {len(pictures)} folders: give a model or more with --weights or a folder with "
            "--pictures, a count from 0 (all) and batches from 1."
        )
    rows = [name for name, _ in (*given_pictures, *given_weights)] + [name + WITH_FIELD for name in weights]
    if len(set(rows)) < len(rows):
        raise InputError(f"Two rows of the table may have one name ({', '.join(rows)}): name them apart.")
    make_folder(options["out"], "out")  # what may fail, before the work and not after it
    given = {name: options.pop(name) for name in ("judge", "judge_udp", "extractor", "backbones", "clip")}
    tools = Tools.open(options["protocol"], device=options["device"], **given)
    how = Sampling(
        protocol_of(options["protocol"]),
        options.pop("estimator"),
        options.pop("estimator_udp"),
        options.pop("field_strength"),
        options.pop("tokenizer"),
        options.pop("steps"),
        options.pop("guidance_scale"),
        options.pop("seed"),
        options.pop("sample_batch"),
        options["device"],
        options.pop("bf16"),
    )
    made, sampled = sample(options["data"], options["split"], options["count"], weights, how, options["out"])
    return evaluate(pictures={**made, **pictures}, tools=tools, sampled=sampled, **options)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    options["device"] = join_processes(options["device"])
    out = options["out"]
    try:
        run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if processes()[0] == 0:
        print((out / "results.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
