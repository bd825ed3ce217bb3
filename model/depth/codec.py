"""Depth maps to depth latents and back (Modality Forcing, arXiv 2606.13676, depth representation).

Depth is positive, farther = larger, of any scale. It is divided by its mean over the valid pixels, contracted to
[0, 2) and cut into 16 x 16 patches, one token each. The scale is lost: decoded depth has mean about 1.
"""

import torch
from torch import Tensor

from ..network.config import DEPTH_CHANNELS, DEPTH_PATCH
from .usable import ranked, usable_depth

MAX_CODE = 2.0  # the code of infinite depth
FAR_RULES = ("off", "multiple of the mean", "percent of pixels")


def contract(depth: Tensor) -> Tensor:
    """z = d for d <= 1, else 2 - 1/d: [0, inf) -> [0, 2)."""
    return torch.where(depth <= 1, depth, MAX_CODE - 1 / depth.clamp_min(1))


def expand(code: Tensor) -> Tensor:
    """The inverse of `contract`: z for z <= 1, else z / (2z - z^2) = 1 / (2 - z). Infinite at 2, negative beyond."""
    return torch.where(code <= 1, code, 1 / (MAX_CODE - code))


def encode(depth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Encode depth maps.

    Args:
        depth: (B,H,W), farther = larger, any unit; H and W multiples of 16.
        valid: (B,H,W) bool, or None. Pixels that are not finite and above 0 are holes in any case.

    Returns:
        (B,256,H/16,W/16) float32. Holes are NaN (noise is put in by whoever samples); a map without a single valid
        pixel is all NaN.
    """
    if depth.ndim != 3 or depth.shape[1] % DEPTH_PATCH or depth.shape[2] % DEPTH_PATCH:
        raise ValueError(
            f"got depth of shape {tuple(depth.shape)}; expected (batch, height, width) with height and width "
            f"multiples of {DEPTH_PATCH}: crop or resize the map first"
        )
    depth = depth.float()
    keep = usable_depth(depth, valid)
    known = torch.where(keep, depth, 0)
    # Dividing by the largest first keeps the sum finite for depths near the end of float32's range.
    largest = known.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    known = known / largest
    mean = known.sum((1, 2), keepdim=True) / keep.sum((1, 2), keepdim=True)  # NaN where a map has no valid pixel
    return patchify(torch.where(keep, contract(known / mean), torch.nan))


def decode(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Decode depth latents.

    Args:
        latent: (B,256,h,w).

    Returns:
        depth (B,16h,16w) float32 and valid (B,16h,16w) bool. Pixels that decode to a non-finite or non-positive depth
        are not valid and hold 0.
    """
    if latent.ndim != 4 or latent.shape[1] != DEPTH_CHANNELS:
        raise ValueError(f"got a depth latent of shape {tuple(latent.shape)}; expected (batch, {DEPTH_CHANNELS}, h, w)")
    depth = expand(unpatchify(latent.float()))
    valid = usable_depth(depth)
    return torch.where(valid, depth, 0), valid


def far_pixels(depth: Tensor, valid: Tensor, rule: str, limit: float) -> Tensor:
    """(B,H,W) bool: the valid pixels of decoded depth (B,H,W) that count as far.

    `rule`, one of FAR_RULES: "off", none; "multiple of the mean", beyond `limit`, since decoded depth has mean 1;
    "percent of pixels", the farthest `limit` percent of each map's valid pixels, 0 to 100.
    """
    if rule not in FAR_RULES:
        raise ValueError(f"got far rule {rule!r}, expected one of {list(FAR_RULES)}")
    if rule == FAR_RULES[0]:
        return torch.zeros_like(valid)
    if rule == FAR_RULES[1]:
        if not limit > 0:
            raise ValueError(f"got a far limit of {limit} times the mean, expected more than 0")
        return valid & (depth > limit)
    if not 0 <= limit < 100:
        raise ValueError(f"got a far limit of {limit} percent, expected 0 or more and less than 100")
    ends = torch.stack([ranked(d[v], 1 - limit / 100) for d, v in zip(depth, valid, strict=True)])
    return valid & (depth > ends[:, None, None])


def patchify(maps: Tensor) -> Tensor:
    """(B,H,W) -> (B,256,H/16,W/16); channels are the patch's pixels, row by row."""
    patches = maps.unflatten(1, (-1, DEPTH_PATCH)).unflatten(3, (-1, DEPTH_PATCH))  # (B,h,16,w,16)
    return patches.permute(0, 2, 4, 1, 3).flatten(1, 2)


def unpatchify(latent: Tensor) -> Tensor:
    """(B,256,h,w) -> (B,16h,16w), the inverse of `patchify`."""
    patches = latent.unflatten(1, (DEPTH_PATCH, DEPTH_PATCH))  # (B,16,16,h,w)
    return patches.permute(0, 3, 1, 4, 2).flatten(1, 2).flatten(2, 3)
