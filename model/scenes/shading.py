"""Colours of what the rays met: textures, key light with shadows, ambient light, highlights, haze and sky.

Light is linear, the picture is encoded with gamma 2. Letters: B scenes, P solids, N rays.
"""

import torch

from . import palette
from .draws import Draws
from .layout import SURFACES, Layout
from .textures import albedo_and_glow
from .trace import Hits, dot, lit

_HAZE_M = 75.0  # outdoors: exp(-(150 / 75)^2) leaves 2 % of a surface at trace.FAR_M


def materials(draws: Draws, layout: Layout) -> torch.Tensor:
    """(B, P + 3, 10) what solids and surfaces look like: linear colour (3), second colour (3), texture, cells per
    width, shine, width in metres. Colours vary a little from scene to scene."""
    solids, surround = layout.solids, layout.surround
    names = torch.tensor(list(palette.COLOURS.values()), device=draws.device)
    index = torch.cat((solids.colour, surround.colour), 1)
    second = torch.cat((solids.second, surround.second), 1)
    # The variation belongs to the colour word: parts of one colour match within a scene.
    change = draws.uniform("tint", len(palette.COLOURS), 3, low=-0.035, high=0.035)
    shades = (names + change).clamp(0.02, 0.98).square()  # (B,12,3)
    scene = torch.arange(len(draws), device=draws.device)[:, None]
    none = torch.zeros(len(draws), SURFACES, device=draws.device)
    rest = torch.stack(
        (
            torch.cat((solids.texture, surround.texture), 1).float(),
            torch.cat((solids.cells, surround.cells), 1),
            torch.cat((solids.shine, none), 1),
            torch.cat((2.0 * solids.half[..., 0], none + 1.0), 1),
        ),
        -1,
    )
    return torch.cat((shades[scene, index], shades[scene, second], rest), -1)


def _table(rows: tuple[tuple[float, float, float], ...], time: torch.Tensor) -> torch.Tensor:
    """Row (...,3) of each time (...)."""
    return torch.tensor(rows, device=time.device)[time]


def _sky(view: torch.Tensor, time: torch.Tensor, sun: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """(K,3) linear colour of the sky along unit ``view`` (K,3); time (K,), sun (K,3), pixel (K,) width in radians."""
    up = view[:, 2:].clamp_min(0.0)
    horizon, zenith, key = (_table(rows, time) for rows in (palette.HORIZON, palette.ZENITH, palette.KEY_LIGHT))
    colour = horizon + (zenith - horizon) * (1.0 - (1.0 - up).square().square())
    # Streaks of cloud, fading towards the horizon where they would crowd together.
    x, y = view[:, :1] / (up + 0.12), view[:, 1:2] / (up + 0.12)
    cloud = torch.sin(1.1 * x + 1.3 * torch.sin(0.7 * y) + sun[:, :1]) * torch.sin(
        0.9 * y + 1.1 * torch.sin(1.6 * x) + sun[:, 1:2]
    )
    cover = (cloud * 1.6 - 0.35).clamp(0.0, 1.0) * (up * 4.0).clamp(0.0, 1.0)
    colour = colour + (0.25 * (horizon + zenith) + 0.35 * key - colour) * cover * 0.55
    # The chord to the sun's direction, which is the angle where that is small.
    gap = (view - torch.nn.functional.normalize(sun, dim=1)).norm(dim=1)
    disc = ((0.055 - gap) / pixel + 0.5).clamp(0.0, 1.0) * (time != palette.CLOUDY)
    return colour + (0.95 - colour) * disc[:, None]


def shade(
    layout: Layout, rows: torch.Tensor, rays: torch.Tensor, hits: Hits, pixel: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,N,3) picture colours in 0..1 of ``hits`` along ``rays`` (B,N,3), and (B,N) bool: lit by the key light.

    ``rows``: ``materials``; ``pixel`` (B,): width of a pixel (or sub-pixel) at depth 1.
    """
    batch, count = hits.depth.shape
    slots = layout.solids.shape.shape[1]
    view = rays / dot(rays, rays).sqrt()[..., None]
    scene = torch.arange(batch, device=rays.device)[:, None]
    flat = (scene * rows.shape[1] + hits.slot.clamp_min(0)).reshape(-1)
    row = rows.reshape(-1, rows.shape[-1])[flat]
    depth = torch.where(hits.slot < 0, 0.0, hits.depth)
    slant = dot(view, hits.normal).abs().clamp_min(0.08)
    night = (layout.time == palette.NIGHT).float()[:, None].expand(-1, count).reshape(-1)
    # Between the pixel's width across and along the slant: some aliasing against some blur.
    pixel_m = (depth * pixel[:, None] / slant.sqrt()).reshape(-1)
    albedo, glow = albedo_and_glow(row, hits.uv.reshape(-1, 2), pixel_m, night)

    to_lamp = layout.lamp[:, None] - hits.point
    distance = dot(to_lamp, to_lamp).sqrt()
    to_lamp = to_lamp / distance[..., None]
    seen = lit(layout.solids, layout.lamp, hits)
    # Lamps weaken with distance, the sun does not.
    reach = (layout.lamp[:, 2:] * 1.2).clamp_max(5.0)
    strength = 4.0 / (3.0 + torch.where(distance > 100.0, 1.0, (distance / reach).square()))
    direct = torch.where(seen, dot(hits.normal, to_lamp).clamp_min(0.0) * strength, 0.0)
    # Ambient light comes mostly from above, and less of it reaches solids close to the floor.
    above = 0.72 + 0.28 * hits.normal[..., 2]
    above = torch.where(hits.slot < slots, above * (0.8 + 0.4 * hits.point[..., 2].clamp(0.0, 0.5)), above)
    key = _table(palette.KEY_LIGHT, layout.time)[:, None]
    ambient = _table(palette.AMBIENT, layout.time)[:, None]
    light = ambient * above[..., None] + key * direct[..., None]
    colour = albedo.view(batch, count, 3) * light + glow.view(batch, count, 3)

    b, n = (seen & (row[:, 8] > 0).view(batch, count)).nonzero(as_tuple=True)  # glossy pixels: Blinn's highlight
    half = torch.nn.functional.normalize(to_lamp[b, n] - view[b, n], dim=1)
    gloss = dot(hits.normal[b, n], half).clamp_min(0.0).pow(40.0) * strength[b, n]
    colour[b, n] += 0.8 * gloss[:, None] * key[b, 0]

    outdoors = torch.isinf(layout.surround.high[:, 2])[:, None, None]
    fade = torch.exp(-(depth[..., None] / _HAZE_M).square())
    level = _table(palette.HORIZON, layout.time)[:, None]
    colour = torch.where(outdoors, level + (colour - level) * fade, colour)
    b, n = (hits.slot < 0).nonzero(as_tuple=True)
    colour[b, n] = _sky(view[b, n], layout.time[b], layout.lamp[b], pixel[b])
    return colour.clamp(0.0, 1.0).sqrt(), seen
