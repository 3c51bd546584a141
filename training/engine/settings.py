"""Typed training settings, read from YAML and overridden on the command line as key=value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from reposedm_core.config import ModelConfig, from_dict, to_dict
from reposedm_core.errors import InputError
from reposedm_core.presets import ESTIMATORS, PRESETS

STAGES = ("vae", "tiny", "estimator", "parser", "aligner", "layout", "reposedm", "decoder", "reposesd")
"""In the order in which they run."""
AUTO = "auto"
TRACKERS = ("none", "tensorboard", "wandb", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio")


@dataclass
class StageSettings:
    """One stage's optimisation.

    Attributes:
        steps: optimiser steps; the learning rate decays over them.
        batch: examples at a time in each process. A step sees batch × accumulate × processes of them.
        accumulate: batches whose gradients are averaged before the weights move. Batch norm sees one batch of each
            process at a time.
        lr: peak learning rate, after `warmup` steps; it falls along a cosine to `lr_end` times the peak.
        eps: of Adam. Gradients far below it move nothing; with the usual 1e-8 the rounding noise of a gradient that is
            0 in theory (of an attention's key bias, say) moves a weight as much as a real one.
        minutes: stop a run after so long and keep the state (0: no limit). The schedule follows steps alone.
        save_every: steps between checkpoints.
        log_every: steps between entries of the log.
        validate_every: steps between validations, each with a sample sheet; 0: only after the last step.
        ema: decay of the weight average.
        init: exported checkpoint whose weights of this stage training starts from; a state in `out` comes first. Stages
            vae, tiny and estimator also take public weights: Stable Diffusion's VAE, TAESD, a HigherHRNet of the
            preset's width.
        bf16: compute in bfloat16 where torch's autocast does (weights stay float32): true, false, or "auto", which
            times a few steps of both before the first one, takes the quicker and keeps to it for the whole stage. On
            CPUs with AVX512-BF16 or AMX bfloat16 is a third faster; on others it may be several times slower.
        checkpointing: forget activations and compute them again on the way back: less memory, a third more time.
        compile: torch.compile the trained network.
        workers: processes that load the examples, for each training process; 0 loads between the steps.
    """

    steps: int = 1000
    batch: int = 16
    accumulate: int = 1
    lr: float = 1e-3
    lr_end: float = 0.02
    warmup: int = 100
    weight_decay: float = 0.01
    eps: float = 1e-8
    minutes: float = 0.0
    save_every: int = 200
    log_every: int = 100
    validate_every: int = 0
    ema: float = 0.998
    init: str = ""
    bf16: bool | str = False
    checkpointing: bool = False
    compile: bool = False
    workers: int = 1


@dataclass
class VaeSettings(StageSettings):
    """Autoencoder training; what is here counts for Stable Diffusion's kind ("kl") alone.

    Attributes:
        crop: side of the random crops in pixels, a multiple of the stride; smaller pictures are taken whole.
        perceptual: factor of the perceptual distance (0: none).
        kl: factor of the divergence from a standard normal, a picture value.
        train_encoder: false trains the decoder alone and leaves the latents what they are.
    """

    crop: int = 256
    perceptual: float = 1.0
    kl: float = 1e-6
    train_encoder: bool = True


@dataclass
class TinySettings(StageSettings):
    """Training of the tiny autoencoder, by what the large one encodes and decodes.

    Attributes:
        noise: factor of the noise on the latents that are decoded, whose deviation is 0 to 0.08 without it.
    """

    noise: float = 4.0


@dataclass
class EstimatorSettings(StageSettings):
    """Estimator training.

    Attributes:
        estimates: a whole checkpoint; that share `estimated` of the examples are then pictures ŷ_0 that its denoiser
            makes in one pass from the noised latents of `pairs` training pairs, at all noise levels: nearly what
            guidance shows the estimator (**ours**).
    """

    estimates: str = ""
    estimated: float = 0.5
    pairs: int = 8000


@dataclass
class RePoseDMSettings(StageSettings):
    """Denoiser training.

    Attributes:
        dropout: share of examples whose pose and source are dropped together (eq. 16).
        noise_power: t = T·u**noise_power for uniform u: 1 is uniform, below 1 there are more noisy examples.
        vlb_weight: factor of L_vlb (eq. 4), here the term of one t: improved DDPM's 0.001 is that of the sum over T =
            1000 of them, of which one t is a sample, so the same is 1; 0 trains without it.
        field_limit: with a preset whose field.training is above 0, how far ∇G may move a prediction at most, in root
            mean squares of the noise (**ours**); 0 is eq. 15 as written, whose step is many times the noise itself.
        pairs: how many aligned pairs are cached.
        colour_shuffle: share of examples whose red, green and blue change places, in source and target alike: clothes
            then come in more colours than the set has, and copying them pays more than remembering them.
        flip: share of examples that are mirrored, with a linear encoder.
        person_weight, hidden_weight: how much more a latent cell of the person counts in L_mse, and one of him that the
            source hides (**ours**; of a set with correspondence).
        train_aligner: the diffusion loss trains the aligner as well, as sections 3.1 and 3.2 have it: pairs are aligned
            in every step, from the weights that stage aligner left (fresh ones with aligner.steps=0). false takes that
            aligner as it is, and aligns every pair once (**ours**). B1 has none to train.
    """

    dropout: float = 0.1
    noise_power: float = 1.0
    vlb_weight: float = 1.0
    field_limit: float = 0.1
    pairs: int = 20000
    colour_shuffle: float = 0.5
    flip: float = 0.0
    person_weight: float = 0.0
    hidden_weight: float = 0.0
    train_aligner: bool = False


@dataclass
class LayoutSettings(StageSettings):
    """Training of the layout network.

    Attributes:
        pairs: how many aligned pairs are cached; the same as the denoiser's and the decoder's where they are as many.
        flip: share of examples that are mirrored.
    """

    pairs: int = 20000
    flip: float = 0.5


@dataclass
class DecoderSettings(StageSettings):
    """Training of the decoder that sees the source.

    Attributes:
        pairs: how many aligned pairs are cached; the denoiser's cache serves where it has as many, mirrored ones too.
        perceptual: factor of the perceptual loss on VGG's features (0: none).
        person_weight: how much more a pixel on or near the person counts in L1.
        adversarial: factor of what a critic of patches says against the pictures; 0 trains without one.
    """

    pairs: int = 20000
    perceptual: float = 0.5
    person_weight: float = 2.0
    adversarial: float = 0.0


@dataclass
class AlignerSettings(StageSettings):
    """Aligner training: `first_steps` of the steps train the first iteration alone, the others all N.

    Each of the two has its own warm-up and fall of the learning rate. `group`: with an aligner of kind "matching", the
    pictures of each of the `batch` people, all ordered pairs of which are examples.
    """

    first_steps: int = 0
    group: int = 3


@dataclass
class RePoseSDSettings(StageSettings):
    """RePoseSD's training from Stable Diffusion 2.1 (eq. 17) on a captioned set, or a people set.

    Attributes:
        start: local Stable Diffusion 2.1: a folder of diffusers, or a checkpoint file in LDM's layout.
        tokenizer: folder of CLIP's tokenizer (vocab.json, merges.txt); empty: the one in `start`.
        autoencoder: file with other weights of the VAE, such as those of the stage vae; empty: those in `start`.
        estimator: weights of the frozen pose estimator, an exported checkpoint or a public HigherHRNet file; not needed
            with model.field.training=0, without the field.
        field_limit: see `RePoseDMSettings`.
        dropout: share of examples whose caption and pose are dropped together.
        caption_dropout: share of the others whose caption alone is dropped.
        train: "all" weights, as section 4.4 is to be read ("we fine-tuned the SD model"), or only those of the
            "attention", self and cross, and of the first convolution, which reads the pose: an eighth of the weights,
            half the memory, and less of what Stable Diffusion knows is lost (**ours**).
        cache: encode every picture and caption once, before the first step: 220 kB each at 512×512. Without it they
            are encoded in every step, and pictures are cut out at random places.
        pictures: use only so many of the set, mixed; 0: all.
    """

    start: str = ""
    tokenizer: str = ""
    autoencoder: str = ""
    estimator: str = ""
    field_limit: float = 0.1
    dropout: float = 0.1
    caption_dropout: float = 0.0
    train: str = "all"
    cache: bool = True
    pictures: int = 0


@dataclass
class Settings:
    """A whole run.

    Attributes:
        preset: name in `reposedm_core.PRESETS`.
        model: what differs from the preset, under the names of `ModelConfig`: model.denoiser.layers=2. An estimator may
            be one of `presets.ESTIMATORS`: model.estimator=w32.
        data: folder of the training set.
        out: folder for checkpoints, logs and the exported model.
        stages: which stages to run, always in the order of `STAGES`; none named: all that the preset has. Results of
            the others are read from `out`, or from `parts`.
        parts: folder of another run whose finished stages are taken where `out` has none.
        cache: folder of cached latents, which several runs may share; by default `out`.
        resume: go on from the state in `out`, where there is one.
        threads: torch's CPU threads, 0 = its own choice.
        device: "auto" or "cpu".
        tracker: where curves and sample sheets go while training: one of `TRACKERS`, or several with commas.
        name: file name of the exported model.
        notes: what else the model card should say.
    """

    preset: str = "mini"
    model: dict[str, Any] = field(default_factory=dict)
    data: str = "data/synthetic"
    out: str = "runs/mini"
    stages: list[str] = field(default_factory=list)
    parts: str = ""
    cache: str = ""
    seed: int = 0
    resume: bool = True
    threads: int = 0
    device: str = "auto"
    tracker: str = "tensorboard"
    name: str = "reposedm-mini"
    notes: str = ""
    vae: VaeSettings = field(default_factory=VaeSettings)
    tiny: TinySettings = field(default_factory=TinySettings)
    estimator: EstimatorSettings = field(default_factory=EstimatorSettings)
    parser: StageSettings = field(default_factory=StageSettings)
    aligner: AlignerSettings = field(default_factory=AlignerSettings)
    layout: LayoutSettings = field(default_factory=LayoutSettings)
    reposedm: RePoseDMSettings = field(default_factory=RePoseDMSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    reposesd: RePoseSDSettings = field(default_factory=RePoseSDSettings)


def load_settings(config: str | Path | None, overrides: list[str]) -> Settings:
    """Defaults, then the YAML file, then key=value overrides; unknown keys are refused by name.

    Raises:
        InputError: no such file, not YAML, an unknown key, or an invalid value.
    """
    merged = OmegaConf.structured(Settings)
    try:
        if config:
            if not Path(config).is_file():
                raise InputError(f"Configuration {config}: no such file.")
            merged = OmegaConf.merge(merged, OmegaConf.load(config))
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(overrides))
        settings: Any = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, TypeError) as error:  # TypeError: a list
        raise InputError(f"Configuration: {str(error).splitlines()[0]}") from error
    check(settings)
    return settings


def check(settings: Settings) -> None:
    """Raise an `InputError` that names the first invalid setting."""
    unknown = [stage for stage in settings.stages if stage not in STAGES]
    if unknown:
        raise InputError(f"stages: unknown {unknown}; known are {', '.join(STAGES)}.")
    if not 0 <= settings.seed < 2**31:
        raise InputError(f"seed = {settings.seed}: must be a whole number from 0 to {2**31 - 1}.")
    if settings.threads < 0:
        raise InputError(f"threads = {settings.threads}: must be 0, torch's own choice, or more.")
    if settings.device not in ("auto", "cpu"):
        raise InputError(f"device = {settings.device!r}: known are auto, cpu.")
    strange = [name for name in tracker_names(settings) if name not in TRACKERS]
    if strange:
        raise InputError(f"tracker: unknown {strange}; known are {', '.join(TRACKERS)}.")
    least = {"batch": 1, "accumulate": 1, "save_every": 1, "log_every": 1, "pairs": 1, "group": 2}  # others 0
    shares = ("estimated", "dropout", "caption_dropout", "colour_shuffle", "flip", "ema")
    for stage in STAGES:
        own = getattr(settings, stage)
        for name in (item.name for item in fields(own)):
            value = getattr(own, name)
            if name == "bf16" and value not in (True, False, AUTO):
                raise InputError(f"{stage}.bf16 = {value!r}: must be true, false or {AUTO}.")
            if isinstance(value, (int, float)) and not value >= least.get(name, 0):
                raise InputError(f"{stage}.{name} = {value}: must be {least.get(name, 0)} or more.")
            if name in shares and not value <= 1:
                raise InputError(f"{stage}.{name} = {value}: must be 0 to 1.")


def tracker_names(settings: Settings) -> list[str]:
    """The trackers that are asked for."""
    return [name.strip() for name in settings.tracker.split(",") if name.strip()]


def model_of(settings: Settings) -> ModelConfig:
    """The preset with the changes of `settings.model`.

    Raises:
        InputError: no such preset or estimator, or a change that the model does not have.
    """
    if settings.preset not in PRESETS:
        raise InputError(f"preset = {settings.preset!r}: known are {', '.join(PRESETS)}.")
    given, estimator = settings.model, settings.model.get("estimator")
    if isinstance(estimator, str):
        if estimator not in ESTIMATORS:
            raise InputError(f"model.estimator = {estimator!r}: known are {', '.join(ESTIMATORS)}.")
        given = {**given, "estimator": to_dict(ESTIMATORS[estimator])}

    def merged(base: dict, changes: dict) -> dict:
        return {
            **base,
            **{
                key: merged(base[key], value) if isinstance(base.get(key), dict) and isinstance(value, dict) else value
                for key, value in changes.items()
            },
        }

    return from_dict(ModelConfig, merged(to_dict(PRESETS[settings.preset]), given), "model")
