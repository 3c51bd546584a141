"""Stage `aligner` of kind "matching": groups of moved pictures, all their pairs, exact correspondences (**ours**)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from reposedm_core.alignment.matching_aligner import CELL, MatchingPoseAligner, Pass, Start, start_from
from reposedm_core.alignment.warp import identity_map, resize_map, warp
from reposedm_core.errors import InputError
from reposedm_core.images import from_uint8
from reposedm_core.letterbox import size_of
from reposedm_core.pose import draw_joints
from training.data.augment import random_backgrounds, random_look
from training.data.groups import (
    Moves,
    draw_moves,
    group_correspondence,
    moved_flow,
    moved_joints,
    moved_pictures,
    random_groups,
    rows_of,
)
from training.data.mistakes import all_mistaken, mistaken
from training.data.people_set import Pairs, People
from training.engine.picture_grid import picture_grid
from training.engine.settings import AlignerSettings
from training.engine.stage import Plan, Stage, example_seeds
from training.stages.aligner import DISCOUNT, GROUND, mean_where
from training.stages.matching_losses import (
    bending_loss,
    choice_loss,
    coarse_truth,
    matching_loss,
    moved_surface,
    surface_loss,
)

SCALE, TURN, SHIFT = 0.3, 12.0, 0.12
"""Of the moves of a picture, see `draw_moves`."""
PASTED = 0.5
"""Share of the groups before another background."""
BLIND = 1 / 3
"""Share of the pairs without the source's pose."""
MISTAKEN = 0.7
"""Share of the sources whose pose is as an estimator finds it (`data.mistakes`); of the others it is exact."""
MATCH, BENT, CHOICE = 0.5, 0.5, 1.0
"""Factors of the matching loss, of the bending loss and of the loss of the choice."""
MATCHED = 0.5
"""Factor of the error of the match's own map, beside that of the map."""
DISTURBED = 0.5
"""Share of the examples whose later iterations start from the exact map, disturbed."""
DISTURBANCE = (2.0, 8.0)
"""Pixels of 128: root mean square of a disturbance, a smooth field of 4×3 values."""


@dataclass
class Disturbance:
    """Of every pair and later iteration: which start from a disturbed truth (B,) bool, and the field (B, 2, 4, 3)."""

    chosen: Tensor
    field: Tensor


class Iterations(nn.Module):
    """The aligner on all pairs of a batch as one module, its later iterations started where training wants.

    Holds two read-outs that only training has: the surface's rest position, from both features.
    """

    def __init__(self, network: MatchingPoseAligner):
        super().__init__()
        self.network = network
        channels = network.config.channels
        self.surface_target, self.surface_source = nn.Conv2d(channels, 3, 1), nn.Conv2d(channels, 3, 1)

    def forward(
        self,
        pictures: Tensor,
        skeletons: Tensor,
        rows: tuple[Tensor, Tensor],
        start: Start,
        iterations: int,
        truth: Tensor,
        disturbances: list[Disturbance],
    ) -> tuple[list[Pass], dict[str, Tensor]]:
        """pictures: (P, 6, H, W); skeletons: (P, 3, H, W); rows: source and target of the B pairs; start: of the pairs;
        truth: exact map (B, 2, 2h, 2w) where visible, NaN elsewhere."""
        source, target = rows
        net = self.network
        known_pose = start.share.flatten(1).amax(1) > 0
        shown = pictures[source]
        shown = torch.cat([shown[:, :3], torch.where(known_pose[:, None, None, None], shown[:, 3:], -1.0)], 1)
        # A picture is read with and without its skeleton, whichever pairs ask for; each of the two once.
        once, place = torch.unique(torch.stack([source, known_pose.long()]), dim=1, return_inverse=True)
        read = torch.where(
            once[1][:, None, None, None] > 0,
            pictures[once[0]],
            torch.cat([pictures[once[0], :3], torch.full_like(pictures[once[0], 3:], -1)], 1),
        )
        first = tuple(f[place] for f in net.encode_source(read))
        pose = tuple(f[target] for f in net.encode_pose(skeletons))
        keys = logits = None
        sampling, known, seen, passes, more = start.finer, start.share, first, [], {}
        for n in range(iterations):
            if n:
                disturbance = disturbances[n - 1]
                wrong = truth + F.interpolate(disturbance.field, truth.shape[-2:], mode="bicubic", align_corners=False)
                exact = disturbance.chosen[:, None, None, None] & ~truth.isnan()
                sampling = torch.where(exact, wrong, sampling.detach())
                seen = net.encode_source(warp(shown, sampling))
            found, pose, merged = net.iterate(
                n, pose, seen, keys, sampling, known, logits, start, shown, skeletons[target]
            )
            if keys is None:
                keys = merged
                more = {"mask": net.source_mask(first, merged), "surface": self.surface_source(merged).float()}
            sampling, logits, known = found.fine, found.logits, torch.ones_like(known)
            passes.append(found)
        more["surfaces"] = torch.stack([self.surface_target(p.target).float() for p in passes])
        return passes, more


