"""Depth latents of another size: as the pixels that they are, not as channels."""

import torch
from torch import Tensor

from ..network.config import DEPTH_PATCH
from ..resize import resize_depth
from .codec import MAX_CODE, contract, expand, patchify, unpatchify

_LEAST, _MOST = 1e-3, MAX_CODE - 1e-3  # codes that stand for a depth: a thousandth and a thousand times the mean


def resize_codes(codes: Tensor, h: int, w: int, image: Tensor | None = None) -> Tensor:
    """Codes (B,256,·,·), NaN in holes, as (B,256,h,w): resized as depth, by the rules of `resize_depth`.

    image: (B or 1,H,W,3) of the same view, of any size, guides edges that are enlarged.
    """
    if codes.shape[-2:] == (h, w):
        return codes
    pixels = unpatchify(codes.float())
    known = ~pixels.isnan()
    depth = expand(torch.where(known, pixels, 1.0).clamp(_LEAST, _MOST))
    depth, known = resize_depth(depth, known, DEPTH_PATCH * w, DEPTH_PATCH * h, image)
    return patchify(torch.where(known, contract(depth), torch.nan))
