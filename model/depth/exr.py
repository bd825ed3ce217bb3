"""Depth in EXR files: which channel of which part is depth, and where it lies in the picture.

Parts are sub-images with names of their own, channels have names such as "Z", or "layer.Z" in a layer. Needs the
OpenEXR package.
"""

import re
from pathlib import Path

import numpy as np

from ..image_files import MOST_PIXELS, FileError, check_pixels, naming_the_file

# Names of depth, the likeliest first; the last part of "layer.name" counts, in any case. Then what a file of one grey
# channel is called.
_DEPTH_NAMES = ("z", "depth", "zdepth", "distance")
_GREY_NAMES = ("y", "v", "r")
_COLOURS = ("R", "G", "B")
_MOST_VALUES = 2 * MOST_PIXELS  # of all channels and parts together, where the library reads them all, four bytes each
_TYPES = {"HALF": np.float16, "FLOAT": np.float32, "UINT": np.uint32}


def read_exr(path: Path, channel: str = "") -> tuple[np.ndarray, dict[str, str], str, list[str]]:
    """(values, text, what was read, warnings): values (H,W), or (H,W,3) of a file that holds R, G, B and no depth.

    `channel`: "" takes depth by its name (Z first) in all parts, then a single grey channel, then the colours. Else a
    channel ("Z", "layer.Z"), a layer or a part that holds one such, or "part:channel". Text: the header's strings.
    Pixels outside of the file's data window are NaN. FileError that names the file, and what there is to choose.
    """
    exr = openexr()
    with naming_the_file(path, "an EXR file"):
        with path.open("rb") as file:
            if file.read(4) != b"v/1\x01":
                raise FileError(f"{path.name} is damaged or not an EXR file: it begins otherwise")
        with exr.File(str(path), separate_channels=True, header_only=True) as file:
            parts = [_Part(path, index, part.header) for index, part in enumerate(file.parts)]
        if not parts:
            raise FileError(f"{path.name} is damaged: its header holds no picture")
        part, names, warnings = _choose(path, parts, channel)
        part.check(path)
        pixels = _first_part(exr, path, part, names) if part.index == 0 else _later_part(exr, path, parts, part, names)
        values = part.placed(path, pixels[0] if len(pixels) == 1 else np.stack(pixels, axis=-1))
    where = f" of part {part.label}" if len(parts) > 1 else ""
    read = f"channel {names[0]}{where}" if len(names) == 1 else f"the mean of {', '.join(names)}{where}"
    return values, part.text, _plain(read), warnings + part.warnings()


def _first_part(exr, path: Path, part: "_Part", names: list[str]) -> list[np.ndarray]:
    """These channels alone, (h,w) each, in the file's type."""
    part.check_pixels(path)
    shape = part.bottom - part.top + 1, part.right - part.left + 1
    file = exr.InputFile(str(path))
    try:
        types = file.header()["channels"]
        planes = [np.frombuffer(file.channel(name), _TYPES[str(types[name].type)]) for name in names]
    finally:
        file.close()
    return [plane.reshape(shape) if plane.size == shape[0] * shape[1] else plane[None] for plane in planes]


def _later_part(exr, path: Path, parts: list["_Part"], part: "_Part", names: list[str]) -> list[np.ndarray]:
    """As `_first_part`; of the other parts the library reads everything or nothing, so their size has a limit."""
    values = sum(other.check_pixels(path) * len(other.names) for other in parts)
    if values > _MOST_VALUES:
        raise FileError(
            f"{path.name} holds {values / 1e6:.0f} million values in {len(parts)} parts, and to read part {part.label} "
            f"all of them have to be; the limit is {_MOST_VALUES / 1e6:.0f} million. Save the depth as a file of its "
            "own, or as the first part"
        )
    with exr.File(str(path), separate_channels=True) as file:
        # A part that cannot be read is left out by the library, with a line on the console.
        if len(file.parts) != len(parts):
            raise FileError(f"{path.name} is damaged: its pixels cannot be read; copy or render it again")
        return [file.parts[part.index].channels[name].pixels for name in names]


def write_exr(path: Path, values: np.ndarray, text: dict[str, str]) -> None:
    """(H,W) float32 as channel Y, ZIP, with text as header attributes. OSError where it cannot be written."""
    exr = openexr()
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage, **text}
    with exr.File(header, {"Y": np.ascontiguousarray(values)}) as file:
        try:
            file.write(str(path))
        except RuntimeError as error:  # the library's only one; its text names the cause (a full disk, a missing right)
            raise OSError(f"OpenEXR: {error}") from error


def openexr():
    """The OpenEXR module; ImportError that says how to get it."""
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError("EXR files need the OpenEXR package: pip install OpenEXR") from error
    return OpenEXR