class MatchingAlignerStage(Stage[Iterations, MatchingPoseAligner]):
    """Supervised by the exact correspondence of synthetic people. `batch` counts groups, each of `group` pictures and
    all their ordered pairs; a third of the pairs go without the source's pose."""

    name, part, unused = "aligner", "aligner", True
    settings: AlignerSettings

    def build(self) -> Iterations:
        # `_read` shrinks the pictures itself, as it moves them.
        return Iterations(MatchingPoseAligner(replace(self.config.aligner, shrink=1)))

    def part_of(self, module: Iterations) -> MatchingPoseAligner:
        return module.network

    def prepare(self, main: bool) -> None:
        self.people, self.held_out = People(self.root, "train"), People(self.root, "val")
        if not (self.people.has_correspondence and self.people.has_masks):
            raise InputError(
                f"aligner: {self.root} has not both correspondence and masks, which an aligner of kind "
                '"matching" is trained on; make synthetic people with python training/generate.py '
                "--correspondence."
            )
        random_groups(self.people, np.random.default_rng(0), 1, self.settings.group)  # are there any?
        self.size = self.config.aligner.height, self.config.aligner.width
        self.later = len(self.config.aligner.kernels) - 1

    def plan(self, rng: np.random.Generator, count: int) -> Plan:
        identity, index = random_groups(self.people, rng, count, self.settings.group)
        return {"identity": identity, "index": index, "seed": example_seeds(rng, count)}

    def load(self, plan: Plan) -> dict[str, Tensor]:
        rngs = [np.random.default_rng(seed) for seed in plan["seed"]]
        each = [rng for rng in rngs for _ in range(self.settings.group)]
        flip = np.repeat([rng.random() < 0.5 for rng in rngs], self.settings.group)
        moves = draw_moves(each, flip, self.size[1] / self.size[0], SCALE, TURN, SHIFT)
        batch = self._read(self.people, plan["identity"], plan["index"], moves)
        pasted = [rng.random() < PASTED for rng in rngs]
        grounds = random_backgrounds(rngs, *self.size).repeat_interleave(self.settings.group, 0)
        mask = batch["mask"].clamp(0, 1)
        choice = torch.tensor(pasted).repeat_interleave(self.settings.group)[:, None, None, None]
        pictures = torch.where(choice, mask * batch["pictures"] + (1 - mask) * grounds, batch["pictures"])
        batch["pictures"] = random_look(each, pictures)
        per_pair = [rng for rng in rngs for _ in range(len(batch["flow"]) // len(rngs))]
        batch["with_pose"] = torch.tensor([rng.random() >= BLIND for rng in per_pair])
        joints = batch["joints"]
        for rng, points in zip(each, joints, strict=True):
            if rng.random() < MISTAKEN:
                points.copy_(torch.from_numpy(mistaken(rng, points.numpy(), self.size[0])))
        batch["seen_skeletons"] = self._drawn(joints)
        half = np.array([self.size[1] / 2, self.size[0] / 2], np.float32) * 128 / self.size[0]
        for n in range(self.later):
            batch[f"chosen{n}"] = torch.tensor([rng.random() < DISTURBED for rng in per_pair])
            fields = np.stack(
                [rng.standard_normal((2, 4, 3)) * rng.uniform(*DISTURBANCE) / half[:, None, None] for rng in per_pair]
            )
            batch[f"field{n}"] = torch.from_numpy(fields.astype(np.float32))
        return batch

    def _drawn(self, joints: Tensor) -> Tensor:
        return from_uint8(draw_joints(joints.numpy(), *self.size))

    def _read(self, people: People, identity: np.ndarray, index: np.ndarray, moves: Moves) -> dict[str, Tensor]:
        """Groups of `people` under `moves`: pictures, what belongs to them, and the correspondence of all pairs."""
        groups, count = index.shape
        chosen = np.repeat(identity, count), index.reshape(-1)
        joints, masks = people.openpose(*chosen), people.masks(*chosen)
        if masks is None:
            raise InputError(f"aligner: {people.root} has no masks.")
        flow, visible = group_correspondence(people, identity, index)
        source, target = rows_of(groups, count)

        def part(rows: np.ndarray) -> Moves:
            return Moves(moves.matrix[rows], moves.offset[rows], moves.flip[rows])

        flow, visible = moved_flow(flow, visible, part(source), part(target))
        true = torch.from_numpy(moved_joints(joints, moves, (people.height, people.width), self.size))
        batch = {
            "pictures": moved_pictures(people.pictures(*chosen), moves, self.size),
            "mask": moved_pictures(masks, moves, self.size, "zeros"),
            "joints": true.clone(),
            "target_joints": true,
            "skeletons": self._drawn(true),
            "flow": flow,
            "visible": visible,
        }
        surface = people.surface(*chosen)
        if surface is not None:
            cells = self.size[0] // CELL, self.size[1] // CELL
            batch["surface"] = moved_surface(surface, moves, *cells)
        return batch

    def loss(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return self._losses(model, batch, 1 if step < self.settings.first_steps else 1 + self.later)

    def _losses(self, model: nn.Module, batch: dict[str, Tensor], iterations: int) -> dict[str, Tensor]:
        count = self.settings.group
        source, target = (
            torch.from_numpy(rows).to(self.device) for rows in rows_of(len(batch["pictures"]) // count, count)
        )
        pictures = torch.cat([batch["pictures"], batch["seen_skeletons"]], 1)
        start = start_from(batch["joints"][source], batch["target_joints"][target], batch["pictures"][source])
        start.share = start.share * batch["with_pose"][:, None, None, None]
        identity = identity_map(*size_of(start.map), device=self.device)
        start.map = torch.where(batch["with_pose"][:, None, None, None], start.map, identity)
        start.near = start.near * batch["with_pose"][:, None, None, None]
        flow, visible = batch["flow"], batch["visible"]
        place, shown = coarse_truth(flow, visible, *start.map.shape[-2:])
        exact, clear = coarse_truth(flow, visible, *start.limbs.shape[-2:])
        truth = torch.where(clear > 0, exact, torch.nan)
        disturbances = [Disturbance(batch[f"chosen{n}"], batch[f"field{n}"]) for n in range(iterations - 1)]
        passes, more = model(pictures, batch["skeletons"], (source, target), start, iterations, truth, disturbances)
        with torch.autocast(self.device.type, enabled=False):
            return self._terms(passes, more, batch, source, target, (place, shown), (exact, clear))

    def _terms(
        self,
        passes: list[Pass],
        more: dict[str, Tensor],
        batch: dict[str, Tensor],
        source: Tensor,
        target: Tensor,
        at_cells: tuple[Tensor, Tensor],
        at_half: tuple[Tensor, Tensor],
    ) -> dict[str, Tensor]:
        """`at_cells`, `at_half`: of `coarse_truth` at the matched cells and at half of them."""
        flow, visible = batch["flow"], batch["visible"]
        h, w = flow.shape[-2:]
        half = torch.tensor([64.0 * self.size[1] / self.size[0], 64.0], device=flow.device)[:, None, None]
        body, seen = (visible > 0).float(), (visible == 2).float()
        masks = F.adaptive_avg_pool2d(batch["mask"], (h, w))
        ground = ((visible == 0) & (masks[source] < 0.01)).float()
        here = identity_map(h, w, device=flow.device)
        values: dict[str, Tensor] = {}
        total = flow.new_zeros(())
        clean = torch.ones(len(flow), dtype=torch.bool, device=flow.device)
        for n, each in enumerate(passes):
            fine, logit = resize_map(each.fine, h, w), F.interpolate(each.fine_logits, (h, w), mode="bilinear")

            def distance(other: Tensor, fine: Tensor = fine) -> Tensor:
                return (((fine - other) * half).square().sum(1, keepdim=True) + 0.01).sqrt()

            error = distance(flow)
            moved = mean_where(error * (seen + 0.3 * (body - seen)), body) + GROUND * mean_where(distance(here), ground)
            match = matching_loss(each.match, *at_cells)
            unsure = F.binary_cross_entropy_with_logits(logit[:, :1], seen)
            person = F.binary_cross_entropy_with_logits(logit[:, 1:], masks[target])
            bent = bending_loss(fine, flow, seen, half)
            first = distance(resize_map(each.candidates[:, 0], h, w))
            moved = moved + MATCHED * mean_where(first * seen, body)
            chosen = choice_loss(each.candidates, each.shares, *at_half, half)
            term = moved / 4 + unsure + person + MATCH * match + BENT * bent + CHOICE * chosen
            if "surface" in batch:
                term = term + surface_loss(more["surfaces"][n], batch["surface"][target])
            total = total + DISCOUNT ** (len(passes) - 1 - n) * term
            if n:
                clean = clean & ~batch[f"chosen{n - 1}"]
            values[f"epe{n + 1}"] = mean_where(error[clean], seen[clean]) if clean.any() else error.new_zeros(())
            values[f"match{n + 1}"] = match
            values[f"choice{n + 1}"] = chosen
        total = total + F.binary_cross_entropy_with_logits(
            F.interpolate(more["mask"], (h, w), mode="bilinear"), masks[source]
        )
        if "surface" in batch:
            values["surface"] = surface_loss(more["surface"], batch["surface"][source])
            total = total + values["surface"]
        return {"loss": total, **values, "bent": bent, "visibility": unsure, "person": person}

    def validate(self, network: MatchingPoseAligner) -> dict[str, float]:
        """End-point error in pixels of 128 of every iteration: epe1 … with the source's pose, mistaken1 … with one as
        an estimator finds it, blind1 … without; still2 …: what an iteration leaves of a disturbance of the truth."""
        rows: list[dict[str, float]] = []
        pairs = self.held_out.fixed_pairs(128)
        for first in range(0, len(pairs), 16):
            rows.append(self._check(network, pairs[slice(first, first + 16)]))
        return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}

    def unmoved(self, people: People, pairs: Pairs) -> dict[str, Tensor]:
        """Pairs as they are: source, skeleton, both joints, and the correspondence."""
        n = len(pairs)
        still = Moves(np.tile(np.eye(2, dtype=np.float32), (n, 1, 1)), np.zeros((n, 2), np.float32), np.zeros(n, bool))
        sizes = (people.height, people.width), self.size
        source, target = (pairs.identity, pairs.source), (pairs.identity, pairs.target)
        flow, visible = people.correspondence(pairs)
        at, to = (torch.from_numpy(moved_joints(people.openpose(*which), still, *sizes)) for which in (source, target))
        batch = {
            "source": moved_pictures(people.pictures(*source), still, self.size),
            "target": moved_pictures(people.pictures(*target), still, self.size),
            "skeleton": self._drawn(to),
            "at": at,
            "to": to,
            "flow": flow,
            "visible": visible,
        }
        return {name: value.to(self.device) for name, value in batch.items()}

    def _check(self, network: MatchingPoseAligner, pairs: Pairs) -> dict[str, float]:
        batch = self.unmoved(self.held_out, pairs)
        h, w = batch["flow"].shape[-2:]
        half = torch.tensor([64.0 * self.size[1] / self.size[0], 64.0], device=self.device)[:, None, None]
        seen = (batch["visible"] == 2).float()

        def error(sampling: Tensor) -> float:
            far = ((resize_map(sampling, h, w) - batch["flow"]) * half).square().sum(1, keepdim=True).sqrt()
            return float(mean_where(far, seen))

        start = start_from(batch["at"], batch["to"], batch["source"])
        values = {"epe0": error(start.map)}
        at = all_mistaken(batch["at"].cpu().numpy(), pairs.identity, self.size[0])
        misled = start_from(torch.from_numpy(at).to(self.device), batch["to"], batch["source"])
        maps, wrongly, blind = (
            network(batch["source"], batch["skeleton"], start=known).maps for known in (start, misled, None)
        )
        for label, found in (("epe", maps), ("mistaken", wrongly), ("blind", blind)):
            values |= {f"{label}{n}": error(each) for n, each in enumerate(found, 1)}
        generator = torch.Generator().manual_seed(0)
        field = torch.randn(len(pairs), 2, 4, 3, generator=generator).to(self.device) * 5 / half
        base = resize_map(maps[0], h, w)
        wrong = torch.where(seen > 0, batch["flow"] + F.interpolate(field, (h, w), mode="bicubic"), base)
        values["disturbed"] = error(wrong)
        for n in range(1, 1 + self.later):
            values[f"still{n + 1}"] = error(network.refine(n, batch["source"], batch["skeleton"], start, wrong).fine)
        return values

    def sheet(self, network: MatchingPoseAligner) -> Image.Image:
        """Source, skeleton, the source by the skeleton map and as every iteration warps it, masks, target."""
        batch = self.unmoved(self.held_out, self.held_out.fixed_pairs(8))
        start = start_from(batch["at"], batch["to"], batch["source"])
        found = network(batch["source"], batch["skeleton"], start=start)
        masks = [
            F.interpolate(logit.sigmoid(), self.size).expand(-1, 3, -1, -1) * 2 - 1
            for logit in (found.visibility[-1], found.person, found.source_person)
        ]
        return picture_grid(
            [
                batch["source"],
                batch["skeleton"],
                warp(batch["source"], start.map),
                *found.images(batch["source"]),
                *masks,
                batch["target"],
            ]
        )
