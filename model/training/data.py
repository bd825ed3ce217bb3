"""Training batches: pictures, depth and captions of any source, brought to one size, unusable samples replaced.

A source lists its samples by picture size ("bucket") and loads them one by one; this module turns steps into batches.
An unusable sample is named, counted by reason, and another one takes its place, chosen by the seed, so that every
process and every continued run sees the same. Letters: B samples of one process in one pass, H and W pixels.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..depth.usable import usable_depth
from .order import StepOrder, sample_draws

Size = tuple[int, int]  # (height, width)
MOST_ATTEMPTS = 64  # unusable samples in a row at one position before the run stops
SHOWN_NAMES = 3  # examples per reason in a report
_SIDES = {"left": "right", "right": "left"}


class UnusableSample(Exception):
    """A sample that cannot be trained on. `reason` is one of a few fixed phrases, `name` says which sample."""

    def __init__(self, name: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{name}: {reason}" + (f" ({detail})" if detail else ""))
        self.name, self.reason = name, reason


class DataError(RuntimeError):
    """The data as a whole cannot be trained on."""


@dataclass
class RawSample:
    """rgb (3,H,W) uint8; depth (H,W) float32, NaN = unknown, +inf = sky; what the picture shows."""

    rgb: Tensor
    depth: Tensor
    caption: str


@dataclass
class RawBatch:
    """rgb (B,3,H,W) uint8, depth (B,H,W) float32 as in RawSample, captions, positions (B,) in the run."""

    rgb: Tensor
    depth: Tensor
    captions: list[str]
    positions: np.ndarray
    unusable: list[tuple[str, str]] = field(default_factory=list)  # (name, reason)


class Source(Protocol):
    """Where samples come from."""

    sizes: list[Size]  # of the buckets
    counts: list[int | None]  # samples of each bucket; None: endless
    unusable: list[tuple[str, str]]  # what listing the samples already found

    def load(self, bucket: int, items: Sequence[int]) -> list[RawSample | UnusableSample]:
        """The samples of a bucket at these places, of the bucket's size."""

    def stack(self, samples: list, flips: list[bool]) -> "RawBatch":
        """One batch of loaded samples, mirrored where flips says so; positions are filled in by the caller."""


@dataclass
class Problems:
    """Unusable samples, counted by reason. A sample met again counts once."""

    names: dict[str, set[str]] = field(default_factory=dict)

    def add(self, found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Returns those that are new."""
        new = []
        for name, reason in found:
            if name not in self.names.setdefault(reason, set()):
                self.names[reason].add(name)
                new.append((name, reason))
        return new

    @property
    def counts(self) -> dict[str, int]:
        return {reason: len(names) for reason, names in sorted(self.names.items())}

    def report(self) -> str:
        """One line for each reason, with examples; "" if there is none."""
        lines = []
        for reason, names in sorted(self.names.items()):
            examples = ", ".join(sorted(names)[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
            lines.append(f"{len(names)} skipped, {reason}: {examples}")
        return "\n".join(lines)


class StepBatches(torch.utils.data.Dataset):
    """The batches of one process, as a map-style data set: index n is pass n % passes of step first + n // passes.

    Args:
        rows: for each pass the samples of the step (out of those over all processes) that this process computes in it.
        mirror: mirror half of the samples, chosen by the seed.
    """

    def __init__(
        self, source: Source, order: StepOrder, rows: list[slice], steps: range, mirror: bool, seed: int
    ) -> None:
        self.source, self.order, self.rows, self.steps = source, order, rows, steps
        self.mirror, self.seed = mirror, seed

    def __len__(self) -> int:
        return len(self.steps) * len(self.rows)

    def __getitem__(self, index: int) -> RawBatch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, turn = divmod(index, len(self.rows))
        chosen = self.order.step(self.steps[step])
        positions, items = chosen.positions[self.rows[turn]], chosen.items[self.rows[turn]]
        samples, unusable = self._load(chosen.bucket, positions, items)
        flips = [self.mirror and sample_draws(self.seed, int(p)).random() < 0.5 for p in positions]
        batch = self.source.stack(samples, flips)
        batch.positions, batch.unusable = positions, unusable
        return batch

    def _load(self, bucket: int, positions: np.ndarray, items: np.ndarray) -> tuple[list, list[tuple[str, str]]]:
        samples = self.source.load(bucket, [int(item) for item in items])
        unusable: list[tuple[str, str]] = []
        for i, position in enumerate(positions):
            attempt = 0
            while isinstance(samples[i], UnusableSample):
                unusable.append((samples[i].name, samples[i].reason))
                attempt += 1
                if attempt > MOST_ATTEMPTS:
                    raise DataError(
                        f"{MOST_ATTEMPTS} unusable samples in a row, the last: {samples[i]}. Check the data's path, "
                        "format and depth scale."
                    )
                item = self.order.replacement(int(position), attempt, bucket)
                samples[i] = self.source.load(bucket, [item])[0]
        return samples, unusable


def stack_raw(samples: list[RawSample], flips: list[bool]) -> RawBatch:
    """A batch of raw samples of one size."""
    chosen = [mirrored(sample) if flip else sample for sample, flip in zip(samples, flips, strict=True)]
    return RawBatch(
        torch.stack([sample.rgb for sample in chosen]),
        torch.stack([sample.depth for sample in chosen]),
        [sample.caption for sample in chosen],
        np.zeros(0, dtype=np.int64),
    )


def mirrored(sample: RawSample) -> RawSample:
    """The sample seen in a mirror."""
    return RawSample(sample.rgb.flip(-1), sample.depth.flip(-1), mirrored_caption(sample.caption))


def mirrored_caption(caption: str) -> str:
    """Left and right exchanged, so that the caption stays true of the mirrored picture."""
    return re.sub(r"\b(left|right)\b", lambda match: _SIDES[match[0]], caption)


def nearest_sizes(pictures: np.ndarray, sizes: Sequence[Size]) -> np.ndarray:
    """(n,) index of the size whose aspect is nearest, by ratio, to each of (n,2) heights and widths."""
    height, width = np.maximum(pictures, 1).T
    aspects = np.log(width / height)
    return np.argmin([np.abs(np.log(w / h) - aspects) for h, w in sizes], axis=0)


def fit(image: Image.Image, depth: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Scale picture and depth (H,W) so that they just cover `size`, and cut out the middle.

    The picture is filtered (bicubic over the whole footprint); depth takes the value at each new pixel's centre, so no
    depth is mixed across an edge or with a hole. Returns rgb (3,h,w) uint8 and depth (h,w).
    """
    height, width = size
    factor = max(height / image.height, width / image.width)
    # The part of the source that is kept, in source pixels; exact, so that picture and depth stay aligned.
    kept_w, kept_h = width / factor, height / factor
    left, top = (image.width - kept_w) / 2, (image.height - kept_h) / 2
    box = (left, top, left + kept_w, top + kept_h)
    if (image.height, image.width) != size:
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    rgb = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    rows = ((torch.arange(height) + 0.5) / factor + top).long().clamp(0, depth.shape[0] - 1)
    columns = ((torch.arange(width) + 0.5) / factor + left).long().clamp(0, depth.shape[1] - 1)
    return rgb.contiguous(), depth[rows][:, columns].contiguous()


def check_depth(name: str, depth: Tensor) -> None:
    """Raises UnusableSample for a map without a single known finite depth, or with negative ones."""
    if bool((depth < 0).any()):
        raise UnusableSample(name, "negative depth")
    if not bool(usable_depth(depth).any()):
        raise UnusableSample(name, "no valid depth")
