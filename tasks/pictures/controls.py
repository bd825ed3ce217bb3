"""``run.py pictures controls``: what each control does to the bundled small model, as docs/controls.jpg.

Held-out scenes, none left out: the first of each control's measurement (``run.py bench controls``).
"""

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...model.depth.completion import complete, towards_points
from ...model.depth.enlarging import resize_codes
from ...model.depth.ensemble import ensemble, members, uncertainty_picture
from ...model.depth.matching import matched
from ...model.depth.pictures import depth_picture
from ...model.depth.softness import softened
from ...model.depth.tiles import tiled, whole
from ...model.diffusion.levels import strength_to_log2_alpha
from ...model.geometry.packets import make_geometry
from ...model.geometry.pointcloud import point_clouds
from ...model.geometry.pose import camera_pose
from ...model.geometry.render import render_views
from ...model.geometry.scene import add_view, view_to_paint
from ...model.resize import resize_images
from .. import ROOT
from ..bench.of_controls import guidance, scene, sparse, strength, tiles
from ..bench.of_controls.small import Small, depth_of
from ..small_model.held_out import held_out, held_out_views
from ..workflows.settings import CRACKS, EDGE, FAR

SHEET = ROOT / "docs" / "controls.jpg"
TILE, GAP, LINE_HEIGHT = 160, 6, 16  # pixels
Row = dict[str, Tensor]  # what is written below a tile -> (H,W,3) in 0..1


def main(_arguments: list[str]) -> int:
    """Write the sheet; returns the exit status."""
    small = Small.load()
    rows = [
        *_ensembles(small),
        _points(small),
        *_given(small),
        _large(small),
        *_second_pass(small),
        *_walk(small),
    ]
    step = TILE + GAP
    size = GAP + step * max(map(len, rows)), GAP + len(rows) * (step + LINE_HEIGHT)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        top = GAP + number * (step + LINE_HEIGHT)
        for column, (name, picture) in enumerate(row.items()):
            tile = resize_images(picture[None].float(), TILE, TILE)[0]
            left = GAP + column * step
            canvas.paste(Image.fromarray((255 * tile.clamp(0, 1)).round().byte().numpy()), (left, top))
            draw.text((left, top + TILE + 1), name, "black", font_size=11)
    canvas.save(SHEET, quality=88, optimize=True)
    print(f"{SHEET}  {SHEET.stat().st_size / 1024:.0f} kB, {len(rows)} rows")
    return 0


def _drawn(depth: Tensor, like: Tensor | None = None) -> Tensor:
    """(H,W,3) of depth (H,W), at the scale of `like` where it is there."""
    depth = depth if like is None else matched(depth[None], like[None])[0]
    both = torch.stack([depth, depth if like is None else like])
    known = both.isfinite() & (both > 0)
    picture = depth_picture(
        both.where(known, 0.0), known, range_from="per batch", colour_map="turbo", invalid_colour="black"
    )
    return picture[0]


def _ensembles(small: Small) -> list[Row]:
    scenes = small.scenes(2, 0)
    pictures = scenes.rgb.movedim(1, -1)
    truth = torch.where(scenes.valid, scenes.depth, torch.nan)
    plain, merged = (ensemble(small.estimator(2), pictures, members(count, True, True)) for count in (1, 8))
    return [
        {
            "image": pictures[i],
            "true depth": _drawn(truth[i]),
            "one estimate": _drawn(plain.depth[i], truth[i]),
            "ensemble of 8": _drawn(merged.depth[i], truth[i]),
            "its uncertainty": uncertainty_picture(merged.uncertainty)[i],
        }
        for i in range(2)
    ]


def _points(small: Small) -> Row:
    scenes = small.scenes(1, sparse.FIRST)
    pictures = scenes.rgb.movedim(1, -1)
    truth = torch.where(scenes.valid, scenes.depth, torch.nan)
    chosen = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.02
    points = torch.where(chosen, truth, torch.nan)
    estimate = small.estimator(sparse.STEPS)
    depth = depth_of(estimate(pictures, estimate.noise(1, small.side, small.side)))
    guided = small.estimator(sparse.STEPS, hook=lambda codes, level: towards_points(codes, points, 1.0))
    pulled = depth_of(guided(pictures, guided.noise(1, small.side, small.side)))
    return {
        "image": pictures[0],
        "true depth": _drawn(truth[0]),
        "2 % measured": _drawn(points[0]),
        "scale and shift": _drawn(complete(depth[0], points[0], 0).depth, truth[0]),
        "fitted to the points": _drawn(complete(depth[0], points[0]).depth, truth[0]),
        "guided, then fitted": _drawn(complete(pulled[0], points[0]).depth, truth[0]),
    }


