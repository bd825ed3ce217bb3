"""A scene that grows by three moves: what was painted into the holes, and the merged cloud, against the true scene."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ....model.depth.completion import towards_points
from ....model.diffusion.levels import add_noise, depth_velocity
from ....model.diffusion.schedule import base_levels
from ....model.geometry.camera import project
from ....model.geometry.packets import make_geometry
from ....model.geometry.pointcloud import PointCloud, point_clouds
from ....model.geometry.pose import camera_pose
from ....model.geometry.render import render_views
from ....model.geometry.scene import ViewToPaint, add_view, filled_from_around, moved_cloud, view_to_paint
from ....model.scenes import Views
from ...small_model.held_out import held_out, held_out_views
from ...workflows.settings import CRACKS, EDGE, IMAGE_GUIDANCE, PAINTED_FINEST
from .small import Row, Small, depth_of

COUNT, FIRST, STEPS = 8, 2000, 25
WAYS = ("painted", "continued")
MOVES = [{"right": 0.25 * i, "yaw_deg": -5.0 * i} for i in (1, 2, 3)]  # metres and degrees from the first camera


@dataclass
class Walk:
    """Errors over all scenes of one move: of the holes' pixels, of points against the true surface, and at seams."""

    painted: list[Tensor] = field(default_factory=list)
    continued: list[Tensor] = field(default_factory=list)
    added: list[np.ndarray] = field(default_factory=list)
    by_icp: list[np.ndarray] = field(default_factory=list)
    seam: list[Tensor] = field(default_factory=list)
    inside: list[Tensor] = field(default_factory=list)
    holes: list[float] = field(default_factory=list)

    def percent(self, name: str) -> float:
        return 100 * float(self._all(name).mean())

    def median(self, name: str) -> float:
        return 100 * float(self._all(name).median())

    def _all(self, name: str) -> Tensor:
        return torch.cat([torch.as_tensor(part) for part in getattr(self, name)])


def rows(small: Small) -> Iterator[Row]:
    """The first view is the true one; each move renders, paints and adds. Beside it: holes continued from around."""
    walks = [Walk() for _ in MOVES]
    for index in range(COUNT):
        poses = torch.stack([torch.eye(4), *(camera_pose(**move) for move in MOVES)])
        true = held_out_views(FIRST + index, poses)
        surface = _surface(true, poses)
        caption = held_out(1, FIRST + index).captions[0]
        _walk(small, true, poses, caption, walks, surface)
    for number, walk in enumerate(walks, 1):
        holes = 100 * sum(walk.holes) / COUNT
        errors = {name: f"{walk.percent(name):.1f} % (half within {walk.median(name):.1f})" for name in WAYS}
        pixels = "error in them " + ", ".join(f"{errors[name]} {name}" for name in WAYS)
        points = f"added points off by {walk.percent('added'):.2f} %, by ICP {walk.percent('by_icp'):.2f} %"
        seams = (
            f"steps off by {walk.percent('seam'):.1f} % at the holes' borders, {walk.percent('inside'):.1f} % in them"
        )
        yield Row(
            "scene",
            f"move {number} of 3, {COUNT} scenes",
            f"holes {holes:.0f} % of the view; {pixels}; {points}; {seams}",
        )
    off = 100 * np.concatenate([part for walk in walks for part in walk.added])
    yield Row(
        "scene",
        "all that three moves added",
        f"off by {off.mean():.2f} %, 95 % of it within {np.quantile(off, 0.95):.1f} %",
    )


def _surface(true: Views, poses: Tensor) -> PointCloud:
    """All that the cameras of the walk truly see, in the first one's axes."""
    clouds = [
        moved_cloud(point_clouds(make_geometry(depth[None], valid[None], true.intrinsics))[0], pose)
        for depth, valid, pose in zip(true.depth, true.valid, poses, strict=True)
    ]
    return PointCloud(*(np.concatenate([getattr(c, n) for c in clouds]) for n in ("points", "colors", "spacing")))


def _off(cloud: PointCloud, surface: PointCloud) -> np.ndarray:
    """(N,) distance of points from the true surface's nearest point, beyond its spacing, over that from the camera."""
    away, nearest = cKDTree(surface.points).query(cloud.points)
    return np.maximum(away - surface.spacing[nearest], 0) / np.linalg.norm(cloud.points, axis=1)


