"""Checkpoints: strict checks on the header, lazy loading, atomic saving. Safetensors only.

The released file prefixes every key with `dit.`; other tools write other prefixes or none. Files may hold bf16, fp32 or
fp8 weights, or layers quantised as ComfyUI writes them (quantised.py). float16 is refused: the model overflows in it.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import quantised
from .config import DEPTH_CHANNELS, RGB_CHANNELS, Shapes, TransformerConfig, config_from_shapes
from .quantised import FILE_MARKER, FORMATS, NOTE, Entry, Layers
from .transformer import ModalityForcingTransformer

RELEASED_PREFIX = "dit."
PREFIXES = (RELEASED_PREFIX, "model.diffusion_model.", "diffusion_model.", "")
SUFFIXES = (".safetensors", ".sft")
BLOCK_LISTS = ("double_blocks", "single_blocks", "depth_decoder_blocks")
# Written by earlier versions of this pack also where there is nothing to modulate.
UNUSED_WITHOUT_DECODER = "depth_decoder_modulation.lin.weight"
PLAIN_TYPES = ("F32", "BF16", "F8_E4M3", "F8_E5M2")
TYPE_NAMES = {
    **{torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.int8: "I8"},
    **{torch.float64: "F64", torch.bool: "BOOL", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0"},
}
LONGEST_NOTE = 4096
SHOWN_KEYS = 5


class CheckpointError(ValueError):
    """A file that is not a usable Modality Forcing checkpoint; the message names the file and says what to do."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint's header says, keys without their prefix."""

    path: Path
    prefix: str
    config: TransformerConfig
    entries: Mapping[str, Entry]
    layers: Layers  # the quantised ones


def read_header(path: str | Path, *, text_to_image: bool = False) -> Header:
    """Check a file against the network it describes, without reading its weights.

    Args:
        path: a .safetensors file.
        text_to_image: accept a plain FLUX.2-shaped file, which has no depth stream.

    Raises:
        CheckpointError: names the file, the first offending keys, and what to do.
    """
    path = Path(path)
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, a safetensors file is no dict
        entries = {name: Entry(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
        prefix = find_prefix(entries)
        outside = [name for name in entries if not name.startswith(prefix) and name != FILE_MARKER]
        if outside:
            raise CheckpointError(
                f"{path}: {len(outside)} tensors lie outside the transformer's prefix {prefix!r}: {_some(outside)}. "
                "Expected a file with the transformer alone."
            )
        try:
            notes = quantised.notes_of_metadata(file.metadata(), prefix)
            for name in [name for name in entries if name.endswith(f".{NOTE}")]:
                if math.prod(entries[name].shape) > LONGEST_NOTE:
                    raise ValueError(f"{name} is {math.prod(entries[name].shape)} long, too much for a note")
                note = quantised.note_of_tensor(name, file.get_tensor(name))
                notes[name.removeprefix(prefix).removesuffix(f".{NOTE}")] = note
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}.") from error
    entries = {name.removeprefix(prefix): entry for name, entry in entries.items()}
    config, layers = check_entries(entries, notes, str(path), text_to_image=text_to_image)
    return Header(path, prefix, config, entries, layers)


def find_prefix(names: Iterable[str]) -> str:
    """The prefix under which the transformer's keys lie: that of its image input layer."""
    names = set(names)
    return next((prefix for prefix in PREFIXES if f"{prefix}img_in.weight" in names), "")


def check_entries(
    entries: Mapping[str, Entry], notes: Layers, source: str, *, text_to_image: bool = False
) -> tuple[TransformerConfig, Layers]:
    """Compare the tensors of an unprefixed state dict with the network that they describe.

    Args:
        entries: what is stored, quantised layers as they are.
        notes: the descriptions of quantised layers that the file gives.

    Returns:
        The network, and the quantised layers, described or not.

    Raises:
        CheckpointError: names `source` and the first missing, unexpected or misshapen keys, or the wrong type.
    """
    try:
        layers = quantised.describe(entries, notes)
    except ValueError as error:
        raise CheckpointError(
            f"{source}: {error}. The file is damaged, or of a tool that does it otherwise."
        ) from error
    rows = {f"{layer}.weight": FORMATS[note["format"]] for layer, note in layers.items()}
    shapes = {
        key: quantised.logical_shape(rows[key], entry) if key in rows else entry.shape
        for key, entry in entries.items()
        if not quantised.layer_of(key) and key != FILE_MARKER
    }
    filled = {key: row.filled for key, row in rows.items()}
    config = check_shapes(shapes, source, text_to_image=text_to_image, filled=filled)
    odd = {key: entries[key].dtype for key in shapes if key not in rows and entries[key].dtype not in PLAIN_TYPES}
    if odd:
        why = (
            "float16, in which this model overflows to NaN"
            if "F16" in odd.values()
            else "no numbers that weights can be"
        )
        named = [f"{key} ({dtype})" for key, dtype in odd.items()]
        raise CheckpointError(f"{source}: {_some(named)} hold {why}. Use a bfloat16, float32 or fp8 file.")
    return config, layers


def check_shapes(
    shapes: Shapes, source: str, *, text_to_image: bool = False, filled: Mapping[str, Any] | None = None
) -> TransformerConfig:
    """`check_entries` by the shapes alone. `filled`: for weights that are larger than the network's, how much.

    Raises:
        CheckpointError: see there.
    """
    config = _read_config(source, shapes, text_to_image)
    expected = {key: (filled or {}).get(key, tuple)(shape) for key, shape in expected_shapes(config).items()}
    unused = () if config.decoder_blocks else (UNUSED_WITHOUT_DECODER,)
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected and key not in unused],
        "misshapen": [
            f"{key} {tuple(shape)} instead of {expected[key]}"
            for key, shape in shapes.items()
            if key in expected and tuple(shape) != expected[key]
        ],
    }
    found = "; ".join(f"{len(keys)} {name}: {_some(keys)}" for name, keys in problems.items() if keys)
    if found:
        raise CheckpointError(
            f"{source} does not fit the network that it describes: {found}. "
            "It is damaged, of another version, or changed by another tool: get the released file again."
        )
    return config


