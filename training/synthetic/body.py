"""The posed human mesh: Anny's body together with MakeHuman's clothing shells, as plain numpy arrays.

Anny (Apache-2.0, data CC0) poses the body and the helper meshes of the same base mesh: the *tights* shell (a
skin-tight layer from neck to feet, used for tops, trousers and shoes), the *skirt* shell and the *hair*
shell. They share one vertex array, so a surface point is (triangle, barycentric weights) in every pose and
the correspondence is exact.

Rest coordinates ("rest") are those of the template mesh in an A-pose: x to the person's left, y backwards
(the face looks to -y), z up; one unit is about one metre, the template spans z = -0.84 … 0.85.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from reposedm_core.pose.skeleton import COCO17

PART_BODY, PART_TIGHTS, PART_SKIRT, PART_HAIR, PART_EYE = range(5)
ZONE_TORSO, ZONE_ARM, ZONE_HAND, ZONE_LEG, ZONE_HEAD = range(5)

_PARTS = {
    "body": PART_BODY,
    "helper-tights": PART_TIGHTS,
    "helper-skirt": PART_SKIRT,
    "helper-hair": PART_HAIR,
    "helper-l-eye": PART_EYE,
    "helper-r-eye": PART_EYE,
}
_ZONE_OF_BONE = (  # first matching prefix wins; everything else is torso
    (("upperarm", "lowerarm"), ZONE_ARM),
    (("wrist", "finger", "metacarpal"), ZONE_HAND),
    (("upperleg", "lowerleg", "foot", "toe"), ZONE_LEG),
    (("neck", "head", "eye"), ZONE_HEAD),
)
_LIMBS = (
    ("upperarm01", "shoulder", "elbow"),
    ("lowerarm01", "elbow", "wrist"),
    ("upperleg01", "hip", "knee"),
    ("lowerleg01", "knee", "ankle"),
)


@dataclass(frozen=True)
class Mesh:
    """Topology and rest geometry, the same for every person.

    rest (V, 3) float32; faces (F, 3) int32 into rest; part, zone (F,) int8, the PART_… and ZONE_… of a
    triangle; joints (17, 3) float32, the COCO-17 joints of the template in rest coordinates.
    """

    rest: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    zone: np.ndarray
    joints: np.ndarray

    @cached_property
    def highest(self) -> np.ndarray:
        """(F,) float32: rest z of a triangle's highest corner."""
        return self.rest[self.faces, 2].max(1)

    @cached_property
    def innermost(self) -> np.ndarray:
        """(F,) float32: |rest x| of the corner nearest to the middle plane."""
        return np.abs(self.rest[self.faces, 0]).min(1)

    @cached_property
    def tights_zone(self) -> np.ndarray:
        """(V,) int8: ZONE_… of the vertices of the tights, -1 for all others."""
        zone = np.full(len(self.rest), -1, np.int8)
        tights = self.part == PART_TIGHTS
        zone[self.faces[tights]] = self.zone[tights][:, None]
        return zone

    @cached_property
    def in_skirt(self) -> np.ndarray:
        """(V,) bool: the vertices of the skirt."""
        inside = np.zeros(len(self.rest), bool)
        inside[self.faces[self.part == PART_SKIRT]] = True
        return inside


