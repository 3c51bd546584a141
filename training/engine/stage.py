"""What a stage of the training is: which network it trains, on which examples, by which loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reposedm_core.checkpoint import load_into, load_parts, save_model
from reposedm_core.config import ModelConfig, to_dict
from reposedm_core.errors import InputError
from training.engine.settings import StageSettings
from training.engine.state import checksum

Plan = dict[str, np.ndarray]
"""The random choices of a batch: arrays whose first dimension is the example."""
Trained = TypeVar("Trained", bound=nn.Module)
"""The module that a stage trains."""
Network = TypeVar("Network", bound=nn.Module)
"""The network in it that is exported."""


class Stage(ABC, Generic[Trained, Network]):
    """One stage; `training.engine.loop.train` drives it.

    A step is made of three parts, so that any number of loader workers and processes sees the same examples: `plan`
    draws everything random for the global batch from a generator of (seed, step) alone, `load` reads the examples of
    one process's share in a loader's worker, `loss` computes on the device and draws nothing. A loss is a mean over
    the examples, each of which counts the same whatever the others are: then gradients averaged over processes are
    those of one large batch.

    Args:
        config: of the whole model.
        settings: of this stage.
        root: folder of the training set.
        out: folder of the run, where caches may be kept.
        networks: finished parts of the model by name, on the CPU, in eval mode, frozen.
        device: where `loss` and `validate` compute.

    Attributes:
        name: of the stage: its settings key and its files in `out`.
        part: the network part in exported checkpoints that it trains.
        unused: may a loss leave weights without a gradient? Distributed training then looks for them in every step.
    """

    name: ClassVar[str]
    part: ClassVar[str]
    unused: ClassVar[bool] = False

    def __init__(
        self,
        config: ModelConfig,
        settings: StageSettings,
        root: str | Path,
        out: Path,
        networks: dict[str, Any],
        device: torch.device,
    ):
        self.config, self.settings, self.root, self.out = config, settings, Path(root), Path(out)
        self.networks, self.device = networks, device

    @classmethod
    def needs(cls, config: ModelConfig) -> tuple[str, ...]:
        """The parts that must be finished before this stage."""
        return ()

    @classmethod
    def check_data(cls, root: str | Path) -> None:
        """Raise an `InputError` where a set cannot be of use, before any stage has taken its time."""

    @abstractmethod
    def build(self) -> Trained:
        """The module that is trained, with fresh weights. `loss` calls it as a whole, never a method of it: that is
        what a distributed wrapper sees."""

    def part_of(self, module: Trained) -> Network:
        """The network in the trained module that is exported; the module itself, unless it wraps the network."""
        return cast(Network, module)

    def parts_of(self, network: Network) -> dict[str, nn.Module]:
        """The parts of an exported checkpoint that `part_of` gave: the stage's own, and what was trained with it."""
        return {self.part: network}

    def initialise(self, module: Trained) -> None:
        """What precedes the first step of a run that starts anew: a closed-form fit, say. `init` comes after it."""

    def start_from(self, module: Trained, checkpoint: str) -> None:
        """Fill the network with the weights of `settings.init`, an exported checkpoint, strictly; what is trained with
        it stays as it is where the checkpoint has none.

        Raises:
            InputError: no such checkpoint, without this part, or with another network.
        """
        parts, _ = load_parts(checkpoint)
        if self.part not in parts:
            raise InputError(f"{self.name}.init: {checkpoint} holds {', '.join(sorted(parts))}, and no {self.part}.")
        for part, network in self.parts_of(self.part_of(module)).items():
            if part in parts:
                load_into(network, parts[part], f"{self.name}.init: {checkpoint}")

    def checkpointed(self, module: Trained) -> None:
        """Let `module` forget activations and compute them again on the way back (`settings.checkpointing`).

        Raises:
            InputError: the network cannot.
        """
        found: list[Any] = [m for m in module.modules() if hasattr(m, "enable_gradient_checkpointing")]
        if not found:
            raise InputError(
                f"{self.name}.checkpointing: the {self.part} cannot compute activations again; leave it false."
            )
        for part in found:
            part.enable_gradient_checkpointing()

    def prepare(self, main: bool) -> None:
        """Open the data and make caches, before the first step; only `main`, the first process, writes files.

        It is called in the main process first, then in all others.
        """

    @abstractmethod
    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        """Everything random of `count` examples, and cheap: indices, seeds, noise."""

    @abstractmethod
    def load(self, plan: Plan) -> dict[str, Tensor]:
        """Read and augment the examples of a plan, on the CPU; called in a loader's worker. Touches no network."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """{"loss": scalar to minimise, other names: scalars to log}, means over the examples of `batch`."""

    def phase(self, step: int) -> tuple[int, int]:
        """(first step, first step after it) of the phase that `step` is in: in each the learning rate rises and falls
        once."""
        return 0, self.settings.steps

    def validate(self, network: Network) -> dict[str, float]:
        """Measures of the averaged network (`part_of`) on the validation people, the same examples each time."""
        return {}

    def sheet(self, network: Network) -> Image.Image | None:
        """A picture to look at while training goes on, or None."""
        return None

    def made_of(self) -> dict[str, int]:
        """What else than settings the result depends on, as check sums: a run that goes on compares them."""
        file = self.root / "dataset.json"
        return {
            "data": checksum(file.read_bytes()) if file.is_file() else 0,
            **{f"finished {name}": checksum(network) for name, network in self.networks.items()},
        }

    def save(self, network: Network, path: Path, card: dict[str, Any]) -> None:
        """Write the stage's result, one self-describing file."""
        save_model(path, self.parts_of(network), to_dict(getattr(self.config, self.part)), card, torch.float32)


def example_seeds(rng: np.random.Generator, count: int) -> np.ndarray:
    """A seed an example, (count,) int64: what `load` draws by it does not depend on the other examples."""
    return rng.integers(0, 2**63 - 1, count)
