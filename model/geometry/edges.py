"""Depth edges: where neighbouring pixels belong to different surfaces."""

import numpy as np
import torch
from torch import Tensor

DEFAULT_EDGE = 0.04
_BLOCK = 1 << 15  # pixels worked on at once: they and what is made of them stay in the cache


def depth_edges(depth: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """(B,H,W) bool on the CPU: valid pixels whose 3×3 neighbourhood spans more than `threshold` times their own depth.

    depth (B,H,W), valid (B,H,W) bool. Only valid neighbours count, so the border of a hole is no edge by itself. The
    measure is relative, hence free of scale. 0 turns it off; `DEFAULT_EDGE` is what ComfyUI's own mesh nodes use.
    """
    if not threshold >= 0.0:
        raise ValueError(f"got an edge threshold of {threshold}, expected 0 (off) or more, e.g. {DEFAULT_EDGE}")
    if threshold == 0.0:
        return torch.zeros(valid.shape, dtype=torch.bool)
    z, known = depth.detach().cpu().float().numpy(), valid.cpu().numpy()
    edges = np.empty(known.shape, bool)
    height, width = known.shape[1:]
    rows = max(1, _BLOCK // max(1, width))
    for index in range(len(known)):
        for top in range(0, height, rows):
            bottom, above = min(top + rows, height), min(top, 1)  # with one row more on either side
            block = index, slice(top - above, bottom + 1)
            edges[index, top:bottom] = _edges(z[block], known[block], threshold)[above : above + bottom - top]
    return torch.from_numpy(edges)


def _edges(z: np.ndarray, known: np.ndarray, threshold: float) -> np.ndarray:
    """`depth_edges` of one picture (H,W), or of a part of it without its outermost rows."""
    farthest = _around(np.where(known, z, -np.inf), np.maximum)
    nearest = _around(np.where(known, z, np.inf), np.minimum)
    # A pixel that is valid sees at least itself, so the difference is finite where it counts.
    span = np.subtract(farthest, nearest, where=known, out=np.zeros_like(z))
    return known & (span > np.float32(threshold) * np.where(known, z, 0))


def _around(values: np.ndarray, extreme: np.ufunc) -> np.ndarray:
    """The extreme over 3×3 pixels, by rows and then columns. Numpy: its plain loops beat pooling tenfold on a CPU."""
    for axis in (0, 1):
        lower, upper = [slice(None)] * 2, [slice(None)] * 2
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        before, after = values[tuple(lower)], values[tuple(upper)]
        pair = extreme(before, after)
        values = values.copy()
        extreme(values[tuple(lower)], pair, out=values[tuple(lower)])
        extreme(values[tuple(upper)], pair, out=values[tuple(upper)])
    return values
