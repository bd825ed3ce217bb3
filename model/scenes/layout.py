"""What a scene consists of, and where its objects stand. Letters: B scenes, O objects, P solids."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from .camera import Camera
from .draws import Draws
from .objects import Objects, Solids

FLOOR, WALL, CEILING = range(3)  # the surfaces of the surrounding box
SURFACES = 3


@dataclass
class Surround:
    """The axis-aligned box the scene is inside of: low, high (B,3) m, infinite where open to the sky, and per surface
    (B,3): colour and second colour index, texture, cells per metre."""

    low: torch.Tensor
    high: torch.Tensor
    colour: torch.Tensor
    second: torch.Tensor
    texture: torch.Tensor
    cells: torch.Tensor


@dataclass
class Layout:
    """A batch of scenes.

    kind, time (B,) indices into palette.KINDS and TIME_WORDS; lamp (B,3) m, the key light's place; table_colour and
    table_texture (B,), meaningful for tabletops; near_m, far_m (B,): objects up to the one are called nearby, from the
    other on far away.
    """

    kind: torch.Tensor
    time: torch.Tensor
    camera: Camera
    surround: Surround
    solids: Solids
    objects: Objects
    lamp: torch.Tensor
    table_colour: torch.Tensor
    table_texture: torch.Tensor
    near_m: torch.Tensor
    far_m: torch.Tensor


def take(value: Any, index: slice | torch.Tensor) -> Any:
    """The scenes at ``index`` (a slice or a (K,) tensor) of a dataclass of (B,...) tensors."""
    if is_dataclass(value):
        return type(value)(*(take(getattr(value, f.name), index) for f in fields(value)))
    return value[index]


def join(parts: list) -> Any:
    """Concatenates dataclasses of (B,...) tensors over their scenes."""
    if is_dataclass(parts[0]):
        return type(parts[0])(*(join([getattr(p, f.name) for p in parts]) for f in fields(parts[0])))
    return torch.cat(parts)


def append(first: Solids, second: Solids) -> Solids:
    """The solids of both, scene by scene."""
    return Solids(*(torch.cat((getattr(first, f.name), getattr(second, f.name)), 1) for f in fields(Solids)))


def compact(solids: Solids, slots: int) -> Solids:
    """Moves the used solids of each scene to the front and pads or cuts to ``slots`` of them."""
    missing = slots - solids.shape.shape[1]
    if missing > 0:
        solids = Solids(
            *(
                torch.cat((x, x[:, :1].expand(-1, missing, *x.shape[2:])), 1)
                for x in (getattr(solids, f.name) for f in fields(Solids))
            )
        )
        solids.shape[:, -missing:] = -1
    order = (solids.shape < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :slots]  # (B,slots)

    def pick(x: torch.Tensor) -> torch.Tensor:
        index = order.reshape(*order.shape, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        return x.gather(1, index)

    return Solids(*(pick(getattr(solids, f.name)) for f in fields(Solids)))


@dataclass
class Spots:
    """Places for objects: feet (B,O,3) m, radius (B,O) m, yaw (B,O) rad, active (B,O)."""

    feet: torch.Tensor
    radius: torch.Tensor
    yaw: torch.Tensor
    active: torch.Tensor


def find_spots(
    draws: Draws,
    camera: Camera,
    base_m: torch.Tensor,
    near_m: torch.Tensor,
    far_m: torch.Tensor,
    largest_m: float,
    full: bool,
) -> Spots:
    """Objects in distinct cells of a grid that the camera sees, on the plane z = ``base_m`` (B,).

    The grid has columns over the image's width and rows in geometric steps of the distance from ``near_m`` to ``far_m``
    (B,), so that objects of one column stand behind each other without touching.
    """
    columns, rows, most = (4, 3, 6) if full else (3, 2, 3)
    device = base_m.device
    count = 1 + draws.integer("object count", most)  # (B,)
    cell = draws.order("object cell", columns * rows)[:, :most]  # (B,O)
    column, row = (cell % columns).float(), (cell // columns).float()
    ratio = (far_m / near_m)[:, None]
    shift = draws.uniform("spot row", most, low=0.35, high=0.65)
    ahead = near_m[:, None] * ratio ** ((row + shift) / rows)  # (B,O) distance along the ground
    depth_step = ahead * (ratio ** (0.35 / rows) - 1.0)

    # Ground distance to depth along the optical axis: the horizontal part of the axis has length cos(pitch).
    axis = camera.axes[:, 2]
    flat = axis[:, :2].norm(dim=1)
    drop = (camera.position[:, 2] - base_m) * -axis[:, 2]
    depth = ahead * flat[:, None] + drop[:, None]
    half_column = depth * (0.92 / columns) * camera.tan_x[:, None]
    shift = draws.uniform("spot column", most, low=-0.06, high=0.06)
    side = half_column * (2.0 * (column + shift) - (columns - 1))
    fill = draws.uniform("spot size", most, low=0.75, high=0.98)
    radius = (torch.minimum(half_column, depth_step) * fill).clamp_max(largest_m)

    forward = torch.nn.functional.normalize(axis[:, :2], dim=1)[:, None]  # (B,1,2)
    right = camera.axes[:, 0, :2][:, None]
    ground = camera.position[:, None, :2] + ahead[..., None] * forward + side[..., None] * right
    feet = torch.cat((ground, base_m[:, None, None].expand(-1, most, 1)), -1)
    yaw = draws.uniform("yaw", most, high=2 * torch.pi)
    return Spots(feet, radius, yaw, torch.arange(most, device=device)[None] < count[:, None])


def nearest_ground(camera: Camera, height: torch.Tensor) -> torch.Tensor:
    """(B,) ground distance at which the plane ``height`` (B,) m below the camera enters the bottom of the image."""
    pitch = torch.asin(-camera.axes[:, 2, 2])
    return height / torch.tan((pitch + torch.atan(camera.tan_y)).clamp(0.15, 1.45))
