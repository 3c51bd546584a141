"""Every stage for a few steps, on the CPU: python training/train_tiny.py [--out FOLDER]

Generates a few small people and trains on them what `train.py` can train: the full model, B1 and B2, a model of the
second generation with its parser and layout network, and RePoseSD from a Stable Diffusion 2.1 of few channels and
random weights. Then the experiments that are made of trained models: Table 3, re-identification for a few steps, the
page of a perception study. It shows that everything runs, and no more: the pictures of the results are noise. Running
it again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import string
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: modules are found from the repository's root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from reposedm_core.presets import VARIANTS
from training import dress, evaluate, evaluate_captioned, figures, prepare, study_perception, study_reid
from training.synthetic import generate
from training.train import CONFIGS, main

SET = {"identities": 5, "poses": 3, "seed": 1, "height": 64, "width": 48, "correspondence": True, "cell": 2}
"""Of the five people one tests, one validates and three train."""
DIM, WORDS = 32, 12
"""Channels of the text encoder's states, and words of a caption."""


def write_tokenizer(folder: Path) -> list[str]:
    """A tokenizer of CLIP's kind that knows letters; its words."""
    letters = string.ascii_lowercase
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return words


def write_clip(folder: Path) -> None:
    """A CLIP as transformers saves it, of few channels, random everywhere."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    words = write_tokenizer(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = {"vocab_size": len(words), "max_position_embeddings": WORDS}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=small | text | ends, vision_config=small | {"image_size": 32, "patch_size": 8})
    CLIPModel(config).save_pretrained(folder)
    sizes: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=WORDS)
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)


def write_stable_diffusion(root: Path) -> None:
    """A Stable Diffusion 2.1 as diffusers saves it, of few channels, random everywhere."""
    from diffusers.models import AutoencoderKL, UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    words = write_tokenizer(root / "tokenizer")
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        "unet": UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=(64, 128),
            layers_per_block=1,
            cross_attention_dim=DIM,
            attention_head_dim=(1, 2),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            use_linear_projection=True,
        ),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=2,
            norm_num_groups=8,
            latent_channels=4,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=DIM,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=1,
                max_position_embeddings=WORDS,
                bos_token_id=len(words) - 2,
                eos_token_id=len(words) - 1,
                pad_token_id=len(words) - 1,
            )
        ),
    }
    for part, network in networks.items():
        network.save_pretrained(root / part)
    DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(root / "scheduler")


def runs(out: Path) -> list[list[str]]:
    """Arguments of `train.py`, run by run."""
    common = [str(CONFIGS / "tiny.yaml"), f"data={out / 'people'}"]
    full = [*common, f"out={out / 'full'}"]
    ablations = [
        [
            *common,
            f"out={out / name}",
            f"preset=mini-{name}",
            f"model.name=tiny-{name}",
            "stages=[reposedm]",
            f"parts={out / 'full'}",
            f"cache={out / 'full'}",
            f"name=reposedm-tiny-{name}",
        ]
        for name in VARIANTS
    ]
    second = [str(CONFIGS / "tiny-256.yaml"), f"data={out / 'people'}", f"out={out / 'second'}"]
    reposesd = [
        str(CONFIGS / "reposesd.yaml"),
        f"data={out / 'people'}",
        f"out={out / 'reposesd'}",
        "device=cpu",
        f"reposesd.start={out / 'stable-diffusion'}",
        "model.field.training=0",
        "reposesd.steps=4",
        "reposesd.batch=2",
        "reposesd.accumulate=1",
        "reposesd.workers=0",
        "reposesd.bf16=false",
    ]
    return [full, *ablations, second, reposesd]


def table_3(out: Path) -> list[str]:
    """Arguments of `evaluate_captioned.py`: the RePoseSD that was trained, with the field and without."""
    if not (out / "clip" / "config.json").is_file():
        write_clip(out / "clip")
    return [
        f"--data={out / 'people'}",
        f"--out={out / 'table-3'}",
        f"--weights=RePoseSD={out / 'reposesd' / 'reposesd.safetensors'}",
        f"--tokenizer={out / 'stable-diffusion' / 'tokenizer'}",
        f"--estimator={out / 'full' / 'estimator.safetensors'}",
        f"--clip={out / 'clip'}",
        "--steps=2",
        "--count=2",
    ]


def experiments(out: Path) -> list[tuple[Callable[[list[str]], int], list[str]]]:
    """Commands and arguments of the experiments on the models that `runs` leaves."""
    full, b1 = out / "full" / "reposedm-tiny.safetensors", out / "b1" / "reposedm-tiny-b1.safetensors"
    cameras, pictures = out / "cameras", out / "evaluation" / "pictures"
    size = f"{SET['height']}x{SET['width']}"
    reid = [
        f"--root={cameras}",
        f"--data={out / 'market'}",
        f"--out={out / 'reid'}",
        f"--weights=RePoseDM={full}",
        f"--weights=B1={b1}",
        "--shares=50",
        "--seeds=0",
        "--backbone=test_resnet",
        "--size=32x16",
        "--steps=2",
        "--people=2",
        "--each=2",
    ]
    measured = [
        f"--weights={full}",
        f"--also=B1={b1}",
        f"--data={out / 'people'}",
        f"--out={out / 'evaluation'}",
        "--pairs=3",
        "--steps=2",
        "--field-strength=0",
        "--real=none",
        f"--save-pictures={pictures}",
    ]
    study = [
        f"--real={pictures / 'ground-truth'}",
        f"--generated={pictures / 'reposedm'}",
        f"--sources={pictures / 'copy-the-source'}",
        f"--poses={pictures / 'pose'}",
        f"--method=RePoseDM={pictures / 'reposedm'}",
        f"--method=B1={pictures / 'b1'}",
        "--reals=1",
        "--fakes=1",
        "--sets=1",
        "--checks=1",
        f"--out={out / 'perception'}",
    ]
    return [
        (evaluate_captioned.main, table_3(out)),
        (study_reid.main, ["cameras", f"--data={out / 'people'}", f"--out={cameras}", "--cameras=2"]),
        (prepare.main, ["market1501", f"--root={cameras}", f"--out={out / 'market'}", f"--size={size}", "--workers=1"]),
        (study_reid.main, ["run", *reid]),
        (evaluate.main, measured),
        (study_perception.main, ["make", *study]),
        (figures.main, ["fig5", f"--pictures={pictures}", "--method=B1", "--method=RePoseDM", f"--out={out / 'fig5'}"]),
        (dress.main, [f"--weights={full}", f"--data={out / 'people'}", "--split=train", f"--out={out / 'fig4'}"]),
    ]


def train_tiny(out: Path, *more: str) -> int:
    """All of it in `out`; `more` are settings of every run. The exit code of the first command that fails, or 0."""
    begun = time.monotonic()
    generate.generate(out / "people", workers=1, **SET)
    if not (out / "stable-diffusion" / "scheduler").is_dir():
        write_stable_diffusion(out / "stable-diffusion")
    for arguments in runs(out):
        code = main([*arguments, *more])
        if code:
            return code
    for command, arguments in experiments(out):
        code = command(arguments)
        if code:
            return code
    print(f"Every stage ran, in {time.monotonic() - begun:.0f} s.")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="folder (default: runs/tiny)")
    parser.add_argument("settings", nargs="*", help="key=value for every run, e.g. tracker=none")
    options = parser.parse_args()
    raise SystemExit(train_tiny(options.out, *options.settings))
