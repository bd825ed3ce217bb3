"""The one place of camera conventions.

Axes        OpenCV: x right, y down, z forward, right-handed. glTF and OpenGL (y up, z towards the viewer) by
            `swap_gltf_axes`.
Depth       z, the distance along the optical axis (not along the ray), in any unit; points have the same unit.
Pixels      the centre of the pixel in row r and column c lies at (x, y) = (c + 0.5, r + 0.5); the image spans 0..W and
            0..H.
Intrinsics  K normalised by the image size, as ComfyUI's MoGe: [[fx/W, 0, cx/W], [0, fy/H, cy/H], [0, 0, 1]], so a
            resize keeps K. Calibrations with integer pixel centres (OpenCV, ROS, most data sets) say so with
            `integer_centres`.
FOV         degrees between opposite borders of the image; the name says which pair: fov_x_deg (left-right), fov_y_deg
            (top-bottom).

Shapes: B batch, H rows, W columns. Results keep the floating type of their input (halves become float32), so nothing
here makes float64 unless it is given float64.
"""

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

GLTF_AXES = (1.0, -1.0, -1.0)

Points = TypeVar("Points", Tensor, np.ndarray)


def intrinsics_from_fov_x(fov_x_deg: float, width: int, height: int) -> Tensor:
    """(1,3,3) normalised K of a camera with square pixels from its left-right field of view in degrees."""
    _check_size(width, height)
    focal_x = 0.5 / math.tan(0.5 * _radians(fov_x_deg, "fov_x_deg"))
    return _matrix(focal_x, focal_x * width / height)


def intrinsics_from_fov_y(fov_y_deg: float, width: int, height: int) -> Tensor:
    """(1,3,3) normalised K of a camera with square pixels from its top-bottom field of view in degrees."""
    _check_size(width, height)
    focal_y = 0.5 / math.tan(0.5 * _radians(fov_y_deg, "fov_y_deg"))
    return _matrix(focal_y * height / width, focal_y)


def intrinsics_from_focal_px(
    focal_x_px: float,
    width: int,
    height: int,
    *,
    focal_y_px: float | None = None,
    centre_x_px: float | None = None,
    centre_y_px: float | None = None,
    integer_centres: bool = False,
) -> Tensor:
    """(1,3,3) normalised K from a calibration in pixels of a `width` × `height` image.

    `focal_y_px` defaults to square pixels, the centre to the middle of the image. `integer_centres`: the calibration
    puts the centre of the first pixel at 0 instead of 0.5, so half a pixel is added to a given centre.
    """
    _check_size(width, height)
    focal_y_px = focal_x_px if focal_y_px is None else focal_y_px
    half = 0.5 if integer_centres else 0.0
    for name, value in (("focal_x_px", focal_x_px), ("focal_y_px", focal_y_px)):
        _check_positive(value, name, "pixels")
    centre_x = 0.5 if centre_x_px is None else (centre_x_px + half) / width
    centre_y = 0.5 if centre_y_px is None else (centre_y_px + half) / height
    return _matrix(focal_x_px / width, focal_y_px / height, centre_x, centre_y)


def intrinsics_from_focal_mm(focal_mm: float, sensor_width_mm: float, width: int, height: int) -> Tensor:
    """(1,3,3) normalised K from a lens and the width of the sensor that the picture shows (full frame: 36 mm)."""
    _check_size(width, height)
    _check_positive(focal_mm, "focal_mm", "millimetres")
    _check_positive(sensor_width_mm, "sensor_width_mm", "millimetres")
    focal_x = focal_mm / sensor_width_mm
    return _matrix(focal_x, focal_x * width / height)


