"""The optimisation loop that every stage shares: schedule, weight average, checkpoints, validation, interruption."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into
from reposedm_core.errors import InputError
from training.engine.distributed import mean_over_processes, use_global_batch_norm
from training.engine.loader import Batches, Steps, open_loader, to_device
from training.engine.log import Journal, draw_curves, empty_log
from training.engine.precision import compare_precisions
from training.engine.settings import AUTO, StageSettings
from training.engine.signals import Interrupts, Stopped, held
from training.engine.stage import Stage
from training.engine.state import differences, read_state, save_atomically

MAY_CHANGE_ON_RESUME = (
    "minutes",
    "save_every",
    "log_every",
    "validate_every",
    "workers",
    "checkpointing",
    "compile",
    "batch",
    "accumulate",
    "init",
)
"""Settings that may change between runs; of batch and accumulate their product over all processes counts."""
DRAWN_EVERY = 30.0
"""Seconds between two drawings of the learning curves; those of the last step are always drawn."""


def learning_rate(settings: StageSettings, step: int, steps: int | None = None) -> float:
    """Linear warm-up, then a cosine from lr to lr·lr_end; of `step` among `steps` (all of the stage's by default)."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, (settings.steps if steps is None else steps) - settings.warmup)
    return settings.lr * (settings.lr_end + (1 - settings.lr_end) * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


def train(stage: Stage, out: Path, seed: int, accelerator: Accelerator, resume: bool = True) -> tuple[nn.Module, dict]:
    """Train a stage for `settings.steps` steps; returns the averaged network and its log (see `Journal`).

    Every step draws from generators of (seed, step) alone, so that a resumed run sees what an uninterrupted one sees.
    The state is saved every `save_every` steps, in `out/STAGE.state.pt`.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; the last checkpoint is kept.
        Stopped: `settings.minutes` are over, or the run was interrupted; the state is saved.
        InputError: the state in `out` belongs to another network, the disk is full, or data cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(stage, out, seed, accelerator)
    state = read_state(run.path) if resume else None
    if state is not None:
        run.restore(state)
    if run.log["step"] < stage.settings.steps or not state:
        run.begin(fresh=state is None)
        run.optimise()
    else:
        run.compare(
            "is finished, and was made by other settings or of other data or networks, so it may not fit them; "
            "resume=false makes it anew"
        )
    return stage.part_of(run.average), run.log


class _Run:
    """A stage on its way: the trained module, its average and optimiser, and the log."""

    def __init__(self, stage: Stage, out: Path, seed: int, accelerator: Accelerator):
        self.stage, self.settings, self.out, self.seed = stage, stage.settings, out, seed
        self.accelerator = accelerator
        self.path = out / f"{stage.name}.state.pt"
        self.module = stage.build()
        if accelerator.num_processes > 1:
            use_global_batch_norm(self.module)
        self.average = copy.deepcopy(self.module).eval().requires_grad_(False)
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(
            trained, self.settings.lr, betas=(0.9, 0.99), weight_decay=self.settings.weight_decay, eps=self.settings.eps
        )
        self.log, self.drawn = empty_log(), time.monotonic()
        self.made_of: dict[str, Any] | None = None
        self.loader: Iterator[Batches | Exception] = iter(())
        self.bf16 = None if self.settings.bf16 == AUTO else self.settings.bf16

    def restore(self, state: dict) -> None:
        load_into(self.module, state["network"], f"{self.path} (give another out=, or resume=false)")
        self.average.load_state_dict(state["average"])
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except ValueError as error:
            raise InputError(
                f"{self.path} is of a run in which other weights are trained ({error}); go on with the "
                "settings of that run, or give another out=."
            ) from error
        for group in self.optimiser.param_groups:
            group.update(weight_decay=self.settings.weight_decay, eps=self.settings.eps)
        self.log, self.made_of = {**empty_log(), **state["log"], "step": state["step"]}, state.get("made_of")
        if self.bf16 is None and self.made_of:  # what a stage was begun with it keeps, on whatever machine
            self.bf16 = self.made_of.get("bf16")

    def begin(self, fresh: bool) -> None:
        """Data, caches and first weights; then the processes are joined."""
        stage, settings, accelerator = self.stage, self.settings, self.accelerator
        with accelerator.main_process_first():
            stage.prepare(accelerator.is_main_process)
        if fresh:
            stage.initialise(self.module)
            if settings.init:
                stage.start_from(self.module, settings.init)
            self.average.load_state_dict(self.module.state_dict())
        if settings.checkpointing:
            stage.checkpointed(self.module)
        if settings.compile:
            self.module.compile()
        self.module.train().to(accelerator.device)
        self.average.to(accelerator.device)
        for values in self.optimiser.state.values():
            values.update({key: value.to(accelerator.device) for key, value in values.items() if key != "step"})
        self.steps = Steps(stage, settings, self.seed, accelerator.process_index, accelerator.num_processes)
        self.network, self.prepared = accelerator.prepare(self.module, self.optimiser)
        if self.bf16 is None and self.log["step"] < settings.steps:
            self.bf16 = self.quicker_in_bf16()
        self.made_of = self.compare(
            f"goes on from step {self.log['step']} with other settings, and will not end as an uninterrupted run would"
        )

    def quicker_in_bf16(self) -> bool:
        """Is the step that comes next quicker in bfloat16? Tells it, and enters it in the log."""
        step = self.log["step"]
        batch = _or_raise(next(iter(open_loader(self.steps, step, 0, False))))[0]

        def run(bf16: bool) -> None:
            self.backward(batch, step, bf16)
            self.prepared.zero_grad()

        seconds = compare_precisions(run, self.module, self.accelerator)
        faster = seconds["float32"] / seconds["bfloat16"]
        chosen = "bfloat16" if faster > 1 else "float32"
        self.log["precision"] = {"chosen": chosen, **{name: float(f"{each:.3g}") for name, each in seconds.items()}}
        self.accelerator.print(
            f"{self.stage.name} is trained in {chosen}, the quicker one here: bfloat16 is "
            f"{faster:.3g} times as fast as float32.",
            flush=True,
        )
        return faster > 1

    def compare(self, what: str) -> dict:
        """What the stage is made of now; where that is not what its state was made of, the log keeps it and it is
        printed, `what` first."""
        settings, accelerator = self.settings, self.accelerator
        now = {
            **{key: value for key, value in asdict(settings).items() if key not in MAY_CHANGE_ON_RESUME},
            "bf16": bool(self.bf16),
            "seed": self.seed,
            "examples a step": settings.batch * settings.accumulate * accelerator.num_processes,
            **self.stage.made_of(),
        }
        changed: list[str] = differences(self.made_of, now) if self.made_of else []
        if changed:
            self.log.setdefault("changes", []).append({"step": self.log["step"], "changed": changed})
            accelerator.print(f"{self.stage.name} {what}: {'; '.join(changed)}", flush=True)
        return now

    def optimise(self) -> None:
        settings, log, accelerator = self.settings, self.log, self.accelerator
        journal = Journal(
            self.stage.name, settings.steps, self.steps.examples, log, accelerator, self.out, settings.log_every
        )
        try:
            with Interrupts() as interrupts:
                with held():  # until the workers have said that they leave signals to this process
                    self.loader = iter(
                        open_loader(self.steps, log["step"], settings.workers, accelerator.device.type == "cuda")
                    )
                while log["step"] < settings.steps:
                    with journal.waiting():
                        batches = self.fetch(interrupts)
                    values, stop = self.step(
                        batches, log["step"], lambda: interrupts.number > 0 or 0 < settings.minutes <= journal.minutes
                    )
                    journal.step(values)
                    step = log["step"]
                    last = step == settings.steps
                    if last or (settings.validate_every and step % settings.validate_every == 0):
                        self.validate(journal)
                    if last or stop or step % settings.save_every == 0:
                        self.save()
                    if stop and not last:
                        self.stop(interrupts.number)
            if settings.steps == 0:
                self.validate(journal)
                self.save()
        finally:
            self.loader = iter(())  # it goes, and with it the workers, whatever keeps the frames of an error
            journal.close()

    def fetch(self, interrupts: Interrupts) -> Batches:
        try:
            batches = next(self.loader)
        except RuntimeError:  # a kill of the whole group ends the workers too
            if not interrupts.number:
                raise
            self.save()
            self.stop(interrupts.number)
        return _or_raise(batches)

    def step(self, batches: Batches, step: int, over: Callable[[], bool]) -> tuple[dict[str, float], bool]:
        """One step of the optimiser; its scalars, and whether it is `over` in any process: all get the same answer."""
        settings, stage, accelerator = self.settings, self.stage, self.accelerator
        torch.manual_seed(hash((self.seed, step, accelerator.process_index)) % 2**62)  # a network's own dropout
        first, last = stage.phase(step)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(settings, step - first, last - first)
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            with nullcontext() if number + 1 == len(batches) else accelerator.no_sync(self.network):
                parts = self.backward(batch, step, bool(self.bf16), len(batches))
            for key, value in parts.items():
                sums[key] = sums.get(key, 0.0) + value.detach().float() / len(batches)
        norm = accelerator.clip_grad_norm_(self.module.parameters(), 1.0)
        logged = torch.stack([*sums.values(), norm.detach().float(), norm.new_tensor(float(over()))])
        *scalars, norm, stop = mean_over_processes(logged, accelerator).tolist()
        values = dict(zip(sums, scalars, strict=True))
        if not math.isfinite(values["loss"]) or not math.isfinite(norm):
            what = f"the loss is {values['loss']}" if not math.isfinite(values["loss"]) else f"its gradient is {norm}"
            kept = f"the last checkpoint is {self.path}" if self.path.is_file() else "there is no checkpoint yet"
            raise FloatingPointError(
                f"{stage.name}: {what} at step {step}; {kept}. Lower {stage.name}.lr, or look for "
                f"corrupt pictures or joints in {stage.root}; the same command goes on."
            )
        self.prepared.step()
        self.prepared.zero_grad()
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.module.parameters()), 1 - decay)
            for mine, theirs in zip(self.average.buffers(), self.module.buffers(), strict=True):
                mine.copy_(theirs)
        return values, stop > 0

    def backward(self, batch: dict[str, Tensor], step: int, bf16: bool, parts: int = 1) -> dict[str, Tensor]:
        """Scalars of one of the `parts` of a step's examples; the gradient of its share of the loss is added up."""
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            values = self.stage.loss(self.network, to_device(batch, device), step)
        self.accelerator.backward(values["loss"] / parts)
        return values

    def validate(self, journal: Journal) -> None:
        """Measures and sheet, by the first process."""
        if self.accelerator.is_main_process:
            network = self.stage.part_of(self.average)
            with torch.no_grad():
                values, sheet = self.stage.validate(network), self.stage.sheet(network)
            journal.validated(values, sheet)
            if time.monotonic() > self.drawn + DRAWN_EVERY or self.log["step"] == self.settings.steps:
                draw_curves(self.stage.name, self.log, self.out / f"{self.stage.name}.png")
                self.drawn = time.monotonic()
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        if self.accelerator.is_main_process:
            save_atomically(
                {
                    "network": self.module.state_dict(),
                    "average": self.average.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "step": self.log["step"],
                    "log": self.log,
                    "made_of": self.made_of,
                },
                self.path,
            )

    def stop(self, number: int) -> None:
        # Of several processes only some may have got the signal.
        limited = self.settings.minutes and not number
        why = f"stopped after {self.settings.minutes:g} minutes" if limited else "interrupted"
        raise Stopped(
            f"{self.stage.name}: {why} at step {self.log['step']}, its state is saved; run the same command "
            "again to go on.",
            number,
        )


def _or_raise(batches: Batches | Exception) -> Batches:
    if isinstance(batches, Exception):
        raise batches
    return batches
