"""Checkpoints: strict checks on the header, lazy loading, atomic saving. Safetensors only.

The released file prefixes every key with `dit.`; other tools write other prefixes or none. Files may hold bf16, fp32 or
fp8 weights, plain or with a scale per layer (as ComfyUI writes them). float16 is refused: the model overflows in it.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import TransformerConfig, config_from_shapes
from .transformer import ModalityForcingTransformer

RELEASED_PREFIX = "dit."
PREFIXES = (RELEASED_PREFIX, "model.diffusion_model.", "diffusion_model.", "")
FLOAT8 = {"F8_E4M3", "F8_E5M2"}
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
    dtypes: dict[str, str]
    quantised: frozenset[str] = field(default_factory=frozenset)  # layers with a quantisation entry

    @property
    def keys(self) -> Iterator[str]:
        return iter(self.dtypes)


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
        names = list(file.keys())
        slices = {name: file.get_slice(name) for name in names}
        prefix = _find_prefix(names)
        inside = {name[len(prefix) :]: part for name, part in slices.items() if name.startswith(prefix)}
        shapes = {key: tuple(part.get_shape()) for key, part in inside.items()}
        dtypes = {key: part.get_dtype() for key, part in inside.items()}
    outside = [name for name in names if not name.startswith(prefix)]
    config = _read_config(path, shapes, text_to_image)
    quantised = frozenset(
        key.rsplit(".", 1)[0] for key in shapes if "." in key and key.rsplit(".", 1)[1] in QUANTISATION_KEYS
    )
    _check_keys(path, shapes, outside, config, quantised)
    halves = [key for key, dtype in dtypes.items() if dtype == "F16"]
    if halves:
        raise CheckpointError(
            f"{path}: {_some(halves)} hold float16, in which this model overflows to NaN. "
            "Use a bfloat16, float32 or fp8 file."
        )
    return Header(path, prefix, config, dtypes, quantised)


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
    with _open(header.path) as file:
        state = {key: _read(file, header, key).to(device, target) for key, target in wanted.items()}
    module.load_state_dict(state, assign=True)
    return module.eval()


def save_transformer(module: nn.Module, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a module's weights in the released layout. The file appears whole or not at all."""
    state = {RELEASED_PREFIX + key: tensor.detach().contiguous().cpu() for key, tensor in module.state_dict().items()}
    save_atomically(state, Path(path), metadata)


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name beside `path`, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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


def _find_prefix(names: list[str]) -> str:
    """The prefix under which the transformer's keys lie: that of its image input layer."""
    return next((prefix for prefix in PREFIXES if f"{prefix}img_in.weight" in names), "")


def _read_config(path: Path, shapes: dict[str, tuple[int, ...]], text_to_image: bool) -> TransformerConfig:
    if "depth_in.weight" not in shapes and not text_to_image:
        if "double_stream_modulation_img.lin.weight" in shapes:
            what = "a plain FLUX.2 model: it has no depth stream (depth_in.weight is missing)"
        else:
            what = f"another model: depth_in.weight is missing, its first keys are {_some(list(shapes))}"
        raise CheckpointError(f"{path} is {what}. Expected a Modality Forcing checkpoint.")
    try:
        return config_from_shapes(shapes)
    except KeyError as error:
        raise CheckpointError(f"{path} is incomplete or another model: {error.args[0]} is missing.") from error
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} describes an impossible network: {error}.") from error


def _check_keys(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    outside: list[str],
    config: TransformerConfig,
    quantised: frozenset[str],
) -> None:
    with torch.device("meta"):
        expected = {key: tuple(t.shape) for key, t in ModalityForcingTransformer(config).state_dict().items()}
    layers = {key.removesuffix(".weight") for key in expected if key.endswith(".weight")}
    extras = {key for key in shapes if _is_quantisation(key, layers)}
    missing = [key for key in expected if key not in shapes]
    unexpected = [key for key in shapes if key not in expected and key not in extras]
    unexpected += [name for name in outside if name != FILE_MARKER]
    misshapen = [
        f"{key} {shape} instead of {expected[key]}"
        for key, shape in shapes.items()
        if key in expected and shape != expected[key] and key.removesuffix(".weight") not in quantised
    ]
    problems = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    found = "; ".join(f"{len(keys)} {name}: {_some(keys)}" for name, keys in problems.items() if keys)
    if found:
        raise CheckpointError(
            f"{path} does not fit the network that it describes: {found}. "
            "It is damaged, of another version, or changed by another tool: get the released file again."
        )


def _is_quantisation(key: str, layers: set[str]) -> bool:
    layer, _, name = key.rpartition(".")
    return key == FILE_MARKER or (name in QUANTISATION_KEYS and layer in layers)


def _read(file: Any, header: Header, key: str) -> Tensor:
    """One tensor as the network wants it: plain, or an 8-bit weight times its scale."""
    tensor = file.get_tensor(header.prefix + key)
    layer = key.removesuffix(".weight")
    if layer not in header.quantised or not key.endswith(".weight"):
        return tensor
    if header.dtypes[key] not in FLOAT8:
        name = f"{layer}.comfy_quant"
        kind = "of an unknown kind"
        if name in header.dtypes:
            kind = json.loads(bytes(file.get_tensor(header.prefix + name).tolist())).get("format", kind)
        raise CheckpointError(
            f"{header.path}: layer {layer} is quantised ({kind}). Only fp8 can be read outside ComfyUI: "
            "load the file with the nodes, or use a bfloat16 file."
        )
    scales = [f"{layer}.{name}" for name in WEIGHT_SCALES if f"{layer}.{name}" in header.dtypes]
    return tensor.float() * file.get_tensor(header.prefix + scales[0]).float() if scales else tensor


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