def _walk(small: Small, true: Views, poses: Tensor, caption: str, walks: list[Walk], surface: PointCloud) -> None:
    first = make_geometry(true.depth[:1], true.valid[:1], true.intrinsics, true.rgb[:1].movedim(1, -1))
    scene: PointCloud = point_clouds(first, edge_threshold=EDGE)[0]
    for number, walk in enumerate(walks, 1):
        pose = poses[number]
        seen = render_views([scene], pose[None], true.intrinsics, small.side, small.side, cracks=CRACKS)
        view = make_geometry(seen.depth, ~seen.hole, true.intrinsics, seen.image)
        ready = view_to_paint(seen.image, seen.depth, ~seen.hole)
        known = torch.where(seen.hole, torch.nan, seen.depth)
        image, depth = paint(small, ready, known, caption)
        painted = make_geometry(depth, None, true.intrinsics, image)
        before = len(scene)
        registered, _ = add_view(scene, painted, view, pose, EDGE, icp=True)
        scene, whole = add_view(scene, painted, view, pose, EDGE)
        for values, cloud in ((walk.added, scene), (walk.by_icp, registered)):
            added = cloud.select(slice(before, None))
            values.append(_off(added.select(_on_surface(added, true, poses[number], number)), surface))
        truth, hole = true.depth[number], seen.hole[0] & true.valid[number]
        around = filled_from_around(seen.depth.log()[..., None], ~seen.hole)[0, ..., 0].exp()
        walk.holes.append(float(seen.hole.float().mean()))
        for values, got in ((walk.painted, whole["depth"][0]), (walk.continued, around)):
            off = ((got - truth).abs() / truth)[hole]
            values.append(off[off.isfinite()])
        for values, off in zip((walk.seam, walk.inside), _steps(whole["depth"][0], truth, seen.hole[0]), strict=True):
            values.append(off)


def _on_surface(cloud: PointCloud, true: Views, pose: Tensor, number: int) -> np.ndarray:
    """(N,) bool: points where the view `number` truly shows a surface, and no sky."""
    moved = moved_cloud(cloud, torch.linalg.inv(pose))
    height, width = true.depth.shape[1:]
    position, _ = project(torch.from_numpy(moved.points)[None], true.intrinsics, width, height)
    column, row = position[0].long().unbind(-1)
    return true.valid[number][row.clamp(0, height - 1), column.clamp(0, width - 1)].numpy()


def _steps(depth: Tensor, truth: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """How far steps of log depth between neighbours are from the true ones: at holes' borders, and inside holes."""
    found = []
    for axis in (0, 1):
        off = (depth.log().diff(dim=axis) - truth.log().diff(dim=axis)).abs()
        both = hole.unfold(axis, 2, 1).sum(-1)
        found.append([off[(both == count) & off.isfinite()] for count in (1, 2)])
    border, inside = (torch.cat(parts) for parts in zip(*found, strict=True))
    return border, inside


@torch.inference_mode()
def paint(small: Small, ready: ViewToPaint, known: Tensor, caption: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(image (1,H,W,3), depth (1,H,W)) of a view, RGB kept outside the painted cells, depth drawn to what is known.

    Both on one clock, by Euler: what is kept is noised to the level of each step, as 'Image as Condition' does; depth
    is drawn to `known` (1,H,W) at the scale of each step's prediction, as by 'Guide Depth to Points'.
    """
    given = small.vae.encode(ready.image.movedim(-1, 1))
    keep = ~ready.paint[:, None].expand_as(given)
    generator = torch.Generator().manual_seed(seed)
    noise, depth = (torch.randn(x.shape, generator=generator) for x in (given, ready.codes))
    texts = small.words.encode([caption, ""])
    rgb = noise
    t = base_levels(STEPS)
    for now, after in zip(t[:-1], t[1:], strict=True):
        rgb = torch.where(keep, add_noise(given, noise, now), rgb)
        level = now[None]
        c, clean = small.module(rgb, depth, texts[:1], level, level)
        u, _ = small.module(rgb, depth, texts[1:], level, level, wanted=("rgb",))
        rgb = rgb + (after - now) * (u + IMAGE_GUIDANCE * (c - u))
        clean = towards_points(clean, known, 1.0, PAINTED_FINEST)
        depth = depth + (after - now) * depth_velocity(depth, clean, level)
    image = small.vae.decode(torch.where(keep, given, rgb)).clamp(0, 1).movedim(1, -1)
    return image, depth_of(depth.clamp(0.01, 1.9))
