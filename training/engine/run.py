"""A whole run: the stages of a preset in turn, each from what is finished of it, and the export."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from reposedm_core.checkpoint import load_parts, read_header, save_model
from reposedm_core.config import ModelConfig, to_dict
from reposedm_core.errors import InputError
from reposedm_core.files import make_folder
from reposedm_core.fitting import filled
from reposedm_core.networks import PARTS, needs_aligner
from training.engine.distributed import open_accelerator
from training.engine.loop import train
from training.engine.model_card import make_card, write_log
from training.engine.settings import STAGES, Settings, model_of, tracker_names
from training.engine.stage import Stage
from training.metrics.vgg import VGGDistance

CLASSES = {
    "vae": "vae.VaeStage",
    "vae of kl": "vae_kl.KLVaeStage",
    "tiny": "tiny.TinyStage",
    "estimator": "estimator.EstimatorStage",
    "parser": "parser.ParserStage",
    "aligner": "aligner.AlignerStage",
    "aligner of matching": "matching_aligner.MatchingAlignerStage",
    "layout": "layout.LayoutStage",
    "reposedm": "denoiser.RePoseDMStage",
    "decoder": "reference_decoder.ReferenceDecoderStage",
    "reposesd": "reposesd.stage.RePoseSDStage",
}
"""Module and class of every stage, in training/stages."""


LATER = ("tiny", "parser", "layout")
SEEDS = {name: number for number, name in enumerate([*(name for name in STAGES if name not in LATER), *LATER])}
"""What each stage adds to the seed; stages that came later are behind the others, so that no other's changed."""


def stage_class(name: str, config: ModelConfig) -> type[Stage]:
    """The class of a stage for a preset."""
    kinds = {"vae": config.autoencoder.kind, "aligner": config.aligner.kind}
    special = f"{name} of {kinds.get(name)}"
    module, _, kind = CLASSES[special if special in CLASSES else name].rpartition(".")
    return getattr(import_module(f"training.stages.{module}"), kind)


def stages_of(config: ModelConfig) -> tuple[str, ...]:
    """The stages that make a preset: B1 has no aligner, a text-conditioned model is RePoseSD."""
    if config.denoiser.texture == "text":
        return ("reposesd",)
    left_out = {"reposesd"} | (set() if needs_aligner(config) else {"aligner"})
    left_out |= {part for part in ("decoder", "tiny", "parser", "layout") if getattr(config, part).kind == "none"}
    return tuple(name for name in STAGES if name not in left_out)


def completes(wanted: list[str], config: ModelConfig) -> bool:
    """Do these stages end with the preset's last one, after which the whole model is exported?"""
    return bool(wanted) and wanted[-1] == stages_of(config)[-1] != "reposesd"


def run(settings: Settings) -> Path:
    """Run the stages of `settings`; returns the exported file.

    Raises:
        InputError: a setting, the data, or an earlier stage's result that is missing; the disk is full.
        Stopped: a stage was interrupted or its time is over; its state is saved.
        FloatingPointError: a loss is not finite; the last checkpoint is kept.
    """
    config, out = model_of(settings), Path(settings.out)
    if config.denoiser.texture != "text":
        config.check_together()
    wanted = [name for name in STAGES if name in (settings.stages or stages_of(config))]
    make_folder(out, "out")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    classes = {name: stage_class(name, config) for name in wanted}
    check_needs(classes, config, settings)
    if "decoder" in classes and settings.decoder.perceptual > 0:
        VGGDistance()  # what is not installed is reported now, not when the other stages are done
    for kind in classes.values():
        kind.check_data(settings.data)
    accelerator = open_accelerator(
        settings.device == "cpu", tracker_names(settings), out, any(each.unused for each in classes.values())
    )
    accelerator.init_trackers(
        "reposedm",
        config={"preset": settings.preset, "data": settings.data, "seed": settings.seed, "stages": ",".join(wanted)},
    )
    networks: dict[str, torch.nn.Module] = {}
    try:
        for name, kind in classes.items():
            run_stage(name, kind, config, settings, accelerator, networks)
    finally:
        accelerator.end_training()
    path = out / f"{settings.name}.safetensors"
    parts = {part for name in stages_of(config) for part in [stage_class(name, config).part]}
    if completes(wanted, config) and accelerator.is_main_process:
        load_finished(parts - set(networks), config, settings, networks)
        save_model(
            path,
            {part: networks[part] for part in PARTS if part in parts},
            to_dict(config),
            make_card(settings, out, accelerator.device, list(stages_of(config))),
        )
        print(f"Exported {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def run_stage(
    name: str,
    kind: type[Stage],
    config: ModelConfig,
    settings: Settings,
    accelerator: Accelerator,
    networks: dict[str, torch.nn.Module],
) -> None:
    """Train one stage, or take what is finished of it; writes its result and adds it to `networks`."""
    out = Path(settings.out)
    needed = kind.needs(config)
    load_finished(set(needed) - set(networks), config, settings, networks)
    set_seed(settings.seed + SEEDS[name])
    stage = kind(
        config,
        getattr(settings, name),
        settings.data,
        Path(settings.cache or out),
        {part: networks[part].cpu() for part in needed},
        accelerator.device,
    )
    network, log = train(stage, out, settings.seed, accelerator, settings.resume)
    networks.update(stage.parts_of(network.cpu()))
    if accelerator.is_main_process:
        write_log(name, log, out)
        stage.save(network, out / f"{name}.safetensors", make_card(settings, out, accelerator.device, [name]))
    accelerator.wait_for_everyone()


