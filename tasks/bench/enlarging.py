"""``run.py bench enlarging``: depth made eight times smaller and enlarged again, as *Decode Depth* enlarges it.

For procedural scenes, and for the real depth of ../shared where it is there: the share of pixels whose depth is then
off by more than 4 %, enlarged bilinearly, along surfaces, and along surfaces with the picture as a guide.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...model.depth.files import load_depth
from ...model.resize import resize_depth
from ...model.scenes import generate, heldout_seed
from .. import ROOT
from .tables import heading, show

TIMES, OFF, SCENES, SIDE = 8, 0.04, 6, 512
REAL = ROOT.parent / "shared" / "assets" / "rgbd"  # sides are multiples of TIMES
FILES = {"tum_fr2_1": "depth_x5000.png", "redwood_0": "depth_mm.png", "lingbot_0": "depth_mm.png"}


def main(arguments: list[str]) -> int:
    """Print a Markdown table; returns the exit status."""
    print(f"Pixels off by more than {100 * OFF:g} % after {TIMES} times smaller and back, in %.")
    heading("depth", "bilinear", "along surfaces", "with the picture")
    for name, depth, picture in maps():
        show(name, *(f"{100 * share:.1f}" for share in shares(depth, picture)))
    return 0


def maps() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, depth (B,H,W), NaN where unknown, and pictures (B,H,W,3) in 0..1."""
    scenes = generate([heldout_seed(i) for i in range(SCENES)], (SIDE, SIDE))
    yield f"{SCENES} procedural scenes", scenes.depth.where(scenes.valid, torch.nan), scenes.rgb.movedim(1, -1)
    for folder, file in FILES.items():
        if (REAL / folder).is_dir():
            yield f"{folder} (camera)", load_depth(REAL / folder / file, scale=1.0).depth, _picture(REAL / folder)


def _picture(folder: Path) -> Tensor:
    (path,) = folder.glob("rgb.*")
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255)[None]


def shares(depth: Tensor, picture: Tensor) -> Iterator[float]:
    """Of the pixels that are known before and after, those off by more than OFF: bilinear, along surfaces, guided."""
    height, width = depth.shape[1:]
    small, valid = resize_depth(depth.nan_to_num(), depth.isfinite(), width // TIMES, height // TIMES)
    known = resize_depth(small, valid, width, height)[1] & depth.isfinite()
    for enlarged in (
        _bilinear(small, valid, height, width),
        resize_depth(small, valid, width, height)[0],
        resize_depth(small, valid, width, height, picture)[0],
    ):
        yield float((((enlarged - depth).abs() > OFF * depth)[known]).float().mean())


def _bilinear(depth: Tensor, valid: Tensor, height: int, width: int) -> Tensor:
    """Over the known ones of the four pixels around."""
    known, values = (
        F.interpolate(plane[:, None], (height, width), mode="bilinear")[:, 0]
        for plane in (valid.float(), torch.where(valid, depth, 0.0))
    )
    return values / known.clamp_min(1e-6)
