"""Measuring pictures made of captions and poses against a captioned set: the columns of Table 3 and more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from reposedm_core.errors import InputError
from reposedm_core.files import make_folder, write_json, write_text
from reposedm_core.images import to_rgb
from reposedm_core.networks import SHIPPED
from training.data.captions import open_captions
from training.data.people_set import to_unit
from training.evaluation.compare import gathered, processes
from training.evaluation.generate import SEED_STRIDE, TRUTH
from training.evaluation.measure import Detector, load_detector
from training.evaluation.notes import PEOPLE, clip_note, distribution_note, finder
from training.evaluation.protocols import Protocol, protocol_of, scene_of
from training.evaluation.tables import Summary, as_cell, markdown_table, summarise
from training.metrics.backbones import find
from training.metrics.clip import ClipScore
from training.metrics.distribution import FeatureExtractor, fid, kid, open_extractor
from training.metrics.fid_inception import FidInception
from training.metrics.people import people_count_errors

COLUMNS = ("fid", "kid", "ap", "ap_m", "cap_published", "cap", "pce", "clip")
FID = "fid"
"""The extractor of `FidInception`, beside those of `EXTRACTORS`."""


def read_batch(folder: Path, numbers: range, size: tuple[int, int]) -> Tensor:
    """Pictures of a folder by their numbers, (b, 3, H, W) in [-1, 1].

    Raises:
        InputError: one is missing, unreadable, or of another size (height, width).
    """
    pictures = []
    for number in numbers:
        path = folder / f"{number:05d}.png"
        try:
            with Image.open(path) as picture:
                pictures.append(np.array(to_rgb(picture)))
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error}): the folder must hold one PNG for each picture of the "
                "set, 00000.png and so on in its order."
            ) from None
        if pictures[-1].shape[:2] != size:
            raise InputError(
                f"{path} is {pictures[-1].shape[1]}×{pictures[-1].shape[0]}, the set has {size[1]}×"
                f"{size[0]}: resize the pictures to the set's size."
            )
    return to_unit(np.stack(pictures))


@dataclass
class Tools:
    """What measures: the detector of people, the extractor of features for FID and KID, and a CLIP or None."""

    detector: Detector
    features: FeatureExtractor | FidInception
    clip: ClipScore | None = None

    @classmethod
    def open(
        cls,
        protocol: str = "ours",
        judge: Path | None = None,
        judge_udp: bool = False,
        extractor: str = "auto",
        backbones: Path | None = None,
        clip: Path | None = None,
        device: str = "cpu",
    ) -> Tools:
        """All of them, on a device.

        Args:
            protocol: of `PROTOCOLS`.
            judge, judge_udp: see `load_detector`; None is the shipped estimator, which finds one person.
            extractor, backbones: see `open_extractor`; `FID` is FID's own Inception, which "auto" takes for a protocol
                of scenes where its weights are.
            clip: folder of a CLIP; None leaves the CLIP score out.

        Raises:
            InputError: weights that are missing or do not fit.
        """
        scenes = protocol_of(protocol).scenes
        if extractor == FID or (extractor == "auto" and scenes and find("fid", backbones)):
            features: FeatureExtractor | FidInception = FidInception(backbones)
        else:
            features = open_extractor(extractor, backbones)
        score = ClipScore(clip, device) if clip else None
        return cls(load_detector(judge or SHIPPED, device, judge_udp), features.to(device), score)

    def see(self, images: Tensor, captions: list[str], device: str) -> Found:
        """What is found in pictures (b, 3, H, W) in [-1, 1]."""
        images = images.to(device)
        clip = None if self.clip is None else self.clip(images, captions)
        return Found(self.detector(images), self.features(images).cpu(), clip)


def evaluate(
    data: Path,
    pictures: dict[str, Path],
    out: Path,
    tools: Tools,
    split: str = "test",
    count: int = 0,
    device: str = "cpu",
    batch: int = 8,
    protocol: str = "ours",
    sampled: dict[str, dict] | None = None,
) -> dict:
    """Measure folders of pictures and the set's own pictures.

    Args:
        data, split: a captioned set of training/prepare.py, or a people set.
        pictures: row → folder.
        count: the first pictures of the split; 0 is all.
        protocol: of `PROTOCOLS`.
        sampled: row → how it was sampled, for the report.

    Returns:
        What results.json holds; of several processes, in the first one alone.

    Raises:
        InputError: no such set or folder, or pictures of another size than the set's.
    """
    rules, detector, features = protocol_of(protocol), tools.detector, tools.features
    captioned = open_captions(data, split)
    make_folder(out, "out")  # before the work, not after it
    total = min(count or len(captioned), len(captioned))
    rank, world = processes()
    parts = []
    for first in tqdm(list(range(0, total, batch))[rank::world], desc="measuring", unit="batch", disable=rank > 0):
        numbers = range(first, min(first + batch, total))
        examples = [captioned.read(number) for number in numbers]
        rows = {
            name: read_batch(folder, numbers, (captioned.height, captioned.width)) for name, folder in pictures.items()
        }
        rows[TRUTH] = torch.stack([example.picture for example in examples])
        captions = [example.caption for example in examples]
        found = {row: tools.see(images, captions, device) for row, images in rows.items()}
        about = [(rules.asked_for(example.joints), scene_of(example.name)) for example in examples]
        parts.append((first, about, found))
    parts = sorted(gathered(parts), key=lambda part: part[0])
    if rank:
        return {}
    truth, scenes = zip(*(each for _, about, _ in parts for each in about), strict=True)
    found = {row: Found.joined([part[2][row] for part in parts]) for row in [*pictures, TRUTH]}
    for one in found.values():
        one.people = detector.sure(one.people)
    slices = getattr(features, "fid", slice(None)), getattr(features, "kid", slice(None))
    cells = measures(found, list(truth), rules, slices)
    by_scene: dict[str, Summary] = {}
    for scene in sorted({scene for scene in scenes if scene}):
        which = np.flatnonzero([each == scene for each in scenes])
        some = {row: one.part(which) for row, one in found.items()}
        by_scene[scene] = measures(some, [truth[n] for n in which], rules, slices)
        for each in by_scene[scene].values():
            each["pictures"] = as_cell(len(which))
    by_scenes = rules.scenes and len(by_scene) > 0
    counted = {"fid": 0, "kid": 0}
    if by_scenes:
        for row in pictures:
            for name in counted:
                of = [table[row][name]["mean"] for table in by_scene.values() if table[row][name]["mean"] is not None]
                cells[row][name], counted[name] = as_cell(float(np.mean(of)) if of else None), len(of)
    notes = [
        *rules.notes,
        finder(detector.name, detector.several),
        PEOPLE,
        distribution_note(features.name, "the set's own pictures", total, "one place in the set"),
    ]
    if by_scenes:
        notes.append(
            f"Of {len(by_scene)} scenes {counted['fid']} have the two pictures that FID needs, {counted['kid']} the "
            "four that KID needs."
        )
    if rules.scenes and not by_scenes:
        notes.append("This set has no scenes: FID and KID are of all pictures at once.")
    if tools.clip is not None:
        notes.append(clip_note(tools.clip.name))
    if sampled:
        notes.append(f"The noise of picture n has the seed {SEED_STRIDE:,} · seed + n, of every row.")
    results = {
        "protocol": {
            "name": protocol,
            "data": captioned.name,
            "split": split,
            "pictures": total,
            "width": captioned.width,
            "height": captioned.height,
            "judge": detector.name,
            "extractor": features.name,
            "clip": None if tools.clip is None else tools.clip.name,
            "sampled": sampled or {},
            "notes": notes,
        },
        "rows": cells,
        "scenes": by_scene,
    }
    write(results, out)
    return results


@dataclass
class Found:
    """What was found in n pictures of a row: the people of each, features (n, D), and CLIP scores (n,) or None."""

    people: list[np.ndarray]
    features: Tensor
    clip: np.ndarray | None

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        """All pictures of several parts."""
        clip = None if parts[0].clip is None else np.concatenate([part.clip for part in parts])
        people = [found for part in parts for found in part.people]
        return cls(people, torch.cat([part.features for part in parts]), clip)

    def part(self, which: np.ndarray) -> Found:
        """The same of some of the pictures."""
        clip = None if self.clip is None else self.clip[which]
        return Found([self.people[n] for n in which], self.features[which], clip)


def measures(found: dict[str, Found], truth: list[np.ndarray], rules: Protocol, slices: tuple[slice, slice]) -> Summary:
    """Every measure of every row; `slices` are the features of FID and of KID."""
    places = np.arange(len(truth))
    values = {
        row: {"pce": people_count_errors(one.people, truth), **({} if one.clip is None else {"clip": one.clip})}
        for row, one in found.items()
    }
    cells = summarise(values, places)
    for row, one in found.items():
        cells[row] |= {name: as_cell(value) for name, value in rules.people_measures(one.people, truth).items()}
        if row != TRUTH:
            (real, fake), (kid_real, kid_fake) = ((found[TRUTH].features[:, s], one.features[:, s]) for s in slices)
            cells[row]["fid"] = as_cell(fid(real, fake))
            distance = kid(kid_real.numpy(), kid_fake.numpy(), places, places)
            cells[row]["kid"] = as_cell(*distance or (None,))
    return cells


def how_sampled(sampled: dict[str, dict]) -> str:
    """One line per row: how its pictures were made."""
    lines = []
    for row, made in sampled.items():
        field = made["field"]
        lines.append(
            f"- {row}: {made['weights']}, {made['steps']} DDIM steps, w_c {made['guidance_scale']:g}, "
            f"seed {made['seed']}"
            + (", U-Net in bfloat16" if made["bf16"] else "")
            + (
                f"; field: {field['space']}, strength {field['strength']:g}, {field['start']:g} to {field['end']:g}, "
                f"{field['estimator']}"
                if field
                else ""
            )
        )
    return "\n".join(lines)


def write(results: dict, out: Path) -> None:
    """Write results.json and results.md into the folder `out`."""
    p = results["protocol"]
    columns = [name for name in COLUMNS if name != "clip" or p["clip"]]
    text = [
        f"# {p['pictures']} pictures of {p['data']}, split {p['split']!r}, {p['width']}×{p['height']}, "
        f"protocol “{p['name']}”",
        markdown_table(results["rows"], columns, "pictures", extractor=p["extractor"]),
        how_sampled(p["sampled"]),
        "\n".join(f"- {note}" for note in p["notes"]),
    ]
    for row in results["rows"] if results["scenes"] else ():
        table = {scene: cells[row] for scene, cells in results["scenes"].items()}
        text += [
            f"## {row}, scene by scene",
            markdown_table(table, ["pictures", *columns], "scene", extractor=p["extractor"]),
        ]
    write_json(out / "results.json", results)
    write_text(out / "results.md", "\n\n".join(filter(None, text)) + "\n")
