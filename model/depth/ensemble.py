"""Many image -> depth samples as one, with what they disagree about (Marigold, arXiv 2312.02145, test-time ensembling).

Beside other noise, members may see the picture mirrored, and moved against the 16-pixel grid of tokens: borders of
patches then fall elsewhere in each, and the median has none. Letters: N members, B pictures, H rows, W columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..network.config import DEPTH_PATCH
from .codec import decode
from .estimate import Estimator
from .matching import matched

_HALF = DEPTH_PATCH // 2
_CORNERS = ((0, 0), (1, 1), (1, 0), (0, 1))


@dataclass(frozen=True)
class Member:
    """How a member sees the picture: mirrored, its content moved by (down, right) pixels of -8..7."""

    mirrored: bool
    down: int
    right: int

    def view(self, pictures: Tensor) -> Tensor:
        """(B,H,W,C) as this member sees it; what comes in at the borders is a reflection."""
        moved = _moved(pictures.movedim(-1, 1), self.down, self.right, "reflect").movedim(1, -1)
        return moved.flip(2) if self.mirrored else moved

    def back(self, depth: Tensor) -> Tensor:
        """A map (B,H,W) of that view in the picture's own place; NaN where the view saw nothing of it."""
        depth = depth.flip(2) if self.mirrored else depth
        return _moved(depth[:, None], -self.down, -self.right, "constant", torch.nan)[:, 0]


@dataclass(frozen=True)
class Merged:
    """depth (B,H,W), NaN where no member knows it; uncertainty (B,H,W): the median of the members' distance from it,
    as a share of the depth (0.1: half of them are off by 10 % or more)."""

    depth: Tensor
    uncertainty: Tensor


def members(count: int, mirror: bool, shift: bool) -> list[Member]:
    """The first sees the picture as it is. ValueError for fewer than one."""
    if count < 1:
        raise ValueError(f"got {count} members, expected at least 1")
    return [Member(mirror and k % 2 == 1, *(_offset(k) if shift else (0, 0))) for k in range(count)]


def ensemble(estimate: Estimator, pictures: Tensor, chosen: list[Member]) -> Merged:
    """Estimate pictures (B,H,W,3) as often as there are members, and merge. One plain member gives the plain sample."""
    count, height, width = pictures.shape[:3]
    noise = estimate.noise(count * len(chosen), height, width)
    views = torch.cat([member.view(pictures) for member in chosen])  # (N*B,H,W,3)
    depth, valid = decode(estimate(views, noise))
    maps = torch.where(valid, depth, torch.nan).unflatten(0, (len(chosen), count))
    return merge(torch.stack([member.back(one) for member, one in zip(chosen, maps, strict=True)]))


def merge(maps: Tensor) -> Merged:
    """The median of maps (N,B,H,W), NaN where unknown, each brought to the first one's scale and shift."""
    aligned = torch.stack([maps[0], *(matched(one, maps[0]) for one in maps[1:])])
    depth = median(aligned)
    return Merged(depth, median((aligned - depth).abs() / depth))


def uncertainty_picture(uncertainty: Tensor) -> Tensor:
    """(B,H,W) -> (B,H,W,3) in 0..1: each map over its own 98th percentile."""
    top = torch.stack([one.flatten().kthvalue(max(1, int(0.98 * one.numel()))).values for one in uncertainty])
    return (uncertainty / top.clamp_min(1e-6)[:, None, None]).clamp(0, 1)[..., None].expand(-1, -1, -1, 3)


def median(maps: Tensor) -> Tensor:
    """The median over the first axis of what is not NaN, the mean of the middle two for even counts; NaN for none."""
    ordered = maps.sort(dim=0).values  # NaN comes last
    last = (~maps.isnan()).sum(0, keepdim=True) - 1
    middle = [ordered.gather(0, index.clamp_min(0))[0] for index in (last // 2, (last + 1) // 2)]
    return torch.where(middle[0] == middle[1], middle[0], 0.5 * (middle[0] + middle[1]))


def _offset(index: int) -> tuple[int, int]:
    """Evenly over the patch for any number of them: the digits of the index, in base 4, name ever finer quarters."""
    down = right = 0
    step = _HALF
    while index and step:
        index, digit = divmod(index, 4)
        down, right = down + step * _CORNERS[digit][0], right + step * _CORNERS[digit][1]
        step //= 2
    return _signed(down), _signed(right)


def _signed(offset: int) -> int:
    return offset - DEPTH_PATCH if offset >= _HALF else offset


def _moved(planes: Tensor, down: int, right: int, mode: str, value: float | None = None) -> Tensor:
    """Planes (B,C,H,W) with their content moved by whole pixels."""
    if down == right == 0:
        return planes
    height, width = planes.shape[-2:]
    padded = F.pad(planes, (_HALF,) * 4, mode=mode, value=value)
    return padded[..., _HALF - down : _HALF - down + height, _HALF - right : _HALF - right + width]
