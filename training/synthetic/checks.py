"""Check a set of synthetic people against the bodies that it shows.

    python training/synthetic/checks.py data/synthetic

prints a table and exits with 1 if anything is out of bounds. Every row is looked at where that is cheap; the checks
that pose and render the people again take a sample of the identities.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

if not __package__:  # run as a script: modules are found from the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "training.synthetic"

import numpy as np
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from torch import from_numpy

from reposedm_core.errors import InputError
from reposedm_core.pose import draw_joints
from reposedm_core.pose.draw import JOINT_RADIUS
from reposedm_core.pose.skeleton import COCO_TO_OPENPOSE, NECK, OPENPOSE_COLOURS
from training.data.people_set import SPLITS, describe, split_of
from training.synthetic import generate
from training.synthetic.body import load_body
from training.synthetic.rasteriser import CAMERA_DISTANCE
from training.synthetic.render import render_identity, sample_views

SPREAD = 4.0  # 8-bit levels: least standard deviation of a picture that is not blank
COVER = (0.01, 0.7)  # share of a picture that a person covers who stands alone in it
IN_MASK, MASK_SLACK = 0.995, 1  # share of the visible joints that lie on the person, give or take so many pixels
PROJECTION = 0.02  # pixels between a joint of the posed body and the stored one: rounding
DRAWN = 1.0  # pixels between a joint of the posed body and the disc that the skeleton picture shows
WARP_MEDIAN, WARP_MEAN = 10.0, 20.0  # 8-bit levels between warped source and target, colours without light
RETURN_MEDIAN, RETURN_MOST = 0.5, 1.5  # cells, there and back by the flow: half of the cells, 95 % of them


@dataclass(frozen=True)
class Check:
    """One line of the table: what was measured, in words with its bound, and whether it is within."""

    name: str
    measured: str
    passed: bool


class PeopleSet:
    """A folder of synthetic people, read-only, and the bodies behind a sample of it.

    Args:
        folder: written by `training/generate.py`.
        sample: how many identities, spread evenly, are posed and rendered again.

    Raises:
        InputError: the folder holds something else, or people of another version of the generator.
    """

    def __init__(self, folder: str | Path, sample: int = 40):
        self.folder = Path(folder)
        source = dict(describe(self.folder).get("source", {}))
        if not isinstance(source, dict) or source.pop("generator", "") != "training/data/synthetic.py":
            raise InputError(f"{folder} holds no synthetic people: these checks know how synthetic people were made.")
        if source.pop("revision") != generate.REVISION:
            raise InputError(f"{folder} was made by another version of the generator, which cannot be posed again.")
        self.arguments = generate.Arguments(**source)
        self.arrays = {
            name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in generate.layout(self.arguments)
        }
        count = min(sample, self.arguments.identities)
        self.sample = np.unique(np.linspace(0, self.arguments.identities - 1, count).astype(int))

    def rows(self, identity: int) -> slice:
        return slice(identity * self.arguments.poses, (identity + 1) * self.arguments.poses)

    @cached_property
    def projected(self) -> np.ndarray:
        """(sample, K, 17, 2) float64 pixels: joints of the body posed again, through a pinhole camera."""
        a, found = self.arguments, []
        for identity in self.sample:
            views = sample_views(load_body(), a.seed, int(identity), a.poses, a.second_person, a.width / a.height)
            for view in views:
                x, y, z = view.figure.joints.astype(np.float64).T
                scale = view.focal * a.height / (y + CAMERA_DISTANCE)
                found.append(np.stack([0.5 * a.width + x * scale, 0.5 * a.height - z * scale], -1))
        return np.stack(found).reshape(len(self.sample), a.poses, 17, 2)


def check_whole(people: PeopleSet) -> Check:
    """Every row is finished, and the rows of an identity follow one another."""
    a = people.arguments
    missing = int((people.arrays["done"][:] == 0).sum())
    wrong = int((people.arrays["identity"][:] != np.repeat(np.arange(a.identities), a.poses)).sum())
    text = f"{missing} unfinished, {wrong} with a wrong identity of {len(people.arrays['done'])} rows (none)"
    return Check("rows", text, missing == wrong == 0)


def check_split(people: PeopleSet) -> Check:
    """No identity is in two splits, and each is where the fixed rule puts it."""
    identity, split = people.arrays["identity"][:], people.arrays["split"][:]
    places = np.unique(np.stack([identity, split.astype(np.int64)]), axis=1)
    crossing = places.shape[1] - len(np.unique(identity))
    wrong = sum(SPLITS[kind] != split_of(who) for who, kind in places.T.tolist() if kind < len(SPLITS))
    text = f"{crossing} identities in two splits, {wrong} in the wrong one (none)"
    return Check("split", text, crossing == wrong == 0 and split.max() < len(SPLITS))


def check_pictures(people: PeopleSet) -> Check:
    """No picture is blank, and somebody is in it."""
    spreads, covers = [], []
    for first in range(0, len(people.arrays["done"]), 256):
        part = people.arrays["pictures"][first : first + 256]
        spreads.append(part.std((1, 2), dtype=np.float32).max(-1))
        masks = people.arrays["masks"][first : first + 256]
        alone = ~(masks == 2).any((1, 2))
        covers.append((masks == 1).mean((1, 2))[alone])
    spread, cover = np.concatenate(spreads), np.concatenate(covers)
    low, high = (cover.min(), cover.max()) if len(cover) else COVER
    passed = bool(spread.min() >= SPREAD and low >= COVER[0] and high <= COVER[1])
    text = (
        f"spread of the flattest {spread.min():.1f} levels (≥ {SPREAD:g}); a person covers {low:.1%} to {high:.1%} "
        f"({COVER[0]:.0%} to {COVER[1]:.0%})"
    )
    return Check("pictures", text, passed)


def check_masks(people: PeopleSet) -> Check:
    """Visible joints lie on the person; garments are labelled exactly where the person is."""
    joints, inside, seen, differs = people.arrays["joints"], 0, 0, 0
    for first in range(0, len(joints), 256):
        masks = people.arrays["masks"][first : first + 256] == 1
        differs += int((masks != (people.arrays["garments"][first : first + 256] > 0)).any((1, 2)).sum())
        near = binary_dilation(masks, np.ones((1, 3, 3), bool), iterations=MASK_SLACK)
        part = joints[first : first + 256]
        row, joint = np.nonzero(part[..., 2] == 2)
        x, y = part[row, joint, :2].astype(int).T
        inside += int(near[row, y.clip(0, near.shape[1] - 1), x.clip(0, near.shape[2] - 1)].sum())
        seen += len(row)
    share = inside / max(seen, 1)
    text = (
        f"{share:.2%} of {seen} visible joints within {MASK_SLACK} px of the person (≥ {IN_MASK:.1%}); "
        f"{differs} garment maps differ from the mask (none)"
    )
    return Check("masks", text, share >= IN_MASK and differs == 0)


def check_projection(people: PeopleSet) -> Check:
    """Joints of the body, posed again and projected, are the stored ones."""
    stored = np.stack([people.arrays["joints"][people.rows(i)] for i in people.sample])
    worst = float(np.abs(stored[..., :2] - people.projected).max())
    inside = ((people.projected >= 0) & (people.projected < [people.arguments.width, people.arguments.height])).all(-1)
    edges = np.abs(people.projected[..., None] - [[0, people.arguments.width], [0, people.arguments.height]])
    near_edge = (edges < PROJECTION).any((-1, -2))  # which side of the edge is a matter of rounding
    wrong = int(((stored[..., 2] > 0) != inside)[~near_edge].sum())
    text = (
        f"largest distance {worst:.4f} px (≤ {PROJECTION}) of {inside.size} joints; {wrong} wrongly in or out of the "
        "frame (none)"
    )
    return Check("joints of the body", text, worst <= PROJECTION and wrong == 0)


def check_skeleton(people: PeopleSet) -> Check:
    """The skeleton picture has its joints where the posed body has them, as far as their discs are whole."""
    a, distances = people.arguments, []
    places = np.array([k for k in range(18) if k != NECK])
    columns = np.array([COCO_TO_OPENPOSE[k] for k in places])
    for n, identity in enumerate(people.sample):
        openpose = np.array(people.arrays["openpose"][people.rows(identity)])
        drawn = draw_joints(openpose, a.height, a.width).movedim(1, -1).numpy()
        truth = people.projected[n][:, columns]
        whole = _whole_discs(openpose[:, :, :2], a.height, a.width)[:, places] & (openpose[:, places, 2] > 0)
        for picture, joint in zip(*np.nonzero(whole), strict=True):
            shown = (drawn[picture] == OPENPOSE_COLOURS[places[joint]]).all(-1)
            row, column = np.nonzero(shown)
            # the median: where two limbs cross, a pixel or two may have a disc's colour by chance
            centre = (np.median(column) + 0.5, np.median(row) + 0.5) if len(row) else (np.inf, np.inf)
            distances.append(np.hypot(*(np.array(centre) - truth[picture, joint])))
    worst = float(max(distances, default=np.inf))
    text = f"largest distance {worst:.2f} px (≤ {DRAWN:g}) of {len(distances)} whole discs from the body's joint"
    return Check("drawn skeleton", text, worst <= DRAWN)


def _whole_discs(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n, 18) bool: the discs of joints (n, 18, 2) that neither another disc nor the border touches."""
    reach = JOINT_RADIUS * height + 1
    apart = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1) + 1e6 * np.eye(points.shape[1])
    border = np.minimum(points, np.array([width, height]) - points).min(-1)
    return (apart.min(-1) > 2 * reach) & (border > reach)


