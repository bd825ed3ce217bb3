"""A fly-through: error of the clip under one fit, and change from frame to frame against the true change."""

from collections import defaultdict
from collections.abc import Iterator
from time import monotonic

import torch
from torch import Tensor

from ....model.depth.alignment import evaluate
from ....model.depth.clip import clip_depth, same_scale_and_shift
from ....model.depth.codec import contract, patchify
from ....model.geometry.packets import make_geometry
from ....model.geometry.pointcloud import point_clouds
from ....model.geometry.pose import camera_pose
from ....model.geometry.render import render_views
from ....model.geometry.scene import filled_from_around
from ....model.scenes import Views
from ...small_model.held_out import held_out_views
from ...workflows.settings import CRACKS
from .small import Estimate, Row, Small, depth_of

CLIPS, FRAMES, STEPS, FIRST = 2, 24, 2, 1000
SHIFT_M, AHEAD_M, YAW_DEG = 0.6, 1.2, -6.0  # from the first frame to the last


def rows(small: Small) -> Iterator[Row]:
    """The mean over the clips."""
    poses = torch.stack(
        [
            camera_pose(right=SHIFT_M * i / FRAMES, forward=AHEAD_M * i / FRAMES, yaw_deg=YAW_DEG * i / FRAMES)
            for i in range(FRAMES)
        ]
    )
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for clip in range(CLIPS):
        true = held_out_views(FIRST + clip, poses)
        start = monotonic()
        for name, depth in _ways(small, true, poses):
            found[name].append(_errors(depth, true))
            seconds[name] += (monotonic() - start) / FRAMES / CLIPS
            start = monotonic()
    for name, each in found.items():
        error, flicker = (sum(values) / CLIPS for values in zip(*each, strict=True))
        figures = f"error {error:.2f} %, change between frames off by {flicker:.2f} %, {seconds[name]:.2f} s a frame"
        yield Row("video", name, figures)


def _ways(small: Small, true: Views, poses: Tensor) -> Iterator[tuple[str, Tensor]]:
    frames, estimate = true.rgb.movedim(1, -1), small.estimator(STEPS)
    yield "frame by frame", depth_of(estimate(frames, estimate.noise(len(frames), *frames.shape[1:3])))
    steady = clip_depth(estimate, frames, same_scale=False)
    yield "the same noise", steady
    yield "the same noise, one scale", same_scale_and_shift(steady)
    yield "from the frame before (denoise 0.5), one scale", clip_depth(estimate, frames, 0.5)
    yield "the same, the frame before warped by the true path", _warped(estimate, frames, true, poses)


def _warped(estimate: Estimate, frames: Tensor, true: Views, poses: Tensor) -> Tensor:
    """As `clip_depth` from the frame before, which is seen from the frame's own camera, at the true scale."""
    noise = estimate.noise(1, *frames.shape[1:3])
    found = [depth_of(estimate(frames[:1], noise))]
    for index in range(1, len(frames)):
        before, valid = true.depth[index - 1], true.valid[index - 1]
        scale = (before / found[-1][0])[valid].median()
        (cloud,) = point_clouds(make_geometry(scale * found[-1], None, true.intrinsics, frames[:1]), edge_threshold=0.0)
        move = torch.linalg.inv(poses[index - 1]) @ poses[index]
        seen = render_views([cloud], move[None], true.intrinsics, *frames.shape[1:3], cracks=CRACKS)
        start = filled_from_around(seen.depth.log()[..., None], ~seen.hole)[..., 0].exp()
        found.append(depth_of(estimate(frames[index : index + 1], noise, patchify(contract(start / scale)), 0.5)))
    return same_scale_and_shift(torch.cat(found))


def _errors(depth: Tensor, true: Views) -> tuple[float, float]:
    """Percent: of the clip under one scale and shift; of the change between neighbouring frames."""
    flat = [x.reshape(1, -1, x.shape[-1]) for x in (depth, true.depth, depth.isfinite(), true.valid)]
    fit = evaluate(*flat)
    fitted = depth * fit.scale.float() + fit.shift.float()
    known = true.valid & depth.isfinite()
    both = known[1:] & known[:-1]
    off = ((fitted.diff(dim=0) - true.depth.diff(dim=0)).abs() / true.depth[1:])[both]
    return 100 * float(fit.abs_rel), 100 * float(off.mean())
