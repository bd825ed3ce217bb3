"""``run.py pictures gallery``: remake the gallery of what the geometry nodes show.

docs/gallery/*.jpg from procedural scenes, whose depth is exact; .run/gallery/*.jpg from the real RGB-D in
../shared/assets where that is there (to look at: those pictures are not ours to ship). A sheet has two rows of three:
picture, depth in colours, normals; the view from a camera moved to the side and one that orbits, holes in red; relative
depth with ten measured points that bring it to metres (green; three wrong ones in red) and the error that is left.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...model.depth.alignment import fit_points
from ...model.depth.pictures import depth_picture
from ...model.geometry.camera import intrinsics_from_focal_px
from ...model.geometry.edges import DEFAULT_EDGE
from ...model.geometry.normals import normal_picture
from ...model.geometry.packets import Geometry, make_geometry, read_geometry
from ...model.geometry.pointcloud import point_clouds, surface_normals
from ...model.geometry.pose import camera_pose
from ...model.geometry.render import render_views
from ...model.resize import resize_images
from ...model.scenes import generate
from .. import ROOT, WORK

GALLERY = ROOT / "docs" / "gallery"
REAL_GALLERY = WORK / "gallery"
RGBD = ROOT.parent / "shared" / "assets" / "rgbd"
SEEDS = (4, 13, 18, 21)  # a street, open ground, a table, a room
SIZE = (384, 512)  # height, width of the procedural scenes
TILE_WIDTH, GAP = 300, 6
HOLE = (0.8, 0.1, 0.1)
# folder: image, depth, stored value / metres, fx, fy, cx, cy in pixels with integer centres
REAL = {
    "lingbot_0": ("rgb.png", "depth_mm.png", 1000, 460.1396, 460.199, 319.6561, 237.3963),
    "tum_fr2_1": ("rgb.png", "depth_x5000.png", 5000, 520.9, 521.0, 325.1, 249.7),
    "redwood_0": ("rgb.jpg", "depth_mm.png", 1000, 525.0, 525.0, 319.5, 239.5),
    "opencalib_2": ("rgb_undistorted_960x600.jpg", "sparse_depth_x256.png", 256, 1076.4, 1077.75, 485.65, 302.95),
}
WRONG = {1: 1.7, 4: 0.4, 8: 2.2}  # of the ten points: what they are multiplied by


def procedural_scenes() -> dict[str, dict]:
    """Geometry packets by name."""
    scenes = generate(SEEDS, SIZE)
    colours = scenes.rgb.movedim(1, -1)
    names = [f"{scene['kind']}_{seed}" for scene, seed in zip(scenes.scenes, SEEDS, strict=True)]
    parts = [values.split(1) for values in (scenes.depth, scenes.valid, scenes.intrinsics, colours)]
    return {name: make_geometry(*row) for name, row in zip(names, zip(*parts, strict=True), strict=True)}


def real_scenes() -> dict[str, dict]:
    """Geometry packets by name; none where the assets are not there."""
    packets = {}
    for name, (image, depth, unit, fx, fy, cx, cy) in REAL.items():
        if not (RGBD / name).is_dir():
            continue
        metres = torch.from_numpy(np.asarray(Image.open(RGBD / name / depth)).astype(np.float32) / unit)[None]
        colours = torch.from_numpy(np.asarray(Image.open(RGBD / name / image).convert("RGB")) / np.float32(255))[None]
        height, width = metres.shape[1:]
        intrinsics = intrinsics_from_focal_px(
            fx, width, height, focal_y_px=fy, centre_x_px=cx, centre_y_px=cy, integer_centres=True
        )
        packets[name] = make_geometry(metres, None, intrinsics, colours)
    return packets


def tiles_of(packet: dict) -> list[Tensor]:
    """Six pictures (H,W,3) in 0..1 of one scene."""
    geometry = read_geometry(packet)
    distance = float(geometry.depth[geometry.valid].median())
    poses = torch.stack(
        [
            camera_pose(right=0.12 * distance, up=0.03 * distance, yaw_deg=-3.0),
            camera_pose(yaw_deg=25.0, pitch_deg=-12.0, pivot=distance),
        ]
    )
    height, width = geometry.depth.shape[1:]
    # Ground that runs to the horizon is steeper than the default threshold.
    clouds = point_clouds(packet, edge_threshold=0.1)
    views = render_views(clouds, poses, geometry.intrinsics, width, height, background=HOLE)
    return [
        geometry.image[0],
        depth_picture(geometry.depth, geometry.valid, colour_map="turbo", invalid_colour="black")[0],
        normal_picture(surface_normals(geometry, DEFAULT_EDGE))[0],
        *views.image,
        metric_fit(geometry),
    ]


def metric_fit(geometry: Geometry) -> Tensor:
    """Relative depth, the ten points, and the error after the fit."""
    metres, valid = geometry.depth[0], geometry.valid[0]
    relative = metres / metres[valid].mean() + 0.2
    rows, columns = torch.nonzero(valid, as_tuple=True)
    chosen = torch.linspace(0, len(rows) - 1, 12).long()[1:-1]
    rows, columns = rows[chosen], columns[chosen]
    noise = 0.01 * torch.randn(10, generator=torch.Generator().manual_seed(0))  # a centimetre at a metre
    factors = noise + torch.tensor([WRONG.get(index, 1.0) for index in range(10)])
    points = torch.stack((columns + 0.5, rows + 0.5, metres[rows, columns] * factors), dim=1)
    fit = fit_points(relative, valid, points, with_shift=True)
    fitted, _ = fit.apply(relative, valid)
    error = float(((fitted - metres).abs() / metres)[valid].mean())
    picture = _image(depth_picture(relative[None], valid[None])[0])
    draw, radius = ImageDraw.Draw(picture), picture.width / 90
    for index, (x, y, _) in enumerate(points.tolist()):
        colour = (230, 40, 40) if index in WRONG else (60, 220, 60)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, (0, 0, 0))
    line = f"{fit.used} of 10 points used, {fit.outliers} left out; error of the map {100 * error:.2g} %"
    size = picture.width / 36
    draw.rectangle((0, picture.height - 2 * size, picture.width, picture.height), (0, 0, 0))
    draw.text((size / 2, picture.height - 1.6 * size), line, (255, 255, 255), font_size=size)
    return torch.from_numpy(np.asarray(picture) / np.float32(255))


def write_sheets(packets: dict[str, dict], folder: Path, quality: int) -> list[Path]:
    """One JPEG for each scene; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, packet in packets.items():
        tiles = tiles_of(packet)
        height = round(TILE_WIDTH * tiles[0].shape[0] / tiles[0].shape[1])
        canvas = Image.new("RGB", (3 * TILE_WIDTH + 4 * GAP, 2 * height + 3 * GAP), (255, 255, 255))
        for index, tile in enumerate(tiles):
            place = GAP + index % 3 * (TILE_WIDTH + GAP), GAP + index // 3 * (height + GAP)
            canvas.paste(_image(resize_images(tile[None], TILE_WIDTH, height)[0]), place)
        paths.append(folder / f"{name}.jpg")
        canvas.save(paths[-1], quality=quality, optimize=True)
    return paths


def _image(values: Tensor) -> Image.Image:
    return Image.fromarray((values * 255).round().clamp(0, 255).byte().numpy())


def main(arguments: list[str]) -> int:
    """Remake the gallery; returns the exit status."""
    paths = write_sheets(procedural_scenes(), GALLERY, quality=80)
    paths += write_sheets(real_scenes(), REAL_GALLERY, quality=90)
    for path in paths:
        print(f"{path}  {path.stat().st_size / 1024:.0f} kB")
    return 0
