"""Which samples a step uses, and the random numbers of each sample: functions of (seed, step) and nothing else.

Samples are numbered by their place in the whole run, not by process, so one process and several see the same data, and
a run that is continued sees what it would have seen. Letters: B samples of a step, over all processes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Names of independent random streams.
_ORDER, _BUCKET, _REPLACEMENT, _LEVELS, _NOISE, _SAMPLE = range(6)
_CHUNK = 4096  # bucket draws made at once


@dataclass(frozen=True)
class StepSamples:
    """The samples of one step: positions (B,) in the run, items (B,) of the data set, and their common bucket."""

    bucket: int
    positions: np.ndarray
    items: np.ndarray


class StepOrder:
    """Items of each step: a new permutation for each pass over a bucket, buckets drawn by their share.

    Args:
        counts: items in each bucket (a bucket is a picture size; all samples of a step have one size). A count of None
            is an endless source: its item is the position itself.
        batch: B.
    """

    def __init__(self, counts: list[int | None], batch: int, seed: int) -> None:
        if not counts or any(count is not None and count < 1 for count in counts):
            raise ValueError(f"got buckets of {counts} samples; expected at least one in each")
        if None in counts and len(counts) > 1:
            raise ValueError(f"got {len(counts)} sizes for an endless source; expected one")
        self.counts, self.batch, self.seed = counts, batch, seed
        self._buckets = np.zeros(0, dtype=np.int64)
        self._permutations: dict[int, dict[int, np.ndarray]] = {bucket: {} for bucket in range(len(counts))}

    def step(self, step: int) -> StepSamples:
        """The samples of step `step`, counted from 0."""
        bucket = self._bucket(step)
        earlier = int((self._buckets[:step] == bucket).sum())
        places = earlier * self.batch + np.arange(self.batch)  # places within the bucket's own sequence
        count = self.counts[bucket]
        items = places if count is None else np.array([self._item(bucket, *divmod(int(p), count)) for p in places])
        return StepSamples(bucket, step * self.batch + np.arange(self.batch), items)

    def replacement(self, position: int, attempt: int, bucket: int) -> int:
        """The item to use at a position where `attempt` items turned out unusable."""
        count = self.counts[bucket]
        return int(_generator(self.seed, _REPLACEMENT, position, attempt).integers(2**40 if count is None else count))

    def _bucket(self, step: int) -> int:
        while len(self._buckets) <= step:
            draws = _generator(self.seed, _BUCKET, len(self._buckets) // _CHUNK, 0).random(_CHUNK)
            shares = np.cumsum([count or 1 for count in self.counts], dtype=np.float64)
            drawn = np.searchsorted(shares / shares[-1], draws, side="right").clip(max=len(shares) - 1)
            self._buckets = np.concatenate([self._buckets, drawn])
        return int(self._buckets[step])

    def _item(self, bucket: int, epoch: int, place: int) -> int:
        known = self._permutations[bucket]
        if epoch not in known:
            drawn = _generator(self.seed, _ORDER, bucket, epoch).permutation(self.counts[bucket])
            kept = {number: order for number, order in known.items() if number == epoch - 1}  # a step may need two
            known = self._permutations[bucket] = {**kept, epoch: drawn.astype(np.uint32)}
        return int(known[epoch][place])


def level_generator(seed: int, step: int) -> torch.Generator:
    """Of the levels and text dropout of a whole step, drawn for all its samples at once."""
    return torch.Generator().manual_seed(_number(seed, _LEVELS, step))


def sample_noise(seed: int, positions: np.ndarray, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """(len(positions), *shape) standard normal noise, each sample's from its own seed, drawn on `device`."""
    generator = torch.Generator(device=device)
    noise = torch.empty(len(positions), *shape, device=device)
    for row, position in zip(noise, positions, strict=True):
        generator.manual_seed(_number(seed, _NOISE, int(position)))
        row.normal_(generator=generator)
    return noise


def sample_draws(seed: int, position: int) -> np.random.Generator:
    """Random numbers of one sample: mirroring, and whatever its data source varies."""
    return _generator(seed, _SAMPLE, position, 0)


def _generator(seed: int, stream: int, first: int, second: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream, first, second])


def _number(seed: int, stream: int, index: int) -> int:
    """63 bits for a torch generator, well mixed: torch's own seeding of neighbouring integers is not."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0] >> 1)
