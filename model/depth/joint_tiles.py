"""Joint predictions on pictures larger than the model was trained at: made in tiles at each step, and blended.

All tiles take part in one sampling run, so that they agree where they overlap (MultiDiffusion, arXiv 2302.08113). What
they would not agree on is depth's scale, which is a tile's own; each is brought to a map of the whole picture by a
slowly changing factor, as in tiles.py. Letters: B samples, h rows and w columns of cells of 16 pixels.
"""

from collections.abc import Callable

from torch import Tensor

from ..network.config import DEPTH_PATCH
from .codec import MAX_CODE, contract, expand, patchify, unpatchify
from .matching import match_locally
from .tiles import DETAIL, ramp, spans

_LEAST, _MOST = 1e-3, MAX_CODE - 1e-3  # codes that stand for a depth

Predict = Callable[[slice, slice], tuple[Tensor, Tensor]]


def in_tiles(
    predict: Predict, h: int, w: int, tile: int, overlap: int, reference: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Clean RGB (B,C,h,w) and depth codes (B,256,h,w) from predictions of parts of the picture.

    Args:
        predict: (rows, columns), in cells, -> clean RGB and depth codes of that part.
        tile, overlap: in cells; a side that is no longer than `tile` is not cut.
        reference: depth (B,16h,16w) of the whole picture, NaN where unknown; None leaves each tile at its own scale.
    """
    whole_rgb, whole_depth = _Mean(h, w, overlap), _Mean(h, w, overlap, DEPTH_PATCH)
    for rows in spans(h, tile, overlap):
        for columns in spans(w, tile, overlap):
            rgb, codes = predict(rows, columns)
            pixels = unpatchify(codes)
            if reference is not None:
                pixels = _matched(pixels, reference[:, _scaled(rows, DEPTH_PATCH), _scaled(columns, DEPTH_PATCH)])
            whole_rgb.add(rgb, rows, columns)
            whole_depth.add(pixels[:, None], rows, columns)
    return whole_rgb.value, patchify(whole_depth.value[:, 0])


class _Mean:
    """The mean of parts (B,C,·,·) that overlap, each with less weight towards its borders; `unit`: pixels of a cell."""

    def __init__(self, h: int, w: int, overlap: int, unit: int = 1) -> None:
        self.size, self.overlap, self.unit = (h * unit, w * unit), overlap * unit, unit
        self.total: Tensor | None = None

    def add(self, part: Tensor, rows: slice, columns: slice) -> None:
        if self.total is None:
            self.total, self.weight = part.new_zeros(*part.shape[:2], *self.size), part.new_zeros(self.size)
        down, right = (ramp(size, self.overlap).to(part) for size in part.shape[-2:])
        weight = down[:, None] * right
        place = _scaled(rows, self.unit), _scaled(columns, self.unit)
        self.total[..., place[0], place[1]] += part * weight
        self.weight[place] += weight

    @property
    def value(self) -> Tensor:
        return self.total / self.weight


def _matched(codes: Tensor, reference: Tensor) -> Tensor:
    """Codes (B,·,·) of a tile, as pixels, brought to the reference (B,·,·)."""
    depth = expand(codes.clamp(_LEAST, _MOST))
    return contract(match_locally(depth, reference, (max(1, max(depth.shape[1:]) // DETAIL),)))


def _scaled(cells: slice, unit: int) -> slice:
    return slice(cells.start * unit, cells.stop * unit)
