"""Latents of aligned pairs, made once and kept on disk: what the denoiser trains on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from reposedm_core.alignment import Alignment, MatchingPoseAligner, RecurrentPoseAligner, start_from
from reposedm_core.alignment.multi_source import Seen
from reposedm_core.alignment.warp import warp
from reposedm_core.diffusion.autoencoder import PATCH, Autoencoder, KLAutoencoder
from reposedm_core.diffusion.tiny import TinyAutoencoder
from reposedm_core.errors import InputError
from reposedm_core.garment_parser import GarmentParser
from reposedm_core.images import from_uint8
from reposedm_core.layout import LayoutNetwork, parse_source, person_of, predict_layout
from reposedm_core.letterbox import size_of
from reposedm_core.networks import NoAlignment
from reposedm_core.pose import draw_joints
from reposedm_core.pose.skeleton import OPENPOSE_FLIP
from reposedm_core.reference import make_reference, on_plate
from training.data.mistakes import all_mistaken
from training.data.people_set import Pairs, People
from training.engine.state import checksum, save_atomically

FINDERS = ("parser", "layout")
"""Networks that have a say in the aligned latents where a model has them."""
MAPS = ("map", "logits")
"""Of the cache, what `alignment_of` reads."""
FLIPPED = 6
"""The least choice of a `ColourShuffle` that mirrors: as many permutations come first."""


class Latents:
    """Cached latents of every pair: target, pose, source, aligned source and its visibility (float16 on the CPU).

    With the field also "joints", the target's COCO joints (n, 17, 3) in float32.
    """

    def __init__(self, tensors: dict[str, Tensor]):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["target"])

    def batch(self, rows: np.ndarray, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """The pairs `rows` (n,) in float32, less the tensors `without`."""
        chosen = torch.from_numpy(rows)
        return {name: values[chosen].float() for name, values in self.tensors.items() if name not in without}


@torch.no_grad()
def cache_latents(
    people: People,
    pairs: Pairs,
    autoencoder: Autoencoder | KLAutoencoder,
    aligner: RecurrentPoseAligner | MatchingPoseAligner | NoAlignment,
    device: torch.device,
    folder: Path,
    joints: bool = False,
    chunk: int = 32,
    flipped: bool = False,
    tiny: TinyAutoencoder | None = None,
    parser: GarmentParser | None = None,
    layout: LayoutNetwork | None = None,
) -> Latents:
    """Encode and align every pair once; kept in a file of `folder` named after the check sum of all it is made of.

    That is the set, the pairs' rows in it, and weights and configuration of the networks; `tiny` encodes what only the
    aligner reads. An aligner that reads the source's pose is given it as an estimator finds it (`data.mistakes`): that
    is what it gets in use, and its maps are what the other networks learn from. With `joints` the target's joints are
    among them, for the field; with `flipped` the pose of the mirrored target. An aligner that finds masks leaves map
    and logits, too, with a `parser` the mask that it finds, and a set with correspondence its `cover`. With a `layout`
    network a second file holds its logits, the labels' colours, and the aligned latents, which change with it. The
    tensors stay in the files (memory-mapped). Runs that share `folder` may make them at the same time.

    Raises:
        InputError: the disk is full.
    """
    rows = [people.rows(pairs.identity, index) for index in (pairs.source, pairs.target)]
    configs = repr([getattr(network, "config", None) for network in (autoencoder, aligner)])  # scaling, radius, …
    made_of = checksum(
        (people.root / "dataset.json").read_bytes(),
        *rows,
        configs.encode(),
        autoencoder,
        aligner,
        *([] if tiny is None else [tiny]),
        *([] if parser is None else [parser]),
        *([b"flipped"] if flipped else []),
        *([b"mistaken"] if aligner.reads_pose else []),
    )

    def kept(name: str, sum_: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        file = folder / f"{name}.{people.split}.{sum_:08x}.pt"
        found = _read(file)
        if found is None:
            made = make()
            save_atomically(made, file, shared=True)
            found = _read(file) or made
        return found

    stored = kept(
        "latents",
        made_of,
        lambda: _align(people, pairs, autoencoder, aligner, device, chunk, flipped, tiny, parser),
    )
    if layout is not None and parser is not None and isinstance(aligner, MatchingPoseAligner):
        shrink = aligner.config.shrink
        more = kept(
            "layouts",
            checksum(made_of.to_bytes(4, "big"), layout, repr(layout.config).encode()),
            lambda: _lay_out(people, pairs, Latents(stored), autoencoder, parser, layout, shrink, device, chunk),
        )
        stored = {**stored, **more}
    if joints:
        stored["joints"] = torch.from_numpy(people.joints(pairs.identity, pairs.target)).float()
    return Latents(stored)


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True) if file.is_file() else None
    except (RuntimeError, OSError, EOFError, ValueError):  # damaged: it is only a cache
        return None


def _align(
    people: People,
    pairs: Pairs,
    autoencoder: Autoencoder | KLAutoencoder,
    aligner: RecurrentPoseAligner | MatchingPoseAligner | NoAlignment,
    device: torch.device,
    chunk: int,
    flipped: bool,
    tiny: TinyAutoencoder | None,
    parser: GarmentParser | None,
) -> dict[str, Tensor]:
    autoencoder, aligner = autoencoder.to(device).eval(), aligner.to(device).eval()
    inner = None if tiny is None else tiny.to(device).eval().encode
    parser = None if parser is None else parser.to(device).eval()
    columns: dict[str, Tensor] = {}
    for first in tqdm(range(0, len(pairs), chunk), desc=f"{people.split}: aligning", unit="batch", mininterval=1):
        part = pairs[slice(first, first + chunk)]
        source = people.pictures(part.identity, part.source).to(device)
        skeleton = people.skeletons(part.identity, part.target).to(device)
        start = None
        if isinstance(aligner, MatchingPoseAligner):
            to = people.openpose(part.identity, part.target)
            at = mistaken_poses(people, part)
            known, asked = (torch.from_numpy(points).float() for points in (at, to))
            start = start_from(known, asked, source, aligner.config.shrink)
            alignment = aligner(source, skeleton, start=start)
        else:
            alignment = aligner(source, skeleton, encode=autoencoder.encode, inner=inner)
        row = {
            "target": autoencoder.encode(people.pictures(part.identity, part.target).to(device)),
            "pose": autoencoder.encode(skeleton),
            "source": autoencoder.encode(source),
            "aligned": alignment.features,
            "visibility": alignment.latent_visibility(autoencoder.stride),
        }
        if alignment.person is not None and alignment.source_person is not None:
            seen, was = alignment.visibility[-1], None
            if parser is not None and start is not None:
                was = person_of(parse_source(parser, source, start.skeleton, alignment.source_person))
                row["was"] = was
            reference = make_reference(source, skeleton, alignment, alignment.image, seen.sigmoid(), was=was)
            row |= {
                "aligned": autoencoder.encode(on_plate(reference)),
                "map": alignment.maps[-1],
                "logits": torch.cat([seen, alignment.person, alignment.source_person], 1),
            }
        if flipped:
            joints = torch.from_numpy(people.openpose(part.identity, part.target))
            drawn = from_uint8(draw_joints(mirrored_joints(joints, people.width), people.height, people.width))
            row["pose_flipped"] = autoencoder.encode(drawn.to(device))
        masks = people.masks(part.identity, part.target) if people.has_correspondence else None
        if masks is not None:
            row["cover"] = cover(people.correspondence(part)[1], masks, size_of(row["target"]))
        _enter(columns, row, first, len(pairs))
    return columns


def _enter(columns: dict[str, Tensor], row: dict[str, Tensor], first: int, count: int) -> None:
    for name, value in row.items():
        # Whole from the start: small results kept between large intermediate ones would leave the heap in shreds.
        if name not in columns:
            columns[name] = torch.empty((count, *value.shape[1:]), dtype=torch.float16)
        columns[name][first : first + len(value)] = value


def _lay_out(
    people: People,
    pairs: Pairs,
    cache: Latents,
    autoencoder: Autoencoder | KLAutoencoder,
    parser: GarmentParser,
    layout: LayoutNetwork,
    shrink: int,
    device: torch.device,
    chunk: int,
) -> dict[str, Tensor]:
    autoencoder, parser, layout = autoencoder.to(device).eval(), parser.to(device).eval(), layout.to(device).eval()
    columns: dict[str, Tensor] = {}
    for first in tqdm(range(0, len(pairs), chunk), desc=f"{people.split}: layouts", unit="batch", mininterval=1):
        rows = np.arange(first, min(first + chunk, len(pairs)))
        part, batch = pairs[rows], cache.batch(rows, tuple(name for name in cache.tensors if name not in MAPS))
        source = people.pictures(part.identity, part.source).to(device)
        skeleton = people.skeletons(part.identity, part.target).to(device)
        at = drawn_mistaken(people, part, shrink).to(device)
        alignment = alignment_of({name: values.to(device) for name, values in batch.items()}, source)
        assert alignment.source_person is not None  # `alignment_of` gives it
        labels = parse_source(parser, source, at, alignment.source_person)
        seen = Seen(
            alignment.image, alignment.visibility[0].sigmoid(), torch.ones_like(alignment.visibility[0])[:, None]
        )
        planned = predict_layout(layout, source, skeleton, at, labels, alignment, seen)
        shown = source, skeleton, alignment, seen.image, seen.visibility
        reference = make_reference(*shown, was=person_of(labels), layout=planned)
        row = {
            "layout": planned.logits,
            "colours": planned.colours,
            "aligned": autoencoder.encode(on_plate(reference)),
        }
        _enter(columns, row, first, len(pairs))
    return columns


def alignment_of(batch: dict[str, Tensor], source: Tensor) -> Alignment:
    """Of cached "map" and "logits", with masks; source: (n, 3, H, W) in [-1, 1]."""
    seen, person, mask = batch["logits"].split(1, 1)
    return Alignment([batch["map"]], [seen], warp(source, batch["map"]), None, person, mask)


def mistaken_poses(people: People, pairs: Pairs) -> np.ndarray:
    """The sources' OpenPose joints (n, 18, 3) as an estimator finds them, the same for a picture each time."""
    at = people.openpose(pairs.identity, pairs.source)
    return all_mistaken(at, people.rows(pairs.identity, pairs.source), people.height)


