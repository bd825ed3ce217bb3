"""What the blocks compute between their matrix products, in plain torch. A host puts its own fused versions here.

Letters in shape comments: B batch, L tokens, D hidden width, N heads, d head size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6
Table = Any  # a rotary table in the form that its maker's `rotate` takes
Options = dict[str, Any]
Fetch = Callable[[nn.Module | None], None]


class Kernels:
    """Norms, rotary embedding and attention of the blocks. A subclass may change how they are computed, not what.

    `options` is ComfyUI's `transformer_options`: the plain kernels pass it by.
    """

    def embedded(
        self, tokens: dict[str, Tensor], ids: dict[str, Tensor], options: Options
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A host's last word on the embedded tokens, stream -> (B,L_s,D), and their rotary ids, stream -> (L_s,4)."""
        return tokens, ids

    def prefetch(self, blocks: list[nn.Module], device: Any, options: Options) -> Fetch:
        """What is called in front of each of the blocks in turn, with it, and with None behind the last.

        A host may fetch a block's weights then, all at once.
        """
        return lambda block: None

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """(1 + scale) * LayerNorm(x) + shift, no learned affine part. x: (B,L,D); shift and prepared scale: (B,1,D)."""
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), scale)

    def prepare_scale(self, scale: Tensor) -> Tensor:
        """What `modulate` takes as scale, made once for all blocks that share it."""
        return 1 + scale

    def rotary(self, ids: Tensor, head_size: int, theta: float) -> Table:
        """The rotary table (RoFormer, arXiv 2104.09864) of ids (L,4) over 4 position axes: (L,d/2) complex64."""
        angles = rotary_angles(ids, head_size, theta)
        return torch.complex(angles.cos(), angles.sin())

    def part(self, table: Table, start: int, stop: int) -> Table:
        """The table of the tokens start to stop."""
        return table[start:stop]

    def rotates_early(self, options: Options) -> bool:
        """Whether `norm` rotates too. Where it does not, `attention` gets the table and rotates the whole sequence."""
        return False

    def norm(
        self, q: Tensor, k: Tensor, q_scale: Tensor, k_scale: Tensor, table: Table | None
    ) -> tuple[Tensor, Tensor]:
        """RMS-normalised heads, times their scales (d,), and rotated if there is a table. q, k: (B,N,L,d)."""
        q, k = (F.rms_norm(x, x.shape[-1:], scale.to(x), NORM_EPS) for x, scale in ((q, q_scale), (k, k_scale)))
        return (q, k) if table is None else (rotate(q, table), rotate(k, table))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, table: Table | None, options: Options) -> Tensor:
        """Scaled dot-product attention after a rotation by `table`, if there is one. q, k, v: (B,N,L,d) -> (B,L,D)."""
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotary_angles(ids: Tensor, head_size: int, theta: float) -> Tensor:
    """Angles (L,d/2) in float32 by which the pairs of a head turn at positions ids (L,4); each axis owns d/8 pairs."""
    axis = head_size // ids.shape[-1]
    exponents = torch.arange(0, axis, 2, dtype=torch.float32, device=ids.device) / axis
    return (ids.float()[:, :, None] * (1.0 / theta**exponents)).flatten(1)  # (L,4,d/8) -> (L,d/2)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn interleaved pairs of x (B,N,L,d) by the table's angles (L,d/2), in float32."""
    x32 = x.to(torch.float32, copy=True).unflatten(-1, (-1, 2))  # (B,N,L,d/2,2)
    torch.view_as_complex(x32).mul_(table)
    return x32.flatten(-2).to(x.dtype)
