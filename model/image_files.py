"""Opening picture files of unknown origin: few formats, a limit on pixels read from the header, one kind of error."""

import struct
import tokenize
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# What we read under any name. Without a list Pillow tries all it knows, and hands PostScript to Ghostscript.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")
# For all formats; 11585², four times a frame of 8K video. A file of a megabyte can say that it holds far more.
MOST_PIXELS = 1 << 27
_TIFF_PIXELS = {273, 324}  # tags: where strips, where tiles begin
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_PNG_START = b"\x89PNG\r\n\x1a\n"
# What decoders raise on damaged files: they trust what the file says of itself. RuntimeError includes RecursionError,
# ValueError includes UnicodeDecodeError.
DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    struct.error,
    tokenize.TokenError,  # NumPy takes the header of an .npy file apart with it
    zlib.error,
)


class FileError(ValueError):
    """A file that cannot be read as what it should be. The message names the file and the problem."""


@contextmanager
def naming_the_file(path: Path, kind: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a FileError that names the file; `kind`: what it should be, "an EXR file"."""
    try:
        yield
    except FileError:
        raise
    except DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.strerror:
            raise FileError(f"{path.name} could not be read: {error.strerror}") from error
        problem = str(error).replace(str(path), path.name).strip() or type(error).__name__
        raise FileError(f"{path.name} is damaged or not {kind}: {problem}") from error


def check_pixels(path: Path, width: int, height: int) -> None:
    """FileError for a picture without pixels or with too many, by what its header says."""
    if width < 1 or height < 1:
        raise FileError(f"{path.name} says that it holds {width} x {height} pixels; expected at least 1 x 1")
    if width * height > MOST_PIXELS:
        raise FileError(
            f"{path.name} says that it holds {width} x {height} pixels, more than the limit of "
            f"{MOST_PIXELS / 1e6:.0f} million; make it smaller"
        )


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The picture with its header read, checked for its size; what goes wrong inside names the file."""
    with naming_the_file(path, "a PNG, JPEG, TIFF or WebP picture"):
        with path.open("rb") as file:
            png = file.read(8) == _PNG_START
        with _identified(path) as image:
            check_pixels(path, *image.size)
            if png:
                check_png(path)
            elif image.format == "TIFF":
                check_tiff(path)
            yield image


def _identified(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise FileError(
            f"{path.name} is damaged, not a PNG, JPEG, TIFF or WebP picture, or of a kind that Pillow does not read "
            "(TIFF: floats with 16 or 64 bits, more than 16 bits in several channels)"
        ) from error


def check_png(path: Path) -> None:
    """FileError unless the checksums of all chunks up to the last are right: Pillow does not check those of pixels."""
    with path.open("rb") as file:
        file.seek(len(_PNG_START))
        while True:
            length, kind = struct.unpack(">I4s", _exactly(file.read(8), 8, path))
            checksum = zlib.crc32(kind)
            while length:
                part = _exactly(file.read(min(length, 1 << 20)), min(length, 1 << 20), path)
                checksum, length = zlib.crc32(part, checksum), length - len(part)
            if struct.unpack(">I", _exactly(file.read(4), 4, path))[0] != checksum:
                raise FileError(f"{path.name} is damaged: a checksum of the PNG file is wrong; copy it again")
            if kind == b"IEND":
                return


def check_tiff(path: Path) -> None:
    """FileError unless all entries of the first directory, and the pixels that they point at, lie inside the file: what
    does not, Pillow leaves out with a warning, and decodes pixels without a place as 0."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order, big = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
        count_format, entry_format, inline = ("Q", "HHQQ", 8) if big else ("H", "HHII", 4)
        (first,) = struct.unpack_from(order + count_format.replace("H", "I"), head, 8 if big else 4)
        file.seek(first)
        width = struct.calcsize(order + count_format)
        (count,) = struct.unpack(order + count_format, _exactly(file.read(width), width, path))
        width = struct.calcsize(order + entry_format)
        tags = set()
        for _ in range(count):
            tag, kind, number, place = struct.unpack(order + entry_format, _exactly(file.read(width), width, path))
            length = number * _TIFF_BYTES.get(kind, 0)
            if length > inline and place + length > size:
                raise FileError(f"{path.name} is damaged: the TIFF file ends too early; copy it again")
            tags.add(tag)
    if not tags & _TIFF_PIXELS:
        raise FileError(f"{path.name} is damaged: the TIFF file does not say where its pixels are; copy it again")


def _exactly(part: bytes, length: int, path: Path) -> bytes:
    if len(part) < length:
        raise FileError(f"{path.name} is damaged: the file ends too early; copy it again")
    return part
