"""Captioned pictures as latents and hidden states, encoded once and kept on disk: what RePoseSD trains on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reposedm_core.diffusion.autoencoder import KLAutoencoder
from reposedm_core.errors import InputError
from reposedm_core.files import write_json
from reposedm_core.pose import Pose, draw_pose
from training.data.captioned_set import Captioned, CaptionedExample
from training.data.captions import CaptionedPeople
from training.data.people_set import ORDER_SEED
from training.engine.state import checksum
from training.stages.reposesd.text_encoder import TextEncoder

MOST_PEOPLE = 8
"""Whose joints the pose field compares in one picture, the largest; the skeleton picture shows everybody."""
KINDS = {"joints": np.float32, "done": np.uint8}
"""Of the arrays that are not float16."""


def fixed_order(count: int, limit: int = 0) -> np.ndarray:
    """Numbers 0 to count - 1 in a fixed mixed order, the first `limit` of them, or all."""
    return np.random.default_rng(ORDER_SEED).permutation(count)[: limit or None]


def skeleton(example: CaptionedExample) -> Tensor:
    """Everybody's drawn skeleton (3, H, W) in [-1, 1]."""
    return 2 * draw_pose(Pose(example.poses, *example.picture.shape[-2:])) - 1


def largest(example: CaptionedExample) -> np.ndarray:
    """COCO joints (MOST_PEOPLE, 17, 3) float32 of the largest people, filled up with zeros."""
    joints = np.zeros((MOST_PEOPLE, 17, 3), np.float32)
    joints[: len(example.joints)] = example.joints[:MOST_PEOPLE]
    return joints


class CaptionedLatents:
    """Target and pose latents (float16), hidden states of the caption (float16) and joints, one row per picture.

    The folder is filled in chunks, `done.npy` last, and an interrupted run goes on there. It is made anew when
    pictures, networks or the size differ from those it was made of.

    Args:
        folder: of this cache alone.
        data, numbers: the pictures, in the order of the rows.
    """

    def __init__(self, folder: Path, data: Captioned | CaptionedPeople, numbers: np.ndarray):
        self.folder, self.data, self.numbers = folder, data, numbers

    @torch.no_grad()
    def make(
        self, autoencoder: KLAutoencoder, text: TextEncoder, device: torch.device, about: bytes = b"", chunk: int = 8
    ) -> None:
        """Encode what is not encoded yet; the networks are on `device`.

        Args:
            about: what the set says of itself; another text makes the cache anew.

        Raises:
            InputError: the disk is full, or a picture cannot be read.
        """
        n, stride, channels = len(self.numbers), autoencoder.stride, autoencoder.channels
        latent = n, channels, self.data.height // stride, self.data.width // stride
        shapes = {
            "target": latent,
            "pose": latent,
            "tokens": (n, text.words, text.dim),
            "joints": (n, MOST_PEOPLE, 17, 3),
            "done": (n,),
        }
        made_of = {
            "checksum": checksum(autoencoder, text.network, self.numbers, about),
            "shapes": {name: list(shape) for name, shape in shapes.items()},
        }
        try:
            if self._known() != made_of:
                self._create(shapes)
                write_json(self.folder / "made_of.json", made_of)
            arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r+") for name in shapes}
            self._fill(arrays, autoencoder, text, device, chunk)
        except OSError as error:
            raise InputError(
                f"{self.folder} could not be written: {error.strerror or error}. Make room there, or give "
                "reposesd.cache=false or fewer reposesd.pictures."
            ) from error
        self.arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in shapes}

    def _known(self) -> dict | None:
        try:
            return json.loads((self.folder / "made_of.json").read_text())
        except (OSError, ValueError):
            return None

    def _create(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "made_of.json").unlink(missing_ok=True)
        for name, shape in shapes.items():
            file = self.folder / f"{name}.npy"
            np.lib.format.open_memmap(file, "w+", KINDS.get(name, np.float16), shape).flush()
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process, not raise
                with file.open("r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)

    def _fill(
        self,
        arrays: dict[str, np.memmap],
        autoencoder: KLAutoencoder,
        text: TextEncoder,
        device: torch.device,
        chunk: int,
    ) -> None:
        # Chunks keep their places: a row computed beside other rows may differ in its last digit.
        chunks = [np.arange(first, min(first + chunk, len(self))) for first in range(0, len(self), chunk)]
        missing = [rows for rows in chunks if not arrays["done"][rows].all()]
        for rows in tqdm(missing, desc="encoding", unit="batch", mininterval=5, disable=not missing):
            examples = [self.data.read(int(number)) for number in self.numbers[rows]]
            made = {
                "target": autoencoder.encode(torch.stack([e.picture for e in examples]).to(device)),
                "pose": autoencoder.encode(torch.stack([skeleton(e) for e in examples]).to(device)),
                "tokens": text(text.ids([e.caption for e in examples]).to(device)),
            }
            for name, value in made.items():
                arrays[name][rows] = value.half().cpu().numpy()
            arrays["joints"][rows] = np.stack([largest(e) for e in examples])
            for array in arrays.values():
                array.flush()
            arrays["done"][rows] = 1
        arrays["done"].flush()

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, rows: np.ndarray) -> dict[str, Tensor]:
        """target, pose, tokens and joints of the rows (n,), float32."""
        return {
            name: torch.from_numpy(np.asarray(array[rows], np.float32))
            for name, array in self.arrays.items()
            if name != "done"
        }
