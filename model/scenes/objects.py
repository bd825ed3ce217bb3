"""The objects scenes are furnished with, as up to four solids each.

A part is (shape, centre, half extents, colour, lies): lengths in units of the object's radius, feet at z = 0, front
along x. ``lies`` turns the part's axis from z to y. Letters: B scenes, O objects, 4 parts, P solids.
"""

from dataclasses import dataclass

import torch

from .draws import Draws
from .palette import COLOUR_NAMES, PLAIN, colour
from .shapes import BOX, CAPSULE, CONE, CYLINDER, PYRAMID, SPHERE

OWN = -1  # the part takes the object's colour, others have a colour of their own
_BROWN, _BLACK, _GRAY, _RED = (colour(name) for name in ("brown", "black", "gray", "red"))
PARTS = {
    "ball": [(SPHERE, (0, 0, 1), (1, 1, 1), OWN, False)],
    "box": [(BOX, (0, 0, 0.72), (0.72, 0.68, 0.72), OWN, False)],
    "cylinder": [(CYLINDER, (0, 0, 1.05), (0.72, 0.72, 1.05), OWN, False)],
    "cone": [(CONE, (0, 0, 1.15), (0.9, 0.9, 1.15), OWN, False)],
    "pyramid": [(PYRAMID, (0, 0, 0.85), (0.85, 0.85, 0.85), OWN, False)],
    "pill": [(CAPSULE, (0, 0, 1.3), (1.3, 1.3, 1.3), OWN, False)],
    "egg": [(SPHERE, (0, 0, 1.0), (0.7, 0.7, 1.0), OWN, False)],
    "log": [(CYLINDER, (0, 0, 0.42), (0.42, 0.42, 0.95), OWN, True)],
    "tree": [
        (CYLINDER, (0, 0, 0.8), (0.14, 0.14, 0.8), _BROWN, False),
        (SPHERE, (0, 0, 2.1), (0.95, 0.95, 0.95), OWN, False),
        (SPHERE, (0.45, 0.2, 1.75), (0.55, 0.55, 0.55), OWN, False),
    ],
    "pine": [
        (CYLINDER, (0, 0, 0.4), (0.16, 0.16, 0.4), _BROWN, False),
        (CONE, (0, 0, 1.35), (0.95, 0.95, 0.85), OWN, False),
        (CONE, (0, 0, 2.2), (0.72, 0.72, 0.85), OWN, False),
    ],
    "house": [
        (BOX, (0, 0, 0.55), (0.85, 0.7, 0.55), OWN, False),
        (PYRAMID, (0, 0, 1.48), (1.0, 0.85, 0.40), _RED, False),
        (BOX, (0, -0.69, 0.32), (0.14, 0.04, 0.32), _BROWN, False),
        (BOX, (0.48, -0.69, 0.6), (0.14, 0.03, 0.14), _BLACK, False),
    ],
    "car": [
        (BOX, (0, 0, 0.40), (1.0, 0.46, 0.20), OWN, False),
        (BOX, (-0.08, 0, 0.75), (0.52, 0.40, 0.17), _GRAY, False),
        (CYLINDER, (0.6, 0, 0.2), (0.2, 0.2, 0.49), _BLACK, True),
        (CYLINDER, (-0.6, 0, 0.2), (0.2, 0.2, 0.49), _BLACK, True),
    ],
}
OBJECT_NAMES = tuple(PARTS)
SHAPES = ["ball", "box", "cylinder", "cone", "pyramid", "pill", "egg", "log"]
EASY_SHAPES = ["ball", "box", "cylinder", "cone"]
_RIGID = ("ball", "car", "house")  # not stretched in height: a ball must stay round
_UNTEXTURED = ("tree", "pine", "house", "car")
_TREES = ("tree", "pine")
_TREE_COLOURS = [colour(name) for name in ("green", "green", "green", "orange", "yellow")]
_SLOTS = 4


def indices(names: list[str]) -> list[int]:
    """Indices of object words."""
    return [OBJECT_NAMES.index(name) for name in names]


@dataclass
class Objects:
    """Per object, (B,O): word, colour and texture index, active; ``shiny`` has a highlight."""

    word: torch.Tensor
    colour: torch.Tensor
    texture: torch.Tensor
    shiny: torch.Tensor
    active: torch.Tensor


@dataclass
class Solids:
    """The solids of a scene, (B,P,...): unit shape (-1: unused), centre (3) m, half extents (3) m, turn (3,3) with the
    axes in the world as rows, owner object (-1: scenery), colour and second colour index, texture, cells per width and
    shine."""

    shape: torch.Tensor
    centre: torch.Tensor
    half: torch.Tensor
    turn: torch.Tensor
    owner: torch.Tensor
    colour: torch.Tensor
    second: torch.Tensor
    texture: torch.Tensor
    cells: torch.Tensor
    shine: torch.Tensor


