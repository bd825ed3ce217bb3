"""Meshes from geometry packets: the pixel grid cut at depth edges, or Poisson reconstruction of a cloud.

OpenCV axes. Triangles are counter-clockwise seen from the camera, so their front faces it; the turn to glTF axes keeps
that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .edges import DEFAULT_EDGE
from .packets import read_geometry
from .pointcloud import PointCloud, surface_mask, surface_normals, to_bytes

_FEWEST_POINTS = 4


@dataclass(frozen=True)
class Mesh:
    """vertices (V,3) float32; faces (F,3) int32. Textured: uvs (V,2) float32, (0,0) the top left corner of texture
    (H,W,3) uint8. Else colors (V,3) uint8 sRGB. normals (V,3) float32 or None."""

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None = None
    texture: np.ndarray | None = None
    colors: np.ndarray | None = None
    normals: np.ndarray | None = None


def check_faces(mesh: Mesh) -> None:
    """ValueError where a face names a vertex that is not there."""
    if not len(mesh.faces):
        return
    low, high = int(mesh.faces.min()), int(mesh.faces.max())
    if low < 0 or high >= len(mesh.vertices):
        raise ValueError(f"the mesh has faces of the vertices {low} to {high}, expected 0 to {len(mesh.vertices) - 1}")


def grid_meshes(
    packet: dict[str, Any],
    *,
    edge_threshold: float = DEFAULT_EDGE,
    far: float = 0.0,
    stride: int = 1,
    normals: bool = False,
) -> list[Mesh]:
    """One mesh for each image of a MOGE_GEOMETRY packet, textured with it; without faces where nothing is left.

    Neighbouring valid pixels are joined. A triangle whose corners differ in depth by more than `edge_threshold` of the
    nearest is left out (0 keeps all), so surfaces end at depth edges without losing their border pixels. `far`,
    `stride`, `normals` as `point_clouds`.
    """
    if stride < 1:
        raise ValueError(f"got stride {stride}, expected 1 or more")
    if not edge_threshold >= 0.0 or not far >= 0.0:
        raise ValueError(f"got edge_threshold {edge_threshold} and far {far}, expected 0 (off) or more")
    geometry = read_geometry(packet)
    keep = surface_mask(geometry, 0.0, far)
    normal = surface_normals(geometry, edge_threshold) if normals else None
    height, width = keep.shape[1:]
    # Pixel centres, in shares of the image.
    v, u = np.meshgrid(
        (np.arange(0, height, stride) + 0.5) / height, (np.arange(0, width, stride) + 0.5) / width, indexing="ij"
    )
    uvs = np.stack((u, v), axis=-1).astype(np.float32).reshape(-1, 2)
    meshes = []
    for index in range(len(keep)):
        mask = keep[index, ::stride, ::stride].cpu().numpy()
        z = np.where(mask, geometry.depth[index, ::stride, ::stride].cpu().numpy(), np.inf).astype(np.float32)
        faces = _triangles(z, edge_threshold)
        used = np.zeros(z.size, dtype=bool)
        used[faces] = True
        renumbered = np.cumsum(used, dtype=np.int32) - 1

        def rows(values: Any, index: int = index, used: np.ndarray = used) -> np.ndarray:
            return values[index, ::stride, ::stride].cpu().numpy().reshape(-1, 3)[used].astype(np.float32)

        directions = None if normal is None else rows(normal)
        texture = to_bytes(geometry.image[index].numpy())
        meshes.append(Mesh(rows(geometry.points), renumbered[faces], uvs[used], texture, normals=directions))
    return meshes


def poisson_mesh(cloud: PointCloud, *, depth: int = 9, trim_percent: float = 5.0) -> Mesh:
    """Watertight-style surface through a cloud with normals (Kazhdan 2013, by Open3D), with the cloud's colours.

    depth: octree depth, 2^depth cells along the longest side (4 to 12). trim_percent: share of the vertices with the
    least support by points that is cut away, since Poisson closes what the camera never saw. ImportError where Open3D
    is missing.
    """
    if not 4 <= depth <= 12 or not 0.0 <= trim_percent < 100.0:
        raise ValueError(f"got depth {depth} and trim_percent {trim_percent}, expected 4..12 and 0..100")
    known = _oriented(cloud)
    try:
        import open3d
    except ImportError as error:
        raise ImportError(
            f"Poisson meshes need Open3D: pip install open3d. The grid mesh works without. ({error})"
        ) from error
    source = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(known.points.astype(np.float64)))
    source.normals = open3d.utility.Vector3dVector(known.normals.astype(np.float64))
    source.colors = open3d.utility.Vector3dVector(known.colors / 255.0)
    mesh, support = open3d.geometry.TriangleMesh.create_from_point_cloud_poisson(source, depth=depth)
    support = np.asarray(support)
    if trim_percent > 0.0:
        mesh.remove_vertices_by_mask(support < np.percentile(support, trim_percent))
    vertices = np.asarray(mesh.vertices).astype(np.float32)
    if len(mesh.triangles) == 0 or not np.isfinite(vertices).all():
        raise ValueError(
            "Poisson found no surface: the points are too few or too far apart, or their extent is beyond what it can "
            "count with; use the grid mesh, or scale the depth to a mean of about 1"
        )
    return Mesh(vertices, np.asarray(mesh.triangles).astype(np.int32), colors=to_bytes(np.asarray(mesh.vertex_colors)))


def _oriented(cloud: PointCloud) -> PointCloud:
    """The finite points with a normal. ValueError for less than four places: Open3D ends the process for them."""
    if cloud.normals is None:
        raise ValueError("the points have no normals, which Poisson needs: switch 'normals' on where they are made")
    known = np.isfinite(cloud.points).all(axis=1) & np.isfinite(cloud.normals).all(axis=1)
    known &= np.abs(cloud.normals).max(axis=1, initial=0.0) > 0
    left, places = cloud.points[known], 0
    while len(left) and places < _FEWEST_POINTS:
        places, left = places + 1, left[(left != left[0]).any(axis=1)]
    if places < _FEWEST_POINTS:
        raise ValueError(
            f"got {len(cloud)} points, {int(known.sum())} of them finite with a normal, at {places} different places; "
            f"Poisson needs {_FEWEST_POINTS}"
        )
    return cloud.select(known)


def _triangles(z: np.ndarray, edge_threshold: float) -> np.ndarray:
    """(F,3) flat pixel indices over depth (H,W), inf where there is no point."""
    index = np.arange(z.size, dtype=np.int32).reshape(z.shape)
    corners = {
        "a": np.s_[:-1, :-1],
        "b": np.s_[:-1, 1:],
        "c": np.s_[1:, 1:],
        "d": np.s_[1:, :-1],
    }  # clockwise from top left
    depth = {name: z[where] for name, where in corners.items()}
    number = {name: index[where] for name, where in corners.items()}
    # The diagonal along the smaller depth step; one that ends in a hole is never the smaller, so three corners still
    # give one triangle.
    step_ac, step_bd = _step(depth["a"], depth["c"]), _step(depth["b"], depth["d"])
    split_ac = step_ac <= step_bd
    faces = []
    for names, chosen in (("adc", split_ac), ("acb", split_ac), ("adb", ~split_ac), ("bdc", ~split_ac)):
        stack = np.stack([depth[name] for name in names])
        nearest, farthest = stack.min(axis=0), stack.max(axis=0)
        keep = chosen & np.isfinite(farthest)
        if edge_threshold > 0.0:
            keep &= farthest <= nearest * np.float32(1.0 + edge_threshold)
        faces.append(np.stack([number[name][keep] for name in names], axis=-1))
    return np.concatenate(faces)


def _step(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    known = np.isfinite(first) & np.isfinite(second)
    return np.abs(np.subtract(first, second, where=known, out=np.full(first.shape, np.inf, first.dtype)))
