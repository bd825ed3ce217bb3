"""A fly-through: error of the clip under one fit, and change from frame to frame against the true change."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from time import monotonic

import torch
from torch import Tensor

from ....model.depth.alignment import evaluate
from ....model.depth.clip import clip_depth
from ....model.geometry.pose import camera_pose
from ....model.scenes import Views
from ...small_model.held_out import held_out_views
from .small import Row, Small, depth_of

CLIPS, FRAMES, STEPS, FIRST = 4, 24, 2, 1000
SHIFT_M, AHEAD_M, YAW_DEG = 0.6, 1.2, -6.0  # from the first frame to the last


def rows(small: Small) -> Iterator[Row]:
    """The mean over the clips."""
    poses = [
        camera_pose(right=SHIFT_M * i / FRAMES, forward=AHEAD_M * i / FRAMES, yaw_deg=YAW_DEG * i / FRAMES)
        for i in range(FRAMES)
    ]
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for clip in range(CLIPS):
        true = held_out_views(FIRST + clip, torch.stack(poses))
        for name, way in _ways(small).items():
            start = monotonic()
            depth = way(true.rgb.movedim(1, -1))
            found[name].append((*_errors(depth, true), (monotonic() - start) / FRAMES))
    for name, each in found.items():
        error, flicker, seconds = (sum(values) / CLIPS for values in zip(*each, strict=True))
        yield Row(
            "video", name, f"error {error:.2f} %, change between frames off by {flicker:.2f} %, {seconds:.2f} s a frame"
        )


def _ways(small: Small) -> dict[str, Callable[[Tensor], Tensor]]:
    def alone(frames: Tensor) -> Tensor:
        estimate = small.estimator(STEPS)
        return depth_of(estimate(frames, estimate.noise(len(frames), *frames.shape[1:3])))

    return {
        "frame by frame": alone,
        "the same noise": lambda frames: clip_depth(small.estimator(STEPS), frames, same_scale=False),
        "the same noise, one scale": lambda frames: clip_depth(small.estimator(STEPS), frames),
        "from the frame before (denoise 0.5), one scale": lambda frames: clip_depth(
            small.estimator(STEPS), frames, 0.5
        ),
    }


def _errors(depth: Tensor, true: Views) -> tuple[float, float]:
    """Percent: of the clip under one scale and shift; of the change between neighbouring frames."""
    flat = [x.reshape(1, -1, x.shape[-1]) for x in (depth, true.depth, depth.isfinite(), true.valid)]
    fit = evaluate(*flat)
    fitted = depth * fit.scale.float() + fit.shift.float()
    known = true.valid & depth.isfinite()
    both = known[1:] & known[:-1]
    off = ((fitted.diff(dim=0) - true.depth.diff(dim=0)).abs() / true.depth[1:])[both]
    return 100 * float(fit.abs_rel), 100 * float(off.mean())
