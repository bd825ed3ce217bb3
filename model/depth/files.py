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
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..new_file import new_file
from .exr import write_exr
from .pictures import MEANINGS, depth_from_picture
from .readers import SUFFIXES as LOAD_SUFFIXES
from .readers import Stored, read
from .usable import describe, ranked, usable_depth

__all__ = ["LOAD_SUFFIXES", "SAVE_SUFFIXES", "LoadedDepth", "load_depth", "save_depth"]

SAVE_SUFFIXES = (".png", ".exr", ".npy", ".tif", ".tiff")
STEPS_PNG16 = 65535
# Renderers write their background as a huge depth (Blender 1e10).
BACKGROUND = 1e9
# What files say of their unit is shown to people, so it may not be any text: "metre", "relative", "mm".
_UNIT = re.compile(r"[A-Za-z]{1,16}")
_NONE: Mapping[str, str] = MappingProxyType({})
_ROWS = 1 << 20  # pixels worked on at once, so that a large file needs little beside its result


@dataclass(frozen=True)
class LoadedDepth:
    """A depth map (1,H,W) float32, NaN where unknown, and valid (1,H,W) bool. `unit`: what the file says, "" if
    nothing. `warnings`: what the user should know about the file, in sentences. `negative`: pixels below 0, which are
    holes here and a mistake in a data set. `read`: what of the file was read, "channel Z"."""

    depth: Tensor
    valid: Tensor
    unit: str
    warnings: tuple[str, ...]
    negative: int = 0
    read: str = ""


def save_depth(
    path: str | Path,
    depth: Tensor,
    valid: Tensor | None = None,
    *,
    unit: str = "relative",
    step: float | None = None,
    far: float | None = None,
    notes: Mapping[str, str] = _NONE,
) -> Path:
    """Write depth (H,W) or (1,H,W) in the format of the suffix; returns the path.

    Pixels that are not valid, not finite, not positive or beyond 1e9 (which loading takes for a background) are written
    as 0. `unit` is noted in the file ("metre",
    "relative"). `step`, PNG only: the depth of one grey level (0.001 for millimetres of metric depth). Depth beyond
    step · 65535 is a ValueError, not a clipped file; depth nearer than step / 2 is kept at level 1, since 0 means no
    depth. `far`, PNG only, instead of a step: the depth of level 65535, and what lies deeper is clipped to it (see
    `png_far`). `notes`: texts by name that PNG and EXR keep (a workflow). Never overwrites (FileExistsError), never
    leaves half a file.
    """
    path = Path(path)
    if path.suffix.lower() not in SAVE_SUFFIXES:
        raise ValueError(f"got file type {path.suffix!r} for depth, expected one of {list(SAVE_SUFFIXES)}")
    if not _UNIT.fullmatch(unit):
        raise ValueError(f"got unit {unit!r}, expected a short word of letters such as 'metre' or 'relative'")
    values = _plain_map(depth, valid)
    writers = {".png": _write_png16, ".exr": write_exr, ".npy": _write_npy}
    text = {"depth_meaning": "linear depth, 0 = none", "depth_unit": unit}
    if step is not None and far is not None:
        raise ValueError(
            f"got step {step} and far {far}: each says what the levels of a PNG mean; expected one of them"
        )
    if path.suffix.lower() == ".png":
        values, step = _within(values, far) if far is not None else (values, step)
        values, text["depth_step"] = _levels(values, step)
    elif step is not None or far is not None:
        raise ValueError(f"got a step or far for a {path.suffix} file, which stores float depth; leave it out")
    if path.suffix.lower() in (".png", ".exr"):
        text |= notes
    with new_file(path) as part:
        writers.get(path.suffix.lower(), _write_tiff)(part, values, text)
    return path


def load_depth(
    path: str | Path,
    meaning: str = "metric",
    *,
    scale: float | None = None,
    near: float = 1.0,
    far: float = 10.0,
    channel: str = "",
) -> LoadedDepth:
    """Read a depth map. What its values mean is stated by the caller or the file, never guessed.

    `meaning` "metric" (linear depth, whatever the unit): depth = value · `scale`, value being the stored number
    (0..65535 in 16 bits). `scale` None: the step noted in the file, else 1, with a warning for integer files. Other
    meanings (MEANINGS in pictures.py): the file is a picture, white = 1, of depths between `near` and `far`; 0 is
    invalid in none of them. Invalid: NaN, infinite, ≤ 0, and beyond 1e9 (a renderer's background). `channel`: of an
    EXR, as exr.py says; "" takes Z, or what comes closest. Warns (in the result) of 8 bits, of colours, of half floats,
    of picture values outside 0..1. ValueError that names the file for unknown types, for damaged files and for more
    than 134 million pixels; FileNotFoundError where there is none. Needs about 10 bytes a pixel.
    """
    path = Path(path)
    if meaning not in MEANINGS:
        raise ValueError(f"got meaning {meaning!r}, expected one of {list(MEANINGS)}")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"got scale {scale}, expected a positive number: the depth of one unit of the stored value")
    if not path.is_file():
        raise FileNotFoundError(f"no depth file at {path}")
    stored = read(path, channel)
    warnings = [*stored.warnings, *_weaknesses(stored)]
    if meaning == "metric":
        step = _noted_step(stored.text, path)
        if scale is None and step is None and stored.white is not None:
            warnings.append("the file notes no scale: its stored integers are taken as relative depth; set the scale")
        unit_depth = scale or step or 1.0
    else:
        unit_depth = 1.0 / (stored.white or 1)
    depth, valid, negative = _convert(stored.values, unit_depth, meaning, near, far, path)
    warnings += _outside(stored, meaning)
    unit = stored.text.get("depth_unit", "")
    if unit and not _UNIT.fullmatch(unit):
        unit = ""
        warnings.append("the unit that the file notes is no short word of letters and is left out")
    return LoadedDepth(depth, valid, unit, tuple(warnings), negative, stored.read)


