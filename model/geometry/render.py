"""A point cloud seen from a moved camera: image, depth, and the holes that an inpainting model has to fill.

Every point is drawn as a square as large as the surface sample it stands for (its spacing), nearest first (z-buffer).
Where a surface is seen less obliquely than in its source picture, samples move apart and leave cracks. A crack is a
pixel, empty or showing something clearly farther, between two pixels (left and right, or above and below) of one nearer
surface, so closing cracks does not grow the outlines of objects and does not eat into true holes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .camera import check_intrinsics, project
from .pointcloud import PointCloud

DEFAULT_CRACKS = 2
# Points nearer than this share of the cloud's median depth are not drawn: they would cover the picture.
_NEAR = 0.01
_LARGEST_SPLAT = 9  # pixels
# Depth ratios: beyond the first, something is farther; within the second, two pixels belong to one surface.
_FARTHER, _SAME_SURFACE = 1.02, 1.1


@dataclass(frozen=True)
class View:
    """image (V,H,W,3) in 0..1; depth (V,H,W) from the moved camera, inf in holes; hole (V,H,W) bool."""

    image: Tensor
    depth: Tensor
    hole: Tensor


def render_views(
    clouds: list[PointCloud],
    poses: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    *,
    cracks: int = DEFAULT_CRACKS,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    before_view: Callable[[int, int], None] = lambda index, count: None,
) -> View:
    """Views of `clouds` from `poses` (V,4,4) (see pose.py) by a camera with normalised K (1,3,3) or (V,3,3).

    One cloud with many poses is a camera path; as many clouds as poses are taken in pairs; one pose serves many clouds.
    `cracks`: closes cracks up to so many pixels wide, 0 to 8; 0 draws the samples alone.
    An empty cloud gives a picture of background that is one hole.
    `before_view` is called with (index, number of views) before each view: a host's progress, which may raise to stop.
    """
    if width < 1 or height < 1:
        raise ValueError(f"got a picture of {width}×{height}, expected at least 1×1")
    if not 0 <= cracks <= 8:
        raise ValueError(f"got cracks = {cracks}, expected a width of 0 to 8 pixels")
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not bool(torch.isfinite(poses).all()):
        raise ValueError(f"got poses of shape {tuple(poses.shape)}, expected finite (V,4,4)")
    check_intrinsics(intrinsics)
    counts = {"clouds": len(clouds), "poses": len(poses), "cameras": len(intrinsics)}
    views = max(counts.values())
    if any(count not in (1, views) for count in counts.values()):
        raise ValueError(f"got {counts}, expected 1 or the same number of each")
    # Made at once and filled view by view: a long path takes the memory of its result and of one view.
    image, depth = torch.empty(views, height, width, 3), torch.empty(views, height, width)
    for v in range(views):
        before_view(v, views)
        cloud, pose, camera = clouds[v % len(clouds)], poses[v % len(poses)], intrinsics[[v % len(intrinsics)]]
        drawn = _close_cracks(*_draw(cloud, pose, camera, width, height), cracks)
        image[v], depth[v] = (torch.from_numpy(values) for values in drawn)
        image[v][torch.isinf(depth[v])] = torch.tensor(background)
    return View(image, depth, torch.isinf(depth))


def _draw(
    cloud: PointCloud, pose: Tensor, intrinsics: Tensor, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """(image (H,W,3), depth (H,W)) float32; depth inf where no point falls."""
    empty = np.zeros((height, width, 3), np.float32), np.full((height, width), np.inf, np.float32)
    if len(cloud) == 0:
        return empty
    to_camera = torch.linalg.inv(pose.cpu().float())
    points = torch.from_numpy(cloud.points) @ to_camera[:3, :3].T + to_camera[:3, 3]
    position, z = (values[0].numpy() for values in project(points[None], intrinsics.cpu().float(), width, height))
    focal = float(max(intrinsics[0, 0, 0] * width, intrinsics[0, 1, 1] * height))
    ahead = z > _NEAR * float(np.median(cloud.points[:, 2]))
    size = np.divide(cloud.spacing * np.float32(focal), z, where=ahead, out=np.ones_like(z))
    size = np.clip(size, 1.0, _LARGEST_SPLAT)  # at least a pixel: farther samples must not fall between pixel centres
    seen = ahead & (position > -0.5 * size[:, None]).all(1)
    seen &= (position < np.array([width, height]) + 0.5 * size[:, None]).all(1)
    chosen = np.flatnonzero(seen)
    if len(chosen) == 0:
        return empty
    chosen = chosen[np.argsort(z[chosen], kind="stable")]  # nearest first
    shown = _nearest(position[chosen], size[chosen], width, height)
    # One more entry than points, for pixels that no point covers.
    depth = np.append(z[chosen], np.float32(np.inf))[shown]
    colors = np.append(cloud.colors[chosen], np.zeros((1, 3), np.uint8), axis=0)[shown]
    return colors.reshape(height, width, 3).astype(np.float32) / 255.0, depth.reshape(height, width)


def _nearest(position: np.ndarray, size: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H·W,) index of the first point (they come nearest first) whose square of `size` pixels holds the pixel's centre;
    the number of points where there is none."""
    count = len(position)
    best = np.full(width * height, count, dtype=np.int64)
    # First and last pixel whose centre lies in the square. Its far border is left out, so squares tile without overlap.
    first = np.ceil(position - 0.5 * size[:, None] - 0.5).astype(np.int64)
    last = np.ceil(position + 0.5 * size[:, None] - 0.5).astype(np.int64) - 1
    extent = last - first + 1
    for down in range(int(extent[:, 1].max())):
        for right in range(int(extent[:, 0].max())):
            column, row = first[:, 0] + right, first[:, 1] + down
            inside = (right < extent[:, 0]) & (down < extent[:, 1])
            inside &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
            points = np.flatnonzero(inside)[::-1]  # of repeated pixels numpy keeps the last, which is then the nearest
            layer = np.full(width * height, count, dtype=np.int64)
            layer[row[points] * width + column[points]] = points
            np.minimum(best, layer, out=best)
    return best


