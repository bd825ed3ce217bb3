"""The blocks' norms, rotation and attention by ComfyUI's own functions: fused ones where the host brings them.

Hosts with comfy-kitchen (0.33 does) have one kernel for layer norm and modulation, and one for the norms of queries
and keys and their rotation. Elsewhere, and in training, where these have no gradients, the plain ones take their place.
"""

import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.quant_ops
import torch
from torch import Tensor

from ...model.network.kernels import NORM_EPS, Kernels, Options, Table, rotary_angles

KITCHEN = getattr(comfy.quant_ops, "ck", None)
HAS_FUSED = hasattr(KITCHEN, "adaln") and hasattr(KITCHEN, "rms_rope")


class HostKernels(Kernels):
    """The rotary table has core's form, so that its functions and other packs' patches can read it."""

    @property
    def fused(self) -> bool:
        return HAS_FUSED and not comfy.model_management.in_training

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return KITCHEN.adaln(x, scale, shift, NORM_EPS) if self.fused else super().modulate(x, shift, scale)

    def prepare_scale(self, scale: Tensor) -> Tensor:
        return scale if self.fused else super().prepare_scale(scale)

    def rotary(self, ids: Tensor, head_size: int, theta: float) -> Table:
        """(1,1,L,d/2,2,2): a rotation matrix for each pair."""
        angles = rotary_angles(ids, head_size, theta)
        cos, sin = angles.cos(), angles.sin()
        return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))[None, None]

    def part(self, table: Table, start: int, stop: int) -> Table:
        return table[:, :, start:stop]

    def rotates_early(self, options: Options) -> bool:
        return self.fused

    def norm(
        self, q: Tensor, k: Tensor, q_scale: Tensor, k_scale: Tensor, table: Table | None
    ) -> tuple[Tensor, Tensor]:
        if table is not None and self.fused:
            # As tokens before heads: so they lie in memory, and so all of the function's backends return them.
            args = (x.transpose(1, 2) for x in (q, k, table))
            q, k = KITCHEN.rms_rope(*args, q_scale.to(q), k_scale.to(k), NORM_EPS)
            return q.transpose(1, 2), k.transpose(1, 2)
        q, k = super().norm(q, k, q_scale, k_scale, None)
        return (q, k) if table is None else comfy.ldm.flux.math.apply_rope(q, k, table)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, table: Table | None, options: Options) -> Tensor:
        if table is not None:
            q, k = comfy.ldm.flux.math.apply_rope(q, k, table)
        return comfy.ldm.modules.attention.optimized_attention(
            q, k, v, q.shape[1], skip_reshape=True, transformer_options=options
        )
