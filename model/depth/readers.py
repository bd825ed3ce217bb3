"""What depth files store, before anybody says what it means."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..image_files import FileError, check_pixels, naming_the_file, open_image
from .exr import read_exr

SUFFIXES = (".png", ".exr", ".npy", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")
_WHITE16 = 65535
_BITS, _PHOTOMETRIC, _DESCRIPTION, _SAMPLE_FORMAT = 258, 262, 270, 339  # TIFF's tags
_WHITE_IS_ZERO = 0


@dataclass
class Stored:
    """values (H,W) or (H,W,3) in the file's own type; white: the integer that stands for it, None for floats; text: the
    file's entries; read: what of the file; warnings in sentences."""

    values: np.ndarray
    white: int | None
    text: dict[str, str]
    read: str
    warnings: list[str] = field(default_factory=list)


def read(path: Path, channel: str = "") -> Stored:
    """Read a file by its suffix. `channel`: see exr.py; other files have none. FileError that names file and problem;
    ImportError for a missing package."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError(f"{path.name}: got file type {suffix!r} for depth, expected one of {list(SUFFIXES)}")
    if suffix == ".exr":
        values, text, what, warnings = read_exr(path, channel)
        return Stored(values, None, text, what, warnings)
    if channel:
        raise FileError(
            f"got channel {channel!r} for {path.name}, but only EXR files have named channels; leave it out"
        )
    return _read_npy(path) if suffix == ".npy" else _read_image(path)


def _read_npy(path: Path) -> Stored:
    with naming_the_file(path, "a .npy file"), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(file)
        if dtype.kind not in "fiu":
            raise FileError(f"{path.name} does not hold an array of numbers")
        plain = _plain_shape(shape)
        if len(plain) != 2:
            raise FileError(f"{path.name} holds an array of shape {shape}, expected one depth map (H,W)")
        check_pixels(path, plain[1], plain[0])
        left = path.stat().st_size - file.tell()
        needed = plain[0] * plain[1] * dtype.itemsize
        if left < needed:
            raise FileError(f"{path.name} is damaged: it ends {needed - left} bytes too early; copy it again")
        values = np.fromfile(file, dtype, plain[0] * plain[1])
    values = values.reshape(plain[::-1]).T if by_columns else values.reshape(plain)
    white = None if dtype.kind == "f" else int(np.iinfo(dtype).max)
    return Stored(values, white, {}, f"an array of {dtype.name}")


def _plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without axes of 1 around a map: (1,H,W), (H,W,1)."""
    while len(shape) > 2 and 1 in (shape[0], shape[-1]):
        shape = shape[1:] if shape[0] == 1 else shape[:-1]
    return shape


def _read_image(path: Path) -> Stored:
    warnings: list[str] = []
    with open_image(path) as image:
        tags = dict(getattr(image, "tag_v2", {}))
        text = {key: value for key, value in image.info.items() if isinstance(value, str)}
        text.update(_own_text(tags))
        if getattr(image, "is_animated", False):
            warnings.append("the file holds several pictures: the first is read")
        deep = _deep(path, image, tags)
        values = _deep_colour(path) if deep else _pixels(image)
        kind = image.format
    white = None if values.dtype.kind == "f" else 255 if values.dtype == np.uint8 else _WHITE16
    if values.dtype == np.int32 and tags.get(_BITS) == (32,):
        values = values.view(np.uint32) if tags.get(_SAMPLE_FORMAT, (1,)) == (1,) else values
        white = int(np.iinfo(values.dtype).max)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        warnings.append("the file says that its 0 is white: its values are turned over, white is the largest")
        if white is None:
            raise FileError(f"{path.name} holds floats whose 0 is white, which has no meaning for depth; save it anew")
        if white != 255:  # Pillow has turned those with 8 bits
            values = white - values.astype(np.int64)
    bits = {255: "8 bit", _WHITE16: "16 bit"}.get(white, "32 bit")
    return Stored(values, white, text, f"{bits} {'grey' if values.ndim == 2 else 'colour'} {kind}", warnings)


def _pixels(image: Image.Image) -> np.ndarray:
    # libtiff gives values in the machine's byte order, but Pillow (to 13.0 at least) swaps some of big-endian files.
    image.tile = [_in_machine_order(tile) if tile[0] == "libtiff" else tile for tile in image.tile]
    image.load()
    if image.mode in ("P", "RGBA", "LA", "1", "CMYK", "PA", "RGBX", "YCbCr", "LAB", "HSV"):
        image = image.convert("L" if image.mode in ("LA", "1") else "RGB")
    values = np.asarray(image)
    if values.dtype.kind not in "fiu":
        raise FileError(f"the picture has pixels of a kind that is not known for depth ({image.mode})")
    return values


def _in_machine_order(tile: tuple) -> tuple:
    args = re.sub(r"(?<=;)(16|32|64)B", r"\1N", tile[3][0]), *tile[3][1:]
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)  # before Pillow 11: a tuple


def _own_text(tags: dict[int, object]) -> dict[str, str]:
    """Our entries in a TIFF's ImageDescription."""
    description = tags.get(_DESCRIPTION, "")
    if not (isinstance(description, str) and description.startswith('{"depth_')):
        return {}
    entries = json.loads(description)
    return {key: value for key, value in entries.items() if isinstance(value, str)}


def _deep(path: Path, image: Image.Image, tags: dict[int, object]) -> bool:
    """Whether there are more than 8 bits in several channels, of which Pillow reads 8 without a word."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(26)[24] == 16 and not image.mode.startswith("I")
    bits = tags.get(_BITS, (8,))
    return image.format == "TIFF" and image.mode not in ("F", "I", "I;16", "I;16B") and max(bits) > 8


def _deep_colour(path: Path) -> np.ndarray:
    """(H,W) or (H,W,3) uint16."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"{path.name} has 16 bits in several channels, which Pillow cuts to 8; save it as 16-bit grey, or "
            "pip install opencv-python-headless"
        ) from error
    try:
        values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise FileError(f"{path.name} is damaged or of a type that OpenCV cannot read") from error
    if values is None:
        raise FileError(f"{path.name} is damaged or of a type that OpenCV cannot read")
    return values if values.ndim == 2 else values[..., :3]
