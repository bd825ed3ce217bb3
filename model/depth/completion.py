"""Dense depth that goes through measured points: an estimate gives the shape, the points the scale and what was off."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .codec import MAX_CODE, contract, expand, patchify, unpatchify
from .matching import match, match_locally, positive

FINEST = 2  # pixels
TRUST = 0.5  # see `matching.spread`; measured by `run.py bench controls sparse`
_LEAST, _MOST = 0.01, MAX_CODE - 0.02  # codes of a hundredth and of 50 times the mean depth


@dataclass(frozen=True)
class Completed:
    """depth (H,W) in the unit of the points, NaN where the estimate has none; the scale and shift that came first;
    points: how many the estimate has depth at; before, after: their mean relative error under scale and shift alone,
    and in `depth`."""

    depth: Tensor
    scale: float
    shift: float
    points: int
    before: float
    after: float


def complete(depth: Tensor, points: Tensor, finest: int = FINEST) -> Completed:
    """Fit estimated depth (H,W) to points (H,W), both NaN where unknown.

    First a scale and shift for all (a scale alone for few points), then a factor that changes over the picture, from
    coarse to `finest` pixels, 0 for none. ValueError where the estimate has depth at none of the points.
    """
    known = depth.isfinite() & points.isfinite()
    count = int(known.sum())
    if count == 0:
        raise ValueError(
            f"the estimate has depth at none of the {int(points.isfinite().sum())} measured points; expected one at "
            "least. Check that both are of the same view, and the mask"
        )
    scale, shift = match(depth, points)
    fitted = positive(depth * scale + shift)
    local = match_locally(fitted[None], points[None], widths(depth.shape, finest), TRUST)[0] if finest else fitted
    return Completed(local, scale, shift, count, _error(fitted, points), _error(local, points))


def towards_points(codes: Tensor, points: Tensor, strength: float, finest: int = FINEST) -> Tensor:
    """Predicted codes (B,256,h,w) moved towards measured points (B,16h,16w), NaN where there is none.

    The prediction is brought to the points as by `complete`, and back to its own scale; `strength` 0..1 says how far.
    What Marigold-DC (arXiv 2412.13389) finds by gradients through the network is here one step in pixel space. Maps
    without a point in common with their prediction stay as they are.
    """
    pixels = unpatchify(codes.float())
    depth = expand(pixels.clamp(_LEAST, _MOST))
    moved = torch.stack([_towards(*pair, finest) for pair in zip(depth, points, strict=True)])
    return patchify(torch.lerp(pixels, contract(moved).clamp(_LEAST, _MOST), strength)).to(codes)


def _towards(depth: Tensor, points: Tensor, finest: int) -> Tensor:
    """(H,W) depth that fits the points (H,W), still at its own scale and shift."""
    if not points.isfinite().any():
        return depth
    done = complete(depth, points, finest)
    back = (done.depth - done.shift) / done.scale
    return torch.where(back.isfinite(), back.clamp_min(_LEAST), depth)


def map_of_points(points: np.ndarray, height: int, width: int) -> Tensor:
    """(H,W) float32, NaN where no point falls, of points (N,3) of x_px, y_px, distance; the nearest one of a pixel."""
    found = np.full(height * width, np.inf)
    rows, columns = points[:, 1].astype(np.int64), points[:, 0].astype(np.int64)
    inside = (points[:, :2] >= 0).all(1) & (rows < height) & (columns < width)
    np.minimum.at(found, rows[inside] * width + columns[inside], points[inside, 2])
    found[np.isinf(found)] = np.nan
    return torch.from_numpy(found.reshape(height, width)).float()


def widths(shape: torch.Size, finest: int) -> list[int]:
    """Standard deviations in pixels: a quarter of the longer side, halved down to `finest`."""
    width, found = max(shape) // 4, []
    while width >= max(finest, 1):
        found.append(width)
        width //= 2
    return found or [max(finest, 1)]


def _error(depth: Tensor, points: Tensor) -> float:
    off = (depth - points).abs() / points
    return float(off[off.isfinite()].mean())
