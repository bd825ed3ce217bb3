"""Values that nobody should hand over, and damage to bytes."""

import random

import torch


class Silent(Exception):
    """A wrong result without a word."""


_INF, _NAN = float("inf"), float("nan")
NUMBERS = (0.0, -1.0, _NAN, _INF, -_INF, 1e-45, 1e-30, 1e30, 3e38, 1e308, 0.1, 0.5, 1.0, 55.0, 179.0, 2**31)
OBJECTS = (None, "depth", 3, 0.5, [], {}, (), b"", [[1.0]], object(), True)
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool, torch.complex64)


def number(rng: random.Random, good: float) -> float:
    """The good one, mostly."""
    return good if rng.random() < 0.7 else rng.choice(NUMBERS)


def tensor(rng: random.Random, good: torch.Tensor) -> object:
    """A tensor like the good one with something wrong about its values, type or shape; or no tensor at all."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(OBJECTS)
    if kind == 1:
        return good.to(rng.choice(DTYPES))
    if kind == 2:
        return good[..., : rng.randrange(good.shape[-1] + 1)]
    if kind == 3:
        return good[: rng.randrange(len(good) + 1)]
    if kind == 4:
        return good[None] if rng.random() < 0.5 else good.flatten()
    if kind == 5:
        return good.repeat(rng.choice((2, 3)), *[1] * (good.ndim - 1))
    if kind == 6:
        return good.transpose(0, -1)
    if kind == 7 and good.ndim > 1:
        return good[:, : good.shape[1] - 1]
    changed = good.clone().float()
    where = torch.rand(good.shape, generator=torch.manual_seed(rng.randrange(2**31))) < rng.choice((0.01, 0.3, 1.1))
    return torch.where(where, value(rng), changed)


def value(rng: random.Random) -> torch.Tensor:
    """A float32 of NUMBERS."""
    return torch.tensor(rng.choice(NUMBERS), dtype=torch.float64).float()


def damaged(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Damaged bytes and the kind of damage: "cut", "flips", "head", "zeros", "spliced", "grown" or "noise"."""
    kind = rng.choice(("cut", "flips", "head", "zeros", "spliced", "grown", "noise"))
    data = bytearray(content)
    if kind == "cut":
        return bytes(data[: rng.randrange(len(data))]), kind
    if kind == "noise":
        return rng.randbytes(rng.randrange(400)), kind
    if kind == "grown":
        return bytes(data) + rng.randbytes(rng.randrange(1, 100)), kind
    if kind == "zeros":
        start = rng.randrange(len(data))
        data[start : start + rng.randrange(1, 200)] = bytes(min(rng.randrange(1, 200), len(data) - start))
    elif kind == "spliced":
        start = rng.randrange(len(data))
        data[start:start] = data[rng.randrange(len(data)) :][: rng.randrange(1, 200)]
    else:
        reach = len(data) if kind == "flips" else min(len(data), 300)
        for _ in range(rng.choice((1, 1, 3, 20))):
            data[rng.randrange(reach)] = rng.randrange(256)
    return bytes(data), kind
