"""Which surface each ray meets, and which points the lamp sees.

Rays of one call share their origin (the camera, or the lamp for shadows), so a bounding-sphere test for all rays and
solids is one batched matrix product; the exact formulas then run only on the pairs that pass, shape by shape.
Letters: B scenes, P solids, N rays, K pairs.
"""

from dataclasses import dataclass

import torch

from .camera import Camera
from .layout import CEILING, FLOOR, WALL, Surround
from .objects import Solids
from .shapes import INF, SPHERE, enter, normal, surface_uv

FAR_M = 150.0  # what lies farther is sky; the haze has faded it into the sky by then
_KEY_BITS = 6  # room for the solid's index below the depth bits
SHAPE_COUNT = 6


@dataclass
class Hits:
    """depth (B,N) m, +inf at sky; slot (B,N): solid index, then P + surface, -1 at sky; point and unit normal (B,N,3)
    in the world; uv (B,N,2) texture coordinates, in widths of the solid or, on the surround, in metres."""

    depth: torch.Tensor
    slot: torch.Tensor
    point: torch.Tensor
    normal: torch.Tensor
    uv: torch.Tensor


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Product of the vectors in the last axis; much faster than sum(-1) over an axis of three."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _candidates(solids: Solids, origin: torch.Tensor, rays: torch.Tensor) -> torch.Tensor:
    """(B,P,N) bool: the ray from ``origin`` (B,3) along ``rays`` (B,N,3) meets the solid's bounding sphere."""
    offset = solids.centre - origin[:, None]  # (B,P,3)
    # A sphere bounds itself, other unit shapes reach into the corners of the cube; one per cent for rounding.
    half = torch.where((solids.shape == SPHERE)[..., None], solids.half.amax(-1, keepdim=True) / 3**0.5, solids.half)
    radius = half.norm(dim=-1) * 1.01
    # The angle between a unit ray and the centre decides: its cosine times the distance against the tangent's length.
    tangent = ((offset * offset).sum(-1) - radius * radius).clamp_min(0.0).sqrt()
    least = torch.where(radius * radius >= (offset * offset).sum(-1), -INF, tangent)
    least = torch.where(solids.shape >= 0, least, INF)
    unit = torch.nn.functional.normalize(rays, dim=-1)
    return torch.bmm(offset, unit.transpose(1, 2)) >= least[..., None]


def _pairs(solids: Solids, candidates: torch.Tensor):
    """Per shape: (shape, scene (K,), solid (K,), ray (K,), frame (K,3,3) world to unit shape)."""
    frame = solids.turn / solids.half[..., None]  # (B,P,3,3)
    for shape in range(SHAPE_COUNT):
        scene, solid = (solids.shape == shape).nonzero(as_tuple=True)  # (M,)
        if not len(scene):
            continue
        member, ray = candidates[scene, solid].nonzero(as_tuple=True)  # (K,)
        yield shape, scene[member], solid[member], ray, frame[scene, solid][member]


def _into(frame: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return dot(frame, vector[:, None])


def _nearest_solid(solids: Solids, origin: torch.Tensor, rays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth (B,N), +inf on a miss, and solid index (B,N) of the first hit."""
    batch, count = rays.shape[:2]
    # Positive floats order like their bits: the least (depth bits, index) is the nearest hit in any order of writes.
    empty = torch.tensor(INF).view(torch.int32).item() << _KEY_BITS
    keys = torch.full((batch * count,), empty, dtype=torch.int64, device=rays.device)
    for shape, scene, solid, ray, frame in _pairs(solids, _candidates(solids, origin, rays)):
        start = _into(frame, origin[scene] - solids.centre[scene, solid])
        t = enter(shape, start, _into(frame, rays[scene, ray]))
        key = t.view(torch.int32).to(torch.int64) << _KEY_BITS | solid
        keys.scatter_reduce_(0, scene * count + ray, key, "amin")
    keys = keys.reshape(batch, count)
    return (keys >> _KEY_BITS).to(torch.int32).view(torch.float32), keys & (2**_KEY_BITS - 1)


def _surround(surround: Surround, origin: torch.Tensor, rays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth (B,N) at which rays leave the surrounding box, and the axis (B,N) of the face."""
    steps = torch.where(rays.abs() < 1e-9, 1e-9, rays)
    face = torch.where(steps > 0, (surround.high - origin)[:, None], (surround.low - origin)[:, None])
    return (face / steps).min(-1)


def first_hits(solids: Solids, surround: Surround, camera: Camera, rays: torch.Tensor) -> Hits:
    """What each camera ray (B,N,3) meets first."""
    batch, count = rays.shape[:2]
    slots = solids.shape.shape[1]
    depth, slot = _nearest_solid(solids, camera.position, rays)
    box_depth, axis = _surround(surround, camera.position, rays)
    is_solid = depth <= box_depth
    depth = torch.minimum(depth, box_depth)
    sky = depth > FAR_M
    vertical = torch.where(rays[..., 2] < 0, FLOOR, CEILING)
    slot = torch.where(is_solid, slot, slots + torch.where(axis == 2, vertical, WALL))
    slot = torch.where(sky, -1, slot)

    point = camera.position[:, None] + rays * torch.where(sky, 0.0, depth)[..., None]
    facing = torch.zeros_like(rays).scatter_(2, axis[..., None], -rays.gather(2, axis[..., None]).sign())
    x, y, z = point.unbind(-1)
    u, v = torch.where(axis == 0, y, x), torch.where(axis == 2, y, z)
    normals, uv = facing.reshape(-1, 3), torch.stack((u, v), -1).reshape(-1, 2)
    pixel = (is_solid & ~sky).reshape(-1).nonzero()[:, 0]  # pixels on solids
    owner = slot.reshape(-1)[pixel]
    scene = pixel // count
    shapes = solids.shape[scene, owner]
    for shape in range(SHAPE_COUNT):
        pick = (shapes == shape).nonzero()[:, 0]
        where, b, p = pixel[pick], scene[pick], owner[pick]
        turn, half = solids.turn[b, p], solids.half[b, p]
        local = _into(turn, point.reshape(-1, 3)[where] - solids.centre[b, p]) / half
        outward = torch.bmm((normal(shape, local) / half)[:, None], turn)[:, 0]
        normals[where] = outward / outward.norm(dim=1, keepdim=True).clamp_min(1e-9)
        uv[where] = surface_uv(shape, local, half)
    return Hits(torch.where(sky, INF, depth), slot, point, normals.view(batch, count, 3), uv.view(batch, count, 2))


def lit(solids: Solids, lamp: torch.Tensor, hits: Hits) -> torch.Tensor:
    """(B,N) bool: the surface faces the ``lamp`` (B,3) and no solid stands between."""
    batch, count = hits.depth.shape
    to_lamp = lamp[:, None] - hits.point
    facing = (dot(to_lamp, hits.normal) > 0) & (hits.slot >= 0)
    # Start a little off the surface, by more where float32 is coarser.
    lift = 1e-4 * (1.0 + hits.depth.clamp_max(FAR_M))
    start = hits.point + hits.normal * lift[..., None]
    blocked = torch.zeros(batch * count, dtype=torch.bool, device=lamp.device)
    candidates = _candidates(solids, lamp, -to_lamp) & facing[:, None]
    for shape, scene, solid, ray, frame in _pairs(solids, candidates):
        begin = start[scene, ray]
        t = enter(shape, _into(frame, begin - solids.centre[scene, solid]), _into(frame, lamp[scene] - begin))
        blocked[(scene * count + ray)[t < 1.0]] = True
    return facing & ~blocked.view(batch, count)
