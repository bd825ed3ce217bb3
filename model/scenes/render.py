"""Pictures, exact depth and captions of procedural scenes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .camera import pixel_centres
from .captions import SCENERY_LABEL, STYLES, SURFACE_LABEL, describe
from .draws import Draws
from .kinds import sample_layout
from .layout import SURFACES, Layout, compact, take
from .palette import KINDS
from .shading import materials, shade
from .trace import Hits, dot, first_hits

DIFFICULTIES = ("easy", "full")
_SUBPIXELS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))


@dataclass
class SceneBatch:
    """A batch of rendered scenes; all tensors on one device, H x W pixels.

    rgb (B,3,H,W) float32 in 0..1. depth (B,H,W) float32: z-depth in metres at the pixel's centre, +inf at sky (the
    codec's z = 2 - 1/d is 2 there), never NaN; what lies beyond 150 m is sky. sky (B,H,W) bool; ``valid`` is its
    complement. shiny (B,H,W) bool: glossy surfaces, where real depth sensors fail. object_ids (B,H,W) int64: ``id`` of
    the object, -1 elsewhere. intrinsics (B,3,3): fx/W, fy/H, principal point 0.5, 0.5, pixel centres at +0.5. captions:
    one per scene, words of ``VOCABULARY``. scenes: per scene a dict with ``seed``, ``kind``, ``time``, ``setting``
    (phrases) and ``objects``, the visible ones, largest first: dicts with ``id``, ``shape``, ``colour``, ``texture``,
    ``position``, ``range``, ``pixels``, ``depth_m`` (mean).
    """

    rgb: torch.Tensor
    depth: torch.Tensor
    sky: torch.Tensor
    shiny: torch.Tensor
    object_ids: torch.Tensor
    intrinsics: torch.Tensor
    captions: list[str]
    scenes: list[dict]

    @property
    def valid(self) -> torch.Tensor:
        """(B,H,W) bool: pixels that have a depth."""
        return ~self.sky


def generate(
    seeds: torch.Tensor | Sequence[int],
    size: tuple[int, int] = (128, 128),
    device: torch.device | str = "cpu",
    difficulty: str = "full",
    style: str = "mixed",
    kinds: tuple[str, ...] = KINDS,
    antialias: bool = True,
    chunk: int | None = None,
) -> SceneBatch:
    """Renders one scene per seed; the same seed gives the same scene in any batch (up to rounding on another device).

    ``size``: (H, W). ``difficulty``: "easy" (at most three plain objects) or "full". ``style``: of captions, one of
    ``STYLES`` or "mixed". ``kinds``: which kinds of scenes to draw from. ``antialias``: four rays in place of one for
    the colour of each pixel on an edge; depth stays that of the centre. ``chunk``: scenes rendered at once (memory
    against launches), chosen from the size if None. Needs int64 scatter, so a CPU or CUDA device.
    """
    seeds = torch.as_tensor(list(seeds) if isinstance(seeds, range) else seeds, dtype=torch.int64)
    _check(seeds, size, difficulty, style, kinds)
    device = torch.device(device)
    draws = Draws(seeds.to(device))
    layout = sample_layout(draws, size, difficulty == "full", kinds)
    chunk = chunk or _chunk(size, device)
    parts = []
    for start in range(0, len(seeds), chunk):
        index = slice(start, start + chunk)
        parts.append(render_layout(take(layout, index), Draws(draws.seeds[index]), size, antialias))
    rgb, depth, labels, shiny = (torch.cat([part[i] for part in parts]) for i in range(4))
    captions, scenes = describe(draws, layout, labels, depth, style)
    object_ids = torch.where(labels < SURFACE_LABEL, labels, -1)
    return SceneBatch(rgb, depth, labels < 0, shiny, object_ids, layout.camera.intrinsics(), captions, scenes)


def _check(seeds: torch.Tensor, size: tuple[int, int], difficulty: str, style: str, kinds: tuple[str, ...]) -> None:
    if seeds.dim() != 1 or not len(seeds) or bool((seeds < 0).any()):
        raise ValueError(f"seeds got shape {tuple(seeds.shape)}, expected a list of at least one integer >= 0.")
    if min(size) < 16:
        raise ValueError(f"size got {size}, expected (height, width) of at least 16 pixels each.")
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty got {difficulty!r}, expected one of {DIFFICULTIES}.")
    if style not in (*STYLES, "mixed"):
        raise ValueError(f"style got {style!r}, expected one of {(*STYLES, 'mixed')}.")
    if not kinds or set(kinds) - set(KINDS):
        raise ValueError(f"kinds got {kinds}, expected some of {KINDS}.")


def _chunk(size: tuple[int, int], device: torch.device) -> int:
    """Scenes at once: on a CPU what its caches hold, on a GPU what fills it."""
    pixels = size[0] * size[1]
    return max(1, (2**18 if device.type == "cpu" else 2**22) // pixels)


def _edges(hits: Hits, seen: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B,N) bool: pixels whose surface, side of it, or shadow differs from a neighbour's (textures are filtered)."""
    slot, seen, facing = hits.slot.view(-1, *size), seen.view(-1, *size), hits.normal.view(-1, *size, 3)
    edge = torch.zeros_like(seen)
    for axis in (1, 2):
        count = size[axis - 1] - 1
        first, second = (slice(None),) * axis + (slice(0, count),), (slice(None),) * axis + (slice(1, None),)
        differs = (slot[first] != slot[second]) | (seen[first] != seen[second])
        differs |= dot(facing[first], facing[second]) < 0.6
        edge[first] |= differs
        edge[second] |= differs
    return edge.flatten(1)


