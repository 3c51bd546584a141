"""The examples of every step, loaded ahead by worker processes: the position in the data is the step."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reposedm_core.errors import InputError
from training.engine.settings import StageSettings
from training.engine.signals import Interrupts
from training.engine.stage import Plan, Stage

Batches = list[dict[str, Tensor]]


class Steps(Dataset):
    """Map style over steps: `steps[n]` are the batches that one process sees in step n, one for each accumulation.

    The plan of a step is drawn for all processes from (seed, n) alone, and each takes its share: neither the number
    of workers, nor of processes, nor where a run was interrupted changes what is seen.
    """

    def __init__(self, stage: Stage, settings: StageSettings, seed: int, rank: int = 0, world: int = 1):
        self.stage, self.seed, self.rank, self.world = stage, seed, rank, world
        self.steps, self.batch, self.accumulate = settings.steps, settings.batch, settings.accumulate

    def __len__(self) -> int:
        return self.steps

    @property
    def examples(self) -> int:
        """A step's, over all processes."""
        return self.batch * self.accumulate * self.world

    def plan(self, step: int) -> Plan:
        """The random choices of a step for all processes."""
        return self.stage.plan(np.random.default_rng([self.seed, step]), self.examples)

    def __getitem__(self, step: int) -> Batches:
        plan = self.plan(step)
        first = self.rank * self.batch * self.accumulate
        return [
            self.stage.load({name: values[start : start + self.batch] for name, values in plan.items()})
            for start in range(first, first + self.batch * self.accumulate, self.batch)
        ]


class _ErrorsAsItems(Dataset):
    """`Steps`, errors returned: the loader would wrap one in the traceback of its worker."""

    def __init__(self, steps: Steps):
        self.steps = steps

    def __getitem__(self, step: int) -> Batches | Exception:
        try:
            return self.steps[step]
        except InputError as error:
            return error
        except (OSError, ValueError, IndexError) as error:
            return InputError(
                f"{self.steps.stage.name}: an example of step {step} cannot be read "
                f"({type(error).__name__}: {error}). Look for a damaged file in {self.steps.stage.root}, "
                "fix it or make it again, and run the same command again."
            )


def _identity(value: Any) -> Any:
    return value


def _leave_signals_to_the_trainer(_: int) -> None:
    """In a worker: a signal to the whole group must not end it, or the trainer fails where it would save its state."""
    for number in Interrupts.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def open_loader(steps: Steps, start: int, workers: int, pin: bool) -> DataLoader:
    """The batches of step `start` and all after it, in order; an item may be an exception, to be raised."""
    return DataLoader(
        _ErrorsAsItems(steps),
        batch_size=None,
        sampler=range(start, len(steps)),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
        collate_fn=_identity,
        worker_init_fn=_leave_signals_to_the_trainer,
    )


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """`batch` where the loss computes."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
