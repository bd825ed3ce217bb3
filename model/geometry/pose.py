"""Where a moved camera stands.

A pose is a (4,4) matrix from the moved camera's axes to the source camera's axes (both OpenCV: x right, y down, z
forward), so its last column is the new position as the source camera sees it, in the unit of the depth. The identity is
the source view.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..depth.usable import describe
from .camera import GLTF_AXES

_RIGID = 1e-3  # how far a rotation may be from its own inverse's transpose


def camera_pose(
    right: float = 0.0,
    up: float = 0.0,
    forward: float = 0.0,
    *,
    yaw_deg: float = 0.0,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
    pivot: float = 0.0,
) -> Tensor:
    """(4,4) float32 pose of a camera that moved (in the unit of the depth) and turned (degrees).

    Positive yaw turns to the right, positive pitch upwards, positive roll clockwise as the photographer sees it;
    applied in the order yaw, pitch, roll. `pivot` > 0 turns about the point at that depth straight ahead instead of
    about the camera itself: an orbit that keeps it in the middle of the picture (positive yaw then moves the camera to
    the left). The move comes after.
    """
    for name, value in (("right", right), ("up", up), ("forward", forward), ("pivot", pivot)):
        if not math.isfinite(value):
            raise ValueError(f"got {name} = {value}, expected a finite number")
    rotation = _turn(1, yaw_deg) @ _turn(0, pitch_deg) @ _turn(2, roll_deg)
    centre = torch.tensor([0.0, 0.0, pivot])
    return _pose(rotation, centre - rotation @ centre + torch.tensor([right, -up, forward]))


def pose_from_load3d(camera: dict[str, Any]) -> Tensor:
    """(4,4) pose from core's LOAD3D_CAMERA dict (right-handed, y up, looking down −z) over a model in glTF axes.

    Uses `position` with `quaternion` (x, y, z, w) if there is one, else with `target`, up being +y.
    """
    position = load3d_vector(camera, "position", "xyz")
    if camera.get("quaternion") is not None:
        rotation = _rotation(load3d_vector(camera, "quaternion", "xyzw"))
    else:
        rotation = _look_at(position, load3d_vector(camera, "target", "xyz"))
    flip = torch.tensor(GLTF_AXES)
    # Both the world and the camera's own axes change from glTF to OpenCV.
    return _pose(flip[:, None] * rotation * flip, flip * position)


def fov_y_from_load3d(camera: dict[str, Any]) -> float | None:
    """Degrees from top to bottom that core's LOAD3D_CAMERA dict looks at, its zoom included; None where it has none."""
    if camera.get("fov") is None:
        return None
    zoom = _number(camera.get("zoom") or 1.0, "zoom")
    if not zoom > 0.0:
        raise ValueError(f"the camera's zoom is {zoom}, expected more than 0")
    return 2 * math.degrees(math.atan(math.tan(math.radians(_number(camera["fov"], "fov")) / 2) / zoom))


def _turn(axis: int, angle_deg: float) -> Tensor:
    """(3,3) right-handed rotation about an OpenCV axis: 0 turns up, 1 to the right, 2 clockwise."""
    if not math.isfinite(angle_deg):
        raise ValueError(f"got an angle of {angle_deg}, expected finite degrees")
    cosine, sine = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    matrix = torch.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _look_at(position: Tensor, target: Tensor) -> Tensor:
    """Camera-to-world rotation, glTF axes."""
    back = position - target
    if float(back.norm()) == 0.0:
        raise ValueError("the camera's position and target are the same point; move one of them")
    back = back / back.norm()
    up = torch.tensor([0.0, 1.0, 0.0])
    if float(torch.linalg.cross(up, back).norm()) < 1e-6:  # looking straight up or down: any up will do
        up = torch.tensor([0.0, 0.0, -1.0])
    right = torch.linalg.cross(up, back)
    right = right / right.norm()
    return torch.stack((right, torch.linalg.cross(back, right), back), dim=1)


def _rotation(quaternion: Tensor) -> Tensor:
    if not float(quaternion.norm()) > 0.0:
        raise ValueError("the camera's quaternion is zero, expected a rotation")
    x, y, z, w = (quaternion / quaternion.norm()).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def load3d_vector(camera: dict[str, Any], key: str, axes: str) -> Tensor:
    """An entry of core's LOAD3D_CAMERA dict as a float32 vector; ValueError where it is not there or not finite."""
    entry = camera.get(key) if isinstance(camera, dict) else None
    if not isinstance(entry, dict) or not all(axis in entry for axis in axes):
        raise ValueError(f"the camera has no {key} with {', '.join(axes)}; connect a LOAD3D_CAMERA")
    return torch.tensor([_number(entry[axis], f"{key}.{axis}") for axis in axes])


def _number(value: object, name: str) -> float:
    """An entry of a camera; ValueError unless float32 holds it, since what a wire brings may be anything."""
    number = float(value) if isinstance(value, int | float) else math.nan
    if not abs(number) <= torch.finfo(torch.float32).max:
        raise ValueError(f"the camera's {name} is {value!r}, expected a finite number; connect a LOAD3D_CAMERA")
    return number


def checked_pose(pose: object) -> Tensor:
    """A pose (4,4) from elsewhere in float32 on the CPU, or ValueError unless it turns and moves, and no more."""
    if not isinstance(pose, Tensor) or pose.is_complex() or pose.shape != (4, 4):
        raise ValueError(f"got a pose {describe(pose)}, expected a tensor (4,4)")
    pose = pose.detach().cpu().float()
    rotation, last = pose[:3, :3], pose.new_tensor([0.0, 0.0, 0.0, 1.0])
    off = torch.cat(((rotation @ rotation.T - torch.eye(3)).flatten(), pose[3] - last))
    if not bool(pose.isfinite().all()) or float(off.abs().max()) > _RIGID or float(torch.linalg.det(rotation)) < 0:
        raise ValueError(
            "got a pose that is no rotation and position (it scales, mirrors, or holds NaN or infinity); connect the "
            "geometry of 'Render Moved View' or of the viewer"
        )
    return pose


def _pose(rotation: Tensor, position: Tensor) -> Tensor:
    pose = torch.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = position
    return pose
