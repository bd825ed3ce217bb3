"""Depth maps in files: one map per file, 0 = no depth in all formats.

| suffix      | holds                               | precision of what is read back                                   |
| .png        | 16-bit grey, value = depth / step   | ± step/2; step is in the file (tEXt), by default max / 65535     |
| .exr        | 32-bit float, channel Y, ZIP        | exact (float32)                                                  |
| .npy        | 32-bit float                        | exact (float32)                                                  |
| .tif, .tiff | 32-bit float, uncompressed          | exact (float32)                                                  |

Channel Y, since viewers and compositors show it as a grey picture, and OpenCV, imageio and Blender read it like any
other. Text in PNG (tEXt), EXR (header attributes) and TIFF (ImageDescription): `depth_step` (PNG), `depth_unit`,
`depth_meaning`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..new_file import new_file
from .pictures import MEANINGS, depth_from_picture

SAVE_SUFFIXES = (".png", ".exr", ".npy", ".tif", ".tiff")
LOAD_SUFFIXES = (*SAVE_SUFFIXES, ".jpg", ".jpeg", ".webp")
STEPS_PNG16 = 65535
# Renderers write their background as a huge depth (Blender 1e10).
BACKGROUND = 1e9
_EXR_CHANNELS = ("Z", "Y", "V", "depth", "depth.Z", "depth.V", "R")


@dataclass(frozen=True)
class LoadedDepth:
    """A depth map (1,H,W) float32, NaN where unknown, and valid (1,H,W) bool. `unit`: what the file says, "" if
    nothing. `warnings`: what the user should know about the file, in sentences. `negative`: pixels below 0, which are
    holes here and a mistake in a data set."""

    depth: Tensor
    valid: Tensor
    unit: str
    warnings: tuple[str, ...]
    negative: int = 0


@dataclass
class _Raw:
    """What a reader found: values (H,W) or (H,W,C), the integer that stands for white (None: floats), text entries."""

    values: np.ndarray
    white: int | None
    text: dict[str, str]


def save_depth(
    path: str | Path,
    depth: Tensor,
    valid: Tensor | None = None,
    *,
    unit: str = "relative",
    step: float | None = None,
) -> Path:
    """Write depth (H,W) or (1,H,W) in the format of the suffix; returns the path.

    Pixels that are not valid, not finite or not positive are written as 0. `unit` is noted in the file ("metre",
    "relative"). `step`, PNG only: the depth of one grey level (0.001 for millimetres of metric depth). Depth beyond
    step · 65535 is a ValueError, not a clipped file; depth nearer than step / 2 is kept at level 1, since 0 means no
    depth. Never overwrites (FileExistsError), never leaves half a file.
    """
    path = Path(path)
    if path.suffix.lower() not in SAVE_SUFFIXES:
        raise ValueError(f"got file type {path.suffix!r} for depth, expected one of {list(SAVE_SUFFIXES)}")
    values = _plain_map(depth, valid)
    writers = {".png": _write_png16, ".exr": _write_exr, ".npy": _write_npy}
    text = {"depth_meaning": "linear depth, 0 = none", "depth_unit": unit}
    if path.suffix.lower() == ".png":
        levels, text["depth_step"] = _levels(values, step)
        values = levels
    elif step is not None:
        raise ValueError(f"got step {step} for a {path.suffix} file, which stores float depth; leave the step out")
    with new_file(path) as part:
        writers.get(path.suffix.lower(), _write_tiff)(part, values, text)
    return path


def load_depth(
    path: str | Path, meaning: str = "metric", *, scale: float | None = None, near: float = 1.0, far: float = 10.0
) -> LoadedDepth:
    """Read a depth map. What its values mean is stated by the caller or the file, never guessed.

    `meaning` "metric" (linear depth, whatever the unit): depth = value · `scale`, value being the stored number
    (0..65535 in 16 bits). `scale` None: the step noted in the file, else 1, with a warning for integer files. Other
    meanings (MEANINGS in pictures.py): the file is a picture, white = 1, of depths between `near` and `far`; 0 is
    invalid in none of them. Invalid: NaN, infinite, ≤ 0, and beyond 1e9 (a renderer's background). Warns (in the
    result) of 8 bits, of colours, of half floats. ValueError for unknown types and damaged files.
    """
    path = Path(path)
    if meaning not in MEANINGS:
        raise ValueError(f"got meaning {meaning!r}, expected one of {list(MEANINGS)}")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"got scale {scale}, expected a positive number: the depth of one unit of the stored value")
    if not path.is_file():
        raise FileNotFoundError(f"no depth file at {path}")
    raw = _read(path)
    values, warnings = _grey(raw)
    if meaning == "metric":
        step = _noted_step(raw.text)
        if scale is None and step is None and raw.white is not None:
            warnings.append("the file notes no scale: its stored integers are taken as relative depth; set the scale")
        depth = torch.from_numpy(values * np.float32(scale or step or 1.0))[None]
        valid = torch.isfinite(depth) & (depth > 0) & (depth < BACKGROUND)
    else:
        picture = torch.from_numpy(values / np.float32(raw.white or 1))[None]
        depth, valid = depth_from_picture(picture, meaning, near=near, far=far)
    unit = raw.text.get("depth_unit", "")
    return LoadedDepth(torch.where(valid, depth, torch.nan), valid, unit, tuple(warnings), int((depth < 0).sum()))


def _plain_map(depth: Tensor, valid: Tensor | None) -> np.ndarray:
    """(H,W) float32 with 0 where there is no depth."""
    if depth.ndim == 3 and depth.shape[0] == 1:
        depth, valid = depth[0], None if valid is None else valid.reshape(depth.shape[1:])
    if depth.ndim != 2 or 0 in depth.shape:
        raise ValueError(f"got depth of shape {tuple(depth.shape)}, expected one map (H,W); save a batch map by map")
    if valid is not None and valid.shape != depth.shape:
        raise ValueError(f"got a mask of shape {tuple(valid.shape)} for depth {tuple(depth.shape)}, expected the same")
    values = depth.detach().cpu().float().numpy()
    usable = np.isfinite(values) & (values > 0)
    if valid is not None:
        usable &= valid.cpu().numpy() > 0.5
    return np.where(usable, values, np.float32(0))


def _levels(values: np.ndarray, step: float | None) -> tuple[np.ndarray, str]:
    """16-bit levels of a depth map and their step, as text that reads back to the same float."""
    largest = float(values.max())
    if step is None:
        step = largest / STEPS_PNG16 if largest > 0 else 1.0
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"got step {step}, expected a positive number: the depth of one grey level")
    levels = np.round(values.astype(np.float64) / step)
    if levels.max() > STEPS_PNG16:
        raise ValueError(
            f"depth up to {largest:.6g} does not fit 16 bits in steps of {step:.6g}, "
            f"which end at {step * STEPS_PNG16:.6g}; use a larger step, or EXR"
        )
    levels = np.where(values > 0, np.maximum(levels, 1), 0)
    return levels.astype(np.uint16), repr(step)


def _write_png16(path: Path, levels: np.ndarray, text: dict[str, str]) -> None:
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    Image.fromarray(levels).save(path, format="PNG", pnginfo=info)


def _write_exr(path: Path, values: np.ndarray, text: dict[str, str]) -> None:
    exr = _openexr()
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage, **text}
    with exr.File(header, {"Y": np.ascontiguousarray(values)}) as file:
        try:
            file.write(str(path))
        except (
            RuntimeError
        ) as error:  # the library's only error; its text names the cause (a full disk, a missing right)
            raise OSError(f"OpenEXR: {error}") from error


def _write_npy(path: Path, values: np.ndarray, text: dict[str, str]) -> None:
    with path.open("wb") as file:
        # Not np.save: it writes in C, which reports a full disk as a number of bytes.
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(values).data)


def _write_tiff(path: Path, values: np.ndarray, text: dict[str, str]) -> None:
    Image.fromarray(values).save(path, format="TIFF", description=json.dumps(text))


def _read(path: Path) -> _Raw:
    suffix = path.suffix.lower()
    if suffix not in LOAD_SUFFIXES:
        raise ValueError(f"got file type {suffix!r} for depth, expected one of {list(LOAD_SUFFIXES)}")
    try:
        if suffix == ".npy":
            return _read_npy(path)
        return _read_exr(path) if suffix == ".exr" else _read_image(path)
    except (UnidentifiedImageError, SyntaxError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} is damaged or not a {suffix} file: {error}") from error


def _read_npy(path: Path) -> _Raw:
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise ValueError(f"{path.name} does not hold an array of numbers")
    values = values.squeeze()
    if values.ndim != 2:
        raise ValueError(f"{path.name} holds an array of shape {values.shape}, expected one depth map (H,W)")
    white = None if values.dtype.kind == "f" else int(np.iinfo(values.dtype).max)
    return _Raw(values, white, {})


def _read_exr(path: Path) -> _Raw:
    try:
        with _openexr().File(str(path), separate_channels=True) as file:
            # Leaving the file empties its header, so what is needed is copied here.
            text = {key: value for key, value in file.header().items() if isinstance(value, str)}
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except RuntimeError as error:
        raise ValueError(f"{path.name} is damaged or not an EXR file: {error}") from error
    if {"R", "G", "B"} <= set(channels):
        return _Raw(np.stack([channels[name] for name in "RGB"], axis=-1), None, text)
    known = [name for name in _EXR_CHANNELS if name in channels] or (list(channels) if len(channels) == 1 else [])
    if not known:
        raise ValueError(f"{path.name} has channels {sorted(channels)}, expected one of {list(_EXR_CHANNELS)}")
    return _Raw(channels[known[0]], None, text)


def _read_image(path: Path) -> _Raw:
    with Image.open(path) as image:
        image.load()
        text = {key: value for key, value in image.info.items() if isinstance(value, str)}
        text.update(_tiff_text(image))
        if image.mode in ("P", "RGBA", "LA", "1", "CMYK", "PA", "RGBX", "YCbCr"):
            image = image.convert("L" if image.mode in ("LA", "1") else "RGB")
        values = np.asarray(image)
    if values.dtype == np.uint8 and _is_truncated(path):
        values = _read_deep_colour(path)
    if values.dtype.kind == "f":
        return _Raw(values, None, text)
    # Pillow gives 16-bit grey as int32 in some formats; larger than 16 bits is not in use for depth pictures.
    white = 255 if values.dtype == np.uint8 else STEPS_PNG16
    return _Raw(values, white, text)


def _tiff_text(image: Image.Image) -> dict[str, str]:
    """Our entries in a TIFF's ImageDescription (tag 270)."""
    description = getattr(image, "tag_v2", {}).get(270, "")
    if not (isinstance(description, str) and description.startswith('{"depth_')):
        return {}
    return {key: value for key, value in json.loads(description).items() if isinstance(value, str)}