def _close_cracks(image: np.ndarray, depth: np.ndarray, widest: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and depth with cracks of up to `widest` pixels filled by the mean of the two pixels at their borders."""
    if widest == 0:
        return image, depth
    padded = np.pad(depth, widest, constant_values=np.inf)
    index = np.pad(np.arange(depth.size).reshape(depth.shape), widest)
    inner = tuple(slice(widest, widest + count) for count in depth.shape)

    def shifted(values: np.ndarray, down: int, right: int) -> np.ndarray:
        return values[inner[0].start + down : inner[0].stop + down, inner[1].start + right : inner[1].stop + right]

    filled = depth.copy()
    borders = np.stack((index[inner], index[inner]))  # (2,H,W) the two pixels that each pixel is the mean of
    for down, right in ((0, 1), (1, 0)):  # a diagonal crack is crossed by these too; diagonals would fill inner corners
        for ahead in range(1, widest + 1):
            for behind in range(1, widest + 2 - ahead):
                steps = ((ahead * down, ahead * right), (-behind * down, -behind * right))
                first, second = (shifted(padded, *step) for step in steps)
                nearer, farther = np.minimum(first, second), np.maximum(first, second)
                crack = (farther * _FARTHER < depth) & (farther < nearer * _SAME_SURFACE)
                mean = np.where(crack, 0.5 * nearer + 0.5 * farther, np.inf)
                better = crack & (mean < filled)
                filled[better] = mean[better]
                for side, step in enumerate(steps):
                    borders[side][better] = shifted(index, *step)[better]
    flat = image.reshape(-1, 3)
    return 0.5 * (flat[borders[0]] + flat[borders[1]]), filled
