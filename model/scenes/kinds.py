"""The four kinds of scenes: room, tabletop, street, ground. Each function lays out a batch of one kind (B scenes)."""

from collections.abc import Callable

import torch

from . import objects as things
from .camera import Camera, look
from .draws import Draws
from .layout import Layout, Spots, Surround, append, compact, find_spots, join, nearest_ground, take
from .objects import Solids
from .palette import (
    CHECKERED,
    INDOOR_TIMES,
    KINDS,
    MOTTLED,
    OUTDOOR_TIMES,
    PLAIN,
    ROAD,
    STRIPED,
    SUNSET,
    WINDOWS,
    colour,
)
from .shapes import BOX, CONE, INF

MOST_SOLIDS = 32  # six objects of four solids and eight buildings
GROUNDS = ("green", "yellow", "white", "brown")  # grass, sand, snow, earth
_WALLS = ("white", "white", "yellow", "blue", "green", "pink", "orange", "teal", "gray", "purple")
_FLOORS = ("brown", "brown", "gray", "white", "blue", "green", "red", "black")
_TABLES = ("brown", "brown", "white", "gray", "blue", "red", "green", "black")
_FACADES = ("white", "yellow", "orange", "brown", "gray", "red", "pink")


def _colours(names: tuple[str, ...]) -> list[int]:
    return [colour(name) for name in names]


def _unlike(draws: Draws, name: str, names: tuple[str, ...], *others: torch.Tensor) -> torch.Tensor:
    """(B,) colour index from ``names`` that differs from ``others`` (B,) each."""
    options = torch.tensor(_colours(names), device=draws.device)
    keys = draws.uniform(name, len(names))
    for other in others:
        keys = torch.where(options[None] == other[:, None], 2.0, keys)
    return options[keys.argmin(1)]


def _scenery(
    draws: Draws, shape: int, centre: torch.Tensor, half: torch.Tensor, tint: torch.Tensor, texture: torch.Tensor
) -> Solids:
    """Upright solids without owner. centre, half (B,P,3) m; tint, texture (B,P)."""
    batch, count = tint.shape
    flat = torch.zeros(batch, count, device=draws.device)
    kind = torch.full_like(tint, shape)
    return Solids(
        shape=kind,
        centre=centre,
        half=half,
        turn=torch.eye(3, device=draws.device).expand(batch, count, 3, 3),
        owner=torch.full_like(tint, -1),
        colour=tint,
        second=things.contrasting(tint),
        texture=texture,
        cells=flat + 4.0,
        shine=flat,
    )


def _surround(
    low: torch.Tensor, high: torch.Tensor, tints: list[torch.Tensor], textures: list[torch.Tensor], cells: list[float]
) -> Surround:
    """Surfaces in the order floor, wall, ceiling."""
    tint, texture = torch.stack(tints, 1), torch.stack(textures, 1)
    size = torch.tensor(cells, device=low.device).expand(len(tint), 3)
    return Surround(low, high, tint, things.contrasting(tint), texture, size)


def _stack(*columns: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(*columns), -1)


def _full(like: torch.Tensor, value: int | float) -> torch.Tensor:
    return torch.full_like(like, value)


def _aim(
    draws: Draws,
    size: tuple[int, int],
    place: torch.Tensor,
    yaw: float,
    pitch: tuple[float, float],
    fov: tuple[float, float] = (45.0, 80.0),
) -> Camera:
    """Camera at ``place`` (B,3), yaw within ±``yaw``, pitch and field of view (longer side) in ranges, degrees."""
    return look(
        place,
        draws.uniform("camera yaw", low=-yaw, high=yaw),
        draws.uniform("camera pitch", low=pitch[0], high=pitch[1]),
        draws.uniform("camera fov", low=fov[0], high=fov[1]),
        size,
    )


