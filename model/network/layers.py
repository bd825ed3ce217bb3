"""Building blocks of the transformer.

Letters in shape comments: B batch, L tokens, D hidden width, N heads, d head size, M width of the MLP.
Layers with weights come from `operations` (an object with a `Linear` class: torch.nn, or a host's own), so that a host
can offload, quantise or patch them; small parameters are cast where they are used, because hosts do not move them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AttentionFunction = Callable[..., Tensor]
NORM_EPS = 1e-6


class Modulation(NamedTuple):
    """Adaptive layer norm parameters, each (B,1,D), or (B,L,D) where they differ between tokens."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return modulate(x, self.shift, self.scale)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) * LayerNorm(x) + shift, with no learned affine part."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


def timestep_embedding(t: Tensor, width: int = 256, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of 1000 * t, cosines first. t: (B,) in [0, 1] -> (B,width) float32."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) / half * steps)
    angles = 1000.0 * t.float()[:, None] * frequencies  # (B,width/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_table(ids: Tensor, head_size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (RoFormer, arXiv 2104.09864) over 4 position axes.

    ids: (L,4) positions (time, row, column, sequence) -> two (L,d/2) float32 tables; each axis owns d/8 pairs.
    """
    axis = head_size // ids.shape[-1]
    exponents = torch.arange(0, axis, 2, dtype=torch.float32, device=ids.device) / axis
    angles = ids.float()[:, :, None] * (1.0 / theta**exponents)  # (L,4,d/8)
    angles = angles.flatten(1)  # (L,d/2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate interleaved pairs of x (B,N,L,d) by the table's angles, in float32."""
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B,N,L,d/2) each
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def torch_attention(q: Tensor, k: Tensor, v: Tensor, transformer_options: dict[str, Any]) -> Tensor:
    """Scaled dot-product attention. q, k, v: (B,N,L,d) -> (B,L,D)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32. FLUX.2 files call the parameter `scale`."""

    def __init__(self, size: int, dtype: torch.dtype | None = None, device: Any = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.to(device=x.device, dtype=torch.float32)
        return F.rms_norm(x.float(), x.shape[-1:], scale, NORM_EPS).to(x.dtype)


class QKNorm(nn.Module):
    """Per-head normalisation of queries and keys."""

    def __init__(self, head_size: int, dtype: torch.dtype | None = None, device: Any = None) -> None:
        super().__init__()
        self.query_norm = RMSNorm(head_size, dtype, device)
        self.key_norm = RMSNorm(head_size, dtype, device)


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

    def forward(self, vec: Tensor) -> list[Modulation]:
        chunks = self.lin(F.silu(vec))[:, None].chunk(3 * self.count, dim=-1)  # each (B,1,D)
        return [Modulation(*chunks[3 * i : 3 * i + 3]) for i in range(self.count)]


class StreamAttention(nn.Module):
    """One stream's projections around the joint attention of a double block."""

    def __init__(self, hidden_size: int, head_size: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.head_size = head_size
        self.qkv = operations.Linear(hidden_size, 3 * hidden_size, bias=False, **kwargs)
        self.norm = QKNorm(head_size, **_small(kwargs))
        self.proj = operations.Linear(hidden_size, hidden_size, bias=False, **kwargs)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B,L,D) -> normalised q, k and v, each (B,N,L,d)."""
        return split_heads(self.qkv(x), self.head_size, self.norm)


def split_heads(qkv: Tensor, head_size: int, norm: QKNorm) -> tuple[Tensor, Tensor, Tensor]:
    """qkv: (B,L,3D), laid out q | k | v and then heads -> q, k (normalised) and v, each (B,N,L,d)."""
    q, k, v = qkv.unflatten(-1, (3, -1, head_size)).permute(2, 0, 3, 1, 4)
    return norm.query_norm(q), norm.key_norm(k), v


def gated(x: Tensor) -> Tensor:
    """SwiGLU: (…,2M) laid out a | b -> SiLU(a) * b."""
    a, b = x.chunk(2, dim=-1)
    return F.silu(a) * b


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
        rotary: tuple[Tensor, Tensor],
        attention: AttentionFunction,
        transformer_options: dict[str, Any],
    ) -> dict[str, Tensor]:
        """tokens: stream -> (B,L_s,D); modulations: stream -> [attention's, MLP's]. Returns the new tokens."""
        layers: dict[str, StreamAttention] = {name: getattr(self, f"{name}_attn") for name in tokens}
        heads = [layer.heads(modulations[name][0].apply(tokens[name])) for name, layer in layers.items()]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*heads, strict=True))  # (B,N,L,d)
        joint = attention(rotate(q, rotary), rotate(k, rotary), v, transformer_options)  # (B,L,D)

        result = {}
        lengths = [x.shape[1] for x in tokens.values()]
        for (name, x), attended in zip(tokens.items(), joint.split(lengths, dim=1), strict=True):
            of_attention, of_mlp = modulations[name]
            x = torch.addcmul(x, of_attention.gate, layers[name].proj(attended))
            result[name] = torch.addcmul(x, of_mlp.gate, getattr(self, f"{name}_mlp")(of_mlp.apply(x)))
        return result


class SingleBlock(nn.Module):
    """Attention and MLP in parallel on one sequence (ViT-22B, arXiv 2302.05442)."""

    def __init__(self, hidden_size: int, mlp_size: int, head_size: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.head_size = head_size
        self.sizes = (3 * hidden_size, 2 * mlp_size)
        self.linear1 = operations.Linear(hidden_size, sum(self.sizes), bias=False, **kwargs)
        self.linear2 = operations.Linear(hidden_size + mlp_size, hidden_size, bias=False, **kwargs)
        self.norm = QKNorm(head_size, **_small(kwargs))

    def forward(
        self,
        x: Tensor,
        modulation: Modulation,
        rotary: tuple[Tensor, Tensor],
        attention: AttentionFunction,
        transformer_options: dict[str, Any],
    ) -> Tensor:
        """x: (B,L,D) -> (B,L,D)."""
        qkv, mlp = self.linear1(modulation.apply(x)).split(self.sizes, dim=-1)
        q, k, v = split_heads(qkv, self.head_size, self.norm)
        attended = attention(rotate(q, rotary), rotate(k, rotary), v, transformer_options)  # (B,L,D)
        out = self.linear2(torch.cat([attended, gated(mlp)], dim=-1))
        return torch.addcmul(x, modulation.gate, out)


class Head(nn.Module):
    """Final adaptive layer norm and projection to channels: (B,L,D), (B,D) -> (B,L,C)."""

    def __init__(self, hidden_size: int, channels: int, operations: Any, **kwargs: Any) -> None:
        super().__init__()
        self.linear = operations.Linear(hidden_size, channels, bias=False, **kwargs)
        self.adaLN_modulation = nn.Sequential(  # child 1 carries the weight, as in FLUX.2 files
            nn.SiLU(), operations.Linear(hidden_size, 2 * hidden_size, bias=False, **kwargs)
        )

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
        return self.linear(modulate(x, shift, scale))


def _small(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Norm scales are never stored in 8 bits: they are tiny beside the weights and would lose most of their bits."""
    dtype = kwargs.get("dtype")
    return {**kwargs, "dtype": torch.bfloat16} if dtype is not None and dtype.itemsize == 1 else kwargs
