"""Sparse variants of dense depth, as real sensors and reconstructions give them.

Each way to lose pixels is a score per pixel; the best-scored share is kept, so the share of valid pixels is exact. All
random numbers come from one generator and are drawn on its device, so a CPU generator gives the same holes for depth on
any device (up to rounding). Values that remain are not changed. Letters: B maps, H x W pixels.
"""

import torch
import torch.nn.functional as F

from ..depth.usable import usable_depth

# Share of the picture's pixels each way keeps, least and most.
SHARES = {"lidar": (0.02, 0.12), "sfm": (0.02, 0.10), "regions": (0.25, 0.60)}
WAYS = tuple(SHARES)


def sparsify(
    depth: torch.Tensor,
    rgb: torch.Tensor,
    generator: torch.Generator,
    shiny: torch.Tensor | None = None,
    way: str = "mixed",
) -> torch.Tensor:
    """Depth (B,H,W) with NaN where a sensor would have seen nothing.

    depth (B,H,W): > 0, not finite where unknown or sky, which stays missing. rgb (B,3,H,W) in 0..1. shiny (B,H,W) bool:
    surfaces a sensor fails on. ``way``: "lidar" (scan lines), "sfm" (points, most of them where the picture has
    texture), "regions" (dense, without much of what is far, dark or shiny and without some patches), or "mixed" (one
    per map). Keeps 2 to 60 % of the pixels (``SHARES``), or all known ones where fewer are known.
    """
    if depth.dim() != 3 or rgb.shape != (depth.shape[0], 3, *depth.shape[1:]):
        raise ValueError(
            f"sparsify got depth {tuple(depth.shape)} and rgb {tuple(rgb.shape)}, expected (B,H,W) and (B,3,H,W)."
        )
    if way not in (*WAYS, "mixed"):
        raise ValueError(f"way got {way!r}, expected one of {(*WAYS, 'mixed')}.")
    batch = len(depth)
    chosen = torch.randint(len(WAYS), (batch,), generator=generator, device=generator.device).to(depth.device)
    if way != "mixed":
        chosen = torch.full_like(chosen, WAYS.index(way))
    limits = torch.tensor(list(SHARES.values()), device=depth.device)[chosen]  # (B,2)
    share = limits[:, 0] + (limits[:, 1] - limits[:, 0]) * _rand(generator, depth, batch)

    known = usable_depth(depth)
    scores = torch.stack(
        (
            _lidar(depth, share, generator),
            _sfm(depth, rgb, generator),
            _regions(torch.where(known, depth, 0.0), rgb, shiny, generator),
        ),
        1,
    )  # (B,3,H,W); every way is scored, so a map's random numbers do not depend on the others' ways
    score = scores[torch.arange(batch, device=depth.device), chosen]
    return torch.where(_best(score, known, share), depth, torch.nan)


def _rand(generator: torch.Generator, like: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(like.device)


def _best(score: torch.Tensor, known: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """(B,H,W) bool: the ``share`` (B,) of all pixels that are known and score highest."""
    ranked = torch.where(known, score, -torch.inf).flatten(1)
    count = ranked.shape[1]
    least, most = torch.tensor(0.02 * count).ceil(), torch.tensor(0.60 * count).floor()
    keep = (share * count).round().clamp(least.item(), most.item())
    rank = torch.empty_like(ranked, dtype=torch.long)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    rank.scatter_(1, order, torch.arange(count, device=score.device).expand_as(order))
    return (rank < keep[:, None]).view_as(score) & known


def _lidar(depth: torch.Tensor, share: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Close to one of many slightly tilted and bent scan lines, each of which returns part of its points."""
    batch, height, width = depth.shape
    tilt, bend, start, returned = (_rand(generator, depth, batch, 1, 1) for _ in range(4))
    lines = share[:, None, None] * height / (0.55 + 0.4 * returned)  # enough for the share with some points lost
    rows = (torch.arange(height, device=depth.device) + 0.5)[None, :, None] / height
    across = (torch.arange(width, device=depth.device) + 0.5)[None, None] / width - 0.5
    position = (rows + (tilt - 0.5) * 0.1 * across + (bend - 0.5) * 0.25 * across.square()) * lines + start
    gap = (position - position.round()).abs() / lines * height  # pixels to the nearest line
    on_line = (gap <= 0.5).float()
    return on_line - 0.1 * gap * (1.0 - on_line) + 0.9 * on_line * _rand(generator, depth, batch, height, width)


def _sfm(depth: torch.Tensor, rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random points, drawn in proportion to the picture's gradient, with a few everywhere (Gumbel top-k)."""
    gray = rgb.mean(1)
    padded = F.pad(gray[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    gradient = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]).abs() + (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]).abs()
    weight = gradient + 0.1 * gradient.mean((1, 2), keepdim=True) + 1e-4
    chance = _rand(generator, depth, *depth.shape).clamp(1e-7, 1.0 - 1e-7)
    return weight.log() - (-chance.log()).log()


def _regions(
    depth: torch.Tensor, rgb: torch.Tensor, shiny: torch.Tensor | None, generator: torch.Generator
) -> torch.Tensor:
    """Lower where a depth camera loses its signal: far, dark, shiny, and in random patches."""
    batch, height, width = depth.shape
    known = depth > 0
    mean = depth.sum((1, 2), keepdim=True) / known.sum((1, 2), keepdim=True).clamp_min(1)
    far = depth / (depth + mean.clamp_min(1e-6))
    patches = F.interpolate(
        _rand(generator, depth, batch, 1, 6, 6), size=(height, width), mode="bilinear", align_corners=False
    )[:, 0]
    weights = _rand(generator, depth, batch, 3, 1, 1)  # every sensor has its own weakness
    score = patches - 1.5 * weights[:, 0] * far + 0.8 * weights[:, 1] * rgb.mean(1)
    if shiny is not None:
        score = score - 2.0 * weights[:, 2] * shiny.float()
    return score + 0.05 * _rand(generator, depth, batch, height, width)
