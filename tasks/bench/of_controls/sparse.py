"""Measured points: error against their density, and real LiDAR of which half is kept back."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....model.depth.completion import complete, map_of_points, towards_points
from ....model.depth.sparse_points import points_of_map
from ....model.resize import fitted_size, resize_depth, resize_images
from ... import ROOT
from .small import Row, Small, depth_of, metric_error

COUNT, STEPS, FIRST = 16, 4, 7000
DENSITIES = (0.0005, 0.005, 0.02, 0.1, 0.5)
LIDAR = ROOT.parent / "shared" / "assets" / "rgbd" / "opencalib_2"
LIDAR_UNIT_M = 1 / 256
LIDAR_SIZE = (1024, 640)  # multiples of 16 near its 960 x 600


def rows(small: Small) -> Iterator[Row]:
    """For each density the error of the whole map, in the points' unit."""
    scenes = small.scenes(COUNT, FIRST)
    pictures = scenes.rgb.movedim(1, -1)
    truth = torch.where(scenes.valid, scenes.depth, torch.nan)
    plain = depth_of(_estimate(small, pictures))
    for density in DENSITIES:
        chosen = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < density
        points = torch.where(chosen, truth, torch.nan)
        guided = depth_of(_estimate(small, pictures, points))
        errors = {
            "scale and shift": _error(plain, points, truth, 0),
            "Fit Depth to Points": _error(plain, points, truth),
            "guided": _error(guided, points, truth, 0),
            "guided, then fitted": _error(guided, points, truth),
        }
        yield Row("sparse", f"{100 * density:g} % of pixels", _named(errors))
    if LIDAR.is_dir():
        yield _lidar(small)


def _estimate(small: Small, pictures: Tensor, points: Tensor | None = None) -> Tensor:
    hook = None if points is None else (lambda codes, level: towards_points(codes, points, 1.0))
    estimate = small.estimator(STEPS, hook=hook)
    return estimate(pictures, estimate.noise(len(pictures), *pictures.shape[1:3]))


def _error(depth: Tensor, points: Tensor, truth: Tensor, finest: int = 2) -> float:
    fitted = torch.stack([complete(*pair, finest).depth for pair in zip(depth, points, strict=True)])
    return metric_error(fitted, truth, truth.isfinite())


def _named(errors: dict[str, float]) -> str:
    return "error " + ", ".join(f"{name} {value:.2f} %" for name, value in errors.items())


def _lidar(small: Small) -> Row:
    """Every second point is given, the others are what the completed map is held against."""
    with Image.open(LIDAR / "sparse_depth_x256.png") as image:
        measured = torch.from_numpy(np.asarray(image).astype(np.float32) * LIDAR_UNIT_M)
    with Image.open(LIDAR / "rgb_undistorted_960x600.jpg") as image:
        picture = torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)[None]
    small_size = fitted_size(*LIDAR_SIZE, small.side)
    depth = depth_of(_estimate(small, resize_images(picture, *small_size)))
    depth, _ = resize_depth(depth, torch.ones_like(depth, dtype=torch.bool), *LIDAR_SIZE)
    points = points_of_map(measured, measured > 0, *LIDAR_SIZE)
    given, held = (map_of_points(points[k::2], LIDAR_SIZE[1], LIDAR_SIZE[0])[None] for k in (0, 1))
    level = torch.full_like(depth, float(np.median(points[0::2, 2])))
    errors = {
        "all at the points' median": metric_error(level, held, held.isfinite()),
        "scale and shift": _error(depth, given, held, 0),
        "Fit Depth to Points": _error(depth, given, held),
    }
    share = 100 * float(given.isfinite().float().mean())
    return Row("sparse", f"real LiDAR (street), {share:.1f} % of pixels, error at as many others", _named(errors))
