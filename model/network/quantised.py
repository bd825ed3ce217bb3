"""How files describe quantised layers, and what is checked of them. The formats and names are ComfyUI's.

A quantised layer keeps scales beside its `weight`, and is described by a small dictionary, {"format": ...}, in one of
three ways: for all layers in the file's metadata, in the bytes of a `comfy_quant` tensor beside each, or, in old files,
by one `scaled_fp8` tensor for the whole file and scales called `scale_weight` and `scale_input`.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

METADATA_KEY = "_quantization_metadata"
FILE_MARKER = "scaled_fp8"
NOTE = "comfy_quant"
OLD_NAMES = {"scale_weight": "weight_scale", "scale_input": "input_scale"}
Layers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """Shape and type (by its name in safetensors files) of one stored tensor."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Format:
    """One way to store a weight of N rows and K columns."""

    storage: str  # type of the stored weight
    scales: Mapping[str, Callable[[int, int], tuple[int, ...]]]  # name -> the numbers of elements that are right
    packed: int = 1  # weights in one stored number
    block: int = 1  # rows and columns are filled up to multiples of this
    options: tuple[str, ...] = ()  # scales that may be there

    def filled(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that an (N,K) weight is filled up to."""
        return tuple(-(-size // self.block) * self.block for size in shape)


def _blocks(size: int) -> Callable[[int, int], tuple[int, ...]]:
    """One scale for `size` columns, in tiles of 128 x 4 as tensor cores read them."""
    return lambda n, k: (math.ceil(n / 128) * 128 * math.ceil(k / size / 4) * 4,)


def _one(_n: int, _k: int) -> tuple[int, ...]:
    return (1,)


_FP8 = {"scales": {"weight_scale": _one}, "options": ("input_scale",)}
FORMATS = {
    "float8_e4m3fn": Format("F8_E4M3", **_FP8),
    "float8_e5m2": Format("F8_E5M2", **_FP8),
    "mxfp8": Format("F8_E4M3", {"weight_scale": _blocks(32)}, block=32, options=("input_scale",)),
    "nvfp4": Format(
        "U8",
        {"weight_scale": _blocks(16), "weight_scale_2": _one},
        packed=2,
        block=16,
        options=("input_scale", "pre_quant_scale"),
    ),
    "int8_tensorwise": Format("I8", {"weight_scale": lambda n, _k: (1, n)}),
    "convrot_w4a4": Format("I8", {"weight_scale": lambda n, k: (n, n * k // 64)}, packed=2),
    "asym_w4a8_int8": Format(
        "I8",
        {"weight_s_rel": lambda n, k: (n * k // 16,), "weight_s_channel": lambda n, _k: (n,)},
        packed=2,
        options=("weight_codebook", "weight_correction"),
    ),
}
PLAIN_FP8 = {row.storage: name for name, row in FORMATS.items() if name.startswith("float8")}
SCALE_NAMES = {name for row in FORMATS.values() for name in (*row.scales, *row.options)}
KEYS = (*sorted(SCALE_NAMES), *OLD_NAMES, NOTE)  # whatever may lie beside a quantised weight


def layer_of(key: str) -> str:
    """The layer whose quantisation this key is part of, or ""."""
    layer, _, name = key.rpartition(".")
    return layer if name in KEYS else ""


def notes_of_metadata(metadata: Mapping[str, str] | None, prefix: str) -> Layers:
    """The layers that a file's metadata describe, without their prefix.

    Raises ValueError if the description is not {"layers": {name: {"format": ...}}} in JSON.
    """
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        return {}
    layers = _json(text, METADATA_KEY).get("layers")
    if not isinstance(layers, dict) or not all(isinstance(note, dict) for note in layers.values()):
        raise ValueError(f'{METADATA_KEY} holds no {{"layers": {{name: {{"format": ...}}}}}}')
    return {name.removeprefix(prefix): note for name, note in layers.items()}


def note_of_tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    """The dictionary in the bytes of a `comfy_quant` tensor."""
    if tensor.dtype != torch.uint8 or tensor.ndim != 1:
        raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected bytes")
    return _json(tensor.numpy().tobytes(), name)


def as_tensor(note: dict[str, Any]) -> Tensor:
    """The `comfy_quant` tensor of a note."""
    return torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)


def as_metadata(layers: Layers) -> str:
    """The value of `METADATA_KEY`."""
    return json.dumps({"format_version": "1.0", "layers": layers})


def describe(entries: Mapping[str, Entry], notes: Layers) -> Layers:
    """Every quantised layer of a file with its note: those of `notes`, and old fp8 layers, which have none.

    Raises ValueError for notes of unknown formats or of layers that are not there, for scales that are missing, belong
    to nothing or have wrong sizes, and for weights of another type than their note says.
    """
    layers = dict(notes)
    beside: dict[str, dict[str, Entry]] = {}
    for key, entry in entries.items():
        layer, _, name = key.rpartition(".")
        if name in KEYS:
            beside.setdefault(layer, {})[OLD_NAMES.get(name, name)] = entry
    marker = entries.get(FILE_MARKER)
    # As ComfyUI reads the marker: two numbers ask for products in full precision.
    full = {"full_precision_matrix_mult": True} if marker is not None and math.prod(marker.shape) == 2 else {}
    for layer, found in beside.items():
        weight = entries.get(f"{layer}.weight")
        if layer not in layers and "weight_scale" in found and weight is not None:
            if weight.dtype not in PLAIN_FP8:
                raise ValueError(
                    f"{layer} has a scale and a weight of {weight.dtype}, and nothing says how to read them"
                )
            layers[layer] = {"format": PLAIN_FP8[weight.dtype], **full}
    stray = [f"{layer}.{next(iter(found))}" for layer, found in beside.items() if layer not in layers]
    if stray:
        raise ValueError(f"{stray[0]} is a scale or note of no quantised layer")
    for layer, note in layers.items():
        _check_layer(layer, note, entries.get(f"{layer}.weight"), beside.get(layer, {}))
    return layers


def logical_shape(row: Format, entry: Entry) -> tuple[int, ...]:
    """(N,K) of a stored weight, filled up where its format does that."""
    return (entry.shape[0], entry.shape[1] * row.packed)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under today's names, without notes and marker. An input scale of 1 says nothing and is left out."""
    result = {}
    for key, tensor in state.items():
        layer, _, name = key.rpartition(".")
        if key == FILE_MARKER or name == NOTE or (name == "scale_input" and tensor.numel() == 1 and tensor.item() == 1):
            continue
        result[f"{layer}.{OLD_NAMES[name]}" if name in OLD_NAMES else key] = tensor
    return result


def dequantised(weight: Tensor, scales: Mapping[str, Tensor], note: dict[str, Any], shape: tuple[int, int]) -> Tensor:
    """The float32 weight (N,K) = `shape` of a quantised layer; scales by today's names.

    Raises ValueError where a format needs comfy-kitchen and it is not installed.
    """
    if note["format"] in PLAIN_FP8.values():
        return weight.float() * scales["weight_scale"].float()
    try:
        from .kitchen import multiplied_out
    except ImportError as error:
        raise ValueError(
            f"{note['format']} weights are read by comfy-kitchen, which is not installed ({error}). Run 'pip install "
            "comfy-kitchen', or load the file with the nodes"
        ) from error
    return multiplied_out(weight, scales, note, shape)


def _check_layer(layer: str, note: dict[str, Any], weight: Entry | None, found: Mapping[str, Entry]) -> None:
    row = FORMATS.get(str(note.get("format")))
    if row is None:
        raise ValueError(f"{layer} has the unknown format {note.get('format')!r}; known: {', '.join(FORMATS)}")
    if weight is None:
        raise ValueError(f"{layer} is described as {note['format']} but has no weight")
    if weight.dtype != row.storage or len(weight.shape) != 2:
        raise ValueError(
            f"{layer}.weight is {weight.dtype} of shape {weight.shape}; as {note['format']} it must be {row.storage} "
            "with two dimensions"
        )
    n, k = logical_shape(row, weight)
    for name, sizes in row.scales.items():
        if name not in found:
            raise ValueError(f"{layer} is described as {note['format']} but has no {name}")
        count, right = math.prod(found[name].shape), sorted(set(sizes(n, k)))
        if count not in right:
            raise ValueError(
                f"{layer}.{name} has {count} numbers (shape {found[name].shape}); expected "
                f"{' or '.join(map(str, right))} for a weight of {n} x {k}"
            )
    odd = [name for name in found if name not in (*row.scales, *row.options, NOTE)]
    if odd:
        raise ValueError(f"{layer}.{odd[0]} does not belong to {note['format']}")


def _json(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds {type(value).__name__} instead of a JSON object")
    return value
