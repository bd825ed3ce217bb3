"""A camera that looks at a point, as the viewer in the browser moves it; from and to core's LOAD3D_CAMERA."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .camera import GLTF_AXES
from .pose import camera_pose, fov_y_from_load3d, load3d_vector, pose_from_load3d

STEEPEST_DEG = 89.0


@dataclass(frozen=True)
class Orbit:
    """Looks at `pivot` (x, y, z in the source camera's OpenCV axes) from `distance`, both in the unit of the depth.

    yaw_deg turns to the right, pitch_deg upwards. fov_y_deg: top-bottom field of view in degrees, None: the source's.
    """

    pivot: tuple[float, float, float]
    distance: float
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    fov_y_deg: float | None = None

    def pose(self) -> Tensor:
        """(4,4) pose, see pose.py."""
        turned = camera_pose(yaw_deg=self.yaw_deg, pitch_deg=self.pitch_deg)
        turned[:3, 3] = torch.tensor(self.pivot) - self.distance * turned[:3, 2]
        return turned

    def load3d(self, fov_y_deg: float) -> dict[str, Any]:
        """LOAD3D_CAMERA in the unit of the depth over a model in glTF axes; `fov_y_deg` where the orbit has none."""
        position = self.pose()[:3, 3].tolist()
        return {
            "position": _gltf(position),
            "target": _gltf(self.pivot),
            "zoom": 1.0,
            "cameraType": "perspective",
            "fov": fov_y_deg if self.fov_y_deg is None else self.fov_y_deg,
        }


def orbit_from_load3d(camera: dict[str, Any], distance: float) -> Orbit:
    """The orbit of a LOAD3D_CAMERA, about its target or, without one, about the point at `distance` ahead.

    An orbit stands upright: what the camera rolls is lost, and so is what it looks steeper than 89°.
    """
    pose = pose_from_load3d(camera)
    position, forward = pose[:3, 3], pose[:3, 2]
    target = camera.get("target")
    if isinstance(target, dict) and all(axis in target for axis in "xyz"):
        away = load3d_vector(camera, "target", "xyz") * torch.tensor(GLTF_AXES) - position
        ahead = float(away @ forward)
        distance = ahead if ahead > 1e-6 * distance else distance
    pitch = math.degrees(math.asin(max(-1.0, min(1.0, -float(forward[1])))))
    return Orbit(
        tuple((position + distance * forward).tolist()),
        distance,
        math.degrees(math.atan2(float(forward[0]), float(forward[2]))),
        max(-STEEPEST_DEG, min(STEEPEST_DEG, pitch)),
        fov_y_from_load3d(camera),
    )


def _gltf(point: Any) -> dict[str, float]:
    return {axis: sign * float(value) + 0.0 for axis, sign, value in zip("xyz", GLTF_AXES, point, strict=True)}
