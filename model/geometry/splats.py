"""Point clouds as 3D Gaussians: one flat Gaussian a point, as large as the surface sample that it stands for.

OpenCV axes (y down, z forward), which is the frame of Gaussian splatting's files and of ComfyUI's SPLAT. Colours are
the zeroth spherical harmonic of sRGB, as trained splats have it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from .files import check_cloud, ply_comments, save_parts
from .pointcloud import PointCloud

HARMONIC = 0.28209479177387814  # Y_0 = 1 / (2 sqrt(pi)): colour = 0.5 + HARMONIC * coefficient
OPACITY = 0.99
# Standard deviation over the distance of neighbours: their sum is then even to 2 % along a row (closed form of the
# first harmonic: 2 exp(-2 pi^2 s^2)). Across the surface a tenth of it.
_SIZE, _THICKNESS = 0.5, 0.1
_LEAST_COSINE = 0.2  # a surface seen at a lower angle is stretched no further: its neighbours were cut as edges
_CHUNK = 1 << 15
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Splats:
    """points (N,3); scales (N,3), standard deviations along the own axes, the last across the surface; rotations (N,4),
    unit quaternions w x y z from own axes to the points'; colors (N,3) in 0..1 sRGB. All float32, opacity OPACITY."""

    points: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    colors: np.ndarray

    @property
    def harmonics(self) -> np.ndarray:
        """(N,3) coefficients of the colours."""
        return (self.colors - np.float32(0.5)) / np.float32(HARMONIC)


def splats_from_cloud(cloud: PointCloud) -> Splats:
    """One Gaussian for each point. Its size is the cloud's spacing, stretched where the surface was seen at an angle so
    that neighbours still meet; it lies in the surface by the point's normal, and faces the camera where there is none.

    ValueError for an empty cloud or one with numbers that are not finite. Needs scipy, which every ComfyUI has.
    """
    check_cloud(cloud)
    from scipy.spatial.transform import Rotation

    ray = _unit(cloud.points)
    normal = -ray if cloud.normals is None else np.where(cloud.normals.any(axis=1, keepdims=True), cloud.normals, -ray)
    normal = _unit(normal)
    cosine = np.abs((normal * ray).sum(axis=1))
    # The direction in the surface that leads away from the viewer, and the one across; any where it is seen straight.
    away = ray - normal * (normal * ray).sum(axis=1, keepdims=True)
    least = np.eye(3, dtype=np.float32)[np.abs(normal).argmin(axis=1)]
    away = np.where(np.linalg.norm(away, axis=1, keepdims=True) > 1e-3, away, np.cross(normal, least))
    away = _unit(away)
    axes = np.stack((away, np.cross(normal, away), normal), axis=-1)  # (N,3,3), columns
    x, y, z, w = Rotation.from_matrix(axes).as_quat().astype(np.float32).T
    size = np.float32(_SIZE) * cloud.spacing
    stretched = size / np.maximum(cosine, np.float32(_LEAST_COSINE))
    scales = np.stack((stretched, size, np.float32(_THICKNESS) * size), axis=-1).astype(np.float32)
    colors = cloud.colors.astype(np.float32) / np.float32(255.0)
    return Splats(cloud.points, scales, np.stack((w, x, y, z), axis=-1), colors)


def save_splats(path: str | Path, splats: Splats, notes: Mapping[str, str] = _NONE) -> Path:
    """Write a new .ply file in the layout of 3D Gaussian splatting (Kerbl 2023): logarithms of the scales, the logit of
    the opacity. `notes`: texts by name, kept as comments of the header."""
    return save_parts(path, ".ply", _parts(splats, notes))


def _parts(splats: Splats, notes: Mapping[str, str]) -> Iterator[bytes | np.ndarray]:
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    header = ["ply", "format binary_little_endian 1.0", "comment axes: x right, y down, z forward (OpenCV)"]
    header += [line for name, text in notes.items() for line in ply_comments(name, text)]
    header += [f"element vertex {len(splats.points)}", *(f"property float {name}" for name in names), "end_header\n"]
    yield "\n".join(header).encode("ascii")
    logit = np.float32(np.log(OPACITY / (1 - OPACITY)))
    for start in range(0, len(splats.points), _CHUNK):
        chosen = slice(start, start + _CHUNK)
        points, harmonics = splats.points[chosen], splats.harmonics[chosen]
        scales = np.log(np.maximum(splats.scales[chosen], np.finfo(np.float32).tiny))
        flat = np.full((len(points), 1), logit), scales, splats.rotations[chosen]
        yield np.concatenate((points, np.zeros_like(points), harmonics, *flat), axis=1).astype("<f4")


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)
