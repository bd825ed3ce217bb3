"""``run.py pictures inputs``: the example pictures that the workflows load, procedural scenes and their true depth."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...model.depth.files import save_depth
from ...model.depth.pictures import depth_picture
from ...model.scenes import generate, heldout_seed
from .. import INPUTS
from ..workflows.parts import (
    DEPTH_PICTURE,
    DEPTH_PICTURE_WITH_HOLE,
    METRIC_DEPTH,
    PICTURE,
    PICTURE_WITH_HOLE,
    SPARSE_DEPTH,
)

SIZE = (384, 512)  # height, width
SPARSE_SHARE = 0.02  # of the pixels
SCENE = heldout_seed(5068)  # of the kind that the small models know, and have not seen


def write_pictures() -> list[Path]:
    """Write workflows/input/*.png; returns their paths."""
    INPUTS.mkdir(parents=True, exist_ok=True)
    scene = generate([SCENE], SIZE, difficulty="easy", kinds=("ground",))
    colour, depth = scene.rgb.movedim(1, -1)[0], depth_picture(scene.depth, scene.valid)[0]
    hole = torch.zeros(SIZE, dtype=torch.bool)
    hole[128:304, 176:368] = True
    inputs = {
        PICTURE: _picture(colour),
        DEPTH_PICTURE: _picture(depth).convert("L"),
        PICTURE_WITH_HOLE: _with_hole(colour, hole),
        DEPTH_PICTURE_WITH_HOLE: _with_hole(depth, hole),
    }
    for name, picture in inputs.items():
        picture.save(INPUTS / name, optimize=True)
    measured = torch.rand(SIZE, generator=torch.Generator().manual_seed(0)) < SPARSE_SHARE
    for name, valid in ((METRIC_DEPTH, scene.valid[0]), (SPARSE_DEPTH, scene.valid[0] & measured)):
        (INPUTS / name).unlink(missing_ok=True)
        save_depth(INPUTS / name, scene.depth[0], valid, unit="metre")
    return [INPUTS / name for name in (*inputs, METRIC_DEPTH, SPARSE_DEPTH)]


def _picture(values: Tensor) -> Image.Image:
    return Image.fromarray((values * 255).round().byte().numpy())


def _with_hole(values: Tensor, hole: Tensor) -> Image.Image:
    picture = _picture(values).convert("RGBA")
    picture.putalpha(_picture((~hole).float()).convert("L"))
    return picture


def main(arguments: list[str]) -> int:
    """Write the pictures; returns the exit status."""
    for path in write_pictures():
        print(f"{path}  {path.stat().st_size / 1024:.0f} kB")
    return 0