def drawn_mistaken(people: People, pairs: Pairs, shrink: int) -> Tensor:
    """Those poses drawn as an aligner of `shrink` sees them, (n, 3, H / shrink, W / shrink) in [-1, 1]."""
    joints = mistaken_poses(people, pairs) * np.array([1 / shrink, 1 / shrink, 1], np.float32)
    return from_uint8(draw_joints(joints, people.height // shrink, people.width // shrink))


def cover(visible: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, 2, h, w): the share of each latent cell that is the target's person, and of those parts the source hides.

    Args:
        visible, masks: see `People.correspondence` and `People.masks`, of the target.
    """
    person = F.adaptive_avg_pool2d(masks, size)
    return torch.cat([person, F.adaptive_avg_pool2d((visible == 1).float(), size)], 1)


def mirrored_joints(joints: Tensor, width: int, names: tuple[int, ...] = OPENPOSE_FLIP) -> Tensor:
    """Joints (n, K, 3) of mirrored pictures of that width: left and right change names, too (`names`)."""
    x, y, score = joints[:, list(names)].unbind(-1)
    return torch.stack([torch.where(score > 0, width - x, 0), y, score], -1)


class ColourShuffle:
    """Permute the colour channels of latents of the linear encoder, and mirror them: z → A z + b, exact within the kept
    components."""

    def __init__(self, autoencoder: Autoencoder | KLAutoencoder, device: torch.device):
        if not isinstance(autoencoder, Autoencoder):
            raise InputError(
                f"reposedm.colour_shuffle, reposedm.flip: latents of a {autoencoder.config.kind!r} "
                "autoencoder can be neither recoloured nor mirrored; set both to 0."
            )
        matrices, offsets = [], []
        for flip, order in itertools.product((False, True), itertools.permutations(range(3))):

            def permute(patches: Tensor, order: tuple[int, ...] = order, flip: bool = flip) -> Tensor:
                pixels = rearrange(patches, "... (c p q) -> ... c p q", c=3, p=PATCH)[..., order, :, :]
                return (pixels.flip(-1) if flip else pixels).flatten(-3)

            basis, scale = autoencoder.basis.cpu(), autoencoder.scale.cpu()
            matrices.append((basis @ permute(basis).T) * scale / scale[:, None])
            offsets.append(basis @ (permute(autoencoder.mean.cpu()) - autoencoder.mean.cpu()) / scale)
        self.matrices, self.offsets = torch.stack(matrices).to(device), torch.stack(offsets).to(device)

    def __call__(self, batch: dict[str, Tensor], choice: Tensor) -> dict[str, Tensor]:
        """`batch` recoloured, each example by the permutation `choice` (B,), 0 being none, and mirrored as well where
        it is `FLIPPED` or more; poses keep their colours."""
        matrix, offset, flip = self.matrices[choice], self.offsets[choice], (choice >= FLIPPED)[:, None, None, None]
        changed: dict[str, Tensor] = {
            name: torch.einsum("bij,bjhw->bihw", matrix, batch[name]) + offset[..., None, None]
            for name in ("target", "source", "aligned")
            if name in batch
        }
        if not flip.any():
            return {**batch, **changed}
        for name in ("target", "source", "aligned", "visibility", "cover"):
            if name in batch:
                value = changed.get(name, batch[name])
                changed[name] = torch.where(flip, value.flip(-1), value)
        if "pose" in batch:
            changed["pose"] = torch.where(flip, batch["pose_flipped"], batch["pose"])
        return {**batch, **changed}