class Body:
    """Anny with its COCO-17 joint regressor: about a minute the first time on a machine, then seconds."""

    def __init__(self) -> None:
        anny = _import_anny()
        import torch

        self._torch = torch
        self._model = anny.Anny(topology="anny-full").to(dtype=torch.float32)
        self._regressor = anny.KeypointsRegressor.coco(self._model)
        self.bones: dict[str, int] = {name: i for i, name in enumerate(self._model.bone_labels)}
        self.mesh = self._build_mesh(Path(anny.paths.get_anny_root_dir()) / "data" / "mpfb2" / "3dobjs" / "base.obj")

    @property
    def limbs(self) -> dict[str, np.ndarray]:
        """Unit vectors (3,) from joint to joint along both arms and legs of the template, by the name of the bone."""
        joint = dict(zip(COCO17, self.mesh.joints, strict=True))
        found = {}
        for side, name in (("L", "left"), ("R", "right")):
            for bone, start, end in _LIMBS:
                limb = joint[f"{name}_{end}"] - joint[f"{name}_{start}"]
                found[f"{bone}.{side}"] = limb / np.linalg.norm(limb)
        return found

    def pose(self, phenotype: dict[str, float], rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """One person in K poses.

        phenotype: Anny's shape parameters, each in [0, 1]. rotations: (K, bones, 3, 3), each bone's rotation
        relative to its parent. Returns vertices (K, V, 3) and COCO-17 joints (K, 17, 3), float32, and the
        standing height.
        """
        torch = self._torch
        pose = torch.eye(4).repeat(len(rotations), len(self.bones), 1, 1)
        pose[..., :3, :3] = torch.from_numpy(np.ascontiguousarray(rotations, dtype=np.float32))
        shape = {name: torch.full((1,), float(value)) for name, value in phenotype.items()}
        with torch.no_grad():
            posed = self._model(pose_parameters=pose, phenotype_kwargs=shape)
            joints = self._regressor(posed)[:, :17].numpy()
        standing = posed["rest_vertices"][0, :, 2]
        height = float(standing.max() - standing.min())
        return posed["vertices"].numpy().astype(np.float32), joints.astype(np.float32), height

    def _build_mesh(self, base_mesh: Path) -> Mesh:
        model, torch = self._model, self._torch
        groups = _triangles_by_group(base_mesh)
        faces = np.concatenate([groups[name] for name in _PARTS]).astype(np.int32)
        part = np.concatenate([np.full(len(groups[name]), value, np.int8) for name, value in _PARTS.items()])
        rest = model.template_vertices.numpy().astype(np.float32)

        zone_of_bone = np.array([_zone(name) for name in model.bone_labels])
        weight = np.zeros((len(rest), len(_ZONE_OF_BONE) + 1), np.float32)
        indices, weights = model.vertex_bone_indices.numpy(), model.vertex_bone_weights.numpy()
        for column in range(indices.shape[1]):
            np.add.at(weight, (np.arange(len(rest)), zone_of_bone[indices[:, column]]), weights[:, column])
        zone = weight[faces].sum(1).argmax(1).astype(np.int8)

        with torch.no_grad():
            joints = self._regressor({"vertices": model.template_vertices[None]})[0, :17].numpy().astype(np.float32)
        return Mesh(rest, faces, part, zone, joints)


@lru_cache(maxsize=1)
def load_body() -> Body:
    """The process-wide body (it never changes)."""
    return Body()


def _import_anny():
    try:
        import warp  # Anny's skinning backend; it greets on standard output unless told otherwise

        warp.config.log_level = warp.LOG_ERROR
    except (ImportError, AttributeError):
        pass
    try:
        import anny
        import anny.paths
    except ImportError as error:
        raise ImportError("the synthetic people need the package 'anny': pip install anny==0.6.2") from error
    return anny


def _zone(bone: str) -> int:
    return next((zone for prefixes, zone in _ZONE_OF_BONE if bone.startswith(prefixes)), ZONE_TORSO)


def _triangles_by_group(path: Path) -> dict[str, np.ndarray]:
    """Read the polygon groups of a Wavefront file and fan each polygon into triangles of vertex numbers."""
    groups: dict[str, list[tuple[int, int, int]]] = {}
    current: list[tuple[int, int, int]] = []
    for line in path.read_text().splitlines():
        if line.startswith("g "):
            current = groups.setdefault(line.split()[1], [])
        elif line.startswith("f "):
            corner = [int(field.split("/")[0]) - 1 for field in line.split()[1:]]
            current.extend((corner[0], corner[k], corner[k + 1]) for k in range(1, len(corner) - 1))
    return {name: np.array(triangles, np.int32).reshape(-1, 3) for name, triangles in groups.items()}
