"""Measures of the people that an estimator finds in pictures: OKS-AP, AP(m), CAP and PCE, by pycocotools.

The HumanSD protocol (Ju et al., ICCV 2023): the truth is the pose that a picture was made for, not what it shows.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np

from reposedm_core.metrics import pose_cosine

MOST_PEOPLE = 20
"""Detections of one picture that count, best first."""
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2)}
"""Persons' areas in square pixels, as COCO has them."""


def people_count_errors(found: list[np.ndarray], truth: list[np.ndarray]) -> np.ndarray:
    """People counting error (PCE) of each picture, (n,): |people found − people asked for|."""
    return np.array(
        [abs(len(people) - len(_asked_for(poses))) for people, poses in zip(found, truth, strict=True)], np.float64
    )


def people_measures(found: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, float]:
    """Average precisions over all pictures, 0..1, each the mean over thresholds .50, .55, …, .95 of the similarity.

    Args:
        found: of each picture the people (P, 17, 3): x, y in pixels and score; best first, more than `MOST_PEOPLE` are
            cut off.
        truth: of each picture the poses asked for (Q, 17, 3): x, y in pixels and state; a pose without any labelled
            joint (state above 0) does not count. A person's area is that of the labelled joints' bounding box.

    Returns:
        "ap": similarity is OKS with COCO's σ; "ap_m": of people of medium area; "cap_published" and "cap": similarity
        is `pose_cosine` as HumanSD's public code computes it and as it is defined. NaN where no such person is.
    """
    images: list[dict] = []
    persons: list[dict] = []
    detections: list[dict] = []
    for number, (people, poses) in enumerate(zip(found, truth, strict=True), 1):
        images.append({"id": number})
        for pose in _asked_for(poses):
            box = _box(pose, pose[:, 2] > 0)
            persons.append(
                {
                    "id": len(persons) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "num_keypoints": int((pose[:, 2] > 0).sum()),
                    "keypoints": pose.astype(np.float64).ravel().tolist(),
                }
            )
        for person in people[:MOST_PEOPLE]:
            # a box of its own: pycocotools would take absent joints, which lie at 0, for the person's extent
            detections.append(
                {
                    "image_id": number,
                    "category_id": 1,
                    "score": float(person[:, 2].mean()),
                    "bbox": _box(person, person[:, 2] > 0),
                    "keypoints": person.astype(np.float64).ravel().tolist(),
                }
            )
    if not persons:
        return dict.fromkeys(("ap", "ap_m", "cap_published", "cap"), float("nan"))
    ap, medium = _precisions(images, persons, detections)
    return {
        "ap": ap,
        "ap_m": medium,
        "cap_published": _precisions(images, persons, detections, True)[0],
        "cap": _precisions(images, persons, detections, False)[0],
    }


def _precisions(
    images: list[dict], persons: list[dict], detections: list[dict], published: bool | None = None
) -> tuple[float, float]:
    """AP of all and of medium people; by `pose_cosine` instead of OKS where `published` is given."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class CosineEval(COCOeval):
        """COCO's evaluation with the cosine where OKS stands."""

        def computeOks(self, imgId: int, catId: int) -> np.ndarray | list:
            """(detections, persons) similarities of one picture, best detection first."""
            persons, people = self._gts[imgId, catId], self._dts[imgId, catId]
            if not persons or not people:
                return []
            best = np.argsort([-person["score"] for person in people], kind="mergesort")[: self.params.maxDets[-1]]
            poses = [np.reshape(person["keypoints"], (17, 3)) for person in persons]
            return np.array(
                [
                    [pose_cosine(np.reshape(people[i]["keypoints"], (17, 3)), pose, bool(published)) for pose in poses]
                    for i in best
                ]
            )

    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        truth, found = COCO(), COCO()
        categories = [{"id": 1, "name": "person"}]
        truth.dataset = {
            "images": images,
            "annotations": [dict(person) for person in persons],
            "categories": categories,
        }
        truth.createIndex()
        if detections:
            found = truth.loadRes([dict(detection) for detection in detections])
        else:
            found.dataset = {"images": images, "annotations": [], "categories": categories}
            found.createIndex()
        evaluation = (COCOeval if published is None else CosineEval)(truth, found, "keypoints")
        evaluation.params.maxDets = [MOST_PEOPLE]
        evaluation.params.areaRng = [list(area) for area in AREAS.values()]
        evaluation.params.areaRngLbl = list(AREAS)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, :, 0]  # thresholds × recalls × areas, -1 where nobody is
    every, medium = (
        float(area[area > -1].mean()) if (area > -1).any() else float("nan") for area in np.moveaxis(precision, -1, 0)
    )
    return every, medium


def _asked_for(poses: np.ndarray) -> np.ndarray:
    return poses[(poses[..., 2] > 0).any(-1)]


def _box(joints: np.ndarray, known: np.ndarray) -> list[float]:
    points = joints[known, :2].astype(np.float64)
    if not len(points):
        return [0.0, 0.0, 0.0, 0.0]
    low, high = points.min(0), points.max(0)
    return [*low.tolist(), *(high - low).tolist()]
