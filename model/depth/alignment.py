"""Bringing depth to the scale of other depth, and measuring what is left.

The evaluation protocol is that of Modality Forcing (arXiv 2606.13676, after MoGe): solve scale a and shift b in depth
space by robust L1, min Σ |a·p + b − g| / g, on a 64×64 grid of nearest valid pixels; then, at full resolution,
AbsRel = mean |a·p + b − g| / g and δ1 = share of pixels with max((a·p + b)/g, g/(a·p + b)) < 1.25.

Everything solves on the CPU in float64 (numpy), whatever the device of the tensors. p predicted or relative depth, g
reference.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..resize import check_same_view
from .usable import usable_depth

GRID = 64
DELTA = 1.25
_MAX_STEPS = 200
_TRIALS = 1000
_TRIAL_SAMPLES = 4096


@dataclass(frozen=True)
class Fit:
    """depth_out = scale · depth_in + shift.

    residual: mean |fitted − g| / g over the samples that it was fitted to, `worst` its maximum over all usable samples;
    used: how many samples it was fitted to; outliers: how many contradict them and were left out; dropped: how many
    have no usable depth on one side.
    """

    scale: float
    shift: float
    residual: float
    worst: float
    used: int
    outliers: int = 0
    dropped: int = 0

    def apply(self, depth: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fitted depth, NaN where invalid, and valid, both shaped as the input. What ends at ≤ 0 becomes invalid."""
        usable = usable_depth(depth, valid)
        fitted = depth * self.scale + self.shift
        usable = usable & (fitted > 0)
        return torch.where(usable, fitted, torch.nan), usable


@dataclass(frozen=True)
class DepthErrors:
    """Per image (B,), float64 on the CPU: AbsRel and δ1 as fractions, the fitted scale and shift, and `coverage`, the
    share of the reference's valid pixels that have a prediction (the errors are over those)."""

    abs_rel: Tensor
    delta1: Tensor
    scale: Tensor
    shift: Tensor
    coverage: Tensor


def evaluate(
    predicted: Tensor, reference: Tensor, predicted_valid: Tensor | None = None, reference_valid: Tensor | None = None
) -> DepthErrors:
    """Affine-invariant errors of predicted depth (B,H,W) against reference depth (B,H,W).

    An image without a pixel that is valid in both has NaN errors and coverage 0. The fit is free: a scale below 0 says
    that the prediction is inverted.
    """
    p, p_ok = _arrays(predicted, predicted_valid, "predicted depth")
    g, g_ok = _arrays(reference, reference_valid, "reference depth")
    if p.shape != g.shape:
        raise ValueError(f"got predicted depth {p.shape} and reference {g.shape}, expected equal shapes; resize one")
    rows = []
    for index in range(len(p)):
        both = p_ok[index] & g_ok[index]
        if not both.any():
            rows.append((math.nan, math.nan, math.nan, math.nan, 0.0))
            continue
        grid = masked_nearest(both)
        scale, shift = solve_scale_shift(p[index].flat[grid], g[index].flat[grid])
        abs_rel, delta1 = depth_errors(scale * p[index][both] + shift, g[index][both])
        rows.append((abs_rel, delta1, scale, shift, both.sum() / g_ok[index].sum()))
    return DepthErrors(*torch.tensor(rows, dtype=torch.float64).reshape(-1, 5).T)


