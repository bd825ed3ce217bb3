"""The pinhole camera of a scene.

World: metres, right-handed, x right, y ahead, z up, floor at z = 0. Camera: x right, y down, z ahead. A pixel's centre
is at +0.5. Intrinsics are normalised: fx / W, fy / H, principal point (0.5, 0.5). A ray's direction has 1 as its
component along the optical axis, so the ray parameter of a hit is its z-depth. Letters: B scenes, N rays.
"""

from dataclasses import dataclass

import torch


@dataclass
class Camera:
    """position (B,3) m; axes (B,3,3): rows right, down, ahead; tan_x, tan_y (B,): half extents of view at depth 1."""

    position: torch.Tensor
    axes: torch.Tensor
    tan_x: torch.Tensor
    tan_y: torch.Tensor

    def intrinsics(self) -> torch.Tensor:
        """(B,3,3) normalised K."""
        k = torch.zeros(len(self.tan_x), 3, 3, device=self.tan_x.device)
        k[:, 0, 0] = 0.5 / self.tan_x
        k[:, 1, 1] = 0.5 / self.tan_y
        k[:, :2, 2] = 0.5
        k[:, 2, 2] = 1.0
        return k

    def rays(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """World directions (B,N,3) through image points u, v in [0,1] of shape (N,) or (B,N)."""
        x = (2.0 * u - 1.0) * self.tan_x[:, None]  # (B,N)
        y = (2.0 * v - 1.0) * self.tan_y[:, None]
        right, down, ahead = self.axes.unbind(1)  # (B,3) each
        return x[..., None] * right[:, None] + y[..., None] * down[:, None] + ahead[:, None]


def look(
    position: torch.Tensor,
    yaw_deg: torch.Tensor,
    pitch_deg: torch.Tensor,
    fov_deg: torch.Tensor,
    size: tuple[int, int],
) -> Camera:
    """Camera at ``position`` (B,3), turned right by yaw and down by pitch (B,), without roll.

    ``fov_deg`` (B,) is the field of view over the longer side of ``size`` = (H, W); pixels are square.
    """
    yaw, pitch = torch.deg2rad(yaw_deg), torch.deg2rad(pitch_deg)
    zero = torch.zeros_like(yaw)
    right = torch.stack((yaw.cos(), -yaw.sin(), zero), -1)
    ahead = torch.stack((yaw.sin() * pitch.cos(), yaw.cos() * pitch.cos(), -pitch.sin()), -1)
    down = torch.linalg.cross(ahead, right)
    tan = torch.tan(torch.deg2rad(fov_deg) / 2)
    height, width = size
    longer = max(height, width)
    return Camera(position, torch.stack((right, down, ahead), 1), tan * width / longer, tan * height / longer)


def pixel_centres(size: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """u, v (H*W,) of the pixel centres, rows first."""
    height, width = size
    v = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    u = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
    return grid_u.reshape(-1), grid_v.reshape(-1)
