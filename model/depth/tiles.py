"""Image -> depth of pictures larger than the model was trained at, tile by tile, at one scale.

The whole picture is estimated small first. Each tile starts from its part of that map, noised only so far that the
tile adds detail, and is then brought to it by a slowly changing factor (the idea of Miangoleh et al., arXiv 2105.14021,
without training): what is far apart stays as the whole picture has it, and neighbours agree where they overlap.
"""

import torch
from torch import Tensor

from ..network.config import DEPTH_PATCH
from ..resize import fitted_size, resize_depth, resize_images
from .codec import decode, encode
from .estimate import Estimator
from .matching import match_locally

DETAIL = 16  # a tile's own structure counts up to this part of its side; measured by `run.py bench controls`


def tiled(estimate: Estimator, pictures: Tensor, tile: int, overlap: int, denoise: float) -> tuple[Tensor, Tensor]:
    """Depth (B,H,W) and valid (B,H,W) of pictures (B,H,W,3), seen in tiles of `tile` pixels that overlap by `overlap`.

    A picture that fits into one tile is estimated as a whole. denoise: share of the steps that each tile takes, 0..1.
    ValueError for sizes that are no multiples of 16, and an overlap that leaves no progress.
    """
    check_tiles(tile, overlap)
    if max(pictures.shape[1:3]) <= tile:
        return decode(estimate(pictures, estimate.noise(len(pictures), *pictures.shape[1:3])))
    depth = torch.stack([_tiled(estimate, picture[None], tile, overlap, denoise) for picture in pictures])
    valid = depth.isfinite()
    return torch.where(valid, depth, 0.0), valid


def check_tiles(tile: int, overlap: int) -> None:
    """ValueError for sizes in pixels that are no multiples of 16, and an overlap that leaves no progress."""
    if tile % DEPTH_PATCH or overlap % DEPTH_PATCH or not 0 <= overlap < tile:
        raise ValueError(
            f"got tiles of {tile} pixels with an overlap of {overlap}; expected multiples of {DEPTH_PATCH}, the "
            "overlap smaller than the tile"
        )


def count_tiles(height: int, width: int, tile: int, overlap: int) -> int:
    """How many estimates `tiled` makes of one picture."""
    if max(height, width) <= tile:
        return 1
    return 1 + len(_starts(height, tile, overlap)) * len(_starts(width, tile, overlap))


def whole(estimate: Estimator, picture: Tensor, tile: int) -> Tensor:
    """Depth (1,H,W) of a picture (1,H,W,3), estimated at a size that fits into one tile; NaN where unknown."""
    height, width = picture.shape[1:3]
    small = resize_images(picture, *fitted_size(width, height, tile))
    depth, valid = decode(estimate(small, estimate.noise(1, *small.shape[1:3])))
    depth, valid = resize_depth(depth, valid, width, height, picture)
    return torch.where(valid, depth, torch.nan)


def _tiled(estimate: Estimator, picture: Tensor, tile: int, overlap: int, denoise: float) -> Tensor:
    """(H,W), NaN where unknown."""
    height, width = picture.shape[1:3]
    reference = whole(estimate, picture, tile)
    noise = estimate.noise(1, height, width)
    total, weights = torch.zeros(2, height, width)
    for rows in spans(height, tile, overlap):
        for columns in spans(width, tile, overlap):
            part = reference[:, rows, columns]
            seen = picture[:, rows, columns]
            depth = _detailed(estimate, seen, noise[:, :, _cells(rows), _cells(columns)], part, denoise)[0]
            known = depth.isfinite()
            weight = ramp(depth.shape[0], overlap)[:, None] * ramp(depth.shape[1], overlap) * known
            total[rows, columns] += torch.where(known, depth, 0.0) * weight
            weights[rows, columns] += weight
    return torch.where(weights > 0, total / weights, torch.nan)


def _detailed(estimate: Estimator, picture: Tensor, noise: Tensor, reference: Tensor, denoise: float) -> Tensor:
    """(1,h,w) of one tile; the reference where the tile has nothing to add."""
    start = encode(reference)
    if bool(start.isnan().all()):
        return reference
    start = torch.where(start.isnan(), start.nanmean(), start)
    depth, valid = decode(estimate(picture, noise, start, denoise))
    depth = torch.where(valid, depth, torch.nan)
    width = max(1, max(depth.shape[1:]) // DETAIL)
    return match_locally(depth, reference, (width,))


def spans(length: int, tile: int, overlap: int) -> list[slice]:
    """Parts of a side, `tile` long where it is longer: even steps, the last at the end."""
    size = min(tile, length)
    return [slice(start, start + size) for start in _starts(length, tile, overlap)]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Even steps, the last tile at the end; all at multiples of 16 where the length is one."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _cells(pixels: slice) -> slice:
    return slice(pixels.start // DEPTH_PATCH, pixels.stop // DEPTH_PATCH)


def ramp(length: int, overlap: int) -> Tensor:
    """(length,) weights that rise over the overlap at either end, never 0."""
    position = torch.arange(length) + 0.5
    return torch.minimum(position, length - position).clamp(max=max(overlap, 1)) / max(overlap, 1)