def check_correspondence(people: PeopleSet) -> Check:
    """The source, warped by the flow, is the target where it is visible; compared without light, which differs."""
    a, errors, still, seen, shown = people.arguments, [], [], 0, 0
    for identity in people.sample:
        albedo = render_identity(
            load_body(), a.seed, int(identity), a.poses, a.height, a.width, second_person=a.second_person, lit=False
        )["pictures"]
        pictures = from_numpy(albedo).movedim(-1, 1).float()
        cells = F.interpolate(pictures, (a.height // a.cell, a.width // a.cell), mode="bilinear")  # at their centres
        flow = np.array(people.arrays["flow"][people.rows(identity)], np.float32)
        visible = np.array(people.arrays["visibility"][people.rows(identity)])
        for source, target in np.ndindex(a.poses, a.poses):
            if source == target:
                continue
            grid = from_numpy(flow[source, target])[None]
            warped = F.grid_sample(pictures[source][None], grid, padding_mode="border", align_corners=False)[0]
            here = visible[source, target] == 2
            errors.append((warped - cells[target]).abs().mean(0).numpy()[here])
            still.append((cells[source] - cells[target]).abs().mean(0).numpy()[here])
            seen, shown = seen + int(here.sum()), shown + int((visible[source, target] > 0).sum())
    if not seen:
        return Check("correspondence", "no cell is visible in another picture", False)
    error, unmoved = np.concatenate(errors), np.concatenate(still)
    text = (
        f"median {np.median(error):.1f} (≤ {WARP_MEDIAN:g}), mean {error.mean():.1f} (≤ {WARP_MEAN:g}) levels over "
        f"{seen / max(shown, 1):.0%} visible cells; unmoved {np.median(unmoved):.1f}, {unmoved.mean():.1f}"
    )
    return Check("correspondence", text, bool(np.median(error) <= WARP_MEDIAN and error.mean() <= WARP_MEAN))


def check_return(people: PeopleSet) -> Check:
    """From a target cell to the source and back by the flow of the other direction: the same place."""
    a, distances = people.arguments, []
    h, w = a.height // a.cell, a.width // a.cell
    v, u = np.mgrid[0:h, 0:w]
    home = np.stack([(u + 0.5) / w * 2 - 1, (v + 0.5) / h * 2 - 1], -1).astype(np.float32)  # (h, w, 2), of grid_sample
    for identity in people.sample:
        flow = np.array(people.arrays["flow"][people.rows(identity)], np.float32)
        visible = np.array(people.arrays["visibility"][people.rows(identity)]) == 2
        for source, target in np.ndindex(a.poses, a.poses):
            if source == target:
                continue
            grid = from_numpy(flow[source, target])[None]
            # The way back, and where all four cells it is read from are themselves seen from there.
            known = from_numpy(np.concatenate([flow[target, source], visible[target, source][..., None]], -1))
            back = (
                F.grid_sample(known.float().movedim(-1, 0)[None], grid, align_corners=False)[0].movedim(0, -1).numpy()
            )
            here = visible[source, target] & (back[..., 2] > 0.999)
            away = (back[..., :2] - home) * np.array([w, h]) / 2
            distances.append(np.hypot(*away[here].T))
    away = np.concatenate(distances) if distances else np.zeros(0)
    median, most = (np.median(away), np.quantile(away, 0.95)) if len(away) else (np.inf, np.inf)
    text = (
        f"there and back {median:.2f} cells in the median (≤ {RETURN_MEDIAN:g}), 95 % within {most:.2f} "
        f"(≤ {RETURN_MOST:g}), of {len(away)}"
    )
    return Check("flow, both ways", text, bool(median <= RETURN_MEDIAN and most <= RETURN_MOST))


def run_checks(folder: str | Path, sample: int = 40) -> list[Check]:
    """All checks of a set; the correspondence only where the set has one.

    Raises:
        InputError: see `PeopleSet`.
    """
    people = PeopleSet(folder, sample)
    checks = [check_whole, check_split, check_pictures, check_masks, check_projection, check_skeleton]
    if people.arguments.correspondence:
        checks += [check_correspondence, check_return]
    return [check(people) for check in checks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, default=40, help="identities that are posed and rendered again")
    args = parser.parse_args()
    try:
        checks = run_checks(args.folder, args.sample)
    except InputError as error:
        parser.error(str(error))
    for check in checks:
        print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<20}{check.measured}")
    sys.exit(not all(check.passed for check in checks))


if __name__ == "__main__":
    main()
