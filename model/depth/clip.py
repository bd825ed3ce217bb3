"""Image -> depth of the frames of a video, steady over time and at one scale.

Three things keep depth from flickering, in the order of what they do: the same noise for every frame; one scale and
shift for each frame, solved for the whole clip together (RollingDepth, arXiv 2411.19189); and, as a choice, starting
from the frame before. Letters: N frames, H rows, W columns.
"""

import numpy as np
import torch
from torch import Tensor

from .codec import decode
from .estimate import Estimator
from .matching import positive

NEIGHBOURS = (1, 2, 4)  # frames apart that are compared
_GRID = 32  # samples along the longer side of a frame
_ROUNDS = 20
_RIDGE = 1e-4  # how strongly a frame that nothing binds stays as it is


def clip_depth(estimate: Estimator, frames: Tensor, denoise: float = 1.0, same_scale: bool = True) -> Tensor:
    """Depth (N,H,W), NaN where unknown, of frames (N,H,W,3).

    denoise: share of the steps that a frame takes from the depth of the frame before; 1.0 makes each from noise, which
    does not wait for the others. same_scale: solve scale and shift of all frames together.
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
    return same_scale_and_shift(depth) if same_scale else depth


def same_scale_and_shift(depth: Tensor) -> Tensor:
    """Depth (N,H,W), NaN where unknown, with the scale and shift of each frame by which neighbours agree best."""
    scale, shift = (depth.new_tensor(v)[:, None, None] for v in solve_clip(depth))
    return positive(depth * scale + shift)


def solve_clip(depth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) (N,) each: min sum |s_i d_i + t_i - s_j d_j - t_j| / d_i over frames i, j near each other.

    Iteratively reweighted least squares in float64 on a grid of pixels; scales have mean 1 and shifts mean 0, or all of
    it would shrink to a point.
    """
    step = max(1, max(depth.shape[1:]) // _GRID)
    d = depth[:, step // 2 :: step, step // 2 :: step].flatten(1).cpu().double().numpy()
    count = len(d)
    scale, shift = np.ones(count), np.zeros(count)
    pairs = [(i, i + apart) for apart in NEIGHBOURS for i in range(count - apart)]
    if not pairs:
        return scale, shift
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    a, b = d[first], d[second]  # (P,S)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(known, a, 1.0), np.where(known, b, 1.0)
    for _ in range(_ROUNDS):
        off = scale[first, None] * a + shift[first, None] - scale[second, None] * b - shift[second, None]
        weight = np.where(known, 1.0 / (a * np.maximum(np.abs(off), 1e-3 * a)), 0.0)
        scale, shift = _least_squares(first, second, a, b, weight, count)
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
