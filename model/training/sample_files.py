"""The files of one sample, in a folder or in a tar file: which belong together, where they lie, how they are read.

One sample is `<name>.jpg|jpeg|png|webp` (picture), `<name>.depth.png|exr|npy|tif` (depth, see `model.depth.files`) and
`<name>.txt` (caption, UTF-8). In a tar file that is exactly WebDataset's convention: the key is what stands before the
first dot of the file name.
"""

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image
from torch import Tensor

from ..depth.files import load_depth
from ..image_files import DECODER_ERRORS, check_pixels
from .data import UnusableSample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
DEPTH_SUFFIXES = (".depth.png", ".depth.exr", ".depth.npy", ".depth.tif", ".depth.tiff")
CAPTION_SUFFIX = ".txt"
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow would otherwise take whatever lies under such a name
HEADER_BYTES = (2**12, 2**16)  # read of a picture for its size, before all of it
# Names of the parts, in the order in which their absence is reported.
PARTS = {"image": IMAGE_SUFFIXES, "depth": DEPTH_SUFFIXES, "caption": (CAPTION_SUFFIX,)}
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


def picture_size(entry: Entry) -> tuple[int, int] | None:
    """(height, width) of a sample's picture from its header; None where it cannot be read."""
    for most in (*HEADER_BYTES, None):
        try:
            with Image.open(io.BytesIO(entry.image.read(most)), formats=IMAGE_FORMATS) as image:
                return image.height, image.width
        except DECODER_ERRORS:
            continue
    return None


def read_depth(entry: Entry, scale: float | None) -> Tensor:
    """(H,W) with NaN for unknown. `scale`: depth of one stored unit; None: what the file notes."""
    part = entry.depth
    try:
        if part.offset is None:
            loaded = load_depth(part.path, scale=scale)
        else:
            with tempfile.TemporaryDirectory() as folder:  # the readers of the formats want a path
                path = Path(folder) / f"depth{Path(part.suffix).suffix}"
                path.write_bytes(part.read())
                loaded = load_depth(path, scale=scale)
    except (ValueError, OSError) as error:
        raise UnusableSample(entry.name, "unreadable depth", str(error)) from error
    if loaded.negative:
        raise UnusableSample(entry.name, "negative depth", f"{loaded.negative} pixels")
    return loaded.depth[0]


def read_image(entry: Entry) -> Image.Image:
    try:
        with Image.open(io.BytesIO(entry.image.read()), formats=IMAGE_FORMATS) as image:
            check_pixels(PurePosixPath(entry.name), *image.size)
            return image.convert("RGB")
    except DECODER_ERRORS as error:
        raise UnusableSample(entry.name, "unreadable picture", str(error)) from error


def read_caption(entry: Entry) -> str:
    try:
        caption = " ".join(entry.caption.read().decode("utf-8").split())
    except (UnicodeDecodeError, OSError) as error:
        raise UnusableSample(entry.name, "unreadable caption", str(error)) from error
    if not caption:
        raise UnusableSample(entry.name, "no caption", "the file is empty")
    return caption


def members(shard: Path, note: Callable[[str, str], None]) -> Iterable[tuple[str, Part]]:
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


def sample_entries(
    files: Iterable[tuple[str, Part]], note: Callable[[str, str], None], prefix: str = ""
) -> Iterable[Entry]:
    """Groups files by the name before the first dot; incomplete groups are noted."""
    groups: dict[str, dict[str, Part]] = {}
    for name, part in files:
        path = PurePosixPath(name)
        stem, dot, rest = path.name.partition(".")
        suffix = f"{dot}{rest}".lower()
        kind = next((kind for kind, suffixes in PARTS.items() if suffix in suffixes), None)
        if kind is not None:
            group = groups.setdefault(str(path.with_name(stem)), {})
            group[kind] = Part(part.path, suffix, part.offset, part.length)
    for name, group in groups.items():
        missing = [reason for kind, reason in _MISSING.items() if kind not in group]
        if missing:
            note(name, missing[0])
        else:
            yield Entry(name, **group)
