"""Point clouds from geometry packets, and their filters.

Clouds are in OpenCV camera axes and in the unit of the depth; files and core's nodes get glTF axes (see files.py). A
batch gives a list of clouds, one for each image, since they differ in length.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .camera import focal_px
from .edges import DEFAULT_EDGE, depth_edges
from .normals import normals_from_points
from .packets import Geometry, read_geometry

# Voxel coordinates are packed into one 64-bit key, 21 bits for each axis.
_VOXEL_BITS = 21
_CHUNK = 1 << 15
_LARGEST = float(np.finfo(np.float32).max) / 2


@dataclass(frozen=True)
class PointCloud:
    """points (N,3) float32, OpenCV axes; colors (N,3) uint8 sRGB; normals (N,3) float32 towards the camera, or None;
    spacing (N,) float32, the distance between neighbouring samples of the surface, in the unit of the points."""

    points: np.ndarray
    colors: np.ndarray
    spacing: np.ndarray
    normals: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.points)

    def select(self, chosen: np.ndarray) -> "PointCloud":
        """The points under a mask (N,) bool or a list of indices."""
        normals = None if self.normals is None else self.normals[chosen]
        return PointCloud(self.points[chosen], self.colors[chosen], self.spacing[chosen], normals)


def point_clouds(
    packet: dict[str, Any],
    *,
    edge_threshold: float = DEFAULT_EDGE,
    far: float = 0.0,
    stride: int = 1,
    normals: bool = False,
    voxel: float = 0.0,
    outlier_neighbours: int = 0,
    outlier_deviations: float = 2.0,
) -> list[PointCloud]:
    """One cloud for each image of a MOGE_GEOMETRY packet; empty where nothing is left.

    edge_threshold: removes pixels at depth edges (see edges.py), the flying points between surfaces; 0 keeps them.
    far: removes points deeper than this, in the unit of the depth; 0 keeps all. stride: every n-th row and column.
    normals: adds them, the packet's or derived. voxel: edge of the cubes to thin to one mean point each; 0 keeps all.
    outlier_neighbours: as `remove_outliers`, after thinning; 0 keeps all.
    """
    if stride < 1:
        raise ValueError(f"got stride {stride}, expected 1 or more")
    if not far >= 0.0:
        raise ValueError(f"got far = {far}, expected 0 (off) or a depth")
    geometry = read_geometry(packet)
    keep = surface_mask(geometry, edge_threshold, far)
    normal = surface_normals(geometry, edge_threshold) if normals else None
    width, height = geometry.depth.shape[2], geometry.depth.shape[1]
    focal_x, focal_y = focal_px(geometry.intrinsics, width, height)
    pixel = (stride / torch.minimum(focal_x, focal_y)).tolist()  # size of a sample at depth 1
    clouds = []
    for index in range(len(keep)):
        cloud = _cloud(geometry, index, keep[index], normal, stride, pixel[index])
        if voxel != 0.0:
            cloud = thin_by_voxels(cloud, voxel)
        if outlier_neighbours > 0:
            cloud = remove_outliers(cloud, outlier_neighbours, outlier_deviations)
        clouds.append(cloud)
    return clouds


def surface_mask(geometry: Geometry, edge_threshold: float, far: float) -> Tensor:
    """(B,H,W) bool on the CPU: valid pixels that are neither at a depth edge nor beyond `far` (0: no limit)."""
    keep = geometry.valid.cpu() & ~depth_edges(geometry.depth, geometry.valid, edge_threshold)
    return keep & (geometry.depth.cpu() <= far) if far > 0.0 else keep


def thin_by_voxels(cloud: PointCloud, voxel: float) -> PointCloud:
    """One point for each cube of edge `voxel` that holds points: the mean of their positions, colours and normals."""
    if not 0.0 < voxel < np.finfo(np.float32).max:
        raise ValueError(f"got a voxel size of {voxel}, expected a positive length in the unit of the depth")
    if len(cloud) == 0:
        return cloud
    low = cloud.points.min(axis=0)
    if (cloud.points.max(axis=0) - low).max() / voxel >= 2**_VOXEL_BITS:
        raise ValueError(f"a voxel size of {voxel:g} is too small for a scene of this extent; use a larger one")
    cell = ((cloud.points - low) / np.float32(voxel)).astype(np.int64)
    key = (cell[:, 0] << 2 * _VOXEL_BITS) | (cell[:, 1] << _VOXEL_BITS) | cell[:, 2]
    _, group, count = np.unique(key, return_inverse=True, return_counts=True)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(group, weights=column, minlength=len(count)) for column in values.T]
        return np.stack(sums, axis=1) / count[:, None]

    normals = None if cloud.normals is None else _unit(mean(cloud.normals)).astype(np.float32)
    colors = np.round(mean(cloud.colors)).astype(np.uint8)
    spacing = np.maximum(mean(cloud.spacing[:, None])[:, 0], voxel).astype(np.float32)
    # Relative to the corner: sums of large coordinates would lose the small differences.
    points = (mean(cloud.points - low) + low).astype(np.float32)
    return PointCloud(points, colors, spacing, normals)


def remove_outliers(cloud: PointCloud, neighbours: int = 20, deviations: float = 2.0) -> PointCloud:
    """Statistical outlier removal (Rusu et al. 2008): drops points whose mean distance to their `neighbours` nearest
    points is more than `deviations` standard deviations above the cloud's mean of it. As in Open3D, a point counts as
    its own neighbour.

    Needs scipy, which every ComfyUI has. Clouds of at most `neighbours` points stay as they are.
    """
    if neighbours < 2 or not deviations > 0.0:
        raise ValueError(
            f"got {neighbours} neighbours and {deviations} deviations, expected at least 2 and more than 0"
        )
    if len(cloud) <= neighbours:
        return cloud
    try:
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ImportError("statistical outlier removal needs scipy: pip install scipy") from error
    tree = cKDTree(cloud.points, balanced_tree=False, leafsize=32)  # twice as fast as the defaults on surfaces
    distance = tree.query(cloud.points, k=neighbours, workers=-1)[0].mean(axis=1)
    return cloud.select(distance < distance.mean() + deviations * distance.std(ddof=1))


def _cloud(
    geometry: Geometry, index: int, keep: Tensor, normal: Tensor | None, stride: int, pixel: float
) -> PointCloud:
    def rows(values: Tensor) -> np.ndarray:
        plane = values[index, ::stride, ::stride].cpu().numpy()
        return np.take(plane.reshape(-1, plane.shape[-1]), flat, axis=0)

    flat = np.flatnonzero(keep[::stride, ::stride].cpu().numpy())
    points = rows(geometry.points).astype(np.float32, copy=False)
    colors = to_bytes(rows(geometry.image))
    normals = None if normal is None else rows(normal).astype(np.float32, copy=False)
    farthest = np.float32(min(_LARGEST, _LARGEST / pixel))  # whose spacing is a float32
    return PointCloud(points, colors, np.minimum(points[:, 2], farthest) * np.float32(pixel), normals)


def to_bytes(colors: np.ndarray) -> np.ndarray:
    """uint8 of colours in 0..1; NaN becomes 0."""
    values = np.ascontiguousarray(colors).reshape(-1)
    result = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _CHUNK):  # in pieces that stay in the cache
        scaled = values[start : start + _CHUNK] * np.float32(255.0)
        scaled += np.float32(0.5)
        np.fmax(scaled, np.float32(0.0), out=scaled)  # also takes NaN to 0
        np.fmin(scaled, np.float32(255.0), out=scaled)
        result[start : start + _CHUNK] = scaled
    return result.reshape(colors.shape)


def surface_normals(geometry: Geometry, edge_threshold: float) -> Tensor:
    """(B,H,W,3): the packet's normals, 0 where they are not finite, or else those of its points (see normals.py)."""
    if geometry.normal is not None:
        return torch.where(geometry.normal.isfinite().all(-1, keepdim=True), geometry.normal, 0.0)
    return normals_from_points(geometry.points, geometry.valid, edge_threshold)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
