"""Checkpoints: strict checks on the header, lazy loading, atomic saving. Safetensors only.

The released file prefixes every key with `dit.`; other tools write other prefixes or none. Files may hold bf16, fp32 or
fp8 weights, plain or with a scale per layer (as ComfyUI writes them). float16 is refused: the model overflows in it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import Shapes, TransformerConfig, config_from_shapes
from .transformer import ModalityForcingTransformer

RELEASED_PREFIX = "dit."
PREFIXES = (RELEASED_PREFIX, "model.diffusion_model.", "diffusion_model.", "")
# What quantised files keep beside a layer's `weight`, by ComfyUI's old and new names, and a marker for the whole file.
WEIGHT_SCALES = ("weight_scale", "scale_weight")
QUANTISATION_KEYS = (*WEIGHT_SCALES, "weight_scale_2", "input_scale", "scale_input", "comfy_quant")
FILE_MARKER = "scaled_fp8"
SHOWN_KEYS = 5


class CheckpointError(ValueError):
    """A file that is not a usable Modality Forcing checkpoint; the message names the file and says what to do."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint's header says, keys without their prefix."""

    path: Path
    prefix: str
    config: TransformerConfig
    dtypes: dict[str, str]  # key -> safetensors name of its type


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
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        dtypes = {name: part.get_dtype() for name, part in slices.items()}
    prefix = find_prefix(shapes)
    outside = [name for name in shapes if not name.startswith(prefix) and name != FILE_MARKER]
    if outside:
        raise CheckpointError(
            f"{path}: {len(outside)} tensors lie outside the transformer's prefix {prefix!r}: {_some(outside)}. "
            "Expected a file with the transformer alone."
        )
    shapes, dtypes = ({name.removeprefix(prefix): value for name, value in of.items()} for of in (shapes, dtypes))
    config = check_shapes(shapes, str(path), text_to_image=text_to_image)
    halves = [key for key, dtype in dtypes.items() if dtype == "F16"]
    if halves:
        raise CheckpointError(
            f"{path}: {_some(halves)} hold float16, in which this model overflows to NaN. "
            "Use a bfloat16, float32 or fp8 file."
        )
    return Header(path, prefix, config, dtypes)


def find_prefix(names: Iterable[str]) -> str:
    """The prefix under which the transformer's keys lie: that of its image input layer."""
    names = set(names)
    return next((prefix for prefix in PREFIXES if f"{prefix}img_in.weight" in names), "")


def check_shapes(shapes: Shapes, source: str, *, text_to_image: bool = False) -> TransformerConfig:
    """Compare the tensors of an unprefixed state dict with the network that they describe.

    Raises:
        CheckpointError: names `source` and the first missing, unexpected or misshapen keys.
    """
    config = _read_config(source, shapes, text_to_image)
    with torch.device("meta"):
        expected = {key: tuple(t.shape) for key, t in ModalityForcingTransformer(config).state_dict().items()}
    extras = {key for key in shapes if key == FILE_MARKER or _quantised_layer(key) + ".weight" in expected}
    quantised = {_quantised_layer(key) for key in extras}
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unexpected": [key for key in shapes if key not in expected and key not in extras],
        "misshapen": [
            f"{key} {shape} instead of {expected[key]}"
            for key, shape in shapes.items()
            if key in expected and shape != expected[key] and key.removesuffix(".weight") not in quantised
        ],
    }
    found = "; ".join(f"{len(keys)} {name}: {_some(keys)}" for name, keys in problems.items() if keys)
    if found:
        raise CheckpointError(
            f"{source} does not fit the network that it describes: {found}. "
            "It is damaged, of another version, or changed by another tool: get the released file again."
        )
    return config


def load_transformer(
    path: str | Path, dtype: torch.dtype = torch.float32, device: Any = "cpu", *, text_to_image: bool = False
) -> ModalityForcingTransformer:
    """Load a checkpoint into a plain torch module, in evaluation mode.

    Weights are read tensor by tensor from the memory-mapped file, so the peak stays near one copy. The depth head is
    float32 whatever `dtype` says. fp8 files are brought to `dtype` with their scales.

    Raises:
        CheckpointError: see `read_header`; also for quantisations that only ComfyUI can run.
        ValueError: `dtype` is float16.
    """
    if dtype == torch.float16:
        raise ValueError("got dtype float16, in which this model overflows to NaN; use bfloat16 or float32")
    header = read_header(path, text_to_image=text_to_image)
    with torch.device("meta"):
        module = ModalityForcingTransformer(header.config, dtype=dtype)
    wanted = {key: tensor.dtype for key, tensor in module.state_dict().items()}
    state = {key: _read(header, key).to(device, target) for key, target in wanted.items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


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
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(2)
        if start[:1] == b"\x80" or start == b"PK":
            reason = "it is a pickle, which can run code when opened. Convert it to .safetensors, or get it as such"
        else:
            reason = f"it is truncated or not a safetensors file ({error}). Download it again"
        raise CheckpointError(f"{path} ({path.stat().st_size:,} bytes) cannot be read: {reason}.") from error


def _read_config(source: str, shapes: Shapes, text_to_image: bool) -> TransformerConfig:
    if "depth_in.weight" not in shapes and not text_to_image:
        if "double_stream_modulation_img.lin.weight" in shapes:
            what = "a plain FLUX.2 model: it has no depth stream (depth_in.weight is missing)"
        else:
            what = f"another model: depth_in.weight is missing, its first keys are {_some(list(shapes))}"
        raise CheckpointError(f"{source} is {what}. Expected a Modality Forcing checkpoint.")
    try:
        return config_from_shapes(shapes)
    except KeyError as error:
        raise CheckpointError(f"{source} is incomplete or another model: {error.args[0]} is missing.") from error
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{source} describes an impossible network: {error}.") from error


def _quantised_layer(key: str) -> str:
    """The layer whose quantisation this key describes, or ""."""
    layer, _, name = key.rpartition(".")
    return layer if name in QUANTISATION_KEYS else ""


def _read(header: Header, key: str) -> Tensor:
    """One tensor as the network wants it: plain, or an 8-bit weight times its scale.

    The file is mapped anew for each: a mapping keeps every page that was read, which would add up to a second copy.
    """
    layer = key.removesuffix(".weight")
    names = [key, *(name for name in (f"{layer}.{end}" for end in WEIGHT_SCALES) if name in header.dtypes)]
    with _open(header.path) as file:
        tensors = {name: file.get_tensor(header.prefix + name) for name in names}
    try:
        return dequantised(tensors, layer)[key]
    except ValueError as error:
        raise CheckpointError(f"{header.path}: {error} outside ComfyUI. Load the file with the nodes.") from error


def dequantised(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict with the fp8 layers below `prefix` multiplied out to float32, without their quantisation's keys.

    Raises ValueError for other kinds of quantisation.
    """
    result = dict(state)
    for key in [key for key in state if key.startswith(prefix) and _quantised_layer(key)]:
        value, weight = result.pop(key), f"{_quantised_layer(key)}.weight"
        if not state[weight].is_floating_point():
            raise ValueError(f"{weight} holds packed numbers ({state[weight].dtype}), which cannot be read")
        if key.rpartition(".")[2] in WEIGHT_SCALES:
            result[weight] = state[weight].float() * value.float()
    return result


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
