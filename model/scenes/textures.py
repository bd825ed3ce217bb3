"""Patterns on surfaces, filtered: they fade to their mean where a cell gets smaller than a pixel, so they do not alias.

A pattern takes u, v (K,) in cells and the width (K,) of a pixel in cells, and returns the share (K,) of the second
colour, 0..1. Letters: K pixels.
"""

import torch

from . import palette

_GLASS = (0.02, 0.03, 0.06)
_WINDOW_LIGHT = (0.55, 0.38, 0.12)
_ROAD_HALF = 0.7  # cells of 6.25 m


def _wave(x: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Square wave of period 2 in -1..1, its steps smoothed over ``width`` and faded where that nears a cell."""
    distance = 0.5 - (torch.remainder(x, 2.0) - 1.0).abs()  # to the nearest step, signed
    return (distance / width.clamp_min(1e-3)).clamp(-1.0, 1.0) * (1.5 - width).clamp(0.0, 1.0)


def _inside(distance: torch.Tensor, width: torch.Tensor, mean: float) -> torch.Tensor:
    """Coverage 0..1 of a shape by signed distance (positive inside), faded to ``mean`` where the cell gets small."""
    sharp = (distance / width.clamp_min(1e-3) + 0.5).clamp(0.0, 1.0)
    return mean + (sharp - mean) * (1.5 - 1.5 * width).clamp(0.0, 1.0)


def _checkered(u: torch.Tensor, v: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    return 0.5 - 0.5 * _wave(u - 0.5, width) * _wave(v - 0.5, width)


def _striped(u: torch.Tensor, v: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    return 0.5 - 0.5 * _wave(v - 0.5, width)


def _cell(x: torch.Tensor) -> torch.Tensor:
    """Offset from the centre of the unit cell, -0.5..0.5."""
    return torch.remainder(x, 1.0) - 0.5


def _dotted(u: torch.Tensor, v: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    return _inside(0.33 - (_cell(u).square() + _cell(v).square()).sqrt(), width, 0.34)


def _windows(u: torch.Tensor, v: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    return _inside(torch.minimum(0.26 - _cell(u).abs(), 0.30 - _cell(v).abs()), width, 0.31)


def _road(u: torch.Tensor, v: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Dashes along the middle of a road; a cell is 6.25 m."""
    return _inside(torch.minimum(0.012 - u.abs(), 0.15 - _cell(v * 1.6).abs() / 1.6), width, 0.0)


def _mottled(u: torch.Tensor, v: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """A smooth irregular pattern: three waves."""
    a = torch.sin(3.1 * u + 1.7 * torch.sin(1.3 * v)) + torch.sin(2.3 * v + 1.1 * torch.sin(2.9 * u))
    b = torch.sin(8.3 * u - 5.1 * v) * torch.sin(7.7 * v + 3.9 * u)
    return 0.5 + (0.17 * a + 0.16 * b) * (1.2 - 0.8 * width).clamp(0.0, 1.0)


_PATTERNS = {
    palette.CHECKERED: _checkered,
    palette.STRIPED: _striped,
    palette.DOTTED: _dotted,
    palette.WINDOWS: _windows,
    palette.ROAD: _road,
    palette.MOTTLED: _mottled,
}


def albedo_and_glow(
    rows: torch.Tensor, uv: torch.Tensor, pixel_m: torch.Tensor, night: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear albedo and light given off, (K,3) each.

    rows (K,10): see ``shading.materials``; uv (K,2) in widths; pixel_m (K,): width of a pixel on the surface in metres;
    night (K,): 1 at night, when windows are lit.
    """
    first, second = rows[:, 0:3], rows[:, 3:6]
    texture, cells, size_m = rows[:, 6], rows[:, 7], rows[:, 9]
    albedo, glow = first.clone(), torch.zeros_like(first)
    for code, pattern in _PATTERNS.items():
        pick = (texture == code).nonzero()[:, 0]
        u, v = (uv[pick] * cells[pick, None]).unbind(1)
        width = pixel_m[pick] * cells[pick] / size_m[pick]
        base, share = first[pick], pattern(u, v, width)[:, None]
        other = second[pick]
        if code == palette.MOTTLED:
            base = base + 0.3 * (base.mean(1, keepdim=True) - base)  # earth and grass are never as vivid as paint
            base, other = base * 0.76, base * 1.24
        elif code == palette.ROAD:
            road = _inside(_ROAD_HALF - u.abs(), width, 0.5)[:, None]
            base, other = base * (1.9 - 1.45 * road), torch.tensor(0.85, device=base.device)
        elif code == palette.WINDOWS:
            other = torch.tensor(_GLASS, device=base.device)
            glow[pick] = share * night[pick, None] * torch.tensor(_WINDOW_LIGHT, device=base.device)
        albedo[pick] = base + (other - base) * share
    return albedo, glow
