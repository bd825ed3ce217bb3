"""Ray intersections and normals of the unit shapes every object is built from.

A solid is a unit shape under an affine map (turn, stretch, move). The ray parameter survives an affine map, so only
these unit shapes need formulas (standard quadrics; Roth 1982 for the interval view). All are convex, axis z, inside
[-1, 1]^3. Letters: K rays. ``origin`` and ``ray`` are (K,3) in the shape's frame; the result is the parameter (K,) at
which the ray enters the shape, +inf where it misses or starts inside or behind.
"""

import torch

SPHERE, BOX, CYLINDER, CONE, PYRAMID, CAPSULE = range(6)
INF = float("inf")
_TINY = 1e-12


def _safe(x: torch.Tensor) -> torch.Tensor:
    """x with zeros replaced by a tiny number, so that a division gives a large value instead of NaN."""
    return torch.where(x.abs() < _TINY, torch.full_like(x, _TINY), x)


def _slab(o: torch.Tensor, d: torch.Tensor, low: float = -1.0, high: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Interval of parameters in which low <= o + t d <= high."""
    inverse = 1.0 / _safe(d)
    a, b = (low - o) * inverse, (high - o) * inverse
    return torch.minimum(a, b), torch.maximum(a, b)


def _roots(a: torch.Tensor, half_b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ordered roots of a t^2 + 2 half_b t + c and whether they are real."""
    a = _safe(a)
    disc = half_b * half_b - a * c
    root = disc.clamp_min(0.0).sqrt()
    first, second = (-half_b - root) / a, (-half_b + root) / a
    return torch.minimum(first, second), torch.maximum(first, second), disc > 0


def _dot2(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1]


def _dot3(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _enter(near: torch.Tensor, far: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    hit = near < far if real is None else (near < far) & real
    return torch.where(hit, near, INF)


def _ball(o: torch.Tensor, d: torch.Tensor, height: float, radius: float) -> torch.Tensor:
    lifted = torch.stack((o[:, 0], o[:, 1], o[:, 2] - height), -1)
    near, _, real = _roots(_dot3(d, d), _dot3(lifted, d), _dot3(lifted, lifted) - radius * radius)
    return torch.where(real, near, INF)


def _sphere(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return _ball(o, d, 0.0, 1.0)


def _box(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    near, far = _slab(o, d)
    return _enter(near.amax(1), far.amin(1))


def _tube(o: torch.Tensor, d: torch.Tensor, radius: float, half: float) -> torch.Tensor:
    near, far, real = _roots(_dot2(d, d), _dot2(o, d), _dot2(o, o) - radius * radius)
    low, high = _slab(o[:, 2], d[:, 2], -half, half)
    return _enter(torch.maximum(near, low), torch.minimum(far, high), real)


def _cylinder(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return _tube(o, d, 1.0, 1.0)


def _cone(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """x^2 + y^2 = ((1 - z) / 2)^2 for z in [-1, 1]: radius 1 at the base, apex at z = 1."""
    s, sd = (1.0 - o[:, 2]) * 0.5, -0.5 * d[:, 2]
    first, second, real = _roots(_dot2(d, d) - sd * sd, _dot2(o, d) - s * sd, _dot2(o, o) - s * s)
    best = torch.full_like(s, INF)
    for t in (second, first):  # a steep ray may enter through either root, the other nappe is cut off by z
        z = o[:, 2] + t * d[:, 2]
        best = torch.where(real & (z.abs() <= 1.0), t, best)
    base = (-1.0 - o[:, 2]) / _safe(d[:, 2])
    foot = o[:, :2] + base[:, None] * d[:, :2]
    rising = d[:, 2] > 0  # from above the base is never entered
    return torch.where(rising & (_dot2(foot, foot) <= 1.0), torch.minimum(base, best), best)


def _pyramid(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """|x| and |y| at most (1 - z) / 2, z >= -1: four slanted planes and the base, as half spaces n.p <= h."""
    near = torch.full_like(o[:, 0], -INF)
    far = torch.full_like(near, INF)
    for ax, sign in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0), (2, 0.0)):
        side = o[:, ax] * sign + o[:, 2] * 0.5 - 0.5 if sign else -1.0 - o[:, 2]
        speed = d[:, ax] * sign + d[:, 2] * 0.5 if sign else -d[:, 2]
        t = -side / _safe(speed)
        near = torch.where(speed < 0, torch.maximum(near, t), near)
        far = torch.where(speed >= 0, torch.minimum(far, t), far)
    return _enter(near, far)


def _capsule(o: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Radius 0.5 around the segment z in [-0.5, 0.5]."""
    body = _tube(o, d, 0.5, 0.5)
    return torch.minimum(body, torch.minimum(_ball(o, d, 0.5, 0.5), _ball(o, d, -0.5, 0.5)))


_ENTER = {SPHERE: _sphere, BOX: _box, CYLINDER: _cylinder, CONE: _cone, PYRAMID: _pyramid, CAPSULE: _capsule}


def enter(shape: int, origin: torch.Tensor, ray: torch.Tensor) -> torch.Tensor:
    """Parameter (K,) > 0 at which each ray enters the unit ``shape``, +inf where it does not."""
    # Start at the point closest to the shape's centre: far objects would cancel in float32 otherwise.
    shift = -_dot3(origin, ray) / _dot3(ray, ray).clamp_min(_TINY)
    t = _ENTER[shape](origin + shift[:, None] * ray, ray) + shift
    return torch.where(t > 0, t, INF)


def _box_normal(p: torch.Tensor) -> torch.Tensor:
    axis = p.abs().argmax(1, keepdim=True)
    return torch.zeros_like(p).scatter_(1, axis, p.gather(1, axis).sign())


def _cylinder_normal(p: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(1)
    cap = z.abs() > (x * x + y * y).sqrt()
    return torch.stack((torch.where(cap, 0.0, x), torch.where(cap, 0.0, y), torch.where(cap, z, 0.0)), 1)


def _cone_normal(p: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(1)
    radius = (x * x + y * y).sqrt()
    base = (z + 1.0).abs() < ((1.0 - z) * 0.5 - radius).abs() + 1e-5
    return torch.stack((torch.where(base, 0.0, x), torch.where(base, 0.0, y), torch.where(base, -1.0, radius * 0.5)), 1)


def _pyramid_normal(p: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(1)
    wide = torch.maximum(x.abs(), y.abs())
    base = (z + 1.0).abs() < ((1.0 - z) * 0.5 - wide).abs() + 1e-5
    along_x = x.abs() >= y.abs()
    nx = torch.where(along_x & ~base, x.sign(), 0.0)
    ny = torch.where(~along_x & ~base, y.sign(), 0.0)
    return torch.stack((nx, ny, torch.where(base, -1.0, 0.5)), 1)


def _capsule_normal(p: torch.Tensor) -> torch.Tensor:
    x, y, z = p.unbind(1)
    return torch.stack((x, y, z - z.clamp(-0.5, 0.5)), 1)


_NORMAL = {
    SPHERE: torch.clone,
    BOX: _box_normal,
    CYLINDER: _cylinder_normal,
    CONE: _cone_normal,
    PYRAMID: _pyramid_normal,
    CAPSULE: _capsule_normal,
}


def normal(shape: int, point: torch.Tensor) -> torch.Tensor:
    """Outward normal (K,3), not of unit length, of the unit ``shape`` at surface points (K,3)."""
    return _NORMAL[shape](point)


def surface_uv(shape: int, point: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    """Texture coordinates (K,2), in units of the shape's width, at surface points (K,3) of the unit shape.

    ``half`` (K,3) are the solid's half extents in metres, so that squares stay square on a stretched solid. Boxes and
    pyramids: the two axes of the face; round shapes: the turn around the axis (whole number of periods) and height.
    """
    x, y, z = point.unbind(1)
    if shape in (BOX, PYRAMID):
        scaled = point * (half / half[:, :1]) * 0.499  # just under 0.5: the rim of a face stays in its last cell
        axis = (point.abs() if shape == BOX else _pyramid_normal(point).abs()).argmax(1)
        sx, sy, sz = scaled.unbind(1)
        u = torch.where(axis == 0, sy, sx)
        v = torch.where(axis == 2, sy, sz)
        return torch.stack((u, v), 1)
    turn = torch.atan2(y, x) * (0.5 / torch.pi)
    # A quarter turn shows about one width; three periods per turn pair reads as squares on a ball.
    return torch.stack((turn * 2.0, z * 0.499 * half[:, 2] / half[:, 0]), 1)
