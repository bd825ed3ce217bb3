"""One scene seen from several cameras, for measuring video depth and scenes that grow."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .camera import Camera
from .draws import Draws
from .kinds import sample_layout
from .render import DIFFICULTIES, render_layout


@dataclass
class Views:
    """rgb (V,3,H,W) in 0..1; depth (V,H,W) metres along each camera's axis, +inf at sky; valid (V,H,W) bool;
    intrinsics (1,3,3), the same for all."""

    rgb: Tensor
    depth: Tensor
    valid: Tensor
    intrinsics: Tensor


def views(
    seed: int, poses: Tensor, size: tuple[int, int] = (128, 128), difficulty: str = "full", kinds: tuple[str, ...] = ()
) -> Views:
    """The scene of `seed` from cameras at `poses` (V,4,4): from each camera's axes to those of the scene's own camera
    (OpenCV axes, metres; `geometry.pose.camera_pose`). The identity gives the picture that `generate` makes.

    ``size``, ``difficulty`` and ``kinds`` as for `generate`, kinds () for all.
    """
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty got {difficulty!r}, expected one of {DIFFICULTIES}.")
    draws = Draws(torch.tensor([seed], dtype=torch.int64))
    layout = sample_layout(draws, size, difficulty == "full", *([kinds] if kinds else []))
    camera = layout.camera
    parts = []
    for pose in poses:
        position = camera.position + torch.einsum("j,bjk->bk", pose[:3, 3], camera.axes)
        axes = torch.einsum("ji,bjk->bik", pose[:3, :3], camera.axes)
        moved = replace(layout, camera=Camera(position, axes, camera.tan_x, camera.tan_y))
        parts.append(render_layout(moved, draws, size, antialias=True))
    rgb, depth, labels, _ = (torch.cat(part) for part in zip(*parts, strict=True))
    return Views(rgb, depth, labels >= 0, camera.intrinsics())
