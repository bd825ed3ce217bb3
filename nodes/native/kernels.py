"""The blocks' norms, rotation and attention by ComfyUI's own functions: fused ones where the host brings them.

Hosts with comfy-kitchen (0.33 does) have one kernel for layer norm and modulation, and one for the norms of queries
and keys and their rotation. Elsewhere, and in training, where these have no gradients, the plain ones take their place.
"""

import importlib
import importlib.util
from typing import Any

import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.quant_ops
import torch
from torch import Tensor, nn

from ...model.network.kernels import NORM_EPS, Fetch, Kernels, Options, Table, rotary_angles, rotate

KITCHEN = getattr(comfy.quant_ops, "ck", None)
PREFETCH = "comfy.model_prefetch"  # ComfyUI 0.3 has none
LOADER = importlib.import_module(PREFETCH) if importlib.util.find_spec(PREFETCH) else None
HAS_FUSED = hasattr(KITCHEN, "adaln") and hasattr(KITCHEN, "rms_rope")


class HostKernels(Kernels):
    """The rotary table has core's form, so that its functions and other packs' patches can read it."""

    @property
    def fused(self) -> bool:
        return HAS_FUSED and not comfy.model_management.in_training

    def embedded(
        self, tokens: dict[str, Tensor], ids: dict[str, Tensor], options: Options
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Core's `rope_options` on the grids of image and depth alike, then its `post_input` patches."""
        rope = options.get("rope_options")
        if rope:
            scale = [1.0, rope.get("scale_y", 1.0), rope.get("scale_x", 1.0), 1.0]  # core's FLUX has none for time
            shift = [rope.get("shift_t", 0.0), rope.get("shift_y", 0.0), rope.get("shift_x", 0.0), 0.0]
            ids = {n: x if n == "txt" else x * x.new_tensor(scale) + x.new_tensor(shift) for n, x in ids.items()}
        for patch in _patches(options, "post_input"):
            names = ("img", "txt")
            seen = {f"{n}_ids": ids[n].expand(len(tokens[n]), -1, -1) for n in names}
            out = patch({**{n: tokens[n] for n in names}, **seen, "transformer_options": options})
            changed = [n for n in names if out[n].shape != tokens[n].shape]
            if changed:
                raise ValueError(
                    f"{patch.__qualname__.split('.')[0]} changes the number of tokens of {' and '.join(changed)}, from "
                    f"{[tokens[n].shape[1] for n in changed]} to {[out[n].shape[1] for n in changed]}; this model "
                    "knows those of the latent and the text only. Remove the node."
                )
            tokens = {**tokens, **{n: out[n] for n in names}}
            ids = {**ids, **{n: out[f"{n}_ids"][0] for n in names}}
        return tokens, ids

    def prefetch(self, blocks: list[nn.Module], device: Any, options: Options) -> Fetch:
        """Under dynamic VRAM, core's queue: a block's weights are fetched together, ahead of the device."""
        queue = LOADER.make_prefetch_queue(blocks, device, options) if LOADER else None
        if queue is None:
            return super().prefetch(blocks, device, options)
        return lambda block: LOADER.prefetch_queue_pop(queue, device, block)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return KITCHEN.adaln(x, scale, shift, NORM_EPS) if self.fused else super().modulate(x, shift, scale)

    def prepare_scale(self, scale: Tensor) -> Tensor:
        return scale if self.fused else super().prepare_scale(scale)

    def rotary(self, ids: Tensor, head_size: int, theta: float) -> Table:
        """(1,1,L,d/2,2,2): a rotation matrix for each pair; by columns in memory where `_rotated` reads columns."""
        angles = rotary_angles(ids, head_size, theta)
        cos, sin = angles.cos(), angles.sin()
        if HAS_FUSED:
            return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))[None, None]
        return torch.stack([cos, sin, -sin, cos], dim=-1).unflatten(-1, (2, 2)).mT[None, None]

    def part(self, table: Table, start: int, stop: int) -> Table:
        return table[:, :, start:stop]

    def rotates_early(self, options: Options) -> bool:
        return self.fused and not _patches(options, "attn1_patch")

    def norm(
        self, q: Tensor, k: Tensor, q_scale: Tensor, k_scale: Tensor, table: Table | None
    ) -> tuple[Tensor, Tensor]:
        if table is not None and self.fused:
            # As tokens before heads: so they lie in memory, and so all of the function's backends return them.
            args = (x.transpose(1, 2) for x in (q, k, table))
            q, k = KITCHEN.rms_rope(*args, q_scale.to(q), k_scale.to(k), NORM_EPS)
            return q.transpose(1, 2), k.transpose(1, 2)
        q, k = super().norm(q, k, q_scale, k_scale, None)
        return (q, k) if table is None else _rotated(q, k, table)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, table: Table | None, options: Options) -> Tensor:
        """Core's `attn1_patch` before the rotation, its choice of attention, and its `attn1_output_patch`."""
        mask = None
        for patch in _patches(options, "attn1_patch"):
            out = patch(q, k, v, pe=table, attn_mask=mask, extra_options=options)
            q, k, v = (out.get(name, value) for name, value in (("q", q), ("k", k), ("v", v)))
            table, mask = out.get("pe", table), out.get("attn_mask", mask)
        if table is not None:
            q, k = _rotated(q, k, table)
        attended = comfy.ldm.modules.attention.optimized_attention(
            q, k, v, q.shape[1], mask=mask, skip_reshape=True, transformer_options=options
        )
        for patch in _patches(options, "attn1_output_patch"):
            attended = patch(attended, options)
        return attended


def _rotated(q: Tensor, k: Tensor, table: Table) -> tuple[Tensor, Tensor]:
    """By core's function; by the plain one, which moves less, where core's is not fused and complex numbers will do."""
    if HAS_FUSED or q.device.type not in ("cpu", "cuda", "meta") or torch.compiler.is_compiling():
        return comfy.ldm.flux.math.apply_rope(q, k, table)
    column = table[..., 0]  # (1,1,L,d/2,2): cosine and sine
    turns = torch.view_as_complex(column if column.stride(-1) == 1 else column.contiguous())
    return rotate(q, turns), rotate(k, turns)


def _patches(options: Options, kind: str) -> list[Any]:
    """The patches of a kind, for blocks that core's FLUX.2 has too: not for the depth decoder's."""
    return [] if options.get("block_type") == "depth_decoder" else options.get("patches", {}).get(kind, [])
