"""``run.py bench geometry [--sides 512 2048] [--repeats 5]``: depth to filtered clouds to files, ours and others'.

Every contender starts from depth and colours in memory, cuts depth edges by one rule (3x3 depth span over 4 % of the
depth), unprojects, and writes a point cloud; the number of points is checked to be the same. The best of the repeats
counts; contenders take turns, so that a busy machine slows all of them.

ours       model/geometry: packet, cloud, file
scipy      scipy's maximum and minimum filter, numpy, trimesh's export
median     the same after scipy's 5x5 median filter, a usual first step of scripts that export depth (other points, so
           the count is not checked)
open3d     numpy for the edges (Open3D has no depth-edge filter), Open3D's cloud from depth and its writer; it has no
           point clouds in GLB
outliers   statistical outlier removal (20 neighbours, 2 deviations) after the edges, PLY: beside scipy + trimesh and
           Open3D, at the smallest side only
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...model.geometry.camera import intrinsics_from_fov_x
from ...model.geometry.files import save_glb, save_ply
from ...model.geometry.packets import make_geometry
from ...model.geometry.pointcloud import point_clouds
from .. import TaskError

EDGE, FOV_X_DEG = 0.04, 60.0
NEIGHBOURS, DEVIATIONS = 20, 2.0
Contender = Callable[[Path], int]


def scene(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H,W) with two surfaces, relief, a little noise and 2 % of holes (0), and colours (H,W,3) in 0..1."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j].astype(np.float32)
    depth = 2 + x + 0.2 * np.sin(12 * y) + 2 * (np.hypot(x - 0.5, y - 0.5) > 0.3)
    depth *= 1 + 0.001 * random.standard_normal(depth.shape, dtype=np.float32)
    depth[random.random(depth.shape) < 0.02] = 0
    return depth.astype(np.float32), random.random((side, side, 3), dtype=np.float32)


def ours(depth: np.ndarray, colours: np.ndarray, **filters: Any) -> Contender:
    """The pack's own path: tensors in, one file out."""
    planes = torch.from_numpy(depth)[None], torch.from_numpy(colours)[None]
    intrinsics = intrinsics_from_fov_x(FOV_X_DEG, depth.shape[1], depth.shape[0])

    def run(path: Path) -> int:
        (cloud,) = point_clouds(make_geometry(planes[0], None, intrinsics, planes[1]), edge_threshold=EDGE, **filters)
        (save_ply if path.suffix == ".ply" else save_glb)(path, cloud)
        return len(cloud)

    return run


def scipy_and_trimesh(depth: np.ndarray, colours: np.ndarray, median: int = 0, outliers: bool = False) -> Contender:
    """What a script does with numpy, scipy and trimesh."""
    import trimesh
    from scipy import ndimage
    from scipy.spatial import cKDTree

    def run(path: Path) -> int:
        z = ndimage.median_filter(depth, median) if median else depth
        keep = edges_by_scipy(z, ndimage)
        points, rgb = unprojected(z)[keep], (colours[keep] * 255).round().astype(np.uint8)
        if outliers:
            distance = cKDTree(points).query(points, k=NEIGHBOURS, workers=-1)[0].mean(1)
            near = distance < distance.mean() + DEVIATIONS * distance.std(ddof=1)
            points, rgb = points[near], rgb[near]
        trimesh.PointCloud(points * [1, -1, -1], rgb).export(path)
        return len(points)

    return run


def open3d_alone(depth: np.ndarray, colours: np.ndarray, outliers: bool = False) -> Contender:
    """Open3D from the depth image to the file; the edges by scipy, since Open3D has no such filter."""
    import open3d
    from scipy import ndimage

    height, width = depth.shape
    focal = 0.5 * width / np.tan(np.radians(FOV_X_DEG / 2))
    camera = open3d.camera.PinholeCameraIntrinsic(width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5)

    def run(path: Path) -> int:
        cut = np.where(edges_by_scipy(depth, ndimage), depth, np.float32(0))
        pictures = open3d.geometry.Image((colours * 255).round().astype(np.uint8)), open3d.geometry.Image(cut)
        rgbd = open3d.geometry.RGBDImage.create_from_color_and_depth(
            *pictures, depth_scale=1.0, depth_trunc=1e6, convert_rgb_to_intensity=False
        )
        cloud = open3d.geometry.PointCloud.create_from_rgbd_image(rgbd, camera, np.diag([1.0, -1.0, -1.0, 1.0]))
        if outliers:
            cloud, _ = cloud.remove_statistical_outlier(NEIGHBOURS, DEVIATIONS)
        open3d.io.write_point_cloud(str(path), cloud)
        return len(cloud.points)

    return run


def edges_by_scipy(z: np.ndarray, ndimage: Any) -> np.ndarray:
    """(H,W) bool of what stays: the rule of model/geometry/edges.py."""
    known = z > 0
    farthest = ndimage.maximum_filter(np.where(known, z, -np.inf), size=3)
    nearest = ndimage.minimum_filter(np.where(known, z, np.inf), size=3)
    return known & ~(farthest - nearest > EDGE * z)


def unprojected(z: np.ndarray) -> np.ndarray:
    """(H,W,3) points, OpenCV axes."""
    height, width = z.shape
    focal = 0.5 * width / np.tan(np.radians(FOV_X_DEG / 2))
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack(((columns - width / 2) / focal * z, (rows - height / 2) / focal * z, z), axis=-1)


def best_times(contenders: dict[str, Contender], suffix: str, repeats: int, folder: Path) -> dict[str, float]:
    """Seconds of each, the best of `repeats` after one run to warm up."""
    times: dict[str, float] = {}
    counts: dict[str, int] = {}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            path = folder / f"{name.split()[0]}{suffix}"
            path.unlink(missing_ok=True)
            start = time.perf_counter()
            counts[name] = run(path)
            seconds = time.perf_counter() - start
            if turn:
                times[name] = min(seconds, times.get(name, np.inf))
    differing = {name: count for name, count in counts.items() if name != "median" and count != counts["ours"]}
    if differing:
        raise TaskError(f"not the same output: ours has {counts['ours']} points, but {differing}")
    return times


def main(arguments: list[str]) -> int:
    """Measure and print a table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py bench geometry")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    try:
        import open3d  # noqa: F401
        import trimesh  # noqa: F401
    except ImportError as error:
        raise TaskError(f"{error}: pip install trimesh open3d to have something to compare with") from error
    print(f"{'':18}{'ours':>10}{'others, as multiples of ours':>36}")
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sides:
            data = scene(side)
            for suffix in (".ply", ".glb"):
                contenders = {"ours": ours(*data), "scipy": scipy_and_trimesh(*data)}
                contenders["median"] = scipy_and_trimesh(*data, median=5)
                if suffix == ".ply":
                    contenders["open3d"] = open3d_alone(*data)
                report(f"{side} {suffix}", best_times(contenders, suffix, options.repeats, Path(folder)))
        data = scene(min(options.sides))
        contenders = {
            "ours": ours(*data, outlier_neighbours=NEIGHBOURS, outlier_deviations=DEVIATIONS),
            "scipy": scipy_and_trimesh(*data, outliers=True),
            "open3d": open3d_alone(*data, outliers=True),
        }
        report(f"{min(options.sides)} outliers", best_times(contenders, ".ply", options.repeats, Path(folder)))
    return 0


def report(name: str, times: dict[str, float]) -> None:
    """One line."""
    mine = times.pop("ours")
    others = "   ".join(f"{other} x{seconds / mine:.1f}" for other, seconds in times.items())
    print(f"{name:18}{1000 * mine:7.0f} ms   {others}", flush=True)
