"""Whether the patches of a depth latent still fit each other: nodes that move or blend whole cells tear them apart.

In a whole map the step from the mean of one patch to the next is what the slope inside of both says. So the slopes,
regressed on the steps, have a factor of 1 along their own axis and of 0 along the other. Rough patches bring the factor
down towards 0, no further; cells that were flipped have -1, enlarged ones the factor of enlargement, and turned ones
have theirs along the other axis. Letters: B maps, h and w cells, p = 16 pixels.
"""

import torch
from torch import Tensor

from ..network.config import DEPTH_PATCH
from .codec import unpatchify

# Measured on single maps of 128² to 512²: procedural, real, and of the bundled model in all modes with 1 to 10 steps
# and guidance 1 to 4 (93 maps). Whole: own factors 0.01 to 1.10, the other axis 0.31 to 1.5 below them. Flipped:
# down to -1, at the median -0.4 to -1. Turned: the other axis 0.3 to 1.1 above. Enlarged 1.5 times: 0.9 to 1.8, at
# the median 1.2 to 1.6; twice: at the median 1.6 to 2.2. Shrunk maps are not told.
_FLIPPED, _TURNED, _ENLARGED = -0.2, 0.2, 1.25
_REPEATED = 0.1  # of the cells: whole maps have no cell that is like its neighbours on both axes, unless it is flat
_FLAT = 0.005  # of the codes: a map that changes by less from a patch to the next has nothing to tear


def torn(latent: Tensor) -> bool:
    """Whether the cells of a depth latent (B,256,h,w) were flipped, turned or enlarged. NaN where unknown.

    Of a batch the middle map decides, since nodes move the cells of all.
    """
    patches = unpatchify(latent.float()).unflatten(2, (-1, DEPTH_PATCH)).unflatten(1, (-1, DEPTH_PATCH))
    patches = patches.transpose(2, 3)  # (B,h,w,p,p)
    own, other = (values.median(1).values for values in _factors(patches))  # (2,) each
    turned = other.max() - own.max()
    factors = bool(own.min() < _FLIPPED or own.max() > _ENLARGED or turned > _TURNED)
    return factors or _repeated(patches) > _REPEATED


def _factors(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes over steps, (2,B) each: along y and x, of the slopes along the same axis and of those along the other."""
    ramp = torch.arange(DEPTH_PATCH, device=patches.device) - (DEPTH_PATCH - 1) / 2
    ramp = ramp * DEPTH_PATCH / (ramp**2).sum()  # least squares, over a patch's length
    slopes = (patches.mean(4) * ramp).sum(3), (patches.mean(3) * ramp).sum(3)  # (B,h,w) along y and x
    sums = [_regress(patches.mean((3, 4)), slopes[axis], slopes[1 - axis], axis + 1) for axis in (0, 1)]
    own, other, steps, count = (torch.stack(values) for values in zip(*sums, strict=True))  # (2,B) each
    # An axis along which there is little to see is held against the whole.
    steps = steps.maximum(steps.sum(0) / 4).maximum(_FLAT**2 * count).clamp_min(1e-12)
    return own / steps, (other / steps).abs()


def _regress(means: Tensor, own: Tensor, other: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Over the pairs of neighbours along dim, each (B,): sums of slope times step for both slopes, of squared steps,
    and how many pairs are known."""
    count = means.shape[dim] - 1
    pairs = [(values.narrow(dim, 0, count), values.narrow(dim, 1, count)) for values in (means, own, other)]
    step = pairs[0][1] - pairs[0][0]
    known = step.isfinite()
    sums = [torch.where(known, step * slope, 0).sum((1, 2)) for slope in (*(sum(pair) / 2 for pair in pairs[1:]), step)]
    return *sums, known.sum((1, 2))


def _repeated(patches: Tensor) -> float:
    """The share of the cells that are not flat and equal a neighbour along either axis, as enlarging by nearest makes
    them."""
    spread = patches.amax((3, 4)) - patches.amin((3, 4))
    uneven = spread > _FLAT  # not where unknown
    like = uneven
    for dim in (1, 2):
        count = patches.shape[dim] - 1
        same = (patches.narrow(dim, 0, count) == patches.narrow(dim, 1, count)).all(-1).all(-1)
        beside = torch.zeros_like(uneven)
        beside.narrow(dim, 0, count).logical_or_(same)
        beside.narrow(dim, 1, count).logical_or_(same)
        like = like & beside
    return float(like.sum() / uneven.sum().clamp_min(1))