def _bands(near_m: torch.Tensor, far_m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Limits of the words near and far: the geometric third and two thirds of the range objects stand in."""
    ratio = far_m / near_m
    return near_m * ratio ** (1 / 3), near_m * ratio ** (2 / 3)


def _room(draws: Draws, size: tuple[int, int], full: bool) -> Layout:
    """A closed room seen from its front end."""
    width = draws.uniform("room width", low=4.5, high=8.0)
    length = draws.uniform("room length", low=4.5, high=9.0)
    height = draws.uniform("room height", low=2.5, high=3.6)
    zero = torch.zeros_like(width)
    low, high = _stack(-width / 2, zero, zero), _stack(width / 2, length, height)
    side = draws.uniform("camera side", low=-0.2, high=0.2) * width
    place = _stack(side, zero + 0.25, draws.uniform("camera height", low=1.1, high=1.9))
    camera = _aim(draws, size, place, 14.0, (6.0, 20.0), (55.0, 85.0))

    wall = draws.one_of("wall", _colours(_WALLS))
    floor = _unlike(draws, "floor", _FLOORS, wall)
    plain = _full(floor, PLAIN)
    floor_texture = draws.one_of("floor texture", [PLAIN, PLAIN, CHECKERED, STRIPED]) if full else plain
    wall_texture = draws.one_of("wall texture", [PLAIN, PLAIN, PLAIN, STRIPED]) if full else plain
    ceiling = _full(floor, colour("white"))
    surround = _surround(low, high, [floor, wall, ceiling], [floor_texture, wall_texture, plain], [1.6, 2.0, 1.0])

    near, far = (nearest_ground(camera, place[:, 2]) * 1.05).clamp(1.0, 2.6), length - 0.5
    spots = find_spots(draws, camera, zero, near, far, 0.75, full)
    reach = (width / 2)[:, None] - spots.radius * 1.05
    spots.feet[..., 0] = torch.minimum(torch.maximum(spots.feet[..., 0], -reach), reach)
    words = things.SHAPES if full else things.EASY_SHAPES
    chosen = things.choose_objects(draws, spots.active, words, torch.stack((wall, floor), 1), full)
    lamp = _stack(
        draws.uniform("lamp x", low=-0.35, high=0.35) * width,
        draws.uniform("lamp y", low=0.15, high=0.7) * length,
        height - 0.15,
    )
    return _layout("room", draws, camera, surround, spots, chosen, lamp, INDOOR_TIMES, _bands(near, far))


def _tabletop(draws: Draws, size: tuple[int, int], full: bool) -> Layout:
    """Small things on a table in a room, seen from above its front edge."""
    top = draws.uniform("table height", low=0.6, high=0.85)
    zero = torch.zeros_like(top)
    place = _stack(zero, zero, top + draws.uniform("camera height", low=0.35, high=0.75))
    camera = _aim(draws, size, place, 8.0, (20.0, 36.0), (45.0, 65.0))
    above = place[:, 2] - top
    near = (nearest_ground(camera, above) * 1.3).clamp(0.35, 0.9)
    far = near + draws.uniform("table length", low=0.7, high=1.1)

    wall = draws.one_of("wall", _colours(_WALLS))
    floor = _unlike(draws, "floor", _FLOORS, wall)
    table = _unlike(draws, "table", _TABLES, wall, floor)
    plain = _full(floor, PLAIN)
    table_texture = draws.one_of("table texture", [PLAIN, PLAIN, CHECKERED, STRIPED]) if full else plain
    ceiling = _full(floor, colour("white"))
    low = _stack(zero - 3.0, zero - 1.5, zero)
    high = _stack(zero + 3.0, far + 0.4 + draws.uniform("room length", low=0.8, high=2.5), zero + 2.8)
    surround = _surround(low, high, [floor, wall, ceiling], [plain] * 3, [1.6, 2.0, 1.0])

    spots = find_spots(draws, camera, top, near, far, 0.2, full)
    words = things.SHAPES if full else things.EASY_SHAPES
    chosen = things.choose_objects(draws, spots.active, words, torch.stack((table, wall), 1), full)
    lamp = _stack(
        draws.uniform("lamp x", low=-1.2, high=1.2), far * draws.uniform("lamp y", low=-0.2, high=0.7), zero + 2.4
    )
    bands = _bands(near, far)
    layout = _layout("tabletop", draws, camera, surround, spots, chosen, lamp, INDOOR_TIMES, bands)
    # The table ends a little beyond its objects, so that its edges are in the picture.
    margin = draws.uniform("table margin", 3, low=0.04, high=0.2)
    reach_x = torch.where(spots.active, spots.feet[..., 0].abs() + spots.radius, 0.3).amax(1)
    half_width = reach_x + margin[:, 0]
    front = torch.where(spots.active, spots.feet[..., 1] - spots.radius, INF).amin(1) - margin[:, 1]
    back = torch.where(spots.active, spots.feet[..., 1] + spots.radius, front[:, None] + 0.4).amax(1) + margin[:, 2]
    slab_centre = _stack(zero, (front + back) / 2, top - 0.02)[:, None]
    slab_half = _stack(half_width, (back - front) / 2, zero + 0.02)[:, None]
    slab = _scenery(draws, BOX, slab_centre, slab_half, table[:, None], table_texture[:, None])
    corner = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]], device=draws.device)
    legs_xy = slab_centre[..., :2] + corner * (slab_half[..., :2] - 0.05)
    legs_centre = torch.cat((legs_xy, ((top - 0.04) / 2)[:, None, None].expand(-1, 4, 1)), -1)
    legs_half = _stack(zero + 0.03, zero + 0.03, (top - 0.04) / 2)[:, None].expand(-1, 4, 3)
    dark = table[:, None].expand(-1, 4)
    legs = _scenery(draws, BOX, legs_centre, legs_half, dark, torch.zeros_like(dark))
    layout.solids = compact(append(append(slab, legs), layout.solids), MOST_SOLIDS)
    layout.table_colour, layout.table_texture = table, table_texture
    return layout


def _open(draws: Draws, ground: torch.Tensor, texture: int, cells: float) -> Surround:
    """An endless floor under the sky."""
    low = torch.full((len(draws), 3), -INF, device=draws.device)
    low[:, 2] = 0.0
    return _surround(low, _full(low, INF), [ground] * 3, [_full(ground, texture)] * 3, [cells, 1.0, 1.0])


def _sun(draws: Draws) -> torch.Tensor:
    """(B,3) m: a far point; low at sunset, in front of or behind the camera, mostly sideways."""
    turn = draws.uniform("sun turn", low=0.15, high=0.85) * draws.one_of("sun side", [-1, 1]) * torch.pi
    high = torch.deg2rad(draws.uniform("sun height", low=32.0, high=65.0))
    low = torch.deg2rad(draws.uniform("sun height", low=9.0, high=18.0))
    tilt = torch.where(_outdoor_time(draws) == SUNSET, low, high)
    return 300.0 * _stack(turn.sin() * tilt.cos(), turn.cos() * tilt.cos(), tilt.sin())


def _outdoor_time(draws: Draws) -> torch.Tensor:
    return draws.one_of("time", OUTDOOR_TIMES)


def _street(draws: Draws, size: tuple[int, int], full: bool) -> Layout:
    """A road between two rows of buildings."""
    zero = torch.zeros(len(draws), device=draws.device)
    place = _stack(
        draws.uniform("camera side", low=-2.5, high=2.5), zero, draws.uniform("camera height", low=1.5, high=3.0)
    )
    camera = _aim(draws, size, place, 10.0, (-1.0, 9.0), (55.0, 80.0))
    road = _full(draws.seeds, colour("gray"))
    near, far = (nearest_ground(camera, place[:, 2]) * 1.1).clamp(3.5, 7.0), zero + 26.0
    spots = find_spots(draws, camera, zero, near, far, 2.0, full)
    spots.feet[..., 0] = spots.feet[..., 0].clamp(-6.5, 6.5)
    words = ["car", "car", "car", "tree", "tree", "pine", *(things.SHAPES if full else things.EASY_SHAPES)]
    chosen = things.choose_objects(draws, spots.active, words, road[:, None], full)
    along = draws.chance("car along", 0.8, *spots.yaw.shape[1:])  # most cars drive along the street
    is_car = chosen.word == things.OBJECT_NAMES.index("car")
    spots.yaw = torch.where(is_car & along, torch.pi / 2, spots.yaw)
    surround = _open(draws, road, ROAD, 0.16)
    bands = _bands(near, far)
    layout = _layout("street", draws, camera, surround, spots, chosen, _sun(draws), OUTDOOR_TIMES, bands)

    rows = 4  # buildings on each side
    gap = draws.uniform("building start", 2, low=-2.0, high=3.0)
    deep = draws.uniform("building depth", 2, rows, low=7.0, high=13.0)
    end = gap[..., None] + deep.cumsum(-1) + 0.4 * torch.arange(rows, device=draws.device)
    tall = draws.uniform("building height", 2, rows, low=4.0, high=14.0)
    setback = draws.uniform("building setback", 2, rows, low=0.0, high=1.2)
    side = torch.tensor([-1.0, 1.0], device=draws.device)[None, :, None]
    centre = _stack(side * (12.0 + setback), end - deep / 2, tall / 2).reshape(len(draws), -1, 3)
    half = _stack(torch.full_like(tall, 4.0), deep / 2, tall / 2).reshape(len(draws), -1, 3)
    tint = draws.one_of("facade", _colours(_FACADES), 2 * rows)
    houses = _scenery(draws, BOX, centre, half, tint, torch.full_like(tint, WINDOWS))
    layout.solids = compact(append(houses, layout.solids), MOST_SOLIDS)
    return layout


def _ground(draws: Draws, size: tuple[int, int], full: bool) -> Layout:
    """Open land under the sky, sometimes with mountains."""
    zero = torch.zeros(len(draws), device=draws.device)
    place = _stack(zero, zero, draws.uniform("camera height", low=1.2, high=3.0))
    camera = _aim(draws, size, place, 30.0, (2.0, 16.0))
    land = draws.one_of("ground", _colours(GROUNDS))
    near = (nearest_ground(camera, place[:, 2]) * 1.1).clamp(2.0, 6.0)
    far = near * draws.uniform("field depth", low=4.0, high=7.0)
    spots = find_spots(draws, camera, zero, near, far, 2.5, full)
    plain = things.SHAPES if full else things.EASY_SHAPES
    words = ["tree", "tree", "pine", "pine", "house", "house", *plain]
    chosen = things.choose_objects(draws, spots.active, words, land[:, None], full)
    surround = _open(draws, land, MOTTLED, 0.5)
    # Houses show their door: their front (-y) turned to the camera, give or take 30 degrees.
    facing = torch.atan2(-spots.feet[..., 0], spots.feet[..., 1]) + (spots.yaw / torch.pi - 1.0) * 0.55
    spots.yaw = torch.where(chosen.word == things.OBJECT_NAMES.index("house"), facing, spots.yaw)
    bands = _bands(near, far)
    layout = _layout("ground", draws, camera, surround, spots, chosen, _sun(draws), OUTDOOR_TIMES, bands)

    peaks = 4
    bearing = draws.uniform("mountain turn", peaks, low=-1.0, high=1.0)
    away = draws.uniform("mountain distance", peaks, low=85.0, high=115.0)
    tall = draws.uniform("mountain height", peaks, low=10.0, high=24.0)
    wide = tall * draws.uniform("mountain width", peaks, low=1.2, high=1.75)  # feet stay beyond the objects
    centre = _stack(away * bearing.sin(), away * bearing.cos(), tall * 0.5)
    tint = torch.full_like(land, colour("gray"))[:, None].expand(-1, peaks)
    hills = _scenery(draws, CONE, centre, _stack(wide, wide, tall * 0.5), tint, torch.full_like(tint, MOTTLED))
    present = draws.chance("mountains", 0.5)[:, None] & (torch.arange(peaks, device=draws.device) < peaks)
    hills.shape = torch.where(present, hills.shape, -1)
    layout.solids = compact(append(layout.solids, hills), MOST_SOLIDS)
    return layout


def _layout(
    kind: str,
    draws: Draws,
    camera: Camera,
    surround: Surround,
    spots: Spots,
    chosen: things.Objects,
    lamp: torch.Tensor,
    times: list[int],
    bands: tuple[torch.Tensor, torch.Tensor],
) -> Layout:
    index = torch.full_like(draws.seeds, KINDS.index(kind))
    solids = things.build(draws, chosen, spots.feet, spots.radius, spots.yaw)
    time = draws.one_of("time", times)
    none = torch.zeros_like(index)
    packed = compact(solids, MOST_SOLIDS)
    return Layout(index, time, camera, surround, packed, chosen, lamp, none, none, *bands)


_LAY_OUT: dict[str, Callable[[Draws, tuple[int, int], bool], Layout]] = {
    "room": _room,
    "tabletop": _tabletop,
    "street": _street,
    "ground": _ground,
}


def sample_layout(draws: Draws, size: tuple[int, int], full: bool, kinds: tuple[str, ...] = KINDS) -> Layout:
    """One scene per seed, of a kind drawn from ``kinds``, ``full`` or easy, for pictures of ``size`` (H, W)."""
    drawn = draws.integer("kind", len(kinds))
    parts, places = [], []
    for number, kind in enumerate(kinds):
        index = (drawn == number).nonzero()[:, 0]
        if len(index):
            parts.append(_LAY_OUT[kind](draws.subset(index), size, full))
            places.append(index)
    return take(join(parts), torch.cat(places).argsort())