def depth_errors(fitted: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """(AbsRel, δ1) as fractions of fitted against positive reference depth, (N,) each. Fitted depth ≤ 0 fails δ1."""
    abs_rel = float(np.mean(np.abs(fitted - reference) / reference))
    positive = fitted > 0
    safe = np.where(positive, fitted, 1.0)
    ratio = np.maximum(safe / reference, reference / safe)
    return abs_rel, float(np.mean(positive & (ratio < DELTA)))


def masked_nearest(valid: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Flat indices into an (H,W) bool map: in every cell of a grid × grid raster the valid pixel nearest to the cell's
    centre.

    Cells without a valid pixel give none. Maps smaller than the grid get one cell for each pixel of that axis.
    """
    height, width = valid.shape
    rows, columns = np.nonzero(valid)
    cells_y, cells_x = min(grid, height), min(grid, width)
    y, x = (rows + 0.5) * cells_y / height, (columns + 0.5) * cells_x / width
    cell_y, cell_x = y.astype(np.int64), x.astype(np.int64)
    # Distance in pixels, so that stretched cells do not change what is near.
    away = ((y - cell_y - 0.5) * height / cells_y) ** 2 + ((x - cell_x - 0.5) * width / cells_x) ** 2
    cell = cell_y * cells_x + cell_x
    order = np.lexsort((away, cell))
    _, first = np.unique(cell[order], return_index=True)
    chosen = order[first]
    return rows[chosen] * width + columns[chosen]


def solve_scale(p: np.ndarray, g: np.ndarray) -> float:
    """a that minimises Σ |a·p − g| / g, exactly: the median of g/p weighted by p/g. (N,) positive arrays."""
    p, g = p.astype(np.float64), g.astype(np.float64)
    return float(_weighted_median(g / p, p / g)[0])


def solve_scale_shift(p: np.ndarray, g: np.ndarray) -> tuple[float, float]:
    """(a, b) that minimise Σ |a·p + b − g| / g over (N,) arrays with g > 0; a constant p gives a scale and shift 0.

    A best line passes through two of the samples (linear programming). So hold one sample, find the best line through
    it, which is a weighted median of slopes and passes through a second one, hold that one next, and stop where neither
    gives a better line (Wesolowsky 1981). Two starts guard against stopping at samples that coincide.
    """
    p, g = p.astype(np.float64), g.astype(np.float64)
    if np.ptp(p) <= 1e-12 * np.abs(p).max():
        return solve_scale(p, g), 0.0
    weight = 1.0 / g
    slope, offset = np.polyfit(p, g, 1, w=np.sqrt(weight))
    by_residual = np.argsort(np.abs(slope * p + offset - g) * weight)
    lines = [_descend(p, g, weight, int(start)) for start in (by_residual[0], by_residual[len(p) // 2])]
    _, slope, offset = min(lines)
    return slope, offset


def fit_distance(depth: Tensor, valid: Tensor | None, x_px: float, y_px: float, distance: float) -> Fit:
    """Scale that puts depth (H,W) at the pixel under (x_px, y_px) at `distance` (z, in the unit wanted).

    Pixel (0, 0) spans 0..1, as everywhere here. The depth is the median of the valid ones in the 3×3 pixels around,
    since one pixel of a generated map is noisy. ValueError outside the map and where all nine are invalid.
    """
    _check_positive(distance, "distance")
    values, ok = _single(depth, valid, "depth")
    row, column = _pixel(values.shape, x_px, y_px)
    around = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    near = values[around][ok[around]]
    if near.size == 0:
        raise ValueError(
            f"there is no depth at pixel ({x_px:g}, {y_px:g}) or next to it; choose a pixel that has depth"
        )
    centre = float(values[row, column]) if ok[row, column] else float(np.median(near))
    scale = distance / float(np.median(near))
    off = abs(scale * centre - distance) / distance
    return Fit(scale, 0.0, off, off, int(near.size), dropped=int(ok[around].size - near.size))


def fit_points(depth: Tensor, valid: Tensor | None, points: Tensor | np.ndarray, *, with_shift: bool = False) -> Fit:
    """Robust fit of depth (H,W) to sparse metric points (N,3) of (x_px, y_px, distance as z).

    Points outside the map, on invalid depth, or with a distance that is not finite and positive are dropped and
    counted. Needs one point for a scale, two of different depth for scale and shift; with a third of outliers, ten
    points still fit.
    """
    points = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"got points of shape {points.shape}, expected (N,3) of x_px, y_px, distance")
    values, ok = _single(depth, valid, "depth")
    height, width = values.shape
    inside = np.isfinite(points).all(1) & (points[:, 2] > 0) & (points[:, :2] >= 0).all(1)
    inside &= (points[:, 0] < width) & (points[:, 1] < height)
    columns, rows = points[inside, 0].astype(np.int64), points[inside, 1].astype(np.int64)
    known = ok[rows, columns]
    return _fit(values[rows, columns][known], points[inside, 2][known], len(points), with_shift)


def fit_reference(
    depth: Tensor,
    valid: Tensor | None,
    reference: Tensor,
    reference_valid: Tensor | None = None,
    *,
    with_shift: bool = False,
) -> Fit:
    """Robust fit of depth (H,W) to a reference map of the same view (H',W'), such as MoGe's or DA3's, on the 64×64
    grid.

    Another resolution of the reference is read at the nearest pixel; its aspect ratio must be that of the depth.
    """
    values, ok = _single(depth, valid, "depth")
    other, other_ok = _single(reference, reference_valid, "reference depth")
    (height, width), (other_height, other_width) = values.shape, other.shape
    check_same_view((other_width, other_height), (width, height), "a reference", "depth")
    rows = ((np.arange(height) + 0.5) * other_height / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * other_width / width).astype(np.int64)
    other, other_ok = other[np.ix_(rows, columns)], other_ok[np.ix_(rows, columns)]
    grid = masked_nearest(ok & other_ok)
    return _fit(values.flat[grid], other.flat[grid], len(grid), with_shift)


def _fit(p: np.ndarray, g: np.ndarray, offered: int, with_shift: bool) -> Fit:
    needed = 2 if with_shift else 1
    if len(p) < needed:
        raise ValueError(f"{len(p)} of {offered} samples have usable depth on both sides, at least {needed} are needed")
    if with_shift and np.ptp(p) <= 1e-6 * p.max():
        raise ValueError("all samples have the same depth, so a shift cannot be told from a scale; fit the scale alone")
    p, g = p.astype(np.float64), g.astype(np.float64)
    keep = _consensus(p, g, with_shift)
    scale, shift = solve_scale_shift(p[keep], g[keep]) if with_shift else (solve_scale(p[keep], g[keep]), 0.0)
    off = np.abs(scale * p + shift - g) / g
    used = int(keep.sum())
    return Fit(scale, shift, float(off[keep].mean()), float(off.max()), used, len(p) - used, offered - len(p))


def _consensus(p: np.ndarray, g: np.ndarray, with_shift: bool) -> np.ndarray:
    """(N,) bool: the samples that agree with the line of positive scale that fits the better half of them best.

    Least median of squares (Rousseeuw 1984), on relative errors: L1 alone is not enough for few points, since a wrong
    one that is near weighs much, or pulls the line by its place at the end. Exhaustive for up to 45 samples, then with
    a fixed seed.
    """
    lines = _trial_lines(p, g) if with_shift else np.stack((g / p, np.zeros_like(p)), axis=1)
    if len(lines) == 0:
        raise ValueError(
            "no fit has a positive scale: nearer becomes farther. The depth is inverted (disparity?), or the samples "
            "belong to another picture"
        )
    chosen = _spread(len(p), _TRIAL_SAMPLES)
    lines = lines[_spread(len(lines), _TRIALS)]
    error = np.abs(lines[:, :1] * p[chosen] + lines[:, 1:] - g[chosen]) / g[chosen]  # (lines, samples)
    free = 2 if with_shift else 1
    rank = (len(chosen) + free + 1) // 2 - 1
    score = np.partition(error, rank, axis=1)[:, rank]
    slope, offset = lines[np.argmin(score)]
    # Rousseeuw's scale estimate; half a percent is never an outlier, so exact samples keep rounding errors.
    sigma = 1.4826 * (1.0 + 5.0 / max(len(chosen) - free, 1)) * float(score.min())
    return np.abs(slope * p + offset - g) / g <= max(2.5 * sigma, 0.005)


def _trial_lines(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """(L,2) slope > 0 and offset of lines through pairs of samples."""
    if len(p) * (len(p) - 1) // 2 <= _TRIALS:
        first, second = np.triu_indices(len(p), 1)
    else:
        first, second = np.random.default_rng(0).integers(0, len(p), (2, 4 * _TRIALS))
    run, rise = p[second] - p[first], g[second] - g[first]
    rising = run * rise > 0
    slope = rise[rising] / run[rising]
    return np.stack((slope, g[first][rising] - slope * p[first][rising]), axis=1)


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` indices, evenly over 0..count."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _descend(p: np.ndarray, g: np.ndarray, weight: np.ndarray, held: int) -> tuple[float, float, float]:
    """(cost, slope, offset) of the best line that holding one sample after the other leads to."""
    best = (math.inf, 0.0, 0.0)
    for _ in range(_MAX_STEPS):
        run = p - p[held]
        others = np.flatnonzero(run)
        slope, index = _weighted_median((g[others] - g[held]) / run[others], weight[others] * np.abs(run[others]))
        offset = g[held] - slope * p[held]
        cost = float(np.sum(weight * np.abs(slope * p + offset - g)))
        if cost >= best[0] * (1.0 - 1e-12):
            break
        best = (cost, float(slope), float(offset))
        held = int(others[index])
    return best


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> tuple[float, int]:
    """The lower weighted median and its index."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    index = order[np.searchsorted(total, 0.5 * total[-1])]
    return values[index], index


def _pixel(shape: tuple[int, int], x_px: float, y_px: float) -> tuple[int, int]:
    """Row and column under a position."""
    height, width = shape
    if not (0 <= x_px < width and 0 <= y_px < height):
        raise ValueError(f"got pixel ({x_px}, {y_px}), which is outside the {width}×{height} depth map")
    return int(y_px), int(x_px)


def _single(depth: Tensor, valid: Tensor | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One map (H,W) or (1,H,W) as arrays."""
    if depth.ndim == 3 and depth.shape[0] != 1 or depth.ndim not in (2, 3):
        raise ValueError(f"got {name} of shape {tuple(depth.shape)}, expected one map (H,W); fit a batch map by map")
    shape = (1, *depth.shape[-2:])
    values, ok = _arrays(depth.reshape(shape), None if valid is None else valid.reshape(shape), name)
    return values[0], ok[0]


def _arrays(depth: Tensor, valid: Tensor | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Depth (B,H,W) float32 and where it is valid, finite and positive."""
    if depth.ndim != 3 or 0 in depth.shape:
        raise ValueError(f"got {name} of shape {tuple(depth.shape)}, expected (B,H,W) with at least one pixel")
    values = depth.detach().cpu().float().numpy()
    try:
        return values, usable_depth(depth, valid).cpu().numpy()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_positive(value: float, name: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"got {name} = {value}, expected a positive number")