@lru_cache(maxsize=4)
def expected_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter; from one block of each kind, so that its cost is the number of names."""
    counts = {name: getattr(config, name.removeprefix("depth_")) for name in BLOCK_LISTS}
    one = replace(config, **{name.removeprefix("depth_"): min(count, 1) for name, count in counts.items()})
    result = {}
    with torch.device("meta"):
        state = ModalityForcingTransformer(one).state_dict()
    for key, tensor in state.items():
        head, _, rest = key.partition(".0.")
        names = [f"{head}.{i}.{rest}" for i in range(counts[head])] if head in counts else [key]
        result.update(dict.fromkeys(names, tuple(tensor.shape)))
    return result


def check_finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor itself. Raises ValueError if it holds NaN or infinity; whole numbers are passed by."""
    if tensor.is_floating_point():
        values = tensor.float() if tensor.dtype.itemsize == 1 else tensor
        if not values.sum(dtype=torch.float32).isfinite():
            raise ValueError(f"{name} holds NaN or infinite numbers. The file is damaged: get it again")
    return tensor


def load_transformer(
    path: str | Path, dtype: torch.dtype = torch.float32, device: Any = "cpu", *, text_to_image: bool = False
) -> ModalityForcingTransformer:
    """Load a checkpoint into a plain torch module, in evaluation mode.

    Weights are read tensor by tensor from the memory-mapped file, so the peak stays near one copy. The depth head is
    float32 whatever `dtype` says. Quantised layers are brought to `dtype` with their scales.

    Raises:
        CheckpointError: see `read_header`; also for NaN, and for quantisations that need comfy-kitchen without it.
        ValueError: `dtype` is float16.
    """
    if dtype == torch.float16:
        raise ValueError("got dtype float16, in which this model overflows to NaN; use bfloat16 or float32")
    header = read_header(path, text_to_image=text_to_image)
    with torch.device("meta"):
        module = ModalityForcingTransformer(header.config, dtype=dtype)
    wanted = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in module.state_dict().items()}
    try:
        state = {key: read_tensor(header, key, shape).to(device, kind) for key, (kind, shape) in wanted.items()}
    except ValueError as error:
        raise CheckpointError(f"{header.path}: {error}.") from error
    module.load_state_dict(state, assign=True)
    return module.eval()


def read_tensor(header: Header, key: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor as the network wants it: plain, or of a quantised layer multiplied out.

    The file is mapped anew for each: a mapping keeps every page that was read, which would add up to a second copy.
    Raises ValueError for NaN, and for a format that cannot be read here.
    """
    layer = key.removesuffix(".weight")
    note = header.layers.get(layer) if key.endswith(".weight") else None
    names = [key]
    if note is not None:
        names += [name for name in header.entries if quantised.layer_of(name) == layer and not name.endswith(NOTE)]
    with _open(header.path) as file:
        tensors = {name: check_finite(name, file.get_tensor(header.prefix + name)) for name in names}
    if note is None:
        return tensors[key]
    weight = tensors.pop(key)
    scales = {name.rpartition(".")[2]: tensor for name, tensor in quantised.renamed(tensors).items()}
    return quantised.dequantised(weight, scales, note, shape)


def save_transformer(module: nn.Module, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a module's weights in the released layout. The file appears whole or not at all."""
    state = {RELEASED_PREFIX + key: tensor.detach().contiguous().cpu() for key, tensor in module.state_dict().items()}
    save_atomically(state, Path(path), metadata)


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name beside `path`, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path):
    """Open a safetensors file, or say what is wrong with it."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        with path.open("rb") as raw:
            start = raw.read(2)
        if start[:1] == b"\x80" or start == b"PK":
            reason = "it is a pickle, which can run code when opened. Convert it to .safetensors, or get it as such"
        else:
            reason = f"it is truncated or not a safetensors file ({error}). Download it again"
        raise CheckpointError(f"{path} ({path.stat().st_size:,} bytes) cannot be read: {reason}.") from error
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path} is a safetensors file under another name: rename it to {path.stem}.safetensors.")
    return file


def _read_config(source: str, shapes: Shapes, text_to_image: bool) -> TransformerConfig:
    if "depth_in.weight" not in shapes and not text_to_image:
        if "double_stream_modulation_img.lin.weight" in shapes:
            what = "a plain FLUX.2 model: it has no depth stream (depth_in.weight is missing)"
        else:
            what = f"another model: depth_in.weight is missing, its first keys are {_some(list(shapes))}"
        raise CheckpointError(f"{source} is {what}. Expected a Modality Forcing checkpoint.")
    try:
        config = config_from_shapes(shapes)
        if config.has_depth and (config.rgb_channels, config.depth_channels) != (RGB_CHANNELS, DEPTH_CHANNELS):
            raise ValueError(
                f"it takes {config.rgb_channels} channels of RGB and {config.depth_channels} of depth; the codecs have "
                f"{RGB_CHANNELS} and {DEPTH_CHANNELS}"
            )
    except KeyError as error:
        raise CheckpointError(f"{source} is incomplete or another model: {error.args[0]} is missing.") from error
    except ValueError as error:
        raise CheckpointError(f"{source} describes an impossible network: {error}.") from error
    return config


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
