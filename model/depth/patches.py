"""Whether the patches of a depth latent still fit each other: nodes that move or blend whole cells tear them apart."""

import torch
from torch import Tensor

from ..network.config import DEPTH_PATCH
from .codec import unpatchify

# Measured on 128² and 256²: procedural depth at most 3.4, the bundled model's at most 6.7 (at guidance 5), the same
# flipped or rotated as latents 7 to 30, enlarged bilinearly 3.4 to 7.
TORN_RATIO = 7.0


def border_ratio(latent: Tensor) -> float:
    """Mean step of the codes across patch borders over the mean step inside patches, the largest of a batch.

    latent: (B,256,h,w), NaN where unknown. 0 where there is one patch only or nothing known.
    """
    maps = unpatchify(latent.float())  # (B,16h,16w)
    across, inside = zip(*(_steps(m) for m in (maps, maps.transpose(1, 2))), strict=True)
    across, inside = (torch.cat(steps, dim=1).nanmean(1) for steps in (across, inside))
    ratio = across / inside.clamp_min(1e-6)
    return float(ratio.nan_to_num().amax()) if len(ratio) else 0.0


def _steps(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Steps between neighbours of the last axis: across borders and inside patches, each (B,N)."""
    steps = maps.diff(dim=-1).abs()
    border = torch.arange(steps.shape[-1], device=maps.device) % DEPTH_PATCH == DEPTH_PATCH - 1
    return steps[..., border].flatten(1), steps[..., ~border].flatten(1)