def _given(small: Small) -> list[Row]:
    """Pictures made for a given depth, as it is, soft, and with less strength."""
    case = strength.Case.make(small, 2)
    half = float(strength_to_log2_alpha(torch.tensor(0.5)))
    made = {
        "made for it": (case.depth, strength.CLEAN),
        "softness 0.5": (softened(case.depth, 0.5), strength.CLEAN),
        "softness 1": (softened(case.depth, 1.0), strength.CLEAN),
        "strength 0.5": (case.depth, half),
        "not given": (case.depth, None),
    }
    pictures = {name: case.picture(*given).picture for name, given in made.items()}
    truth = depth_of(case.depth)
    return [
        {"given depth": _drawn(truth[i]), **{name: picture[i] for name, picture in pictures.items()}} for i in range(2)
    ]


def _second_pass(small: Small) -> list[Row]:
    """Made, enlarged, and refined at once and in tiles: pictures, and their depth."""
    scenes = small.scenes(1, tiles.FIRST)
    texts = small.words.encode(scenes.captions), small.words.encode([""])
    rgb, codes, _ = guidance.sample(small, texts, guidance.Setting(0.0, rgb_cfg=tiles.GUIDED))
    cells = 2 * rgb.shape[-1]
    larger = tiles.twice(rgb), resize_codes(codes.clamp(0.01, 1.8), cells, cells)
    tile = rgb.shape[-1]
    runs = {
        "made, enlarged": larger,
        "second pass at once": tiles.refined(small, texts, larger, cells, 0),
        "second pass in tiles": tiles.refined(small, texts, larger, tile, tile // 2, depth_of(larger[1])),
    }
    pictures = {name: small.vae.decode(rgb)[0].movedim(0, -1).clamp(0, 1) for name, (rgb, _) in runs.items()}
    return [pictures, {name: _drawn(depth_of(codes.clamp(0.01, 1.8))[0]) for name, (_, codes) in runs.items()}]


def _large(small: Small) -> Row:
    side = 2 * small.side
    scenes = small.scenes(1, tiles.FIRST, side)
    pictures = scenes.rgb.movedim(1, -1)
    truth = torch.where(scenes.valid, scenes.depth, torch.nan)[0]
    estimate = small.estimator(tiles.STEPS)
    at_once = depth_of(estimate(pictures, estimate.noise(1, side, side)))[0]
    in_tiles, _ = tiled(small.estimator(tiles.STEPS), pictures, small.side, small.side // 2, 0.25)
    return {
        f"image of {side} pixels": pictures[0],
        "true depth": _drawn(truth),
        "at once": _drawn(at_once, truth),
        f"at {small.side}, enlarged": _drawn(whole(small.estimator(tiles.STEPS), pictures, small.side)[0], truth),
        f"tiles of {small.side}": _drawn(in_tiles[0], truth),
    }


def _walk(small: Small) -> list[Row]:
    """Three moves: what was known, what was painted, and the truth; the last row's cloud from the side."""
    size = (small.side, small.side)
    poses = torch.stack([torch.eye(4), *(camera_pose(**move) for move in scene.MOVES)])
    true, caption = held_out_views(scene.FIRST, poses), held_out(1, scene.FIRST).captions[0]
    first = make_geometry(true.depth[:1], true.valid[:1], true.intrinsics, true.rgb[:1].movedim(1, -1))
    (cloud,) = point_clouds(first, edge_threshold=EDGE)
    far = FAR * float(true.depth[0][true.valid[0]].mean())
    rows = []
    for number, pose in enumerate(poses[1:], 1):
        seen = render_views([cloud], pose[None], true.intrinsics, *size, cracks=CRACKS)
        view = make_geometry(seen.depth, ~seen.hole, true.intrinsics, seen.image)
        known = torch.where(seen.hole, torch.nan, seen.depth)
        image, depth = scene.paint(small, view_to_paint(seen.image, seen.depth, ~seen.hole), known, caption)
        painted = make_geometry(depth, None, true.intrinsics, image)
        cloud, packet = add_view(cloud, painted, view, pose, EDGE, far=far)
        truth = torch.where(true.valid[number], true.depth[number], torch.nan)
        rows.append(
            {
                f"move {number}: known": seen.image[0],
                "painted": image[0],
                "true": true.rgb[number].movedim(0, -1),
                "known depth": _drawn(seen.depth[0].where(~seen.hole[0], torch.nan)),
                "whole view's depth": _drawn(packet["depth"][0].where(packet["mask"][0], torch.nan)),
                "true depth": _drawn(truth),
            }
        )
    aside = camera_pose(right=1.0, up=0.5, yaw_deg=-20, pitch_deg=-8)
    rows[-1]["the merged cloud"] = render_views([cloud], aside[None], true.intrinsics, *size, cracks=CRACKS).image[0]
    return rows
