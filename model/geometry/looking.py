"""What a user chose by hand in a viewer, as the viewer writes it (JSON): a view, and points with a known distance."""

import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from .browser_packets import one_image
from .edges import DEFAULT_EDGE
from .orbit import Orbit
from .packets import Geometry, read_geometry
from .pointcloud import PointCloud, point_clouds

_AGAIN = "choose it again in the viewer"


@dataclass(frozen=True)
class View:
    """A camera and what it sees: points off depth edges (0 keeps all) and up to `far` median depths (0 keeps all).

    orbit: None is the source camera.
    """

    orbit: Orbit | None = None
    edge: float = DEFAULT_EDGE
    far: float = 0.0

    def clouds(self, packet: dict[str, Any]) -> list[PointCloud]:
        """The points of a MOGE_GEOMETRY packet that the view keeps, one cloud for each image."""
        clouds = []
        for index in range(len(packet["depth"])):
            image = one_image(packet, index)
            far = self.far * median_depth(read_geometry(image), 0)
            clouds += point_clouds(image, edge_threshold=self.edge, far=far)
        return clouds


@dataclass(frozen=True)
class Pick:
    """Pixels (x, y) of image `index`: one whose distance is known, or two that are `distance` apart."""

    pixels: tuple[tuple[int, int], ...]
    distance: float
    index: int = 0


def read_view(text: str) -> View:
    """The view of a viewer's text; the empty text is the source view. ValueError for anything else."""
    if not text:
        return View()
    content = _read(text, "view")
    pivot = content.get("pivot")
    if not (isinstance(pivot, list) and len(pivot) == 3):
        raise ValueError(f"got a view whose pivot is {pivot!r}, expected three numbers; {_AGAIN}")
    fov = content.get("fov_y_deg")
    orbit = Orbit(
        tuple(_number(value, "pivot") for value in pivot),
        _number(content.get("distance"), "distance", above=0.0),
        _number(content.get("yaw"), "yaw"),
        _number(content.get("pitch"), "pitch"),
        None if fov is None else _number(fov, "fov_y_deg", above=0.0),
    )
    return View(orbit, _number(content.get("edge", 0), "edge", 0.0), _number(content.get("far", 0), "far", 0.0))


def read_pick(text: str) -> Pick | None:
    """The pick of a viewer's text, None for the empty one. ValueError for anything else."""
    if not text:
        return None
    content = _read(text, "pick")
    pixels, index = content.get("pixels"), content.get("index", 0)
    pairs = isinstance(pixels, list) and all(isinstance(p, list) and len(p) == 2 for p in pixels)
    if not pairs or len(pixels) not in (1, 2) or not isinstance(index, int) or index < 0:
        raise ValueError(f"got the picked pixels {pixels!r} of image {index!r}, expected one or two [x, y]; {_AGAIN}")
    whole = tuple((int(_number(x, "x", 0.0)), int(_number(y, "y", 0.0))) for x, y in pixels)
    return Pick(whole, _number(content.get("distance"), "distance", above=0.0), index)


def known_distance(packet: dict[str, Any], pick: Pick | None) -> tuple[float, float, float]:
    """(x, y, distance along the view) of one pixel, which fixes the scale of the depth.

    Of two pixels that are a known distance apart, the first gets the distance that makes them so. Without a pick it is
    the valid pixel nearest to the middle with the depth it has, which changes nothing.
    """
    geometry = read_geometry(packet)
    if pick is None:
        return _middle(geometry)
    if pick.index >= len(geometry.depth):
        raise ValueError(f"got a point in image {pick.index} of a batch of {len(geometry.depth)}; {_AGAIN}")
    points = [_point(geometry, pick.index, x, y) for x, y in pick.pixels]
    x, y = pick.pixels[0]
    if len(points) == 1:
        return float(x), float(y), pick.distance
    apart = float(torch.dist(*points))
    if apart == 0.0:
        raise ValueError(f"the two picked pixels are the same point in space; {_AGAIN}")
    return float(x), float(y), float(points[0][2]) * pick.distance / apart


def median_depth(geometry: Geometry, index: int) -> float:
    """The upper median of an image's valid depth; 1 where it has none."""
    values = geometry.depth[index][geometry.valid[index]]
    if len(values) == 0:
        return 1.0
    return float(torch.kthvalue(values.float(), len(values) // 2 + 1).values)


def _point(geometry: Geometry, index: int, x: int, y: int) -> torch.Tensor:
    height, width = geometry.depth.shape[1:]
    if x >= width or y >= height:
        raise ValueError(f"got the picked pixel ({x}, {y}) for depth of {width} × {height}; {_AGAIN}")
    if not bool(geometry.valid[index, y, x]):
        raise ValueError(f"there is no depth at the picked pixel ({x}, {y}); {_AGAIN}")
    return geometry.points[index, y, x]


def _middle(geometry: Geometry) -> tuple[float, float, float]:
    height, width = geometry.depth.shape[1:]
    rows, columns = torch.nonzero(geometry.valid[0], as_tuple=True)
    if len(rows) == 0:
        return float(width // 2), float(height // 2), 1.0
    nearest = int(((rows - height / 2) ** 2 + (columns - width / 2) ** 2).argmin())
    x, y = int(columns[nearest]), int(rows[nearest])
    return float(x), float(y), float(geometry.depth[0, y, x])


def _read(text: str, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"got the {what} {text[:80]!r}, expected what the viewer writes; {_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(f"got the {what} {text[:80]!r}, expected what the viewer writes; {_AGAIN}")
    return content


def _number(value: Any, name: str, least: float = -math.inf, *, above: float = -math.inf) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not math.isfinite(value) or value < least or value <= above:
        raise ValueError(f"got {name} = {value!r} from the viewer, expected a finite number in its range; {_AGAIN}")
    return float(value)
