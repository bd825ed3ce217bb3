"""Depth codes of twice the size: as pixels, and as core's nodes enlarge their channels."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from ....model.depth.codec import encode
from ....model.depth.enlarging import resize_codes
from .small import Row, Small, abs_rel, blocks, depth_of

COUNT, FIRST = 16, 3000


def rows(small: Small) -> Iterator[Row]:
    """The true depth at the model's size, enlarged, against the true depth of the larger picture."""
    large = small.scenes(COUNT, FIRST, 2 * small.side)
    depth = small.scenes(COUNT, FIRST).depth
    codes = torch.nan_to_num(encode(depth), nan=1.8).clamp(0.01, 1.8)
    cells = 2 * codes.shape[-1]
    ways = {
        "Upscale RGB-D Latent": resize_codes(codes, cells, cells),
        "core's Upscale Latent, bilinear": F.interpolate(codes, scale_factor=2, mode="bilinear"),
    }
    for name, enlarged in ways.items():
        depth = depth_of(enlarged)
        yield Row("upscale", f"{name}, x 2", f"AbsRel {abs_rel(depth, large):.2f} %, blocks {blocks(depth):.2f}")