class _Part:
    """The header of one part."""

    def __init__(self, path: Path, index: int, header: dict) -> None:
        self.index = index
        self.text = {key: value for key, value in header.items() if isinstance(value, str)}
        self.label = self.text.get("name", "") or str(index)
        self.sampling = {channel.name: (channel.xSampling, channel.ySampling) for channel in header["channels"]}
        self.storage = getattr(header.get("type"), "name", "scanlineimage")
        self.left, self.top, self.right, self.bottom = _window(header["dataWindow"])
        self.shown = _window(header.get("displayWindow", header["dataWindow"]))

    @property
    def names(self) -> list[str]:
        return list(self.sampling)

    def check_pixels(self, path: Path) -> int:
        """How many pixels it stores; FileError for too many."""
        width, height = self.right - self.left + 1, self.bottom - self.top + 1
        check_pixels(path, width, height)
        return width * height

    def check(self, path: Path) -> None:
        """FileError where it is of a kind that we cannot place."""
        left, top, right, bottom = self.shown
        check_pixels(path, right - left + 1, bottom - top + 1)
        if self.storage not in ("scanlineimage", "tiledimage"):
            raise FileError(f"{path.name} is a deep EXR (several samples a pixel); render it as a flat one")

    def placed(self, path: Path, values: np.ndarray) -> np.ndarray:
        """Pixels of the data window (h,w) or (h,w,3) in the display window, NaN around them."""
        expected = self.bottom - self.top + 1, self.right - self.left + 1
        if values.shape[:2] != expected:
            raise FileError(
                f"{path.name}: the channel is stored at another resolution than the picture; render it anew"
            )
        left, top, right, bottom = self.shown
        if (left, top, right, bottom) == (self.left, self.top, self.right, self.bottom):
            return values
        whole = np.full((bottom - top + 1, right - left + 1, *values.shape[2:]), np.nan, np.float32)
        rows = max(top, self.top), min(bottom, self.bottom) + 1
        columns = max(left, self.left), min(right, self.right) + 1
        if rows[0] < rows[1] and columns[0] < columns[1]:
            inner = values[rows[0] - self.top : rows[1] - self.top, columns[0] - self.left : columns[1] - self.left]
            whole[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left] = inner
        return whole

    def warnings(self) -> list[str]:
        if self.shown == (self.left, self.top, self.right, self.bottom):
            return []
        return ["the file stores another window than it shows: what it does not store is a hole"]


def _window(corners: tuple) -> tuple[int, int, int, int]:
    """First column and row, last column and row."""
    (left, top), (right, bottom) = ((int(value) for value in corner) for corner in corners)
    return left, top, right, bottom


def _choose(path: Path, parts: list[_Part], wanted: str) -> tuple[_Part, list[str], list[str]]:
    """The part, the channels (one, or R, G, B) and warnings."""
    everything = [(part, name) for part in parts for name in part.names]
    if wanted:
        found = _named(everything, wanted)
        if not found:
            raise FileError(f"{path.name} has no channel, layer or part {wanted!r}; it holds {_list(parts)}")
        found = found if len(found) == 1 else _depth_among(found) or found
        if len(found) > 1:
            raise FileError(f"{path.name}: {wanted!r} names {len(found)} channels of {_list(parts)}; name one")
        return found[0][0], [found[0][1]], []
    depths = _depth_among(everything)
    if depths:
        others = [f"{part.label}:{name}" if len(parts) > 1 else name for part, name in depths[1:]]
        also = [f"the file also holds {_plain(', '.join(others))}: name the channel to read another"] if others else []
        return depths[0][0], [depths[0][1]], also
    coloured = [part for part in parts if set(_COLOURS) <= set(part.names)]
    plain = [(part, name) for part, name in everything if part not in coloured]
    grey = [(part, name) for wanted in _GREY_NAMES for part, name in plain if _last(name) == wanted]
    grey = grey or (everything if len(everything) == 1 else [])
    if not grey and coloured:
        return coloured[0], list(_COLOURS), []
    if not grey:
        raise FileError(f"{path.name} holds the channels {_list(parts)}, none known as depth (Z); name the channel")
    return grey[0][0], [grey[0][1]], []


def _named(everything: list[tuple[_Part, str]], wanted: str) -> list[tuple[_Part, str]]:
    """What the user's words mean: a channel, else "part:channel", else all of a layer, else all of a part."""
    rules = (
        lambda part, name: name == wanted,
        lambda part, name: f"{part.label}:{name}" == wanted,
        lambda part, name: name.startswith(f"{wanted}."),
        lambda part, name: part.label == wanted,
    )
    matches = ([pair for pair in everything if rule(*pair)] for rule in rules)
    return next((match for match in matches if match), [])


def _depth_among(pairs: list[tuple[_Part, str]]) -> list[tuple[_Part, str]]:
    """Those whose name says depth, the likeliest first; of equal names one without a layer first. In a part that is
    called depth a grey channel is depth."""

    def rank(part: _Part, name: str) -> int | None:
        if _last(name) in _DEPTH_NAMES:
            return _DEPTH_NAMES.index(_last(name))
        return len(_DEPTH_NAMES) if _last(part.label) in _DEPTH_NAMES and _last(name) in _GREY_NAMES else None

    known = [pair for pair in pairs if rank(*pair) is not None]
    return sorted(known, key=lambda pair: (rank(*pair), pair[1].count(".")))


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _list(parts: list[_Part]) -> str:
    """The channels of all parts, for a message."""
    names = [f"{part.label}:{name}" if len(parts) > 1 else name for part in parts for name in part.names]
    return _plain(", ".join(names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _plain(names: str) -> str:
    """Names as the file has them, for people: a stranger chose them."""
    return re.sub(r"[^\w .,:/-]", "?", names)[:400]
