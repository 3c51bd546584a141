"""How alike two poses are: COCO's object keypoint similarity, and the cosine that HumanSD's CAP puts in its place."""

from __future__ import annotations

import numpy as np

from ..pose.skeleton import COCO_SIGMAS


def object_keypoint_similarity(detected: np.ndarray, truth: np.ndarray, area: float | np.ndarray) -> float | np.ndarray:
    """OKS of one person, 0..1: the mean over the labelled joints of exp(−d² / (2 · area · (2σ)²)).

    Lin et al., COCO keypoint evaluation; σ are COCO's.

    Args:
        detected: (..., 17, 2 or 3), x, y in pixels.
        truth: (..., 17, 3), x, y in pixels and state; joints of state 0 are not labelled.
        area: of the person in square pixels, (...) or a number.

    Returns:
        (...), a number for one pair of people; NaN where no joint is labelled.
    """
    labelled = truth[..., 2] > 0
    squared = np.square(detected[..., :2].astype(np.float64) - truth[..., :2]).sum(-1)
    exponent = squared / (2 * (np.asarray(area)[..., None] + np.spacing(1)) * np.square(2 * np.asarray(COCO_SIGMAS)))
    count = labelled.sum(-1)
    similarity = np.where(labelled, np.exp(-exponent), 0).sum(-1) / np.maximum(count, 1)
    similarity = np.where(count > 0, similarity, np.nan)
    return similarity if similarity.ndim else float(similarity)


def pose_cosine(detected: np.ndarray, truth: np.ndarray, published: bool = False) -> float:
    """Cosine of two poses' shapes, 0..1: what CAP (Ju et al., "HumanSD", ICCV 2023) compares people by.

    The joints that are labelled in the truth are kept; x and y are each mapped to 0..1 by their own least and largest
    value, divided by their length and put one behind the other; the result is the cosine of the two vectors.

    `published` computes what HumanSD's public code does instead, with which its published numbers were made:
    the detected pose's y are replaced by its x over y's length, a slip that later papers copied, and all coordinates
    are first divided by COCO's σ of their joint, so that the cosine also depends on where in the picture a person is.

    Args:
        detected: (17, 2 or 3), x, y in pixels.
        truth: (17, 3), x, y in pixels and state; joints of state 0 are left out.

    Returns:
        0 where a pose has no extent in x or in y, or fewer than two joints are labelled: there is no shape.
    """
    labelled = truth[:, 2] > 0
    if labelled.sum() < 2:
        return 0.0
    weight = 1 / np.asarray(COCO_SIGMAS)[labelled, None] if published else 1.0
    one, other = (points[labelled, :2].astype(np.float64) * weight for points in (detected, truth))
    extents = np.ptp(one, 0), np.ptp(other, 0)
    if not (np.isfinite(extents).all() and np.min(extents) > 0):
        return 0.0
    one, other = ((points - points.min(0)) / extent for points, extent in zip((one, other), extents, strict=True))
    lengths = np.linalg.norm(one, axis=0)
    other = other / np.linalg.norm(other, axis=0)
    if published:
        x = one[:, 0] / lengths[0]
        one = np.stack([x, x / lengths[1]], 1)
    else:
        one = one / lengths
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))
