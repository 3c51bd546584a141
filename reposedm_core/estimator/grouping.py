"""Several people in a picture: peaks of the heat maps, put together to people by their tags.

Newell, Huang and Deng, "Associative Embedding: End-to-End Learning for Joint Detection and Grouping", NeurIPS 2017,
as HigherHRNet uses it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_tensor
from ..errors import InputError
from ..pose.heatmaps import locate_peaks
from .hrnet import enlarge, merge_heatmaps
from .protocol import PoseEstimator

ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
"""COCO joints in the order of grouping: head and trunk, which are found best, before the limbs."""


@torch.no_grad()
def predict_people(
    estimator: PoseEstimator,
    images: Tensor,
    threshold: float = 0.1,
    tag_threshold: float = 1.0,
    max_people: int = 30,
    refine: bool = True,
) -> list[Tensor]:
    """The people in each picture, by an estimator whose tags were trained on pictures of several people.

    The shipped `mini` was not: it saw one person a picture. Use `predict_pose` with it.

    Args:
        estimator: in eval mode.
        images: (B, 3, H, W) in [-1, 1].
        threshold: above 0; peaks of the merged heat maps that are lower are no joints.
        tag_threshold: joints whose tags differ by as much belong to two people.
        max_people: in one picture; also how many peaks of a joint are looked at.
        refine: look for a person's missing joints again where the tags are that person's, peak or not.

    Returns:
        B tensors (P, K, 3) float32: x, y in pixels (pixel centres at +0.5), score; all zero for an absent joint. Best
        person first, by the mean score of its K joints; P = 0 where nobody is.

    Raises:
        InputError: max_people below 1, a threshold that is not above 0, an estimator without tags, or pictures that it
            refuses.
    """
    if max_people < 1:
        raise InputError(f"max_people = {max_people}: must be 1 or more.")
    if not threshold > 0:
        raise InputError(f"threshold = {threshold}: must be above 0, or empty heat maps would be full of joints.")
    config, output = estimator.config, estimator(images)
    if output.tags is None:
        raise InputError(
            "This pose estimator sees one person a picture: it has no tags to tell people apart. Use "
            "predict_pose, or a HigherHRNet."
        )
    heatmaps = merge_heatmaps(*(maps.float() for maps in output.heatmaps), udp=config.udp)
    heatmaps = torch.nan_to_num(heatmaps).clamp(min=0)
    tags = enlarge(output.tags.float(), heatmaps.shape[-2:], config.udp)
    scores, cells = find_peaks(heatmaps, max_people)
    peak_tags = tags.flatten(2).gather(-1, cells).cpu().numpy()
    people = []
    for heat, tag, score, cell, peak_tag in zip(heatmaps, tags, scores.cpu().numpy(), cells, peak_tags, strict=True):
        members = group_peaks(score, peak_tag, threshold, tag_threshold)
        where = torch.from_numpy(members).to(cell.device)
        absent = where.T < 0
        index = cell.gather(-1, where.T.clamp(min=0))  # (K, P) cells
        if refine:
            index, absent = _search(heat, tag, index, absent, threshold, tag_threshold / 2)
        found = torch.cat(
            [
                locate_peaks(heat[None], index[None], config.strides[-1], config.udp)[0],
                heat.flatten(1).gather(-1, index)[..., None],
            ],
            -1,
        )
        found = found.masked_fill(absent[..., None], 0).transpose(0, 1)
        best = found[..., 2].mean(-1).argsort(descending=True, stable=True)
        people.append(found[best[:max_people]])
    return people


def find_peaks(heatmaps: Tensor, count: int, window: int = 3) -> tuple[Tensor, Tensor]:
    """The highest local maxima of every map.

    Args:
        heatmaps: (B, K, h, w), finite.
        count: N, at most.
        window: odd, cells in which a maximum is the only one. 3 at 1/2 of the picture reaches 2 pixels to each side,
            as the official 5 at full size.

    Returns:
        heights (B, K, N), highest first, 0 or less where there are fewer peaks; and cells i · w + j (B, K, N).
    """
    sizes = check_tensor(heatmaps, "heatmaps", "B K h w")
    _, first = F.max_pool2d(heatmaps, window, 1, window // 2, return_indices=True)
    # By index, not by value: of equal neighbours one is the peak, else a joint between two cells would count twice.
    own = torch.arange(sizes["h"] * sizes["w"], device=heatmaps.device).view(sizes["h"], sizes["w"])
    peaks = torch.where(first == own, heatmaps, 0).flatten(2)
    scores, cells = peaks.topk(min(count, peaks.shape[-1]), -1)
    return scores, cells


def group_peaks(scores: np.ndarray, tags: np.ndarray, threshold: float = 0.1, tag_threshold: float = 1.0) -> np.ndarray:
    """Peaks put together to people, joint by joint.

    Each joint's peaks are given to the people so far at the least total cost of 100 · round(|tag − mean tag|) − score
    (the Hungarian method): tags decide, and scores where tags say the same. Who is left over begins a person.

    Args:
        scores: (K, N) heights; those below `threshold` are no peaks.
        tags: (K, N).
        tag_threshold: how far a peak's tag is from a person's mean tag at least, not to be that person's.

    Returns:
        (P, K) int64, which peak is each person's joint, and -1 for none.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and few need it

    joints = len(scores)
    members: list[np.ndarray] = []
    for joint in ORDER if joints == len(ORDER) else range(joints):
        peaks = np.flatnonzero(scores[joint] >= threshold)
        means = np.array([tags[np.flatnonzero(own >= 0), own[own >= 0]].mean() for own in members])
        apart = np.abs(tags[joint, peaks][:, None] - means)  # (peaks, people so far)
        rows, columns = linear_sum_assignment(100 * apart.round() - scores[joint, peaks][:, None])
        known = {row: column for row, column in zip(rows, columns, strict=True) if apart[row, column] < tag_threshold}
        for row, peak in enumerate(peaks):
            if row not in known:
                members.append(np.full(joints, -1))
            members[known.get(row, -1)][joint] = peak
    return np.stack(members) if members else np.empty((0, joints), np.int64)


def _search(
    heat: Tensor, tags: Tensor, index: Tensor, absent: Tensor, threshold: float, reach: float
) -> tuple[Tensor, Tensor]:
    """`index` and `absent` (K, P) with the missing joints found where the tags are within `reach` of the person's."""
    index, absent = index.clone(), absent.clone()
    own = tags.flatten(1).gather(-1, index).masked_fill(absent, 0)
    mean = own.sum(0) / (~absent).sum(0)
    for person in range(index.shape[1]):
        missing = absent[:, person].nonzero()[:, 0]
        if not len(missing):
            continue
        alike = (tags[missing] - mean[person]).abs() < reach
        value, cell = torch.where(alike, heat[missing], 0).flatten(1).max(-1)
        found = value >= threshold
        index[missing[found], person], absent[missing[found], person] = cell[found], False
    return index, absent
