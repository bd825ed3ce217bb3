"""``run.py pictures thumbnails``: the workflows' example inputs and thumbnails.

They are procedural scenes and their true depth, not made by a model; only the thumbnail of small_model is that model's.
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...model.depth.files import save_depth
from ...model.depth.pictures import depth_picture
from ...model.geometry.edges import DEFAULT_EDGE
from ...model.geometry.normals import normal_picture
from ...model.geometry.packets import make_geometry, read_geometry
from ...model.geometry.pointcloud import point_clouds, surface_normals
from ...model.geometry.pose import camera_pose
from ...model.geometry.render import render_views
from ...model.scenes import SceneBatch, generate, heldout_seed
from .. import INPUTS, WORKFLOWS
from ..workflows.catalogue import DEPTH, DEPTH_WITH_HOLE, PICTURE, PICTURE_WITH_HOLE
from ..workflows.geometry import METRIC_DEPTH, MOVE
from . import samples

SIZE = (384, 512)  # height, width
SCENES = [heldout_seed(5068), heldout_seed(5219)]  # of the kind that the small models know, and have not seen
THUMBNAIL = (300, 400)
THUMBNAIL_SAMPLE = 4


def write_pictures() -> list[Path]:
    """Write workflows/input/*.png and workflows/*.jpg; returns their paths."""
    INPUTS.mkdir(parents=True, exist_ok=True)
    scenes = generate(SCENES, SIZE, difficulty="easy", kinds=("ground",))
    colours = scenes.rgb.movedim(1, -1)
    depths = depth_picture(scenes.depth, scenes.valid)
    hole = torch.zeros(SIZE, dtype=torch.bool)
    hole[128:304, 176:368] = True
    inputs = {
        PICTURE: _picture(colours[0]),
        DEPTH: _picture(depths[0]).convert("L"),
        PICTURE_WITH_HOLE: _with_hole(colours[0], hole),
        DEPTH_WITH_HOLE: _with_hole(depths[0], hole),
    }
    for name, picture in inputs.items():
        picture.save(INPUTS / name, optimize=True)
    (INPUTS / METRIC_DEPTH).unlink(missing_ok=True)
    save_depth(INPUTS / METRIC_DEPTH, scenes.depth[0], scenes.valid[0], unit="metre")
    thumbnails = _thumbnails(colours, depths, hole) | _geometry_thumbnails(colours[:1], scenes)
    made = samples.rows()[1]  # this one is the model's own
    # The middle of a square, in the thumbnails' shape.
    thumbnails["small_model"] = _halves(*(made[name][THUMBNAIL_SAMPLE, 16:112] for name in ("image", "depth")))
    for name, picture in thumbnails.items():
        _picture(picture).save(WORKFLOWS / f"{name}.jpg", quality=85, optimize=True)
    return [*(INPUTS / name for name in (*inputs, METRIC_DEPTH)), *(WORKFLOWS / f"{name}.jpg" for name in thumbnails)]


def _thumbnails(colours: Tensor, depths: Tensor, hole: Tensor) -> dict[str, Tensor]:
    """What goes in on the left, what comes out on the right."""
    colour, depth = colours[0], depths[0]
    grey = torch.full_like(colour, 0.5)
    missing = hole[..., None]
    return {
        "joint": _halves(colours[1], depths[1]),
        "image_to_depth": _halves(colour, depth),
        "depth_to_image": _halves(depth, colour),
        "joint_refine": _halves(colours[1], depths[1].pow(0.6)),
        "depth_to_controlnet": _halves(depth, _painted(colour)),
        "depth_inpaint": _halves(torch.where(missing, grey, depth), colour),
        "rgbd_inpaint": _halves(torch.where(missing, grey, colour), colour),
    }


def _geometry_thumbnails(colours: Tensor, scenes: SceneBatch) -> dict[str, Tensor]:
    """The scene beside its normals, and beside itself seen from the side, holes in red."""
    packet = make_geometry(scenes.depth[:1], scenes.valid[:1], scenes.intrinsics[:1], colours)
    normals = normal_picture(surface_normals(read_geometry(packet), DEFAULT_EDGE))
    move = dict(MOVE)
    clouds = point_clouds(packet, edge_threshold=move.pop("edge_threshold"))
    red = (0.8, 0.1, 0.1)
    view = render_views(clouds, camera_pose(**move)[None], packet["intrinsics"], SIZE[1], SIZE[0], background=red)
    return {"depth_to_3d": _halves(colours[0], normals[0]), "moved_view": _halves(colours[0], view.image[0])}


def _halves(left: Tensor, right: Tensor) -> Tensor:
    """(H,W,3) twice -> (300,400,3): the left half of one and the right half of the other, with a white line between."""
    planes = torch.stack([left, right]).movedim(-1, 1)
    left, right = torch.nn.functional.interpolate(planes, THUMBNAIL, mode="bilinear", antialias=True).movedim(1, -1)
    middle = THUMBNAIL[1] // 2
    return torch.cat([left[:, : middle - 1], torch.ones(THUMBNAIL[0], 2, 3), right[:, middle + 1 :]], dim=1)


def _painted(colour: Tensor) -> Tensor:
    """Few colours, warmer: stands for another model's picture of the same space."""
    return ((colour * 5).round() / 5 * torch.tensor([1.1, 0.95, 0.75])).clamp(0, 1)


def _picture(values: Tensor) -> Image.Image:
    return Image.fromarray((values * 255).round().byte().numpy())


def _with_hole(values: Tensor, hole: Tensor) -> Image.Image:
    """RGBA, transparent in the hole: Load Image makes a mask of it."""
    picture = _picture(values)
    picture.putalpha(Image.fromarray((~hole).byte().numpy() * 255))
    return picture


def main(arguments: list[str]) -> int:
    """Write the pictures; returns the exit status."""
    for path in write_pictures():
        print(f"{path}  {path.stat().st_size / 1024:.0f} kB")
    return 0
