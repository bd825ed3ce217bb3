"""Samples that are encoded already: a folder of parts, each a safetensors file of equally large samples.

Nobody runs a text encoder of 8 billion parameters in every step, and a small model trains faster than its pictures
can be rendered: so pictures and captions are encoded once. Parts are mapped into memory, so several processes share
them and a sample costs its own bytes. Letters: n samples of a part, h and w latent rows and columns.

| tensor | shape | |
|---|---|---|
| rgb, rgb_mirrored | (n,128,h,w) float16 | the second only where mirroring was on |
| depth | (n,256,h,w) float16 | codes in 0..2, NaN = unknown; mirrored when read |
| text, text_mirrored | (n,L) int16 or (n,L,C) bfloat16 | token numbers of the demo encoder, or embeddings |
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from ..demo.text import TextEncoder
from ..depth.codec import patchify, unpatchify
from ..network.checkpoint import save_atomically
from ..network.config import DEPTH_CHANNELS, RGB_CHANNELS
from .codecs import Codecs, DemoCodecs, depth_codes
from .data import DataError, RawSample, Size, Source, UnusableSample, mirrored_caption, stack_raw
from .losses import LatentBatch

NOTES = "store.json"
WORDS = "words.json"
NULL_TEXT = "null_text.safetensors"


@dataclass
class StoredBatch:
    """Encoded samples with their places in the run."""

    latents: LatentBatch
    positions: np.ndarray
    unusable: list[tuple[str, str]] = field(default_factory=list)


class LatentStore:
    """A source of encoded samples (see `data.Source`); its batches need no codec."""

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path)
        try:
            self.notes = json.loads((self.root / NOTES).read_text(encoding="utf-8"))
            tokens, self.far_code = self.notes["text"] == "tokens", float(self.notes["far_code"])
            self._words = TextEncoder.load(self.root / WORDS) if tokens else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.root} is no folder of encoded samples ({error!r}); make one with `encode`"
            ) from error
        self.unusable: list[tuple[str, str]] = []
        by_size: dict[Size, list[dict[str, Tensor]]] = {}
        for file in sorted(self.root.glob("part-*.safetensors")):
            try:
                part = load_file(file)  # mapped: pages are read when a sample is
            except (SafetensorError, OSError):
                self.unusable.append((file.name, "truncated shard"))
                continue
            problem = self._problem(part)
            if problem:
                self.unusable.append((file.name, f"unusable part: {problem}"))
                continue
            by_size.setdefault(tuple(16 * s for s in part["rgb"].shape[2:]), []).append(part)
        if not by_size:
            raise DataError(f"{self.root} holds no readable part-*.safetensors; run `encode` again")
        self.sizes = list(by_size)
        self._parts = list(by_size.values())
        self._starts = [np.cumsum([0, *(len(part["rgb"]) for part in parts)]) for parts in self._parts]
        self.counts: list[int | None] = [int(starts[-1]) for starts in self._starts]

    def _problem(self, part: dict[str, Tensor]) -> str:
        """What is wrong with a part's tensors; "" if nothing is."""
        mirrored = any(name.endswith("_mirrored") for name in part)
        names = ("rgb", "depth", "text", *(("rgb_mirrored", "text_mirrored") if mirrored else ()))
        missing = [name for name in names if name not in part]
        if missing:
            return f"{missing[0]} is missing"
        rgb, texts = part["rgb"], [part[name] for name in names if name.startswith("text")]
        n, cells, text = len(rgb), rgb.shape[2:], part["text"].shape[1:]
        wanted = {"rgb": (n, RGB_CHANNELS, *cells), "depth": (n, DEPTH_CHANNELS, *cells), "text": (n, *text)}
        for name in names:
            if part[name].shape != wanted[name.partition("_")[0]] or rgb.ndim != 4 or n == 0:
                return f"{name} is {tuple(part[name].shape)} beside rgb of {tuple(rgb.shape)}"
        if self._words is not None and not all(_are_tokens(text, self._words.width) for text in texts):
            return f"text holds other numbers than those of the words in {WORDS}"
        return ""

    def __reduce__(self) -> tuple:
        """Loader processes map the files themselves; pickling would copy them."""
        return (LatentStore, (self.root,))

    def null_text(self) -> Tensor:
        """(1,L,C) embedding of the empty prompt."""
        if self._words is not None:
            return self._words.encode([""])
        try:
            return load_file(self.root / NULL_TEXT)["text"]
        except (SafetensorError, OSError, KeyError) as error:
            raise DataError(f"{self.root / NULL_TEXT} cannot be read ({error!r}); run `encode` again") from error

    def used_tokens(self) -> list[int]:
        """The token numbers that occur in the texts, in order. Only for texts stored as tokens."""
        texts = (part[name] for parts in self._parts for part in parts for name in part if name.startswith("text"))
        return sorted(set().union(*(text.unique().tolist() for text in texts)))

    def load(self, bucket: int, items: Sequence[int]) -> list[tuple[dict[str, Tensor], int]]:
        """Part and row of each sample."""
        places = np.searchsorted(self._starts[bucket], np.asarray(items), side="right") - 1
        starts = self._starts[bucket]
        return [(self._parts[bucket][p], int(i - starts[p])) for p, i in zip(places, items, strict=True)]

    def stack(self, samples: list[tuple[dict[str, Tensor], int]], flips: list[bool]) -> StoredBatch:
        """One batch, mirrored where flips says so and the store has the mirrored picture."""
        chosen = [
            (part, row, flip and "rgb_mirrored" in part) for (part, row), flip in zip(samples, flips, strict=True)
        ]
        rgb = torch.stack([part["rgb_mirrored" if flip else "rgb"][row] for part, row, flip in chosen])
        depth = torch.stack([part["depth"][row] for part, row, _ in chosen]).float()
        turned = torch.tensor([flip for *_, flip in chosen])
        if turned.any():
            depth[turned] = patchify(unpatchify(depth[turned]).flip(-1))
        text = torch.stack([part["text_mirrored" if flip else "text"][row] for part, row, flip in chosen])
        context = text if self._words is None else self._words.embed(text)
        return StoredBatch(LatentBatch(rgb.float(), depth, context), np.zeros(0, dtype=np.int64))