def _convert(
    values: np.ndarray, unit_depth: float, meaning: str, near: float, far: float, path: Path
) -> tuple[Tensor, Tensor, int]:
    """Depth (1,H,W), valid (1,H,W) and the number of negative pixels of stored values, some rows at a time."""
    height, width = values.shape[:2]
    depth, valid = torch.empty(1, height, width), torch.empty(1, height, width, dtype=torch.bool)
    negative, rows = 0, max(1, _ROWS // width)
    for top in range(0, height, rows):
        block = values[top : top + rows].astype(np.float32)
        if block.ndim == 3:
            block = block.mean(axis=-1, dtype=np.float32)
        block *= np.float32(unit_depth)
        part = torch.from_numpy(np.ascontiguousarray(block))[None]
        if meaning == "metric":
            known = (part > 0) & (part < BACKGROUND)  # NaN is neither
            negative += int((part < 0).sum())
        else:
            try:
                part, known = depth_from_picture(part, meaning, near=near, far=far)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error
        depth[:, top : top + rows] = part.masked_fill(~known, torch.nan)
        valid[:, top : top + rows] = known
    return depth, valid, negative


def _weaknesses(stored: Stored) -> list[str]:
    """Warnings of few bits and of colours."""
    warnings, values = [], stored.values
    if values.dtype == np.uint8:
        warnings.append("the file has 8 bits: 256 depth levels at most, which shows as steps; prefer 16-bit PNG or EXR")
    if values.dtype == np.float16:
        warnings.append("the file stores half floats: 11 bits, about 0.05 % of the depth")
    if values.ndim == 3:
        few = values[:: max(1, len(values) // 512), :: max(1, values.shape[1] // 512)].astype(np.float32)
        few = np.nan_to_num(few, posinf=0, neginf=0)
        if np.ptp(few, axis=-1).mean() > 0.02 * max(np.abs(few).mean(), 1e-12):
            warnings.append("the file is coloured: a colour map or a photo is not depth, its brightness is meaningless")
    return warnings


def _outside(stored: Stored, meaning: str) -> list[str]:
    """A warning of float values outside 0..1 in a picture."""
    if meaning == "metric" or stored.white is not None:
        return []
    outside = int(((stored.values < 0) | (stored.values > 1)).sum())
    return [f"{outside} values lie outside 0..1 and count as 0 or 1; metric is for values that are depth"] * (
        outside > 0
    )


def png_far(depth: Tensor, valid: Tensor | None = None, clip_percent: float = 0.0) -> float:
    """The depth for the last of 65535 levels: beyond it lie at most `clip_percent` of the usable pixels of depth, one
    map or a batch; 65535 where there are none."""
    if not 0.0 <= clip_percent < 100.0:
        raise ValueError(f"got clip_percent = {clip_percent}, expected 0 or more and less than 100")
    known = depth[usable_depth(depth, valid)]
    return float(ranked(known, 1.0 - clip_percent / 100.0)) if known.numel() else float(STEPS_PNG16)


def _within(values: np.ndarray, far: float) -> tuple[np.ndarray, float]:
    """Depth clipped at `far`, and the step that puts it at level 65535."""
    if not (math.isfinite(far) and far > 0):
        raise ValueError(f"got far = {far}, expected a positive depth")
    return np.minimum(values, np.float32(far)), float(np.float32(far)) / STEPS_PNG16


def _plain_map(depth: Tensor, valid: Tensor | None) -> np.ndarray:
    """(H,W) float32 with 0 where there is no depth."""
    if not isinstance(depth, Tensor) or not isinstance(valid, Tensor | None):
        raise ValueError(f"got depth {describe(depth)} and a mask {describe(valid)}, expected tensors (H,W)")
    if depth.ndim == 3 and depth.shape[0] == 1:
        depth = depth[0]
        valid = valid[0] if valid is not None and valid.ndim == 3 and valid.shape[0] == 1 else valid
    if depth.ndim != 2 or 0 in depth.shape:
        raise ValueError(f"got depth of shape {tuple(depth.shape)}, expected one map (H,W); save a batch map by map")
    values = depth.detach().cpu().float().numpy()
    usable = usable_depth(depth, valid).cpu().numpy() & (values > 0) & (values < BACKGROUND)
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


def _write_npy(path: Path, values: np.ndarray, text: dict[str, str]) -> None:
    values = np.ascontiguousarray(values)
    with path.open("wb") as file:
        # Not np.save: it writes in C, which reports a full disk as a number of bytes.
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)


def _write_tiff(path: Path, values: np.ndarray, text: dict[str, str]) -> None:
    Image.fromarray(values).save(path, format="TIFF", description=json.dumps(text))


def _noted_step(text: dict[str, str], path: Path) -> float | None:
    """The step our PNG notes; ValueError if the note is no positive number."""
    if "depth_step" not in text:
        return None
    try:
        step = float(text["depth_step"])
    except ValueError:
        step = math.nan
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"{path.name} notes a depth_step that is no positive number; set the scale")
    return step
