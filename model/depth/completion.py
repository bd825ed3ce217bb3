"""Dense depth that goes through measured points: an estimate gives the shape, the points the scale and what was off."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .matching import match, match_locally, positive

TRUST = 0.5  # a lone point moves its surroundings by two thirds of what it says


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


def complete(depth: Tensor, points: Tensor, finest: int = 2) -> Completed:
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
