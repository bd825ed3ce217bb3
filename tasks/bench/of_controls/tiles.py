"""Pictures of twice the trained size: as a whole, enlarged from the trained size, and in tiles."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....model.depth.matching import matched
from ....model.depth.tiles import tiled, whole
from ....model.geometry.edges import depth_edges
from ....model.network.config import DEPTH_PATCH
from ....model.resize import fitted_size, resize_images
from ....model.scenes import SceneBatch
from ... import ROOT
from .small import Row, Small, depth_of, metric_error

COUNT, FIRST, STEPS = 8, 5000, 4
SETTINGS = ((2, 0.25), (2, 0.5), (4, 0.25))  # the tile over the overlap; denoise
EDGE, AROUND = 0.15, 7  # what counts as near an edge of the true depth, pixels
PHOTO = ROOT.parent / "shared" / "assets" / "rgbd" / "lingbot_0"


def rows(small: Small) -> Iterator[Row]:
    """Errors everywhere and near the edges of objects, and the step at the tiles' borders."""
    side = 2 * small.side
    scenes = small.scenes(COUNT, FIRST, side)
    pictures = scenes.rgb.movedim(1, -1)
    estimate = small.estimator(STEPS)
    at_once = depth_of(estimate(pictures, estimate.noise(COUNT, side, side)))
    yield Row("tiles", f"{side} pixels at once", _errors(at_once, scenes))
    enlarged = torch.cat([whole(small.estimator(STEPS), picture[None], small.side) for picture in pictures])
    yield Row("tiles", f"estimated at {small.side}, enlarged", _errors(enlarged, scenes))
    for part, denoise in SETTINGS:
        overlap = small.side // part
        depth, _ = tiled(small.estimator(STEPS), pictures, small.side, overlap, denoise)
        figures = f"{_errors(depth, scenes)}, seams {_seams(depth, small.side, overlap):.2f}"
        yield Row("tiles", f"tiles of {small.side}, overlap {overlap}, denoise {denoise:g}", figures)
    if PHOTO.is_dir():
        yield _photo(small, side)


def _photo(small: Small, side: int) -> Row:
    with Image.open(next(PHOTO.glob("*rgb*"))) as image:
        picture = torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)[None]
    picture = resize_images(picture, *fitted_size(picture.shape[2], picture.shape[1], 2 * side))
    overlap = small.side // 2
    depth, _ = tiled(small.estimator(STEPS), picture, small.side, overlap, 0.25)
    size = f"{picture.shape[2]} x {picture.shape[1]}"
    return Row(
        "tiles", f"real photograph of {size}, overlap {overlap}", f"seams {_seams(depth, small.side, overlap):.2f}"
    )


def _errors(depth: Tensor, scenes: SceneBatch) -> str:
    truth = torch.where(scenes.valid, scenes.depth, torch.nan)
    fitted = matched(depth, truth)
    edges = depth_edges(scenes.depth, scenes.valid, EDGE)[:, None].float()
    near = torch.nn.functional.max_pool2d(edges, AROUND, 1, AROUND // 2)[:, 0] > 0
    everywhere, at_edges = (metric_error(fitted, truth, scenes.valid & where) for where in (torch.tensor(True), near))
    return f"error {everywhere:.2f} %, near edges {at_edges:.2f} %"


def _seams(depth: Tensor, tile: int, overlap: int) -> float:
    """Mean step of log depth where a tile begins or ends, over that at other borders of patches; 1 is no seam."""
    found = []
    for steps in (depth.log().diff(dim=2), depth.log().diff(dim=1).transpose(1, 2)):
        length = steps.shape[2] + 1
        starts = {*range(0, length - tile, tile - overlap), length - tile}
        borders = {start for start in starts if start} | {start + tile for start in starts if start + tile < length}
        others = set(range(DEPTH_PATCH, length, DEPTH_PATCH)) - borders
        found += [[float(steps[:, :, [p - 1 for p in places]].abs().nanmean()) for places in (borders, others)]]
    return sum(at for at, _ in found) / sum(other for _, other in found)
