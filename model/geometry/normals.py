"""Surface normals of a point map, and normal pictures.

Normals are unit vectors in OpenCV camera axes and point towards the camera: a wall facing it has (0, 0, −1).
"""

import torch
from torch import Tensor

from .camera import as_float
from .edges import DEFAULT_EDGE

# Sign of (x, y, z) in the picture: x right and z out of the surface in both; green is up in OpenGL and down in DirectX.
PICTURES = {"opengl": (1.0, -1.0, -1.0), "directx": (1.0, 1.0, -1.0)}


def normals_from_points(points: Tensor, valid: Tensor, edge_threshold: float = DEFAULT_EDGE) -> Tensor:
    """(B,H,W,3) normals of points (B,H,W,3); zero where they are not defined (invalid pixel, or no usable neighbour).

    Edge aware: of the two neighbours along each axis only those are used whose depth differs by at most
    `edge_threshold` of the pixel's own depth, so the surface on the other side of a depth edge does not bend the
    normal. 0 uses all neighbours.
    """
    if points.ndim != 4 or points.shape[-1] != 3 or valid.shape != points.shape[:3]:
        raise ValueError(
            f"got points {tuple(points.shape)} and valid {tuple(valid.shape)}, expected (B,H,W,3) and (B,H,W)"
        )
    points = as_float(points)
    usable = valid & torch.isfinite(points).all(dim=-1) & (points[..., 2] > 0)
    # Over depth: keeps the cross product away from float32's smallest numbers whatever the unit is.
    points = torch.where(usable[..., None], points, 0.0)
    along_x, has_x = _tangent(points, usable, 2, edge_threshold)
    along_y, has_y = _tangent(points, usable, 1, edge_threshold)
    normal = torch.linalg.cross(along_y, along_x, dim=-1)
    length = torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
    defined = (usable & has_x & has_y)[..., None] & (length > 0)
    return torch.where(defined, normal / torch.where(defined, length, 1.0), 0.0)


def normal_picture(normal: Tensor, convention: str = "opengl") -> Tensor:
    """(B,H,W,3) picture in 0..1 of normals (B,H,W,3) in OpenCV axes: a surface facing the camera is (0.5, 0.5, 1).

    `convention`: "opengl" (green up: Blender, Unity, glTF) or "directx" (green down: Unreal). Undefined normals become
    flat blue, the neutral colour of a normal map.
    """
    if convention not in PICTURES:
        raise ValueError(f"got normal convention {convention!r}, expected one of {sorted(PICTURES)}")
    facing = normal.new_tensor([0.0, 0.0, -1.0])
    defined = (normal != 0).any(dim=-1, keepdim=True)
    signed = torch.where(defined, normal, facing) * normal.new_tensor(PICTURES[convention])
    return (signed * 0.5 + 0.5).clamp(0.0, 1.0)


def _tangent(points: Tensor, usable: Tensor, axis: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Direction (B,H,W,3) of the surface along an axis of the grid, over depth, and (B,H,W) bool where it is known.

    The mean of the steps to the next and from the previous pixel, or the one of them that stays on the surface.
    """
    count = points.shape[axis]
    step = points.narrow(axis, 1, count - 1) - points.narrow(axis, 0, count - 1)
    both = usable.narrow(axis, 1, count - 1) & usable.narrow(axis, 0, count - 1)
    total = torch.zeros_like(points)
    known = torch.zeros_like(usable)
    for start in (0, 1):  # the step seen from its first, then from its second pixel
        z = points.narrow(axis, start, count - 1)[..., 2]
        keep = both if threshold == 0.0 else both & (step[..., 2].abs() <= threshold * z)
        total.narrow(axis, start, count - 1).add_(torch.where(keep[..., None], step, 0.0))
        known.narrow(axis, start, count - 1).logical_or_(keep)
    depth = torch.where(usable, points[..., 2], 1.0)
    return total / depth[..., None], known
