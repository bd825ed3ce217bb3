"""Samples in files: a folder, or WebDataset shards (tar files), with the same names in both (see `sample_files`).

Shards are read by offset with Python's own tarfile: the training order must be the same for any number of processes and
after a restart, and that needs random access, which a stream over shards does not give. Uncompressed .tar only.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from .data import DataError, RawBatch, RawSample, Size, UnusableSample, check_depth, fit, nearest_sizes, stack_raw
from .sample_files import Entry, Part, picture_size, read_caption, read_depth, read_image, sample_entries
from .shard_index import ShardIndex


class FileSource:
    """Samples of a folder or of shards, each in the bucket of the size whose aspect is nearest to its picture's.

    Args:
        path: the folder, searched with its subfolders.
        kind: "folder", or "shards" for the .tar files in it.
        depth_scale: see `model.depth.files.load_depth`; 0 takes what the file notes.
        sky_from: depth from which a pixel is sky, in the unit of the scaled depth; 0: none is.
        index: folder for the index of shards; "": `.index` beside them.
    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        sizes: Sequence[Size],
        *,
        depth_scale: float = 0.0,
        sky_from: float = 0.0,
        index: str | Path = "",
    ) -> None:
        root = Path(path)
        self.depth_scale, self.sky_from = depth_scale or None, sky_from
        self._listing = Folder(root) if kind == "folder" else ShardIndex(root, Path(index) if index else None)
        self.unusable = list(self._listing.unusable)
        if not len(self._listing):
            found = f"; {len(self.unusable)} unusable" if self.unusable else ""
            raise DataError(
                f"no complete sample in {root}{found}; expected <name>.jpg|png|webp, <name>.depth.png|exr|npy and "
                f"<name>.txt, {'in .tar files' if kind == 'shards' else 'in it or its subfolders'}"
            )
        buckets = self._buckets(sizes)
        kept = [(size, items) for size, items in zip(sizes, buckets, strict=True) if len(items)]
        if not kept:
            raise DataError(f"none of the {len(self._listing)} pictures in {root} can be read")
        self.sizes = [size for size, _ in kept]
        self._items = [items for _, items in kept]
        self.counts: list[int | None] = [len(items) for items in self._items]

    def name(self, bucket: int, item: int) -> str:
        """Of a sample."""
        return self._entry(bucket, item).name

    def load(self, bucket: int, items: Sequence[int]) -> list[RawSample | UnusableSample]:
        """Samples, or what is wrong with them."""
        loaded: list[RawSample | UnusableSample] = []
        for item in items:
            try:
                loaded.append(self._load(self._entry(bucket, item), self.sizes[bucket]))
            except UnusableSample as problem:
                loaded.append(problem)
        return loaded

    def stack(self, samples: list[RawSample], flips: list[bool]) -> RawBatch:
        return stack_raw(samples, flips)

    def _entry(self, bucket: int, item: int) -> Entry:
        return self._listing.entry(int(self._items[bucket][item]))

    def _buckets(self, sizes: Sequence[Size]) -> list[np.ndarray]:
        """Numbers of the samples of each size; a picture that cannot be read is noted."""
        if len(sizes) == 1 and isinstance(self._listing, Folder):
            return [np.arange(len(self._listing))]  # no need to open every picture
        pictures = self._listing.sizes()
        readable = pictures[:, 0] > 0
        for number in np.flatnonzero(~readable):
            self.unusable.append((self._listing.entry(int(number)).name, "unreadable picture"))
        nearest = np.where(readable, nearest_sizes(pictures, sizes), -1)
        return [np.flatnonzero(nearest == bucket).astype(np.uint32) for bucket in range(len(sizes))]

    def _load(self, entry: Entry, size: Size) -> RawSample:
        image = read_image(entry)
        depth = read_depth(entry, self.depth_scale)  # (H,W): NaN = unknown, +inf = sky
        if self.sky_from:
            depth = torch.where(depth >= self.sky_from, torch.inf, depth)
        if depth.shape != (image.height, image.width):
            sizes = f"{depth.shape[0]} x {depth.shape[1]} for a picture of {image.height} x {image.width}"
            raise UnusableSample(entry.name, "depth of another size", sizes)
        rgb, depth = fit(image, depth, size)
        check_depth(entry.name, depth)
        return RawSample(rgb, depth, read_caption(entry))


class Folder:
    """The complete samples of a folder with its subfolders, by number."""

    def __init__(self, root: Path) -> None:
        self.unusable: list[tuple[str, str]] = []
        self._entries = list(_list_folder(root, lambda *found: self.unusable.append(found)))

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, number: int) -> Entry:
        return self._entries[number]

    def sizes(self) -> np.ndarray:
        """(n,2) heights and widths of the pictures; 0 where one cannot be read."""
        return np.array([picture_size(entry) or (0, 0) for entry in self._entries])


def _list_folder(root: Path, note: Callable[[str, str], None]) -> Iterable[Entry]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    named = ((path.relative_to(root).as_posix(), Part(path, "")) for path in files)
    yield from sample_entries(named, note)