def render_layout(layout: Layout, draws: Draws, size: tuple[int, int], antialias: bool) -> tuple[torch.Tensor, ...]:
    """rgb (B,3,H,W), depth (B,H,W), labels (B,H,W) as in captions.py, shiny (B,H,W) of a chunk."""
    height, width = size
    used = max(1, int((layout.solids.shape >= 0).sum(1).max()))
    layout = replace(layout, solids=compact(layout.solids, used))
    rows = materials(draws, layout)
    camera = layout.camera
    pixel = 2.0 * camera.tan_x / width
    u, v = pixel_centres(size, draws.device)
    rays = camera.rays(u, v)
    hits = first_hits(layout.solids, layout.surround, camera, rays)
    rgb, seen = shade(layout, rows, rays, hits, pixel)
    if antialias:
        edge = _edges(hits, seen, size)
        most = int(edge.sum(1).max())
        mask, where = edge.to(torch.int8).topk(most, dim=1)  # (B,E)
        steps = torch.tensor(_SUBPIXELS, device=draws.device)  # (4,2)
        fine_u = u[where][:, None] + steps[:, :1] / width  # (B,4,E)
        fine_v = v[where][:, None] + steps[:, 1:] / height
        fine = camera.rays(fine_u.flatten(1), fine_v.flatten(1))
        fine_hits = first_hits(layout.solids, layout.surround, camera, fine)
        mean = shade(layout, rows, fine, fine_hits, pixel * 0.5)[0].view(-1, 4, most, 3).mean(1)
        index = where[..., None].expand(-1, -1, 3)
        rgb = rgb.scatter(1, index, torch.where(mask.bool()[..., None], mean, rgb.gather(1, index)))
    slot = hits.slot.clamp_min(0)
    sky = hits.slot < 0
    shiny = rows[..., 8].gather(1, slot).bool() & ~sky
    shape = (-1, height, width)
    picture = rgb.transpose(1, 2).reshape(-1, 3, height, width).contiguous()
    labels = torch.where(sky, -1, _labels(layout).gather(1, slot))
    return picture, hits.depth.view(shape), labels.view(shape), shiny.view(shape)


def _labels(layout: Layout) -> torch.Tensor:
    """(B, P + 3) label of each solid and surface."""
    owner = layout.solids.owner
    of_solids = torch.where(owner < 0, SCENERY_LABEL, owner)
    of_surfaces = SURFACE_LABEL + torch.arange(SURFACES, device=owner.device).expand(len(owner), SURFACES)
    return torch.cat((of_solids, of_surfaces), 1)
