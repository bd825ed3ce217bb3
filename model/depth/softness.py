"""A given map as layout without edges: its codes, low-passed. Measured by `run.py bench controls softness`."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .codec import patchify, unpatchify

SOFTEST = 1 / 8  # standard deviation at softness 1, of the longer side
_REACH = 3  # standard deviations


def softened(codes: Tensor, softness: float) -> Tensor:
    """Codes (B,256,h,w) under a Gaussian; NaN, which is unknown, neither spreads nor is filled. 0: as they are.

    softness: 0..1; the Gaussian's standard deviation is that share of an eighth of the longer side.
    """
    if not 0 <= softness <= 1:
        raise ValueError(f"got softness {softness}, expected 0 to 1")
    if softness == 0:
        return codes
    pixels = unpatchify(codes.float())[:, None]  # (B,1,H,W)
    known = ~pixels.isnan()
    width = softness * SOFTEST * max(pixels.shape[-2:])
    total, weight = (_blurred(x, width) for x in (torch.where(known, pixels, 0.0), known.float()))
    return patchify(torch.where(known, total / weight, torch.nan)[:, 0]).to(codes)


def _blurred(planes: Tensor, width: float) -> Tensor:
    """(B,1,H,W) under a Gaussian with 0 outside."""
    reach = math.ceil(_REACH * width)
    x = torch.arange(-reach, reach + 1, device=planes.device, dtype=planes.dtype)
    kernel = (-0.5 * (x / width) ** 2).exp()
    kernel = kernel / kernel.sum()
    planes = F.conv2d(planes, kernel[None, None, None], padding=(0, reach))
    return F.conv2d(planes, kernel[None, None, :, None], padding=(reach, 0))
