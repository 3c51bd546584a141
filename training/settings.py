"""Typed training settings, read from YAML and overridden on the command line as key=value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reposedm_core.errors import InputError

STAGES = ("autoencoder", "estimator", "aligner", "denoiser")


@dataclass
class StageSettings:
    """One stage's optimisation.

    Attributes:
        steps: optimiser steps; the learning rate decays over them.
        batch: examples a step (a process).
        lr: peak learning rate, after `warmup` steps; it falls along a cosine to `lr_end` times the peak.
        minutes: stop a run after so long and keep the state (0: no limit). The schedule follows steps alone.
        save_every: steps between checkpoints.
        ema: decay of the weight average.
        init: exported checkpoint whose weights of this stage training starts from; a state in `out` comes first.
        bf16: compute in bfloat16 where torch's autocast does (weights stay float32). On CPUs with AVX512-BF16 it is
            a third faster; on others it may be slower.
    """

    steps: int = 1000
    batch: int = 16
    lr: float = 1e-3
    lr_end: float = 0.02
    warmup: int = 100
    weight_decay: float = 0.01
    minutes: float = 0.0
    save_every: int = 200
    ema: float = 0.998
    init: str = ""
    bf16: bool = False


@dataclass
class DenoiserSettings(StageSettings):
    """Denoiser training.

    Attributes:
        dropout: share of examples whose pose and source are dropped together (eq. 16).
        noise_power: t = T·u**noise_power for uniform u: 1 is uniform, below 1 there are more noisy examples.
        vlb_weight: factor of L_vlb (eq. 4); 0 trains without it.
        field_limit: with a preset whose field.training is above 0, how far ∇G may move a prediction at most, in root
            mean squares of the noise (**ours**); 0 is eq. 15 as written, whose step is many times the noise itself.
        pairs: how many aligned pairs are cached.
        colour_shuffle: share of examples whose red, green and blue change places, in source and target alike: clothes
            then come in more colours than the set has, and copying them pays more than remembering them.
    """

    dropout: float = 0.1
    noise_power: float = 1.0
    vlb_weight: float = 0.001
    field_limit: float = 0.1
    pairs: int = 20000
    colour_shuffle: float = 0.5


@dataclass
class AlignerSettings(StageSettings):
    """Aligner training: `first_steps` of the steps train the first iteration alone, the others all N."""

    first_steps: int = 0


@dataclass
class Settings:
    """A whole run.

    Attributes:
        preset: name in `reposedm_core.PRESETS`.
        data: folder of the training set.
        out: folder for checkpoints, logs and the exported model.
        stages: which stages to run, always in the order of `STAGES`; results of the others are read from `out`.
        resume: go on from the state in `out`, where there is one.
        threads: torch's CPU threads, 0 = its own choice.
        name: file name of the exported model.
        notes: what else the model card should say.
    """

    preset: str = "mini"
    data: str = "data/synthetic"
    out: str = "runs/mini"
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    seed: int = 0
    resume: bool = True
    threads: int = 0
    device: str = "auto"
    name: str = "reposedm-mini"
    notes: str = ""
    autoencoder: StageSettings = field(default_factory=StageSettings)
    estimator: StageSettings = field(default_factory=StageSettings)
    aligner: AlignerSettings = field(default_factory=AlignerSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)


def load_settings(config: str | Path | None, overrides: list[str]) -> Settings:
    """Defaults, then the YAML file, then key=value overrides; unknown keys are refused by name."""
    merged = OmegaConf.structured(Settings)
    try:
        if config:
            if not Path(config).is_file():
                raise InputError(f"Configuration {config}: no such file.")
            merged = OmegaConf.merge(merged, OmegaConf.load(config))
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(overrides))
    except OmegaConfBaseException as error:
        raise InputError(f"Configuration: {str(error).splitlines()[0]}") from error
    settings = OmegaConf.to_object(merged)
    unknown = [stage for stage in settings.stages if stage not in STAGES]
    if unknown:
        raise InputError(f"stages: unknown {unknown}; known are {', '.join(STAGES)}.")
    return settings
