"""Bringing depth maps to one another: by one scale and shift each, or by a factor that changes slowly over the picture.

Maps are (H,W) or (B,H,W) float32 with NaN where depth is unknown. Scale and shift are solved by robust L1 in float64 on
the CPU (alignment.py); fields are made on the device of the maps.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .alignment import masked_nearest, solve_scale, solve_scale_shift

SAMPLES = 32  # rows and columns of the raster that scale and shift are fitted on
FEW = 32  # samples: with fewer, a shift cannot be told from noise
_CELLS = 1.5  # standard deviation of the blur, in cells of a level


def match(depth: Tensor, reference: Tensor) -> tuple[float, float]:
    """(scale, shift) that bring depth (H,W) to the reference (H,W) where both are known.

    A scale alone for fewer than FEW samples, and where scale and shift would turn near into far. (1, 0) where no pixel
    is known on both sides.
    """
    both = (depth.isfinite() & reference.isfinite()).cpu().numpy()
    if not both.any():
        return 1.0, 0.0
    chosen = masked_nearest(both, SAMPLES)
    p, g = (values.detach().cpu().double().numpy().flat[chosen] for values in (depth, reference))
    if len(chosen) >= FEW:
        scale, shift = solve_scale_shift(p, g)
        if scale > 0:
            return scale, shift
    return solve_scale(p, g), 0.0


def matched(depth: Tensor, reference: Tensor) -> Tensor:
    """Depth (B,H,W) under each map's `match` to the reference (B,H,W) or (1,H,W); NaN where it ends at 0 or below."""
    fits = [match(a, b) for a, b in zip(depth, reference.expand_as(depth), strict=True)]
    scale, shift = (depth.new_tensor(values)[:, None, None] for values in zip(*fits, strict=True))
    return positive(depth * scale + shift)


def positive(depth: Tensor) -> Tensor:
    """The depth, NaN where it is not finite and above 0."""
    return torch.where(depth.isfinite() & (depth > 0), depth, torch.nan)


def match_locally(depth: Tensor, reference: Tensor, widths: Sequence[int], trust: float = 0.0) -> Tensor:
    """Depth (B,H,W) times a smooth field that brings it to the reference (B,H,W) where both are known.

    A factor, not a sum: it moves surfaces and leaves the edges between them as sharp as they are.

    Args:
        widths: standard deviations of the field in pixels, from coarse to fine; each mends what the one before left.
        trust: see `spread`.
    """
    ratio = (reference / depth).log()
    known = ratio.isfinite()
    return depth * spread(torch.where(known, ratio, 0.0), known.float(), widths, trust).exp()


def spread(values: Tensor, weights: Tensor, widths: Sequence[int], trust: float = 0.0) -> Tensor:
    """A smooth field (B,H,W) through samples: values and weights (B,H,W), weight 0 where there is none.

    For each width the Gaussian mean of what is left, shrunk towards 0 where few samples carry it (normalised
    convolution, Knutsson and Westin 1993, from coarse to fine). trust: how many samples' weight the 0 has at the finest
    width, twice as many at each coarser one: few samples do not bend what is far from them. 0: the mean as it is.
    """
    field = torch.zeros_like(values)
    for coarser, width in zip(reversed(range(len(widths))), widths, strict=True):
        stride = max(1, round(width / _CELLS))
        left, mass = (_blurred(x, stride) for x in ((values - field) * weights, weights))
        peak = _kernel(mass).max() ** 2
        mean = left / (mass + trust * 2**coarser * peak).clamp_min(1e-12)
        field = field + F.interpolate(mean[:, None], values.shape[-2:], mode="bilinear")[:, 0]
    return field


def _blurred(values: Tensor, stride: int) -> Tensor:
    """Sums over cells of stride x stride pixels, blurred; (B,ceil(H/stride),ceil(W/stride))."""
    height, width = values.shape[-2:]
    padded = F.pad(values[:, None], (0, -width % stride, 0, -height % stride))
    cells = F.avg_pool2d(padded, stride) * stride**2
    kernel = _kernel(values)
    reach = len(kernel) // 2
    cells = F.conv2d(cells, kernel[None, None, None], padding=(0, reach))
    return F.conv2d(cells, kernel[None, None, :, None], padding=(reach, 0))[:, 0]


def _kernel(like: Tensor) -> Tensor:
    reach = math.ceil(3 * _CELLS)
    x = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    weights = (-0.5 * (x / _CELLS) ** 2).exp()
    return weights / weights.sum()
