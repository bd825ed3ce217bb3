"""Whether the patches of a depth latent still fit each other: nodes that move or blend whole cells tear them apart."""

import torch
from torch import Tensor

from ..network.config import DEPTH_PATCH
from .codec import unpatchify

# Of `tear`. Measured on maps of 128² to 512²: procedural and real depth at most 0.21, the bundled model's 0.3 to 0.5 at
# the median and above 0.8 at times (joint, log2_alpha 5); rotated or flipped as latents 1.2 to 2.9 at the median,
# enlarged twice 0.9 to 1.5. Not told: enlarged 1.5 times (0.44 to 0.97) and shrunk to a half (0.52 to 0.75), where what
# the bundled model makes is as rough.
MOVED = 1.5  # flipped or rotated
ENLARGED = 0.9  # the same or enlarged; a small model's rough depth may be taken for it
_FLAT = 0.005  # of the codes: a map that changes by less from a patch to the next has nothing to tear


def tear(latent: Tensor) -> float:
    """How far the last pixels of patches are from the next patch, over how far they are from its last pixels: the
    larger of both axes, the median of a batch, since nodes move the cells of all. A ramp has 1/16; 31/16 if its cells
    are flipped.

    latent: (B,256,h,w), NaN where unknown. 0 where there is one patch only or nothing known.
    """
    maps = unpatchify(latent.float())  # (B,16h,16w)
    steps = [_steps(m) for m in (maps, maps.transpose(1, 2))]
    near, far, count = (torch.stack(values) for values in zip(*steps, strict=True))  # (2,B) each
    # An axis along which there is little to see is held against the whole.
    ratios = near / far.maximum(far.sum(0) / 4).maximum(_FLAT * count).clamp_min(1e-6)
    return float(ratios.amax(0).median()) if ratios.numel() else 0.0


def _steps(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Along the last axis, each (B,): sums of the steps over borders of patches and of those over a patch's length
    beside them, and how many of each."""
    patches = maps.unflatten(2, (-1, DEPTH_PATCH))  # (B,H,w,16)
    first, second = patches[:, :, :-1], patches[:, :, 1:]
    near = (second[..., 0] - first[..., -1]).abs()
    far = ((second[..., 0] - first[..., 0]).abs() + (second[..., -1] - first[..., -1]).abs()) / 2
    known = near.isfinite() & far.isfinite()
    return *(torch.where(known, values, 0).sum((1, 2)) for values in (near, far)), known.sum((1, 2))
