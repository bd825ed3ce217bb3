"""Sizes that the model takes (multiples of 16 pixels), and resampling of images, masks and depth to and from them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .network.config import DEPTH_PATCH as MULTIPLE


def fitted_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The (width, height) to resize to: shrunk to `max_side` at the longer side, then each to its nearest multiple of
    16. The proportions change by at most 8 pixels a side."""
    scale = min(1.0, max_side / max(width, height))
    return tuple(max(MULTIPLE, MULTIPLE * round(size * scale / MULTIPLE)) for size in (width, height))


def cropped_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """The (width, height) to crop to: shrunk to `max_side` at the longer side, then each down to a multiple of 16."""
    scale = min(1.0, max_side / max(width, height))
    return tuple(max(MULTIPLE, MULTIPLE * int(size * scale / MULTIPLE + 1e-6)) for size in (width, height))


def centre_crop(images: Tensor, width: int, height: int) -> Tensor:
    """Cut (B,H,W,C) centrally to the proportions of `width` x `height`."""
    full_height, full_width = images.shape[1:3]
    scale = min(full_width / width, full_height / height)
    crop_width, crop_height = min(full_width, round(width * scale)), min(full_height, round(height * scale))
    left, top = (full_width - crop_width) // 2, (full_height - crop_height) // 2
    return images[:, top : top + crop_height, left : left + crop_width]


def resize_images(images: Tensor, width: int, height: int) -> Tensor:
    """(B,H,W,C) in 0..1 -> (B,height,width,C), bicubic with antialiasing."""
    if images.shape[1:3] == (height, width):
        return images
    planes = images.float().movedim(-1, 1)
    return F.interpolate(planes, (height, width), mode="bicubic", antialias=True).movedim(1, -1).clamp(0, 1)


def resize_depth(depth: Tensor, valid: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Resample depth (B,H,W) with its valid mask to (B,height,width).

    Bilinear between valid pixels only: holes keep their place (nearest pixel) and never bleed into the depth around
    them. Shrinking takes the nearest pixel, so that depths on both sides of an edge are not averaged into points
    between them.
    """
    if depth.shape[1:] == (height, width):
        return depth, valid
    kept = F.interpolate(valid[:, None].float(), (height, width), mode="nearest-exact")[:, 0] > 0.5
    values = torch.where(valid, depth, 0)[:, None]
    if height < depth.shape[1] or width < depth.shape[2]:
        return F.interpolate(values, (height, width), mode="nearest-exact")[:, 0], kept
    total, weight = (
        F.interpolate(x, (height, width), mode="bilinear", align_corners=False)[:, 0]
        for x in (values, valid[:, None].float())
    )
    kept &= weight > 0
    return torch.where(kept, total / weight.clamp_min(1e-6), 0), kept