def fov_deg(intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """(fov_x_deg, fov_y_deg), each (B,), of (B,3,3) normalised K: the true angle, also off-centre."""
    check_intrinsics(intrinsics)
    focal = torch.stack((intrinsics[:, 0, 0], intrinsics[:, 1, 1]))  # (2,B)
    centre = intrinsics[:, :2, 2].T  # (2,B)
    angle = torch.atan(centre / focal) + torch.atan((1.0 - centre) / focal)
    fov_x, fov_y = torch.rad2deg(angle)
    return fov_x, fov_y


def focal_px(intrinsics: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """(focal_x_px, focal_y_px), each (B,), of (B,3,3) normalised K on a `width` × `height` image."""
    check_intrinsics(intrinsics)
    return intrinsics[:, 0, 0] * width, intrinsics[:, 1, 1] * height


def pixel_intrinsics(intrinsics: Tensor, width: int, height: int, *, integer_centres: bool = False) -> Tensor:
    """(B,3,3) K in pixels from normalised K; `integer_centres` as in `intrinsics_from_focal_px`."""
    check_intrinsics(intrinsics)
    matrix = intrinsics * intrinsics.new_tensor([[width], [height], [1.0]])
    if integer_centres:
        matrix[:, :2, 2] -= 0.5
    return matrix


def expand_intrinsics(intrinsics: Tensor, batch: int) -> Tensor:
    """(batch,3,3): one camera for the whole batch is repeated; any other count than 1 or `batch` is an error."""
    check_intrinsics(intrinsics)
    if intrinsics.shape[0] not in (1, batch):
        raise ValueError(
            f"got {intrinsics.shape[0]} cameras for {batch} depth maps; give one for all, or one for each map"
        )
    return intrinsics.expand(batch, 3, 3)


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points (B,H,W,3) in OpenCV axes of depth (B,H,W) seen by normalised K (B,3,3) or (1,3,3), in the unit of the
    depth.

    Every pixel is taken as it is: a depth of inf or NaN gives points of inf or NaN. Masking is the packet's business.
    """
    if depth.ndim != 3:
        raise ValueError(f"got depth of shape {tuple(depth.shape)}, expected (B,H,W)")
    depth = as_float(depth)
    batch, height, width = depth.shape
    k = expand_intrinsics(intrinsics, batch).to(depth)[:, :, :, None, None]  # (B,3,3,1,1)
    columns, rows = _pixel_grid(height, width, depth)
    ray_x = (columns / width - k[:, 0, 2]) / k[:, 0, 0]  # (B,1,W)
    ray_y = (rows / height - k[:, 1, 2]) / k[:, 1, 1]  # (B,H,1)
    points = depth.new_empty(batch, height, width, 3)
    torch.mul(depth, ray_x, out=points[..., 0])
    torch.mul(depth, ray_y, out=points[..., 1])
    points[..., 2] = depth
    return points


def project(points: Tensor, intrinsics: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Pixel positions (B,...,2) as (x, y) and depth (B,...) of points (B,...,3) in OpenCV axes; the inverse of
    `unproject`.

    Points at or behind the camera (z ≤ 0) have no picture: their position is NaN, their depth is z.
    """
    if points.ndim < 2 or points.shape[-1] != 3:
        raise ValueError(f"got points of shape {tuple(points.shape)}, expected (B,...,3)")
    _check_size(width, height)
    points = as_float(points)
    k = expand_intrinsics(intrinsics, points.shape[0]).to(points)
    k = k.reshape(points.shape[0], *[1] * (points.ndim - 2), 3, 3)
    z = points[..., 2]
    ahead = torch.where(z > 0, z, torch.nan)
    x = (points[..., 0] / ahead * k[..., 0, 0] + k[..., 0, 2]) * width
    y = (points[..., 1] / ahead * k[..., 1, 1] + k[..., 1, 2]) * height
    return torch.stack((x, y), dim=-1), z


def swap_gltf_axes(points: Points) -> Points:
    """(...,3) points or directions from OpenCV axes to glTF / OpenGL axes, (x, −y, −z), or back: it is its own inverse.

    A rotation by 180° about x, so lengths, angles and the winding of triangles stay.
    """
    if isinstance(points, np.ndarray):
        return points * np.asarray(GLTF_AXES, points.dtype)
    return points * points.new_tensor(GLTF_AXES)


def check_intrinsics(intrinsics: Tensor) -> None:
    """ValueError unless K is (B,3,3), finite, has positive focal lengths and looks normalised."""
    if not isinstance(intrinsics, Tensor) or intrinsics.dtype == torch.bool or intrinsics.is_complex():
        raise ValueError(f"got intrinsics of type {getattr(intrinsics, 'dtype', type(intrinsics))}, expected (B,3,3)")
    if intrinsics.ndim != 3 or intrinsics.shape[1:] != (3, 3) or len(intrinsics) == 0:
        raise ValueError(f"got intrinsics of shape {tuple(intrinsics.shape)}, expected (B,3,3)")
    focal = torch.stack((intrinsics[:, 0, 0], intrinsics[:, 1, 1]))
    # A millionth of the picture is a field of view of 179.9999°; below, points and their distances leave float32.
    if not bool(torch.isfinite(intrinsics).all()) or not bool((focal >= 1e-6).all()):
        raise ValueError(
            "intrinsics must be finite with positive focal lengths of at least a millionth of the picture; check the "
            "camera or the field of view"
        )
    # 58 widths or heights, whichever are fewer, are a field of view of 0.99°; a K in pixels starts above this.
    shorter = focal.amin(dim=0)
    centre = intrinsics[:, :2, 2].abs()
    if bool((shorter > 58.0).any()) or bool((centre > 10.0).any()):
        raise ValueError(
            f"got intrinsics with focal length {float(shorter.max()):.4g} and centre {float(centre.max()):.4g}, "
            "expected K divided by the image size (fx/W, fy/H, cx/W, cy/H) and no field of view below 1 degree; a K in "
            "pixels goes through intrinsics_from_focal_px"
        )


def as_float(values: Tensor) -> Tensor:
    """The tensor in float32, or float64 if it is that already."""
    return values if values.dtype == torch.float64 else values.float()


def _pixel_grid(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres: columns (1,1,W) and rows (1,H,1)."""
    columns = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    rows = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
    return columns[None, None, :], rows[None, :, None]


def _matrix(focal_x: float, focal_y: float, centre_x: float = 0.5, centre_y: float = 0.5) -> Tensor:
    matrix = torch.tensor([[[focal_x, 0.0, centre_x], [0.0, focal_y, centre_y], [0.0, 0.0, 1.0]]], dtype=torch.float32)
    check_intrinsics(matrix)
    return matrix


def _radians(angle_deg: float, name: str) -> float:
    if not 0.0 < angle_deg < 180.0:
        raise ValueError(f"got {name} = {angle_deg}, expected degrees between 0 and 180")
    return math.radians(angle_deg)


def _check_positive(value: float, name: str, unit: str) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"got {name} = {value}, expected a positive number of {unit}")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"got an image size of {width}×{height}, expected at least 1×1")
