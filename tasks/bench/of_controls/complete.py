"""A map of which a part is missing, completed beside a picture: the ways to give the part that is there."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ....model.depth.codec import encode
from ....model.depth.completion import complete, towards_points
from ....model.geometry.scene import filled_from_around
from ...workflows.settings import PAINTED_FINEST
from .guidance import Setting, sample
from .small import MAX_CODE, Row, Small, depth_of

COUNT, FIRST = 8, 9000


def rows(small: Small) -> Iterator[Row]:
    """Error where depth was missing, in the unit of the part that was there: a middle of a fifth, and a half."""
    scenes = small.scenes(COUNT, FIRST)
    truth = torch.where(scenes.valid, scenes.depth, torch.nan)
    texts = small.words.encode(scenes.captions), small.words.encode([""]).expand(COUNT, -1, -1)
    side = small.side
    holes = {
        "the middle": (slice(side // 3, 4 * side // 5), slice(side // 3, 3 * side // 4)),
        "the right half": (slice(None), slice(side // 2, None)),
    }
    for name, (lines, columns) in holes.items():
        known = truth.clone()
        known[:, lines, columns] = torch.nan
        ways = {"held": _held(small, texts, known), "drawn": _drawn(small, texts, known), "continued": _around(known)}
        missing = truth.isfinite() & known.isnan()
        errors = {way: ((depth - truth).abs() / truth)[missing] for way, depth in ways.items()}
        figures = ", ".join(
            f"{way} {100 * float(off.mean()):.1f} % (half within {100 * float(off.median()):.1f})"
            for way, off in errors.items()
        )
        yield Row("complete", f"{name} missing, {COUNT} scenes", f"error there {figures}")


def _held(small: Small, texts: tuple[Tensor, Tensor], known: Tensor) -> Tensor:
    """As by 'Depth as Condition' with a mask: known pixels are the given ones at each step, at their own mean."""
    codes = encode(known)
    made = sample(small, texts, Setting(0.0), lambda clean, _: torch.where(codes.isnan(), clean, codes))[1]
    return depth_of(made.clamp(0.01, MAX_CODE)) * known.nanmean((1, 2), keepdim=True)


def _drawn(small: Small, texts: tuple[Tensor, Tensor], known: Tensor) -> Tensor:
    """As by 'Guide Depth to Points', then 'Fit Depth to Points'."""
    made = sample(small, texts, Setting(0.0), lambda clean, _: towards_points(clean, known, 1.0, PAINTED_FINEST))[1]
    depth = depth_of(made.clamp(0.01, MAX_CODE))
    return torch.stack([complete(*pair).depth for pair in zip(depth, known, strict=True)])


def _around(known: Tensor) -> Tensor:
    """A smooth continuation of what is there."""
    valid = known.isfinite()
    return filled_from_around(known.log()[..., None], valid)[..., 0].exp()