def _is_truncated(path: Path) -> bool:
    """Pillow reads 16-bit colour as 8 bits without a word."""
    with path.open("rb") as file:
        head = file.read(25)
    if head.startswith(b"\x89PNG"):
        return head[24] == 16
    if path.suffix.lower() in (".tif", ".tiff"):
        with Image.open(path) as image:
            return max(image.tag_v2.get(258, (8,))) > 8
    return False


def _read_deep_colour(path: Path) -> np.ndarray:
    """A picture with more than 8 bits for each of several channels."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"{path.name} has 16 bits in several channels, which Pillow cuts to 8; save it as 16-bit grey, or "
            "pip install opencv-python-headless"
        ) from error
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError(f"{path.name} is damaged or of a type that OpenCV cannot read")
    return values[..., :3]


def _grey(raw: _Raw) -> tuple[np.ndarray, list[str]]:
    """(H,W) float32 values, and warnings."""
    values, warnings = raw.values, []
    if values.dtype == np.uint8:
        warnings.append("the file has 8 bits: 256 depth levels at most, which shows as steps; prefer 16-bit PNG or EXR")
    if values.dtype == np.float16:
        warnings.append("the file stores half floats: 11 bits, about 0.05 % of the depth")
    values = values.astype(np.float32)
    if values.ndim == 3:
        spread = np.ptp(np.nan_to_num(values, posinf=0, neginf=0), axis=-1).mean()
        level = np.abs(np.nan_to_num(values, posinf=0, neginf=0)).mean()
        if spread > 0.02 * max(level, 1e-12):
            warnings.append("the file is coloured: a colour map or a photo is not depth, its brightness is meaningless")
        values = values.mean(axis=-1, dtype=np.float32)
    return np.ascontiguousarray(values), warnings


def _noted_step(text: dict[str, str]) -> float | None:
    """The step our PNG notes; ValueError if the note is no positive number."""
    if "depth_step" not in text:
        return None
    try:
        step = float(text["depth_step"])
    except ValueError:
        step = math.nan
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"the file's depth_step is {text['depth_step']!r}, expected a positive number; set the scale")
    return step


def _openexr():
    try:
        import OpenEXR
    except ImportError as error:
        raise ImportError("EXR files need the OpenEXR package: pip install OpenEXR") from error
    return OpenEXR
