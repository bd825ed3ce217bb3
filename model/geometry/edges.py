"""Depth edges: where neighbouring pixels belong to different surfaces."""

import torch
from torch import Tensor
from torch.nn import functional

DEFAULT_EDGE = 0.04


def depth_edges(depth: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """(B,H,W) bool: valid pixels whose 3×3 neighbourhood spans more than `threshold` times their own depth.

    depth (B,H,W), valid (B,H,W) bool. Only valid neighbours count, so the border of a hole is no edge by itself. The
    measure is relative, hence free of scale. 0 turns it off; `DEFAULT_EDGE` is what ComfyUI's own mesh nodes use.
    """
    if not threshold >= 0.0:
        raise ValueError(f"got an edge threshold of {threshold}, expected 0 (off) or more, e.g. {DEFAULT_EDGE}")
    if threshold == 0.0:
        return torch.zeros_like(valid)
    farthest = torch.where(valid, depth, -torch.inf)
    nearest_negated = torch.where(valid, -depth, -torch.inf)
    span = _largest_around(farthest) + _largest_around(nearest_negated)
    return valid & (span > threshold * depth)


def _largest_around(values: Tensor) -> Tensor:
    """The maximum over 3×3, by rows and then columns; padding counts as −inf."""
    rows = functional.max_pool2d(values[:, None], (1, 3), stride=1, padding=(0, 1))
    return functional.max_pool2d(rows, (3, 1), stride=1, padding=(1, 0))[:, 0]
