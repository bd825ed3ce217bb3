"""Pictures of twice the trained size: as a whole, enlarged from the trained size, and in tiles; made and given."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ....model.depth.alignment import evaluate
from ....model.depth.enlarging import resize_codes
from ....model.depth.joint_tiles import in_tiles
from ....model.depth.matching import matched
from ....model.depth.tiles import tiled, whole
from ....model.diffusion.levels import add_noise, depth_velocity
from ....model.diffusion.schedule import base_levels
from ....model.geometry.edges import depth_edges
from ....model.network.config import DEPTH_PATCH
from ....model.resize import fitted_size, resize_images
from ....model.scenes import SceneBatch
from ... import ROOT
from .guidance import Setting, sample
from .small import MAX_CODE, Row, Small, blocks, depth_of, metric_error

COUNT, FIRST, STEPS = 4, 5000, 4
SETTINGS = ((2, 0.25), (2, 0.5), (4, 0.25))  # the tile over the overlap; denoise
MADE_STEPS, DENOISE, GUIDED = 20, 0.5, 3.0  # of the second pass; the picture's guidance
EDGE, AROUND = 0.15, 7  # what counts as near an edge of the true depth, pixels
PHOTO = ROOT.parent / "shared" / "assets" / "rgbd" / "lingbot_0"


def rows(small: Small) -> Iterator[Row]:
    """Errors everywhere and near the edges of objects, and the step at the tiles' borders."""
    side = 2 * small.side
    scenes = small.scenes(COUNT, FIRST, side)
    pictures = scenes.rgb.movedim(1, -1)
    at_borders = _seams(torch.where(scenes.valid, scenes.depth, torch.nan), small.side, small.side // 2)
    in_picture = _steps_at(scenes.rgb.mean(1), small.side, small.side // 2)
    figures = f"steps where tiles would meet {at_borders:.2f}, in the picture {in_picture:.2f}"
    yield Row("tiles", "the true depth and picture", figures)
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
    depth, overlap = within_steps(small, pictures, STEPS), small.side // 2
    figures = f"{_errors(depth, scenes)}, seams {_seams(depth, small.side, overlap):.2f}"
    yield Row("tiles", f"tiles of {small.side} within each step, overlap {overlap}", figures)
    if PHOTO.is_dir():
        yield from _photo(small, side)
    yield from _second_pass(small)


def _second_pass(small: Small) -> Iterator[Row]:
    """Made at the trained size, enlarged, and refined by a second pass, at once and in tiles."""
    scenes = small.scenes(COUNT, FIRST)
    texts = small.words.encode(scenes.captions), small.words.encode([""]).expand(COUNT, -1, -1)
    rgb, codes, _ = sample(small, texts, Setting(0.0, rgb_cfg=GUIDED))
    cells = 2 * rgb.shape[-1]
    larger = twice(rgb), resize_codes(codes.clamp(0.01, MAX_CODE), cells, cells)
    tile, overlap = small.side // DEPTH_PATCH, small.side // DEPTH_PATCH // 2
    runs = {
        "enlarged": larger,
        "at once": refined(small, texts, larger, cells, 0),
        "in tiles": refined(small, texts, larger, tile, overlap),
        "in tiles, reference": refined(small, texts, larger, tile, overlap, depth_of(larger[1])),
    }
    for name, (rgb, codes) in runs.items():
        picture, made = small.vae.decode(rgb).movedim(1, -1).clamp(0, 1), depth_of(codes.clamp(0.01, MAX_CODE))
        seen = torch.cat([whole(small.estimator(STEPS), one[None], small.side) for one in picture])
        everywhere = torch.ones_like(made, dtype=torch.bool)
        off = 100 * float(evaluate(made, seen, everywhere, seen.isfinite()).abs_rel.mean())
        pixels = overlap * DEPTH_PATCH
        steps = _seams(made, small.side, pixels), _steps_at(picture.mean(-1), small.side, pixels)
        seams = f"seams {steps[0]:.2f}, in the picture {steps[1]:.2f}"
        yield Row("tiles", f"second pass x 2, {name}", f"disagreement {off:.1f} %, blocks {blocks(made):.2f}, {seams}")


def twice(rgb: Tensor) -> Tensor:
    """RGB latents of twice the size."""
    return F.interpolate(rgb, scale_factor=2, mode="bicubic")


@torch.inference_mode()
def refined(
    small: Small,
    texts: tuple[Tensor, Tensor],
    start: tuple[Tensor, Tensor],
    tile: int,
    overlap: int,
    reference: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A second pass from RGB and depth latents (B,·,h,w), the picture guided; in tiles of cells."""
    count, (h, w) = len(start[0]), start[0].shape[-2:]
    t = base_levels(MADE_STEPS)[-(round(MADE_STEPS * DENOISE) + 1) :]
    generator = torch.Generator().manual_seed(1)
    rgb, depth = (add_noise(x, torch.randn(x.shape, generator=generator), t[:1]) for x in start)
    for now, after in zip(t[:-1], t[1:], strict=True):
        level = now.expand(count)

        def predict(rows: slice, columns: slice, rgb=rgb, depth=depth, now=now, level=level) -> tuple[Tensor, Tensor]:
            state = rgb[..., rows, columns], depth[..., rows, columns]
            v, clean = small.module(*state, texts[0], level, level)
            u, _ = small.module(*state, texts[1], level, level, wanted=("rgb",))
            return state[0] - now * (u + GUIDED * (v - u)), clean

        clean_rgb, clean = in_tiles(predict, h, w, tile, overlap, reference)
        rgb = rgb + (after - now) * (rgb - clean_rgb) / now
        depth = depth + (after - now) * depth_velocity(depth, clean, level)
    return rgb, depth


@torch.inference_mode()
def within_steps(small: Small, pictures: Tensor, steps: int) -> Tensor:
    """Depth (B,H,W) of pictures (B,H,W,3), each step made in tiles at the scale of the whole."""
    reference = torch.cat([whole(small.estimator(steps), picture[None], small.side) for picture in pictures])
    rgb = small.vae.encode(pictures.movedim(-1, 1))
    count, (h, w) = len(rgb), rgb.shape[-2:]
    x = small.estimator(steps).noise(count, h * DEPTH_PATCH, w * DEPTH_PATCH)
    text, zero = small.words.encode([""]).expand(count, -1, -1), torch.zeros(count)
    t = base_levels(steps)
    for now, after in zip(t[:-1], t[1:], strict=True):
        level = now.expand(count)

        def predict(rows: slice, columns: slice, x=x, level=level) -> tuple[Tensor, Tensor]:
            parts = rgb[..., rows, columns], x[..., rows, columns]
            _, clean = small.module(*parts, text, zero, level, wanted=("depth",))
            return parts[0], clean

        _, clean = in_tiles(predict, h, w, small.side // 16, small.side // 32, reference)
        x = x + (after - now) * depth_velocity(x, clean, level)
    return depth_of(x.clamp(0.01, MAX_CODE))


def _photo(small: Small, side: int) -> Iterator[Row]:
    with Image.open(next(PHOTO.glob("*rgb*"))) as image:
        picture = torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)[None]
    picture = resize_images(picture, *fitted_size(picture.shape[2], picture.shape[1], 2 * side))
    overlap = small.side // 2
    ways = {
        f"overlap {overlap}": tiled(small.estimator(STEPS), picture, small.side, overlap, 0.25)[0],
        "within each step": within_steps(small, picture, STEPS),
    }
    for name, depth in ways.items():
        size = f"{picture.shape[2]} x {picture.shape[1]}"
        yield Row("tiles", f"real photograph of {size}, {name}", f"seams {_seams(depth, small.side, overlap):.2f}")


def _errors(depth: Tensor, scenes: SceneBatch) -> str:
    truth = torch.where(scenes.valid, scenes.depth, torch.nan)
    fitted = matched(depth, truth)
    edges = depth_edges(scenes.depth, scenes.valid, EDGE)[:, None].float()
    near = F.max_pool2d(edges, AROUND, 1, AROUND // 2)[:, 0] > 0
    everywhere, at_edges = (metric_error(fitted, truth, scenes.valid & where) for where in (torch.tensor(True), near))
    return f"error {everywhere:.2f} %, near edges {at_edges:.2f} %"


def _seams(depth: Tensor, tile: int, overlap: int) -> float:
    return _steps_at(depth.log(), tile, overlap)


def _steps_at(values: Tensor, tile: int, overlap: int) -> float:
    """Mean step where a tile begins or ends, over that at other borders of patches; 1 is no seam."""
    found = []
    for steps in (values.diff(dim=2), values.diff(dim=1).transpose(1, 2)):
        length = steps.shape[2] + 1
        starts = {*range(0, length - tile, tile - overlap), length - tile}
        borders = {start for start in starts if start} | {start + tile for start in starts if start + tile < length}
        others = set(range(DEPTH_PATCH, length, DEPTH_PATCH)) - borders
        found += [[float(steps[:, :, [p - 1 for p in places]].abs().nanmean()) for places in (borders, others)]]
    return sum(at for at, _ in found) / sum(other for _, other in found)