def _part_tables(device: torch.device) -> tuple[torch.Tensor, ...]:
    """shape (K,4), geometry (K,4,6), colour (K,4), lies (K,4) for the K object words."""
    unused = (-1, (0, 0, 0), (1, 1, 1), OWN, False)
    rows = [(parts + [unused] * _SLOTS)[:_SLOTS] for parts in PARTS.values()]
    shape = torch.tensor([[p[0] for p in row] for row in rows], device=device)
    geometry = torch.tensor([[p[1] + p[2] for p in row] for row in rows], dtype=torch.float32, device=device)
    own = torch.tensor([[p[3] for p in row] for row in rows], device=device)
    lies = torch.tensor([[p[4] for p in row] for row in rows], device=device)
    return shape, geometry, own, lies


def _member(word: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    return torch.isin(word, torch.tensor(indices(list(names)), device=word.device))


def choose_objects(draws: Draws, active: torch.Tensor, words: list[str], taken: torch.Tensor, full: bool) -> Objects:
    """Word, colour and texture of each object. ``active`` (B,O); ``taken`` (B,T): colour indices kept from objects."""
    count = active.shape[1]
    word = draws.one_of("object word", indices(words), count)
    # Each object takes the next colour of a shuffled palette, without the colours of what it stands before.
    keys = draws.uniform("object colours", len(COLOUR_NAMES)).scatter(1, taken, 2.0)
    tint = keys.argsort(dim=1, stable=True)[:, :count]
    leaf = draws.one_of("leaf colour", _TREE_COLOURS, count)
    tint = torch.where(_member(word, _TREES), leaf, tint)
    texture = draws.one_of("object texture", [0, 0, 0, 1, 2, 3], count) if full else torch.zeros_like(word)
    texture = torch.where(_member(word, _UNTEXTURED), PLAIN, texture)
    shiny = draws.chance("shiny", 0.35, count) & ~_member(word, ("tree", "pine", "house"))
    return Objects(word, tint, texture, shiny, active)


def _turned(yaw: torch.Tensor, lies: torch.Tensor) -> torch.Tensor:
    """Axes, as rows, of solids turned by yaw (B,O) around z; those that lie have their z along y: (B,O,4,3,3)."""
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    c, s = yaw.cos(), yaw.sin()
    front, left, up = (torch.stack(axis, -1)[:, :, None] for axis in ((c, s, zero), (-s, c, zero), (zero, zero, one)))
    shape = (*lies.shape, 3)
    upright = torch.stack([axis.expand(shape) for axis in (front, left, up)], -2)
    lying = torch.stack([axis.expand(shape) for axis in (front, -up, left)], -2)
    return torch.where(lies[..., None, None], lying, upright)


def build(draws: Draws, objects: Objects, feet: torch.Tensor, radius: torch.Tensor, yaw: torch.Tensor) -> Solids:
    """Solids of objects standing at ``feet`` (B,O,3) m with ``radius`` (B,O) m and ``yaw`` (B,O) rad: P = 4 O."""
    batch, count = radius.shape
    shape, geometry, own, lies = (table[objects.word] for table in _part_tables(radius.device))  # (B,O,4,...)
    stretch = draws.uniform("stretch", count, low=0.75, high=1.25)
    stretch = torch.where(_member(objects.word, _RIGID), 1.0, stretch)[..., None]  # (B,O,1)
    tall = torch.where(lies, 1.0, stretch)[..., None]  # (B,O,4,1)
    flat = torch.ones_like(tall).expand(-1, -1, -1, 2)
    scale = torch.cat((flat, tall), -1) * radius[:, :, None, None]  # (B,O,4,3)
    turn = _turned(yaw, lies)
    local = geometry[..., :3] * scale
    upright = _turned(yaw, torch.zeros_like(lies))
    centre = feet[:, :, None] + (upright * local[..., None]).sum(-2)  # (B,O,4,3)
    tint = torch.where(own == OWN, objects.colour[..., None], own)
    used = (shape >= 0) & objects.active[..., None]
    slots = tint.shape

    def per_part(value: torch.Tensor) -> torch.Tensor:
        return value[..., None].expand(slots).reshape(batch, -1)

    cells = draws.one_of("object cells", [2, 3, 4], count).float()
    return Solids(
        shape=torch.where(used, shape, -1).reshape(batch, -1),
        centre=centre.reshape(batch, -1, 3),
        half=(geometry[..., 3:] * scale).reshape(batch, -1, 3),
        turn=turn.reshape(batch, -1, 3, 3),
        owner=per_part(torch.arange(count, device=radius.device).expand(batch, count)),
        colour=tint.reshape(batch, -1),
        second=per_part(contrasting(objects.colour)),
        texture=per_part(objects.texture),
        cells=per_part(cells),
        shine=per_part(objects.shiny.float()),
    )


def contrasting(tint: torch.Tensor) -> torch.Tensor:
    """The second colour of a texture: white, or black on light colours."""
    light = torch.tensor([colour(n) for n in ("white", "yellow", "pink", "gray")], device=tint.device)
    return torch.where(torch.isin(tint, light), colour("black"), colour("white"))
