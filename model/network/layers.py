"""Building blocks of the transformer.

Letters in shape comments: B batch, L tokens, D hidden width, N heads, d head size, M width of the MLP.
Layers with weights come from `operations` (an object with a `Linear` class: torch.nn, or a host's own), so that a host
can offload, quantise or patch them; what is computed between them comes from `kernels` (see there), so that a host can
fuse it. Small parameters are cast where they are used, because hosts do not move them.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels import Kernels, Options, Table


class Modulation(NamedTuple):
    """Adaptive layer norm parameters, each (B,1,D); `scale` as `Kernels.prepare_scale` left it."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


def timestep_embedding(t: Tensor, width: int = 256, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of 1000 * t, cosines first. t: (B,) in [0, 1] -> (B,width) float32."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) / half * steps)
    angles = 1000.0 * t.float()[:, None] * frequencies  # (B,width/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class RMSNorm(nn.Module):
    """The learned scale of a root-mean-square norm over the last axis. FLUX.2 files call the parameter `scale`."""

    def __init__(self, size: int, dtype: torch.dtype | None = None, device: Any = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size, dtype=dtype, device=device))


class QKNorm(nn.Module):
    """Per-head normalisation of queries and keys."""

    def __init__(self, head_size: int, dtype: torch.dtype | None = None, device: Any = None) -> None:
        super().__init__()
        self.query_norm = RMSNorm(head_size, dtype, device)
        self.key_norm = RMSNorm(head_size, dtype, device)

    def forward(self, q: Tensor, k: Tensor, table: Table | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        return kernels.norm(q, k, self.query_norm.scale, self.key_norm.scale, table)


class Embedder(nn.Module):
    """Linear - SiLU - Linear on a timestep embedding: (B,256) -> (B,D)."""

    def __init__(self, in_size: int, hidden_size: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.in_layer = operations.Linear(in_size, hidden_size, bias=False, **kwargs)
        self.out_layer = operations.Linear(hidden_size, hidden_size, bias=False, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class ModulationLayer(nn.Module):
    """Linear(SiLU(vec)), cut into `count` modulations of (shift, scale, gate). vec: (B,D)."""

    def __init__(self, hidden_size: int, count: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.count = count
        self.lin = operations.Linear(hidden_size, 3 * count * hidden_size, bias=False, **kwargs)

    def forward(self, vec: Tensor, kernels: Kernels) -> list[Modulation]:
        chunks = self.lin(F.silu(vec))[:, None].chunk(3 * self.count, dim=-1)  # each (B,1,D)
        thirds = (chunks[3 * i : 3 * i + 3] for i in range(self.count))
        return [Modulation(shift, kernels.prepare_scale(scale), gate) for shift, scale, gate in thirds]


class StreamAttention(nn.Module):
    """One stream's projections around the joint attention of a double block."""

    def __init__(self, hidden_size: int, head_size: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.head_size = head_size
        self.qkv = operations.Linear(hidden_size, 3 * hidden_size, bias=False, **kwargs)
        self.norm = QKNorm(head_size, **_small(kwargs))
        self.proj = operations.Linear(hidden_size, hidden_size, bias=False, **kwargs)

    def heads(self, x: Tensor, table: Table | None, kernels: Kernels) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B,L,D) -> normalised q, k and v, each (B,N,L,d); q and k rotated where there is a table."""
        q, k, v = split_heads(self.qkv(x), self.head_size)
        return *self.norm(q, k, table, kernels), v


def split_heads(qkv: Tensor, head_size: int) -> tuple[Tensor, ...]:
    """qkv: (B,L,3D), laid out q | k | v and then heads -> q, k and v, each (B,N,L,d)."""
    return qkv.unflatten(-1, (3, -1, head_size)).permute(2, 0, 3, 1, 4).unbind()


def gated(x: Tensor) -> Tensor:
    """SwiGLU: (…,2M) laid out a | b -> SiLU(a) * b."""
    a, b = x.chunk(2, dim=-1)
    return F.silu(a).mul_(b)


class GatedMLP(nn.Sequential):
    """down(SiLU(a) * b) with [a | b] = up(x). Children 0 and 2 carry the weights, as in FLUX.2 files."""

    def __init__(self, hidden_size: int, mlp_size: int, operations: Any, **kwargs: Any) -> None:
        super().__init__(
            operations.Linear(hidden_size, 2 * mlp_size, bias=False, **kwargs),
            nn.Identity(),
            operations.Linear(mlp_size, hidden_size, bias=False, **kwargs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self[2](gated(self[0](x)))


class DoubleBlock(nn.Module):
    """Each stream has its own weights; attention runs jointly over all of them (MM-DiT, arXiv 2403.03206)."""

    def __init__(
        self, streams: tuple[str, ...], hidden_size: int, mlp_size: int, head_size: int, operations: Any, **kwargs: Any
    ) -> None:
        super().__init__()
        for name in streams:
            setattr(self, f"{name}_attn", StreamAttention(hidden_size, head_size, operations, **kwargs))
            setattr(self, f"{name}_mlp", GatedMLP(hidden_size, mlp_size, operations, **kwargs))

    def forward(
        self,
        tokens: dict[str, Tensor],
        modulations: dict[str, list[Modulation]],
        table: Table,
        kernels: Kernels,
        options: Options,
    ) -> dict[str, Tensor]:
        """tokens: stream -> (B,L_s,D); modulations: stream -> [attention's, MLP's]. Returns the new tokens."""
        lengths = {name: x.shape[1] for name, x in tokens.items()}
        attended = self._attend(tokens, modulations, table, kernels, options).split(list(lengths.values()), dim=1)
        result = {}
        for (name, x), part in zip(tokens.items(), attended, strict=True):
            of_attention, of_mlp = modulations[name]
            x = torch.addcmul(x, of_attention.gate, getattr(self, f"{name}_attn").proj(part))
            y = getattr(self, f"{name}_mlp")(kernels.modulate(x, of_mlp.shift, of_mlp.scale))
            result[name] = torch.addcmul(x, of_mlp.gate, y)
        return result

    def _attend(self, tokens, modulations, table, kernels, options) -> Tensor:
        """Joint attention over all streams, in their order: (B,L,D)."""
        early = kernels.rotates_early(options)
        heads, start = [], 0
        for name, x in tokens.items():
            of_attention, stop = modulations[name][0], start + x.shape[1]
            y = kernels.modulate(x, of_attention.shift, of_attention.scale)
            part = kernels.part(table, start, stop) if early else None
            heads.append(getattr(self, f"{name}_attn").heads(y, part, kernels))
            start = stop
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*heads, strict=True))  # (B,N,L,d)
        del heads
        return kernels.attention(q, k, v, None if early else table, options)


class SingleBlock(nn.Module):
    """Attention and MLP in parallel on one sequence (ViT-22B, arXiv 2302.05442).

    The sequence comes in parts, one after the other, each with a modulation of its own.
    """

    def __init__(self, hidden_size: int, mlp_size: int, head_size: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.head_size = head_size
        self.sizes = (3 * hidden_size, 2 * mlp_size)
        self.linear1 = operations.Linear(hidden_size, sum(self.sizes), bias=False, **kwargs)
        self.linear2 = operations.Linear(hidden_size + mlp_size, hidden_size, bias=False, **kwargs)
        self.norm = QKNorm(head_size, **_small(kwargs))

    def forward(
        self,
        parts: dict[str, Tensor],
        modulations: dict[str, Modulation],
        table: Table,
        kernels: Kernels,
        options: Options,
        wanted: str | None = None,
    ) -> dict[str, Tensor]:
        """parts: name -> (B,L_p,D); a modulation for each. Returns the new parts, or only the one that is wanted."""
        spans, stop = {}, 0
        for name, x in parts.items():
            spans[name] = slice(stop, stop := stop + x.shape[1])
        y = [kernels.modulate(x, modulations[name].shift, modulations[name].scale) for name, x in parts.items()]
        qkv, mlp = self.linear1(torch.cat(y, dim=1) if len(y) > 1 else y[0]).split(self.sizes, dim=-1)
        del y
        early = wanted is not None or kernels.rotates_early(options)
        q, k, v = split_heads(qkv, self.head_size)
        q, k = self.norm(q, k, table if early else None, kernels)
        if wanted is not None:
            q, mlp = q[:, :, spans[wanted]], mlp[:, spans[wanted]]
            parts, spans = {wanted: parts[wanted]}, {wanted: slice(None)}
        attended = kernels.attention(q, k, v, None if early else table, options)  # (B,L,D)
        del q, k, v, qkv
        hidden = gated(mlp)
        del mlp
        out = self.linear2(torch.cat([attended, hidden], dim=-1))
        return {name: torch.addcmul(x, modulations[name].gate, out[:, spans[name]]) for name, x in parts.items()}


class Head(nn.Module):
    """Final adaptive layer norm and projection to channels: (B,L,D), (B,D) -> (B,L,C)."""

    def __init__(self, hidden_size: int, channels: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.linear = operations.Linear(hidden_size, channels, bias=False, **kwargs)
        self.adaLN_modulation = nn.Sequential(  # child 1 carries the weight, as in FLUX.2 files
            nn.SiLU(), operations.Linear(hidden_size, 2 * hidden_size, bias=False, **kwargs)
        )

    def forward(self, x: Tensor, vec: Tensor, kernels: Kernels) -> Tensor:
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
        return self.linear(kernels.modulate(x, shift, kernels.prepare_scale(scale)))


def _small(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Norm scales are never stored in 8 bits: they are tiny beside the weights and would lose most of their bits."""
    dtype = kwargs.get("dtype")
    return {**kwargs, "dtype": torch.bfloat16} if dtype is not None and dtype.itemsize == 1 else kwargs
