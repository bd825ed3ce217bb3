"""Depth latents of another size: as the pixels that they are, not as channels."""

import torch
from torch import Tensor

from ..network.config import DEPTH_PATCH
from ..resize import resize_depth
from .codec import patchify, unpatchify


def resize_codes(codes: Tensor, h: int, w: int) -> Tensor:
    """Codes (B,256,·,·), NaN in holes, as (B,256,h,w), by the rules of `resize_depth`."""
    pixels = unpatchify(codes.float())
    known = ~pixels.isnan()
    pixels, known = resize_depth(torch.where(known, pixels, 0.0), known, DEPTH_PATCH * w, DEPTH_PATCH * h)
    return patchify(torch.where(known, pixels, torch.nan))
