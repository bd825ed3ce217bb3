"""A scene that grows view by view: what a moved camera sees is rendered, its holes are painted, the paint is added.

The pose of each view is exact, since the view was rendered from it; what a generated map lacks is its scale, its shift
and a bend. All three are found where the scene is already known. Letters: B views, H rows, W columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..depth.codec import contract, patchify
from ..depth.completion import widths
from ..depth.matching import match_locally, matched, spread
from ..network.config import DEPTH_PATCH
from .edges import depth_edges
from .packets import make_geometry, read_geometry
from .pointcloud import PointCloud, point_clouds
from .registration import registered

IGNORED = 4  # hole pixels of a 16 x 16 cell that filling mends as well as painting
FARTHEST = 4.0  # mean depths: what is filled in is no farther
ICP_REACH = 0.05  # of the median depth


@dataclass(frozen=True)
class ViewToPaint:
    """image (B,H,W,3) and depth (B,H,W) with their holes filled from around; known (B,H,W) bool, where depth is given;
    paint (B,H/16,W/16) bool, the cells to sample anew."""

    image: Tensor
    depth: Tensor
    known: Tensor
    paint: Tensor

    @property
    def codes(self) -> Tensor:
        """(B,256,H/16,W/16) depth codes at the scale of what is known, as training has it: its mean is 1.

        What was filled in does not count, or a sky that continues the horizon would press all the rest towards 0.
        """
        total = torch.where(self.known, self.depth, 0.0).sum((1, 2), keepdim=True)
        ratio = self.depth * self.known.sum((1, 2), keepdim=True) / total
        return patchify(contract(torch.where(self.known, ratio, ratio.clamp(max=FARTHEST))))


def view_to_paint(image: Tensor, depth: Tensor, known: Tensor, margin: int = 0) -> ViewToPaint:
    """A rendered view (B,H,W,·) for a model that paints whole cells of 16 x 16 pixels.

    A cell is painted where more than a few of its pixels are holes, and so are those within `margin` pixels of it, up
    to whole cells. Sides are multiples of 16. ValueError for a view without any known pixel, and for other sides.
    """
    height, width = depth.shape[1:]
    if height % DEPTH_PATCH or width % DEPTH_PATCH:
        raise ValueError(
            f"got a view of {width} x {height} pixels, expected multiples of {DEPTH_PATCH}; set width and height of "
            "'Render Moved View'"
        )
    if not known.flatten(1).any(1).all():
        raise ValueError("the view shows nothing of the scene; move the camera less, or turn it towards the scene")
    holes = F.avg_pool2d((~known).float()[:, None], DEPTH_PATCH) * DEPTH_PATCH**2  # (B,1,h,w) pixels
    reach = -(-margin // DEPTH_PATCH)
    paint = F.max_pool2d((holes > IGNORED).float(), 2 * reach + 1, 1, reach)[:, 0] > 0
    filled = filled_from_around(depth.log()[..., None], known)[..., 0].exp()
    return ViewToPaint(filled_from_around(image, known), filled, known, paint)


def filled_from_around(values: Tensor, known: Tensor) -> Tensor:
    """(B,H,W,C) with a smooth continuation of what is known in the pixels that are not."""
    planes = torch.where(known[..., None], values, 0.0).movedim(-1, 1).float()  # (B,C,H,W)
    weights = known[:, None].expand(planes.shape).flatten(0, 1).float()
    smooth = spread(planes.flatten(0, 1), weights, widths(known.shape[1:], 1))
    return torch.where(known[..., None], values, smooth.unflatten(0, planes.shape[:2]).movedim(1, -1).to(values))


def add_view(
    scene: PointCloud,
    painted: dict[str, Any],
    view: dict[str, Any],
    pose: Tensor,
    edge_threshold: float,
    icp: bool = False,
    far: float = 0.0,
    before_round: Callable[[int, int], None] = lambda index, count: None,
) -> tuple[PointCloud, dict[str, Any]]:
    """The scene with what a painted view adds to it, and that view's geometry in the scene's unit: depth and colours
    as they were where they were known, painted elsewhere.

    Args:
        scene: in the source camera's axes.
        painted: packet of the whole view, depth at any scale, colours; of one picture.
        view: packet of the same view as rendered from the scene, valid where it was known.
        pose: (4,4), the view's camera in the source camera's axes.
        edge_threshold: as for `point_clouds`.
        icp: move what is added by the rigid motion that brings the painted view's known part onto the scene.
        far: leave out what would be added deeper than this, in the scene's unit, as painted or as brought to the scene
            (a sky that is bent towards an object stays a sky); 0 keeps all.
        before_round: see `registration.registered`.
    """
    new, old = read_geometry(painted), read_geometry(view)
    if new.depth.shape != old.depth.shape or len(new.depth) != 1:
        raise ValueError(
            f"got a painted view {tuple(new.depth.shape)} for a rendered one {tuple(old.depth.shape)} (batch, rows, "
            "columns); expected one picture of the same size. Leave 'image' of 'Decode Depth' at the view's size"
        )
    known = torch.where(old.valid, old.depth, torch.nan).cpu()
    own = torch.where(new.valid, new.depth, torch.nan).cpu()
    depth = aligned(own, known)
    whole = torch.where(known.isfinite(), known, depth)
    colours = torch.where(old.valid.cpu()[..., None], old.image[..., :3], new.image[..., :3])
    packet = make_geometry(whole, whole.isfinite(), old.intrinsics.cpu(), colours)
    added = whole.isfinite() & known.isnan() & ~depth_edges(whole, whole.isfinite(), edge_threshold)
    if far > 0:
        added &= (whole <= far) & ~(own * (known / own).nanmedian() > far)
    fresh = make_geometry(whole, added, old.intrinsics.cpu(), new.image)
    if icp:
        overlap = known.isfinite() & depth.isfinite()
        parts = (make_geometry(part, overlap, old.intrinsics.cpu(), new.image) for part in (depth, known))
        moving, fixed = (point_clouds(part, edge_threshold=edge_threshold)[0].points for part in parts)
        pose = pose.cpu() @ registered(moving, fixed, ICP_REACH * float(known.nanmedian()), before_round)
    cloud = moved_cloud(point_clouds(fresh, edge_threshold=0.0, normals=scene.normals is not None)[0], pose)
    return joined(scene, cloud), packet


def aligned(depth: Tensor, known: Tensor) -> Tensor:
    """Painted depth (1,H,W) at the scale of what is known (1,H,W), NaN elsewhere; unchanged where nothing is.

    The field that follows scale and shift goes down to single pixels, so that a painted surface begins where the known
    one ends; far from what is known it is the mean of the nearest.
    """
    if not known.isfinite().any():
        return depth
    return match_locally(matched(depth, known), known, widths(depth.shape[1:], 1))


def moved_cloud(cloud: PointCloud, pose: Tensor) -> PointCloud:
    """The cloud in the axes that `pose` (4,4) leads to."""
    rotation, position = (part.cpu().float().numpy() for part in (pose[:3, :3], pose[:3, 3]))
    normals = None if cloud.normals is None else cloud.normals @ rotation.T
    return PointCloud(cloud.points @ rotation.T + position, cloud.colors, cloud.spacing, normals)


def joined(scene: PointCloud, added: PointCloud) -> PointCloud:
    """Both, without the added points that lie within half their spacing of one that is there already."""
    if len(scene) and len(added):
        from scipy.spatial import cKDTree

        away, _ = cKDTree(scene.points).query(added.points, workers=-1)
        added = added.select(away > 0.5 * added.spacing)
    both = ([getattr(cloud, name) for cloud in (scene, added)] for name in ("points", "colors", "spacing"))
    normals = None if scene.normals is None else np.concatenate((scene.normals, added.normals))
    return PointCloud(*map(np.concatenate, both), normals)
