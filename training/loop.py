"""The optimisation loop that every stage shares: schedule, weight average, atomic checkpoints, progress."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from reposedm_core.checkpoint import load_into, load_parts
from reposedm_core.errors import InputError
from training.settings import StageSettings

Step = Callable[[nn.Module, int, np.random.Generator, torch.Generator], dict[str, Tensor]]
"""(network, step, numpy generator, torch generator) → {"loss": scalar to minimise, other names: scalars to log}."""


class OutOfTime(Exception):
    """A stage used up its minutes; its state is saved."""


def learning_rate(settings: StageSettings, step: int) -> float:
    """Linear warm-up, then a cosine from lr to lr·lr_end."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * (settings.lr_end + (1 - settings.lr_end) * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


def save_atomically(state: dict, path: Path) -> None:
    """Write `state` so that a kill at any byte leaves the previous file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def start_from(checkpoint: str, stage: str, network: nn.Module) -> None:
    """Fill the network of a stage with its weights in an exported checkpoint, strictly.

    Raises:
        InputError: no such checkpoint, without this stage, or with another network.
    """
    parts, _ = load_parts(checkpoint)
    if stage not in parts:
        raise InputError(f"{stage}.init: {checkpoint} holds {', '.join(sorted(parts))}, and no {stage}.")
    # The trained module may wrap the network, under the stage's name.
    load_into(getattr(network, stage, network), parts[stage], f"{stage}.init: {checkpoint}")


def optimise(name: str, network: nn.Module, settings: StageSettings, step_fn: Step, out: Path, seed: int,
             resume: bool, accelerator: Accelerator, validate: Callable[[nn.Module], dict[str, float]] | None = None,
             ) -> tuple[nn.Module, dict]:
    """Train `network` for `settings.steps` steps; returns the averaged network and a log.

    Every step draws from generators seeded by (seed, step) alone, so that a resumed run sees what an uninterrupted
    one sees. The state (weights, optimiser, average, step, log) is saved every `save_every` steps.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint is kept.
        OutOfTime: `settings.minutes` are over; the state is saved.
        InputError: the state in `out` belongs to another network.
    """
    path = out / f"{name}.state.pt"
    if settings.init:
        start_from(settings.init, name, network)
    average = copy.deepcopy(network).eval().requires_grad_(False).to(accelerator.device)
    optimiser = torch.optim.AdamW(network.parameters(), settings.lr, betas=(0.9, 0.99),
                                  weight_decay=settings.weight_decay)
    network, optimiser = accelerator.prepare(network, optimiser)
    inner = accelerator.unwrap_model(network)
    start, log = 0, {"examples": 0, "seconds": 0.0, "history": []}
    if resume and path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        load_into(inner, state["network"], f"{path} (give another out=, or resume=false)")
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start, log = state["step"], state["log"]

    def save(step: int) -> None:
        log["seconds"] = spent + time.monotonic() - began
        if accelerator.is_main_process:
            save_atomically({"network": inner.state_dict(), "average": average.state_dict(), "step": step,
                             "optimiser": optimiser.state_dict(), "log": log}, path)

    began, spent, totals, since = time.monotonic(), log["seconds"], {}, 0
    progress = tqdm(range(start, settings.steps), initial=start, total=settings.steps, desc=name, mininterval=5,
                    unit="step", disable=not accelerator.is_main_process)
    step = start
    for step in progress:
        rng = np.random.default_rng([seed, step, accelerator.process_index])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings, step)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.bf16):
            values = step_fn(network, step, rng, generator)
        loss = values["loss"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: the loss is {loss.item()} at step {step}; the last checkpoint is "
                                     f"{path}. Lower {name}.lr, or look for corrupt pictures.")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(inner.parameters()), 1 - decay)
            for mine, theirs in zip(average.buffers(), inner.buffers(), strict=True):
                mine.copy_(theirs)
        log["examples"] += settings.batch * accelerator.num_processes
        for key, value in values.items():
            totals[key] = totals.get(key, 0.0) + float(value.detach())
        since += 1
        last = step + 1 == settings.steps
        if since == 100 or last:
            means = {key: value / since for key, value in totals.items()}
            log["seconds"] = spent + time.monotonic() - began
            log["history"].append({"step": step + 1, "seconds": round(log["seconds"], 1), **means})
            rate = (step + 1 - start) * settings.batch / (time.monotonic() - began)
            progress.write(f"{name} {step + 1}/{settings.steps} {rate:.1f} examples/s "
                           + " ".join(f"{key} {value:.4f}" for key, value in means.items()))
            totals, since = {}, 0
        out_of_time = not last and settings.minutes > 0 and time.monotonic() - began > 60 * settings.minutes
        if (step + 1) % settings.save_every == 0 or last or out_of_time:
            save(step + 1)
        if out_of_time:
            progress.close()
            raise OutOfTime(f"{name}: stopped after {settings.minutes} minutes at step {step + 1}; run again to go on.")
    progress.close()
    log["step"] = min(settings.steps, step + 1)
    if validate is not None:
        with torch.no_grad():
            log["validation"] = validate(average)
        print(f"{name} validation:", {k: round(v, 4) for k, v in log["validation"].items()}, flush=True)
    return average, log
