"""Samples in files: a folder, or WebDataset shards (tar files), with the same names in both.

One sample is `<name>.jpg|jpeg|png|webp` (picture), `<name>.depth.png|exr|npy|tif` (depth, see `model.depth.files`) and
`<name>.txt` (caption, UTF-8). In a tar file that is exactly WebDataset's convention: the key is what stands before the
first dot of the file name.

Shards are read by offset with Python's own tarfile: the training order must be the same for any number of processes and
after a restart, and that needs random access, which a stream over shards does not give. Uncompressed .tar only.
"""

import io
import struct
import tarfile
import tempfile
import tokenize
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from ..depth.files import load_depth
from .data import (
    DataError,
    RawBatch,
    RawSample,
    Size,
    UnusableSample,
    check_depth,
    fit,
    nearest_size,
    stack_raw,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
DEPTH_SUFFIXES = (".depth.png", ".depth.exr", ".depth.npy", ".depth.tif", ".depth.tiff")
CAPTION_SUFFIX = ".txt"
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow would otherwise take whatever lies under such a name
HEADER_BYTES = 2**16
# What Pillow's and numpy's readers raise for damaged files.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, AttributeError, LookupError, ArithmeticError),
    *(MemoryError, RecursionError, NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
    tokenize.TokenError,
)
# Names of the parts, in the order in which their absence is reported.
_PARTS = {"image": IMAGE_SUFFIXES, "depth": DEPTH_SUFFIXES, "caption": (CAPTION_SUFFIX,)}
_MISSING = {"image": "no picture", "depth": "no depth", "caption": "no caption"}


@dataclass(frozen=True)
class Part:
    """One file: in a folder (offset None), or the bytes offset : offset + length of a tar file."""

    path: Path
    suffix: str
    offset: int | None = None
    length: int = 0

    def read(self, most: int | None = None) -> bytes:
        """The content, or its first `most` bytes."""
        with self.path.open("rb") as file:
            if self.offset is None:
                return file.read(-1 if most is None else most)
            file.seek(self.offset)
            return file.read(self.length if most is None else min(most, self.length))


@dataclass(frozen=True)
class Entry:
    """One complete sample: its name and its parts."""

    name: str
    image: Part
    depth: Part
    caption: Part


class FileSource:
    """Samples of a folder or of shards, each in the bucket of the size whose aspect is nearest to its picture's.

    Args:
        path: the folder, searched with its subfolders.
        kind: "folder", or "shards" for the .tar files in it.
        depth_scale: see `model.depth.files.load_depth`; 0 takes what the file notes.
        sky_from: depth from which a pixel is sky, in the unit of the scaled depth; 0: none is.
    """

    def __init__(
        self, path: str | Path, kind: str, sizes: Sequence[Size], *, depth_scale: float = 0.0, sky_from: float = 0.0
    ) -> None:
        self.root = Path(path)
        self.depth_scale, self.sky_from = depth_scale or None, sky_from
        self.unusable: list[tuple[str, str]] = []
        entries = list(_list_folder(self.root, self._note) if kind == "folder" else _list_shards(self.root, self._note))
        if not entries:
            found = f"; {len(self.unusable)} unusable" if self.unusable else ""
            raise DataError(
                f"no complete sample in {self.root}{found}; expected <name>.jpg|png|webp, <name>.depth.png|exr|npy and "
                f"<name>.txt, {'in .tar files' if kind == 'shards' else 'in it or its subfolders'}"
            )
        buckets: list[list[Entry]] = [[] for _ in sizes]
        for entry in entries:
            bucket = self._bucket(entry, sizes)
            if bucket is not None:
                buckets[bucket].append(entry)
        kept = [(size, bucket) for size, bucket in zip(sizes, buckets, strict=True) if bucket]
        if not kept:
            raise DataError(f"none of the {len(entries)} pictures in {self.root} can be read")
        self.sizes = [size for size, _ in kept]
        self.entries = [bucket for _, bucket in kept]
        self.counts: list[int | None] = [len(bucket) for bucket in self.entries]

    def load(self, bucket: int, items: Sequence[int]) -> list[RawSample | UnusableSample]:
        """Samples, or what is wrong with them."""
        loaded: list[RawSample | UnusableSample] = []
        for item in items:
            try:
                loaded.append(self._load(self.entries[bucket][item], self.sizes[bucket]))
            except UnusableSample as problem:
                loaded.append(problem)
        return loaded

    def stack(self, samples: list[RawSample], flips: list[bool]) -> RawBatch:
        return stack_raw(samples, flips)

    def _note(self, name: str, reason: str) -> None:
        self.unusable.append((name, reason))

    def _bucket(self, entry: Entry, sizes: Sequence[Size]) -> int | None:
        if len(sizes) == 1:
            return 0  # no need to open every picture
        for most in (HEADER_BYTES, None):  # all of it where the header is longer than usual
            try:
                with Image.open(io.BytesIO(entry.image.read(most)), formats=IMAGE_FORMATS) as image:
                    return nearest_size(image.height, image.width, sizes)
            except DECODING_ERRORS:
                continue
        self._note(entry.name, "unreadable picture")
        return None

    def _load(self, entry: Entry, size: Size) -> RawSample:
        image = _read_image(entry)
        depth = self._read_depth(entry)
        if depth.shape != (image.height, image.width):
            sizes = f"{depth.shape[0]} x {depth.shape[1]} for a picture of {image.height} x {image.width}"
            raise UnusableSample(entry.name, "depth of another size", sizes)
        rgb, depth = fit(image, depth, size)
        check_depth(entry.name, depth)
        return RawSample(rgb, depth, _read_caption(entry))

    def _read_depth(self, entry: Entry) -> Tensor:
        """(H,W): NaN = unknown, +inf = sky."""
        part = entry.depth
        try:
            if part.offset is None:
                depth = _load_depth(entry, part.path, self.depth_scale)
            else:
                with tempfile.TemporaryDirectory() as folder:  # the readers of the formats want a path
                    path = Path(folder) / f"depth{Path(part.suffix).suffix}"
                    path.write_bytes(part.read())
                    depth = _load_depth(entry, path, self.depth_scale)
        except DECODING_ERRORS as error:
            raise UnusableSample(entry.name, "unreadable depth", str(error)) from error
        if self.sky_from:
            depth = torch.where(depth >= self.sky_from, torch.inf, depth)
        return depth


def _load_depth(entry: Entry, path: Path, scale: float | None) -> Tensor:
    """(H,W) with NaN for unknown."""
    loaded = load_depth(path, scale=scale)
    if loaded.negative:
        raise UnusableSample(entry.name, "negative depth", f"{loaded.negative} pixels")
    return loaded.depth[0]


def _read_image(entry: Entry) -> Image.Image:
    try:
        with Image.open(io.BytesIO(entry.image.read()), formats=IMAGE_FORMATS) as image:
            return image.convert("RGB")
    except DECODING_ERRORS as error:
        raise UnusableSample(entry.name, "unreadable picture", str(error)) from error


def _read_caption(entry: Entry) -> str:
    try:
        caption = " ".join(entry.caption.read().decode("utf-8").split())
    except (UnicodeDecodeError, OSError) as error:
        raise UnusableSample(entry.name, "unreadable caption", str(error)) from error
    if not caption:
        raise UnusableSample(entry.name, "no caption", "the file is empty")
    return caption


def _list_folder(root: Path, note: Callable[[str, str], None]) -> Iterable[Entry]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    named = ((path.relative_to(root).as_posix(), Part(path, "")) for path in files)
    yield from _entries(named, note)


def _list_shards(root: Path, note: Callable[[str, str], None]) -> Iterable[Entry]:
    for shard in sorted(root.glob("*.tar")):
        yield from _entries(_members(shard, note), note, f"{shard.name}/")


def _members(shard: Path, note: Callable[[str, str], None]) -> Iterable[tuple[str, Part]]:
    """Names and places of the whole files in a tar file; a file that ends too early is noted."""
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if member.isfile() and member.offset_data + member.size <= size:
                    yield member.name, Part(shard, "", member.offset_data, member.size)
            whole = archive.fileobj is not None and archive.offset <= size - tarfile.BLOCKSIZE
    except tarfile.TarError:
        whole = False
    if not whole:
        note(shard.name, "truncated shard")


def _entries(files: Iterable[tuple[str, Part]], note: Callable[[str, str], None], prefix: str = "") -> Iterable[Entry]:
    """Groups files by the name before the first dot; incomplete groups are noted."""
    groups: dict[str, dict[str, Part]] = {}
    for name, part in files:
        path = PurePosixPath(name)
        stem, dot, rest = path.name.partition(".")
        suffix = f"{dot}{rest}".lower()
        kind = next((kind for kind, suffixes in _PARTS.items() if suffix in suffixes), None)
        if kind is not None:
            group = groups.setdefault(prefix + str(path.with_name(stem)), {})
            group[kind] = Part(part.path, suffix, part.offset, part.length)
    for name, group in groups.items():
        missing = [reason for kind, reason in _MISSING.items() if kind not in group]
        if missing:
            note(name, missing[0])
        else:
            yield Entry(name, **group)