def finished_file(part: str, config: ModelConfig, settings: Settings) -> Path:
    """Where an earlier run left a part: in `out`, else in `parts`; the former where neither has it.

    An aligner that was trained with the denoiser (`reposedm.train_aligner`) lies with it, and comes first.
    """
    name = next((name for name in stages_of(config) if stage_class(name, config).part == part), None)
    if name is None:
        raise InputError(f"stages: preset {settings.preset} makes no {part}, which one of them needs; leave that out.")
    files = [Path(folder) / f"{name}.safetensors" for folder in (settings.out, settings.parts) if folder]
    if part == "aligner":
        files = [_with_denoiser(file) or file for file in files]
    return next((file for file in files if file.is_file()), files[0])


def _with_denoiser(file: Path) -> Path | None:
    """The result of stage `reposedm` beside an aligner's file, if it holds an aligner, too."""
    joint = file.with_name("reposedm.safetensors")
    return joint if joint.is_file() and "aligner" in read_header(joint)["parts"] else None


def check_needs(classes: dict[str, type[Stage]], config: ModelConfig, settings: Settings) -> None:
    """Raise an `InputError` that names a stage whose result is needed, and neither made in this run nor found."""
    made: set[str] = set()
    own = stages_of(config)
    start, joint = settings.aligner, settings.reposedm.train_aligner
    if {"aligner", "reposedm"} <= set(classes) and not (joint or start.steps or start.init):
        raise InputError(
            "aligner.steps = 0, and reposedm.train_aligner is false: nothing would train the aligner. Give one of "
            "them, or aligner.init, a checkpoint that holds one."
        )
    for name, kind in classes.items():
        if "reposedm" not in own and kind.needs(config):
            raise InputError(
                f"stages: {name} needs stages that preset {settings.preset} has not; its own are {', '.join(own)}."
            )
        for part in kind.needs(config):
            file = finished_file(part, config, settings)
            if part not in made and not file.is_file():
                raise InputError(
                    f"Stage {name} needs the result of stage {file.stem}, which stages leaves out, and "
                    f"{file.parent} has none of an earlier run: run that stage first, or name the folder "
                    f"of a run that has it, parts=FOLDER."
                )
        made.add(kind.part)
    if completes(list(classes), config):
        for part in sorted({stage_class(name, config).part for name in stages_of(config)} - made):
            file = finished_file(part, config, settings)
            if not file.is_file():
                raise InputError(
                    f"The whole model also needs the result of stage {file.stem}, and {file.parent} has "
                    "none: run that stage, too, or name the folder of a run that has it, parts=FOLDER."
                )


def load_finished(
    parts: set[str], config: ModelConfig, settings: Settings, networks: dict[str, torch.nn.Module]
) -> None:
    """Add to `networks` the parts that an earlier run left."""
    for part in sorted(parts):
        file = finished_file(part, config, settings)
        held, _ = load_parts(file)
        if part not in held:
            raise InputError(f"{file} holds {', '.join(sorted(held))}, and no {part}: run stage {file.stem} again.")
        networks[part] = filled(partial(PARTS[part], getattr(config, part)), held[part], f"{file}: {part}")
