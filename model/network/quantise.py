"""Writes a checkpoint with its large layers quantised, in the formats and with the description that ComfyUI reads.

Layer by layer: memory stays at a few of the largest tensors. The arithmetic is comfy-kitchen's (see kitchen.py).
"""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..new_file import new_file
from . import quantised
from .checkpoint import TYPE_NAMES, CheckpointError, Header, expected_shapes, read_header, read_tensor
from .quantised import Layers

# What a format is called here -> its note in the file. int4 is the better of ComfyUI's two, at 4.5 bits a weight.
NOTES: dict[str, dict[str, Any]] = {
    "int8": {"format": "int8_tensorwise", "convrot": True},
    "fp8": {"format": "float8_e4m3fn"},
    "nvfp4": {"format": "nvfp4"},
    "mxfp8": {"format": "mxfp8"},
    "int4": {"format": "asym_w4a8_int8", "group_size": 16},
}
ROTATED = ("int8_tensorwise", "asym_w4a8_int8")
ROTATIONS = (256, 64, 16)  # columns that are rotated together: the most that divide all of them
# Outside the blocks each layer feeds all of them, for 5 % of the size: see `run.py bench quantise`.
QUANTISED = re.compile(r"(double_blocks|single_blocks|depth_decoder_blocks)\.\d+\..*\.weight")
SMALLEST_DIVISOR = 16
ENTRY_BYTES, ALIGNMENT = 320, 8
PLAIN_BYTES = {"F32": 4, "BF16": 2}
SMALL_SCALES = {"nvfp4": "weight_scale", "mxfp8": "weight_scale", "asym_w4a8_int8": "weight_s_rel"}  # in one byte
Progress = Callable[[int, int], None]


def quantise(
    source: str | Path,
    target: str | Path,
    name: str,
    progress: Progress | None = None,
    *,
    device: Any = "cpu",
    everything: bool = False,
) -> Path:
    """Write `source` to the new file `target` in the format `name` (a key of `NOTES`); returns its path.

    Args:
        progress: called before each tensor with its number and their count; what it raises stops the run.
        device: where the arithmetic is done; int4 is slow on a CPU (an hour or more for the released model).
        everything: quantise also what lies outside the blocks, but for the depth head. To measure what keeping it does.

    Raises:
        CheckpointError: `source` is not a usable checkpoint, or quantised already.
        FileExistsError: there is a `target`. OSError: it cannot be written. ValueError: an unknown format, another
        suffix than .safetensors, or too little space. Nothing is left of a file that was not finished.
        ImportError: comfy-kitchen is not installed; fp8 does without.
    """
    target = Path(target)
    if not target.parent.is_dir():
        raise ValueError(f"{target.parent}: there is no such folder")
    if name not in NOTES:
        raise ValueError(f"got the format {name!r}; expected one of {', '.join(NOTES)}")
    if target.suffix != ".safetensors":
        raise ValueError(f"got {target.name} to write to; expected a name that ends in .safetensors")
    header = read_header(source)
    _check_plain(header)
    shapes = expected_shapes(header.config)
    notes = {key: note for key, shape in shapes.items() if (note := note_of(key, shape, name, everything))}
    _check_space(target.parent, file_bytes(header, notes))
    with new_file(target) as part:
        with part.open("xb") as file:
            writer = _Writer(file, len(shapes) + 4 * len(notes), notes)
            for index, (key, shape) in enumerate(shapes.items()):
                if progress is not None:
                    progress(index, len(shapes))
                tensor = read_tensor(header, key, shape)
                if key not in notes:
                    writer.add(key, tensor)
                    continue
                layer = key.removesuffix(".weight")
                for end, value in stored(tensor.to(device), notes[key]).items():
                    writer.add(f"{layer}.{end}", value.cpu())
            writer.finish()
        read_header(part)
    return target


def note_of(key: str, shape: tuple[int, ...], name: str, everything: bool = False) -> dict[str, Any] | None:
    """How a weight is stored in the format `name`, or None for one that stays as it is."""
    inside = QUANTISED.fullmatch(key) or (everything and not key.startswith("depth_final_layer."))
    if not inside or len(shape) != 2 or any(size % SMALLEST_DIVISOR for size in shape):
        return None
    note = dict(NOTES[name])
    if quantised.FORMATS[note["format"]].filled(shape) != tuple(shape):
        return None  # the network's sizes are read off the shapes
    if note["format"] in ROTATED:
        note["convrot_groupsize"] = next(size for size in ROTATIONS if shape[1] % size == 0)
    return note


