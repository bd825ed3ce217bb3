"""Random numbers that depend on the scene's seed and the name of the draw only, never on the batch or the device.

A counter-based generator: every number is an integer hash of (seed, name, index). Integer arithmetic gives the same
bits on CPU and GPU, and a new named draw does not shift the others. Letters: B scenes.
"""

import math
import zlib

import torch

TRAIN_SEEDS = 2**40
HELDOUT_SEEDS = 2**40
_MASK = 0xFFFFFFFF
_MULTIPLIER = 0x45D9F3B  # below 2**31, so that a 32-bit value times it stays inside int64


def train_seed(index: int) -> int:
    """Seed of training scene ``index``, 0 <= index < 2**40. Disjoint from every ``heldout_seed``."""
    return _checked(index, TRAIN_SEEDS, "train_seed")


def heldout_seed(index: int) -> int:
    """Seed of held-out scene ``index``, 0 <= index < 2**40: the range right after the training seeds."""
    return TRAIN_SEEDS + _checked(index, HELDOUT_SEEDS, "heldout_seed")


def _checked(index: int, count: int, name: str) -> int:
    if not 0 <= index < count:
        raise ValueError(f"{name} got index {index}, expected 0 <= index < {count}; use a smaller index.")
    return int(index)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Two multiply-xorshift rounds on 32-bit values held in int64."""
    x = ((x >> 16) ^ x) * _MULTIPLIER & _MASK
    x = ((x >> 16) ^ x) * _MULTIPLIER & _MASK
    return (x >> 16) ^ x


class Draws:
    """Named random draws for a batch of scenes. ``seeds`` (B,) int64 >= 0."""

    def __init__(self, seeds: torch.Tensor) -> None:
        self.seeds = seeds
        self.device = seeds.device
        self._state = _mix(_mix(seeds & _MASK) ^ _mix((seeds >> 32) + 0x2545F491))  # (B,)

    def __len__(self) -> int:
        return self.seeds.shape[0]

    def subset(self, index: torch.Tensor) -> "Draws":
        """The same draws for the scenes at ``index`` (K,)."""
        return Draws(self.seeds[index])

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """(B, *shape) float32 in [low, high), 24 random bits each."""
        count = math.prod(shape)
        counter = torch.arange(count, device=self.device) * 0x9E3779B1 & _MASK
        key = _mix(self._state ^ zlib.crc32(name.encode()))  # (B,)
        bits = _mix(_mix(key[:, None] ^ counter[None]) + key[:, None] & _MASK)  # (B, count)
        unit = (bits >> 8).to(torch.float32) * 2.0**-24
        return (low + (high - low) * unit).reshape(len(self), *shape)

    def integer(self, name: str, choices: int, *shape: int) -> torch.Tensor:
        """(B, *shape) int64 in [0, choices)."""
        return (self.uniform(name, *shape) * choices).long()

    def one_of(self, name: str, options: list[int], *shape: int) -> torch.Tensor:
        """(B, *shape) int64, each one of ``options`` (repeat an option to make it likelier)."""
        table = torch.tensor(options, device=self.device)
        return table[self.integer(name, len(options), *shape)]

    def chance(self, name: str, probability: float, *shape: int) -> torch.Tensor:
        """(B, *shape) bool, true with ``probability``."""
        return self.uniform(name, *shape) < probability

    def order(self, name: str, count: int) -> torch.Tensor:
        """(B, count) int64: a random permutation of range(count)."""
        return self.uniform(name, count).argsort(dim=1, stable=True)
