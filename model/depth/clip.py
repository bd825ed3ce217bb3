"""Image -> depth of the frames of a video, steady over time and at one scale.

Three things keep depth from flickering, in the order of what they do: the same noise for every frame; one scale and
shift for each frame, solved for the whole clip together (RollingDepth, arXiv 2411.19189); and, as a choice, starting
from the frame before. Letters: N frames, H rows, W columns.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .codec import decode
from .estimate import Estimator
from .matching import positive

NEIGHBOURS = (1, 2, 4)  # frames apart that are compared
_GRID = 32  # samples along the longer side of a frame
_ROUNDS = 20
_ALIKE = 0.2  # correlation of log depth: a frame that has less with each of its neighbours is not of this shot
_RIDGE = 1e-4  # how strongly a frame that nothing binds stays as it is


Say = Callable[[str], None]


def _silent(text: str) -> None: ...


def clip_depth(
    estimate: Estimator, frames: Tensor, denoise: float = 1.0, same_scale: bool = True, say: Say = _silent
) -> Tensor:
    """Depth (N,H,W), NaN where unknown, of frames (N,H,W,3).

    denoise: share of the steps that a frame takes from the depth of the frame before; 1.0 makes each from noise, which
    does not wait for the others. same_scale: solve scale and shift of all frames together. say: see
    `same_scale_and_shift`.
    """
    noise = estimate.noise(1, *frames.shape[1:3])
    if denoise >= 1.0:
        codes = estimate(frames, noise.expand(len(frames), -1, -1, -1))
    else:
        each = [estimate(frames[:1], noise)]
        for index in range(1, len(frames)):
            each.append(estimate(frames[index : index + 1], noise, each[-1], denoise))
        codes = torch.cat(each)
    depth, valid = decode(codes)
    depth = torch.where(valid, depth, torch.nan)
    return same_scale_and_shift(depth, say) if same_scale else depth


def same_scale_and_shift(depth: Tensor, say: Say = _silent) -> Tensor:
    """Depth (N,H,W), NaN where unknown, with the scale and shift of each frame by which neighbours agree best.

    say: is told of frames that agree with none of the others; they stay as they are.
    """
    scale, shift, fits = solve_clip(depth)
    apart = [str(index) for index in np.flatnonzero(~fits) if depth[index].isfinite().any()]
    if apart:
        say(
            f"frame {', '.join(apart)} of {len(fits)} does not fit the others by any scale and shift (another shot, a "
            "fade, a flat or inverted estimate?); left at its own scale. Cut a film into its shots first."
        )
    scale, shift = (depth.new_tensor(values)[:, None, None] for values in (scale, shift))
    return positive(depth * scale + shift)


def solve_clip(depth: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scale, shift, fits) (N,) each: min sum |s_i d_i + t_i - s_j d_j - t_j| / d_i over frames i, j near each other.

    Iteratively reweighted least squares in float64 on a grid of pixels; scales have mean 1 and shifts mean 0, or all of
    it would shrink to a point. A frame that is like none of its neighbours would flatten the others, or be turned
    inside out: it is left out (scale 1, shift 0, fits False).
    """
    step = max(1, max(depth.shape[1:]) // _GRID)
    d = depth[:, step // 2 :: step, step // 2 :: step].flatten(1).cpu().double().numpy()
    fits = _alike(d)
    scale, shift = _solved(d, fits)
    while not (scale > 0).all():
        fits &= scale > 0
        scale, shift = _solved(d, fits)
    return scale, shift, fits


def _alike(d: np.ndarray) -> np.ndarray:
    """(N,) whether a frame of samples (N,S) is like at least one that it is compared with; True where all are flat."""
    best = np.full(len(d), -np.inf)
    for i, j in _pairs(len(d)):
        both = np.isfinite(d[i]) & np.isfinite(d[j])
        a, b = (x - x.mean() for x in np.log(d[[i, j]][:, both])) if both.any() else (np.zeros(1), np.zeros(1))
        alike = (a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-9)
        best[[i, j]] = np.maximum(best[[i, j]], alike)
    fits = best >= _ALIKE
    return fits if fits.any() else ~fits


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, i + apart) for apart in NEIGHBOURS for i in range(count - apart)]


def _solved(d: np.ndarray, fits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) (N,) each of samples (N,S); 1 and 0 for frames that do not fit."""
    scale, shift = np.ones(len(d)), np.zeros(len(d))
    d, count = d[fits], int(fits.sum())
    pairs = _pairs(count)
    if not pairs:
        return scale, shift
    s, t = np.ones(count), np.zeros(count)
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    a, b = d[first], d[second]  # (P,S)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, 1.0), np.where(known, b, 1.0)
    for _ in range(_ROUNDS):
        off = s[first, None] * a + t[first, None] - s[second, None] * b - t[second, None]
        weight = np.where(known, 1.0 / (a * np.maximum(np.abs(off), 1e-3 * a)), 0.0)
        s, t = _least_squares(first, second, a, b, weight, count)
    scale[fits], shift[fits] = s, t
    return scale, shift


def _least_squares(first: np.ndarray, second: np.ndarray, a: np.ndarray, b: np.ndarray, weight: np.ndarray, count: int):
    """The weighted problem's normal equations for the unknowns [scales, shifts], with the two means held."""
    normal = np.zeros((2 * count, 2 * count))
    columns = ((first, a), (first + count, np.ones_like(a)), (second, -b), (second + count, -np.ones_like(b)))
    for row, x in columns:
        for column, y in columns:
            np.add.at(normal, (row, column), (weight * x * y).sum(1))
    wanted = np.r_[np.ones(count), np.zeros(count)]
    ridge = _RIDGE * max(normal.trace() / (2 * count), 1e-12)
    means = np.kron(np.eye(2), np.ones((1, count)) / count)  # (2,2N)
    hold = 10.0 * count * max(normal.max(), 1e-12)
    matrix = normal + ridge * np.eye(2 * count) + hold * means.T @ means
    solution = np.linalg.solve(matrix, ridge * wanted + hold * means.T @ means @ wanted)
    return solution[:count], solution[count:]