def stored(weight: Tensor, note: dict[str, Any]) -> dict[str, Tensor]:
    """A weight (N,K) as the note says: "weight" and its scales, by their names in files. Raises ImportError."""
    if note["format"] != "float8_e4m3fn":
        from .kitchen import stored as by_kitchen

        return by_kitchen(weight.float(), note)
    weight = weight.float()
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = (weight.abs().amax() / largest).clamp_min(torch.finfo(torch.float32).tiny)
    return {"weight": (weight / scale).clamp(-largest, largest).to(torch.float8_e4m3fn), "weight_scale": scale}


def fp8_in_memory(tensors: dict[str, Tensor], full_precision: bool) -> Layers:
    """Store the layers of an unprefixed state dict as an fp8 file has them, in place; returns their notes.

    Args:
        full_precision: multiply in the compute type even where the device has products in fp8.
    """
    layers: Layers = {}
    for key in list(tensors):
        note = note_of(key, tuple(tensors[key].shape), "fp8")
        if note is not None:
            layer = key.removesuffix(".weight")
            layers[layer] = {**note, "full_precision_matrix_mult": True} if full_precision else note
            tensors.update({f"{layer}.{end}": value for end, value in stored(tensors.pop(key), note).items()})
    return layers


def stored_bytes(shape: tuple[int, ...], note: dict[str, Any]) -> int:
    """Bytes of a quantised weight and its scales."""
    row = quantised.FORMATS[note["format"]]
    n, k = row.filled(shape)
    scales = {name: max(sizes(n, k)) for name, sizes in row.scales.items()}
    small = SMALL_SCALES.get(note["format"])
    return n * k // row.packed + sum(count * (1 if name == small else 4) for name, count in scales.items())


def _check_plain(header: Header) -> None:
    if header.layers:
        kinds = ", ".join(sorted({note["format"] for note in header.layers.values()}))
        what = f"is quantised already ({kinds} in {len(header.layers)} layers)"
    else:
        rounded = [key for key, entry in header.entries.items() if entry.dtype.startswith("F8")]
        if not rounded:
            return
        what = f"holds weights that are rounded to 8 bits already ({rounded[0]} and {len(rounded) - 1} more)"
    raise CheckpointError(f"{header.path} {what}. Start from the bf16 or fp32 file.")


def file_bytes(header: Header, notes: dict[str, dict[str, Any]]) -> int:
    """Bytes of the weights in the new file; its header and the smallest scales come on top."""
    return sum(
        stored_bytes(shape, notes[key]) if key in notes else PLAIN_BYTES[header.entries[key].dtype] * math.prod(shape)
        for key, shape in expected_shapes(header.config).items()
    )


def _check_space(folder: Path, needed: int) -> None:
    """An early word where the disk is too small; a disk that fills up meanwhile is an OSError of the writing."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{folder} has {free / 1e9:.1f} GB left, and the file takes {needed / 1e9:.1f} GB. Make room, or name "
            "another folder"
        )


class _Writer:
    """A safetensors file whose tensors come one after the other; its header is filled in at the end."""

    def __init__(self, file: BinaryIO, count: int, notes: dict[str, dict[str, Any]]) -> None:
        layers = {key.removesuffix(".weight"): note for key, note in notes.items()}
        self.file = file
        self.entries: dict[str, Any] = {
            "__metadata__": {"format": "pt", quantised.METADATA_KEY: quantised.as_metadata(layers)}
        }
        room = count * ENTRY_BYTES + 2 * len(json.dumps(self.entries))
        self.room = -(-room // ALIGNMENT) * ALIGNMENT
        self.offset = 0
        self.small: list[tuple[str, Tensor]] = []
        file.write(self.room.to_bytes(8, "little") + b" " * self.room)

    def add(self, key: str, tensor: Tensor) -> None:
        """Write it, or keep it for the end where it would leave the next one unaligned."""
        if tensor.nbytes % ALIGNMENT:
            self.small.append((key, tensor))
        else:
            self._write(key, tensor)

    def finish(self) -> None:
        for key, tensor in sorted(self.small, key=lambda item: -item[1].element_size()):
            self._write(key, tensor)
        text = json.dumps(self.entries).encode()
        self.file.seek(8)
        self.file.write(text + b" " * (self.room - len(text)))

    def _write(self, key: str, tensor: Tensor) -> None:
        end = self.offset + tensor.nbytes
        self.entries[key] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self.offset, end],
        }
        self.file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        self.offset = end