def _are_tokens(text: Tensor, count: int) -> bool:
    return text.ndim == 2 and not text.is_floating_point() and bool(((text >= 0) & (text < count)).all())


def encode_to_store(
    source: Source,
    codecs: Codecs,
    out: str | Path,
    *,
    count: int,
    far_code: float,
    mirror: bool,
    part_size: int = 512,
    batch: int = 32,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    report=None,
) -> list[tuple[str, str]]:
    """Encode the first `count` samples of each bucket of a source (all of them where it has fewer).

    Parts that are there already are kept, so an interrupted run is continued, and several processes can share the work:
    each writes every `processes`-th part. A store belongs to one setting of codecs and cap; a second one needs another
    folder. Samples that cannot be used are left out.

    Args:
        workers: loader processes that read and decode.
        report: called with the number of samples of each finished part.

    Returns:
        The unusable samples, (name, reason).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _write_notes(out, codecs, far_code, mirror)
    unusable = list(source.unusable)
    parts = [
        part
        for number, part in enumerate(_parts(source, out, count, part_size))
        if number % processes == process and not part.file.exists()
    ]
    chunks = [(part, range(first, min(first + batch, part.stop))) for part in parts for first in part.starts(batch)]
    loaded = DataLoader(_Chunks(source, chunks), batch_size=None, num_workers=workers)
    pieces = []
    for (part, items), samples in zip(chunks, loaded, strict=True):
        unusable += [(s.name, s.reason) for s in samples if isinstance(s, UnusableSample)]
        good = [s for s in samples if not isinstance(s, UnusableSample)]
        if good:
            pieces.append(_encode(good, codecs, far_code, mirror))
        if items.stop < part.stop:
            continue
        if pieces:
            save_atomically({key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}, part.file)
        if report:
            report(sum(len(piece["rgb"]) for piece in pieces))
        pieces = []
    return unusable


@dataclass(frozen=True)
class _Part:
    """Samples start : stop of a bucket, and the file that they go to."""

    file: Path
    bucket: int
    start: int
    stop: int

    def starts(self, batch: int) -> range:
        return range(self.start, self.stop, batch)


def _parts(source: Source, out: Path, count: int, part_size: int) -> Iterator[_Part]:
    number = 0
    for bucket, available in enumerate(source.counts):
        total = count if available is None else min(count, available)
        for start in range(0, total, part_size):
            yield _Part(out / f"part-{number:06d}.safetensors", bucket, start, min(start + part_size, total))
            number += 1


class _Chunks(torch.utils.data.Dataset):
    """What is read and decoded at once, by loader processes if there are any."""

    def __init__(self, source: Source, chunks: list[tuple[_Part, range]]) -> None:
        self.source, self.chunks = source, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> list[RawSample | UnusableSample]:
        part, items = self.chunks[index]
        return self.source.load(part.bucket, items)


def _encode(samples: list[RawSample], codecs: Codecs, far_code: float, mirror: bool) -> dict[str, Tensor]:
    batch = stack_raw(samples, [False] * len(samples))
    tensors = {
        "rgb": codecs.encode_images(batch.rgb).half(),
        "depth": depth_codes(batch.depth, far_code).half(),
        "text": _text(codecs, batch.captions),
    }
    if mirror:
        tensors["rgb_mirrored"] = codecs.encode_images(batch.rgb.flip(-1)).half()
        tensors["text_mirrored"] = _text(codecs, [mirrored_caption(caption) for caption in batch.captions])
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _text(codecs: Codecs, captions: list[str]) -> Tensor:
    if isinstance(codecs, DemoCodecs):
        return codecs.text.tokens(captions).to(torch.int16)
    return codecs.encode_text(captions).bfloat16()


def _write_notes(out: Path, codecs: Codecs, far_code: float, mirror: bool) -> None:
    notes = {
        "text": "tokens" if isinstance(codecs, DemoCodecs) else "embeddings",
        "far_code": far_code,
        "mirror": mirror,
    }
    file = out / NOTES
    if file.exists():
        held = json.loads(file.read_text(encoding="utf-8"))
        if held != notes:
            raise DataError(f"{out} was encoded with {held}, not {notes}; choose another folder")
        return
    if isinstance(codecs, DemoCodecs):
        codecs.text.save(out / WORDS)
    else:
        save_atomically({"text": codecs.encode_text([""]).bfloat16().cpu()}, out / NULL_TEXT)
    part = out / f"{NOTES}.{os.getpid()}.part"  # several processes may be starting
    part.write_text(json.dumps(notes) + "\n", encoding="utf-8")
    os.replace(part, file)
